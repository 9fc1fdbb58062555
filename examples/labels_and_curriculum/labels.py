"""The label table of annotators: a row per question with `uid`, `label` and any column that a curriculum shall read."""

import json
from pathlib import Path

import pyarrow as pa

from earwitness.curriculum.table import read_arrow, write_arrow


def annotated(path: str) -> dict[str, str]:
    """Key of a question -> what its annotator said; here what is known of how it was made."""
    return {line["key"]: line["planted"] for line in map(json.loads, Path(path).read_text().splitlines())}


if __name__ == "__main__":
    index = read_arrow("data/shards/index.arrow")
    said = annotated("corpus/planted.jsonl")
    heard = [said[key] == "heard" for key in index.column("key").to_pylist()]
    labels = ["strong" if needed else "weak" for needed in heard]
    # How hard one had to listen, from 0 to 1: here the shorter the recording, the harder.
    seconds = index.column("duration_s").to_pylist()
    effort = [needed * (1.0 - length / max(seconds)) for needed, length in zip(heard, seconds, strict=True)]
    write_arrow(pa.table({"uid": index.column("uid"), "label": labels, "effort": effort}), "labels.arrow")
    print({label: labels.count(label) for label in sorted(set(labels))})
