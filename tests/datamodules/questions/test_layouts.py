"""Question files of public benchmarks become questions of ours, every one of them."""

import json

import pytest

from earwitness.datamodules.questions.annotations import read_annotations
from earwitness.datamodules.questions.layouts import layout_named
from earwitness.datamodules.questions.question import parse_question
from earwitness.errors import InputError
from earwitness.tests.places import SHARED

MMAU = SHARED / "data" / "mmau-test-mini.json"


@pytest.mark.skipif(not MMAU.is_file(), reason="shared/data/mmau-test-mini.json is not beside the repository")
def test_all_questions_of_mmau_test_mini_are_read():
    """1,000 questions of 333 sound, 334 music and 333 speech; 27 show one twice, as published: chance is 25.54 %."""
    rows = read_annotations(MMAU, fields={"layout": "mmau"})
    theirs = json.loads(MMAU.read_text())
    assert len(rows) == 1_000 and {row.question.split for row in rows} == {"test"}
    counts = {kind: sum(row.question.question_type == kind for row in rows) for kind in ("sound", "music", "speech")}
    assert counts == {"sound": 333, "music": 334, "speech": 333}
    assert [list(r.question.choices) for r in rows] == [t["choices"] for t in theirs]
    assert sum(len(set(r.question.choices)) < len(r.question.choices) for r in rows) == 27
    assert round(100 * sum(1 / len(r.question.choices) for r in rows) / 1_000, 2) == 25.54
    assert all(parse_question(r.question.record(), "again") == r.question for r in rows)
    assert rows[0].audio_path == f"test-mini-audios/{theirs[0]['id']}.wav"
    assert [r.question.answer for r in rows] == [t["answer"] for t in theirs]


def test_mmar_and_mmsu_records_by_hand(tmp_path):
    mmar = {"id": "a", "audio_path": "./audio/a.wav", "question": "Who?", "choices": ["x", "y"], "answer": "y"}
    mmsu = {"id": "b", "task_name": "tone", "question": "Which?", "audio": "b.wav", "answer_gt": "up"}
    mmsu |= {"choice_a": "up", "choice_b": "down", "choice_c": "", "choice_d": None}
    for layout, record in (("mmar", mmar | {"modality": "speech"}), ("mmsu", mmsu)):
        path = tmp_path / f"{layout}.jsonl"
        path.write_text(json.dumps(record))
        (row,) = read_annotations(path, fields={"layout": layout})
        question = row.question
        expected = {
            "mmar": ("MMAR/a", "speech", ("x", "y"), "y", "audio/a.wav"),
            "mmsu": ("MMSU/b", "tone", ("up", "down"), "up", "b.wav"),
        }[layout]
        assert (question.key, question.question_type, question.choices, question.answer, row.audio_path) == expected
        assert question.split == "test"


def test_an_unknown_layout_is_refused_with_its_neighbour_or_the_known_ones(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(
        InputError, match=r"^layout: unknown name 'mmlu'; did you mean 'mmsu'\? \(or give an import path\)$"
    ):
        read_annotations(tmp_path / "a.jsonl", fields={"layout": "mmlu"})
    with pytest.raises(
        InputError, match="^layout: unknown name 'xyz'; there are audiomcq, mmau, mmar, mmsu, dcase2025, dcase2026 "
    ):
        layout_named("xyz")
    assert layout_named("audiomcq")({"id": "1"}) == {"id": "1"}
