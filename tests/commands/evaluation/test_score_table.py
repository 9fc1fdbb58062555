"""The table of a run on benchmarks, on four questions counted by hand."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from earwitness.commands.evaluation.score_table import score_table
from earwitness.curriculum.table import write_arrow
from earwitness.errors import InputError


@pytest.fixture
def folder_of(tmp_path):
    """Writes a folder of results: name, and whether each of four questions was right."""

    def write(name: str, right: list[int]) -> str:
        folder = tmp_path / name
        (folder / "outcomes").mkdir(parents=True)
        rows = len(right)
        columns = {"uid": pa.array(range(rows), pa.uint64()), "key": [f"q{n}" for n in range(rows)]}
        columns |= {"clip": pa.array(range(rows), pa.uint64()), "condition": ["audio"] * rows, "rotation": [0] * rows}
        columns |= {"official": [True] * rows, "strict": ["right" if one else "wrong" for one in right]}
        write_arrow(pa.table(columns), folder / "outcomes" / "mmau.arrow")
        share = [sum(right) / rows, 0.1, 0.9]
        scores = {"audio": {rule: {"accuracy": share} for rule in ("official", "strict")}}
        one = {"name": "mmau", "scores": scores, "official_rule": "mmau", "question_hash": "h", "audio_hash": "a"}
        whole = {"made": {"versions": {}}, "benchmarks": [one]}
        (folder / "results.json").write_text(json.dumps(whole))
        return str(folder)

    return write


def test_scores_changes_and_published_numbers_by_hand(folder_of, tmp_path):
    """One right of four, then three, then two: +50 points, then -25; McNemar's exact p are 1/2, 1 and 1."""
    results = {"base": folder_of("a", [1, 0, 0, 0]), "SFT": folder_of("b", [1, 1, 1, 0])}
    results["GRPO"] = folder_of("c", [0, 1, 1, 0])
    found = score_table(results, str(tmp_path / "out"), {"paper": {"mmau": 71.54, "mmar": 50.0}}, "Ours")
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [(one["from"], one["to"], one["difference"][0], one["gained"], one["lost"]) for one in table["changes"]] == [
        ("base", "SFT", 0.5, 2, 0),
        ("SFT", "GRPO", -0.25, 0, 1),
        ("base", "GRPO", 0.25, 2, 1),
    ]
    assert [one["p"] for one in table["changes"]] == [0.5, 1.0, 1.0]
    assert [one["p_holm"] for one in table["changes"]] == [1.0, 1.0, 1.0]  # 3 x 1/2 is cut at 1
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert lines[2] == "| paper | 71.5 % |" and lines[0] == "| | mmau |"
    assert "| SFT, audio, strict | 75.0 % [10.0, 90.0] |" in lines
    assert found["report"] == str(tmp_path / "out" / "report.html")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<title>Ours</title>" in page and "75.0 % <small>[10.0, 90.0]</small>" in page


def test_what_is_no_result_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: holds no results.json"):
        score_table({"a": str(tmp_path / "nowhere")}, str(tmp_path / "out"))
    with pytest.raises(InputError, match="no results given"):
        score_table({}, str(tmp_path / "out"))
