"""The generated sounds: a share of the training questions comes with a thought that holds the answer."""

from __future__ import annotations

import json

from earwitness.datamodules.corpora.sounds import build_sounds


def records(folder, **given):
    build_sounds(str(folder), train=200, val=16, test=16, listening=8, reading=4, **given)
    return [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]


def test_a_share_of_the_bank_has_thoughts_and_nothing_else_changes(tmp_path):
    """Of 200 training questions a half, within 4 standard deviations of 7.1, none elsewhere; recordings stay."""
    plain, thought = records(tmp_path / "a"), records(tmp_path / "b", reasoning=0.5)
    bank = [one for one in thought if one["source_dataset"] == "sounds" and one["split"] == "train"]
    having = [one for one in thought if one.get("structured_cot")]
    assert len(bank) == 200 and 72 < len(having) < 128 and all(one in bank for one in having)
    assert all(one["answer"] in one["structured_cot"] for one in having)
    assert [{k: v for k, v in one.items() if k != "structured_cot"} for one in thought] == plain
    for name in ("train-00000", "train-00001"):
        first, second = (tmp_path / folder / "audio" / f"{name}.wav" for folder in "ab")
        assert first.read_bytes() == second.read_bytes()
