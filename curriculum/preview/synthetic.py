"""A made-up table with the published counts of AudioMCQ, to try a curriculum before the data is at hand.

Published: 571,118 questions, 313,177 of them weak; rows per source and per question type; TACOS 73.3 % strong, CompA-R
75.5 % weak. Made up: everything else, so identities, durations, recordings shared by questions, votes, contributions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ...errors import InputError
from ..arrays import Bools, Floats, Ints
from ..identity import keyed, splitmix64, unit
from ..table import Categorical, Table

SOURCES = {
    "AudioCaps": 90_549,
    "Clotho": 3_801,
    "CompA-R": 197_218,
    "LP-MusicCaps-MTT": 15_560,
    "MusicCaps": 2_637,
    "SpeechCraft": 228_033,
    "TACOS": 33_320,
}
TYPES = ("music", "sound", "speech", "temporal")
WEAK, STRONG_TACOS, WEAK_COMPA = 313_177, 24_424, 148_900
_SECONDS = {"AudioCaps": (10, 10), "Clotho": (15, 30), "CompA-R": (10, 10), "LP-MusicCaps-MTT": (29, 29)}
_SECONDS |= {"MusicCaps": (10, 10), "SpeechCraft": (2, 12), "TACOS": (5, 30)}


@contextmanager
def over_a_made_up_table(way: str | None) -> Iterator[None]:
    """A context whose InputErrors also say that this table is planned over, unless `way`, what to do then, is None."""
    try:
        yield
    except InputError as error:
        if way is None:
            raise
        raise InputError(
            f"{error}; this is planned over a made-up table, whose columns and values are AudioMCQ's: {way}"
        ) from error


def audiomcq_table() -> Table:
    """571,118 rows: label, source, question_type, clip, duration_s, num_choices, vote_0..2, ac_vote, ac_p, p_audio, ...

    pass_rate are eighths of p_audio.

    ac_vote and ac_p are the same made-up contribution, and so is ac_prob, their name in earlier curricula.
    """
    names = tuple(SOURCES)
    source = np.repeat(np.arange(len(names)), list(SOURCES.values())).astype(np.int32)
    uid = splitmix64(np.arange(len(source), dtype=np.uint64))
    draw = {name: unit(keyed(uid, "synthetic", name)) for name in ("label", "ac", "p", "seconds", "vote")}
    weak = _weak(source, draw["label"])
    low, high = np.array([_SECONDS[name] for name in names], float).T
    ac = np.where(weak, 0.5 * draw["ac"] ** 2, 1 - 0.75 * draw["ac"] ** 2)
    right = np.where(weak, 2 + (draw["vote"] < 0.5), draw["vote"] < 0.5)  # how many of three voters were
    first = (draw["vote"] * 1_000).astype(int) % 3
    shared = np.arange(len(uid), dtype=np.uint64) // np.uint64(3)  # three questions of CompA-R on a recording
    columns: dict[str, Categorical | np.ndarray] = {
        "label": Categorical((~weak).astype(np.int32), ("weak", "strong")),
        "source": Categorical(source, names),
        "question_type": Categorical(_types(source), TYPES),
        "clip": splitmix64(np.where(source == names.index("CompA-R"), shared, uid)),
        "duration_s": low[source] + (high - low)[source] * draw["seconds"],
        "num_choices": np.full(len(source), 4.0),
        **dict.fromkeys(("ac_vote", "ac_p", "ac_prob"), ac),
        "p_audio": np.clip(0.25 * (1 - ac) + ac + 0.3 * (draw["p"] - 0.5), 0, 1),
    }
    columns["pass_rate"] = np.round(8 * np.asarray(columns["p_audio"])) / 8
    columns |= {f"vote_{k}": ((k - first) % 3 < right).astype(float) for k in range(3)}
    return Table(uid, columns)


def _weak(source: Ints, draw: Floats) -> Bools:
    """[N] bool with the published counts: the rows with the lowest draws [N] of each source [N]."""
    names = list(SOURCES)
    known = {"TACOS": SOURCES["TACOS"] - STRONG_TACOS, "CompA-R": WEAK_COMPA}
    others = [name for name in names if name not in known]
    rest, rows = WEAK - sum(known.values()), sum(SOURCES[name] for name in others)
    count = {name: SOURCES[name] * rest // rows for name in others}
    for name in sorted(others, key=lambda n: -(SOURCES[n] * rest % rows))[: rest - sum(count.values())]:
        count[name] += 1
    weak = np.zeros(len(source), bool)
    for place, name in enumerate(names):
        rows_of = np.flatnonzero(source == place)
        weak[rows_of[np.argsort(draw[rows_of])[: (count | known)[name]]]] = True
    return weak


def _types(source: Ints) -> Ints:
    """[N] places in TYPES with the published counts: by source [N]; CompA-R is sound, speech and music."""
    names = list(SOURCES)
    of_source = {"SpeechCraft": "speech", "TACOS": "temporal", "LP-MusicCaps-MTT": "music", "MusicCaps": "music"}
    types = np.array([TYPES.index(of_source.get(name, "sound")) for name in names], np.int32)[source]
    mixed = np.flatnonzero(source == names.index("CompA-R"))
    speech = 268_299 - SOURCES["SpeechCraft"]
    music = 46_373 - SOURCES["LP-MusicCaps-MTT"] - SOURCES["MusicCaps"]
    types[mixed[:speech]] = TYPES.index("speech")
    types[mixed[speech : speech + music]] = TYPES.index("music")
    return types
