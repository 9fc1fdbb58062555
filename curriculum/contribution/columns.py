"""The columns of a label table that is still to be made."""

from __future__ import annotations

import pyarrow as pa

PUBLISHED = pa.schema({"uid": pa.uint64(), "label": pa.string()})
# Those behind votes: some need answers with the audio, or five voters.
_MEASURES = ("ac_vote", "difficulty", "susceptibility", "p_audio", "p_silence", "ac_p", "ac_log", "ac_cal", "necessity")


def label_schema(voters: int) -> pa.Schema:
    """The columns that a table of so many voters can have; it may lack some measures."""
    votes = {f"vote_{number}": pa.float32() for number in range(voters)}
    measures = dict.fromkeys(_MEASURES, pa.float32())
    return pa.schema({"uid": pa.uint64(), "label": pa.string(), "votes": pa.int8(), **votes, **measures})
