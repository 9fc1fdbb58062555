"""Question files of public benchmarks become questions of ours, every one of them."""

import json
from pathlib import Path

import pytest

from earwitness.datamodules.questions.annotations import Annotation, read_annotations
from earwitness.datamodules.questions.answers import judge
from earwitness.datamodules.questions.fields import Fields
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


def rows_of(path: Path, records: list[dict], layout: str, **fields) -> list[Annotation]:
    path.write_text(json.dumps(records))
    return read_annotations(path, Fields(layout=layout, **fields))


MMAR = {"id": "a", "audio_path": "./audio/a.wav", "question": "Who?", "choices": ["x", "y"], "answer": "y"}
MMAR |= {"modality": "speech", "category": "Signal Layer", "sub-category": "c", "language": "en", "source": "web"}


def test_empty_options_at_the_end_of_a_question_of_mmar_are_none(tmp_path):
    """As in four rows of the published file; one in the middle would move the letters, and is refused."""
    choices = [["x", "y", ""], ["x", "y", "", None], ["x", "y"], ["x", "y", "z", ""]]
    rows = rows_of(tmp_path / "q.json", [MMAR | {"id": str(n), "choices": c} for n, c in enumerate(choices)], "mmar")
    assert [row.question.choices for row in rows] == [("x", "y")] * 3 + [("x", "y", "z")]
    with pytest.raises(InputError, match=r"q\.json\[0\] \(MMAR/a\): choices must be a list of 2 to 26 non-empty texts"):
        rows_of(tmp_path / "q.json", [MMAR | {"choices": ["x", "", "y"]}], "mmar")


def test_options_that_a_benchmark_shows_twice_stay_and_the_official_scorer_takes_both(tmp_path):
    """Their number makes the prompt and the chance level; a word that both have is no word of a wrong option."""
    mmau = {
        "id": "m",
        "audio_id": "./x/m.wav",
        "question": "?",
        "choices": ["Man", "Dog", "man", "Dog"],
        "answer": "Man",
    }
    (row,) = rows_of(tmp_path / "q.json", [mmau | {"task": "sound"}], "mmau")
    question = row.question
    assert question.choices == ("Man", "Dog", "man", "Dog") and parse_question(question.record(), "again") == question
    assert judge("mmau", "<answer>man</answer>", question.answer, question.choices)
    assert not judge("mmau", "<answer>Dog</answer>", question.answer, question.choices)


def test_letters_in_the_options_of_mmau_stay_as_published(tmp_path):
    mmau = {
        "id": "m",
        "audio_id": "m.wav",
        "question": "?",
        "choices": ["A. C", "B. D"],
        "answer": "B. D",
        "task": "music",
    }
    (row,) = rows_of(tmp_path / "q.json", [mmau], "mmau")
    assert (row.question.choices, row.question.answer) == (("A. C", "B. D"), "B. D")


@pytest.mark.parametrize("layout", ["mmau", "dcase2026"])
@pytest.mark.parametrize("none", [{}, {"answer": ""}, {"answer": None}], ids=str)
def test_a_benchmark_without_answers_is_read_and_one_with_some_is_not_taken_for_it(tmp_path, layout, none):
    mmau = {"audio_id": "./x/m.wav", "question": "?", "choices": ["a", "b"], "task": "sound"}
    dcase = {"audio_path": "m.wav", "question_text": "?", "multi_choice": ["a", "b"]}
    fixed = {"mmau": mmau, "dcase2026": dcase}[layout] | none
    path = tmp_path / "q.json"
    rows = rows_of(path, [fixed | {"id": str(n)} for n in range(3)], layout)
    assert [row.question.answer for row in rows] == ["", "", ""]
    with pytest.raises(InputError, match=r"in several ways: by text at .*q\.json\[0\], by none at .*q\.json\[1\]"):
        rows_of(path, [fixed | {"id": "0", "answer": "b"}, fixed | {"id": "1"}], layout)
    rows = read_annotations(path, Fields(layout=layout, answer="text"), faults := [])
    assert [row.question.answer for row in rows] == ["b"] and "--answer none" in faults[0]


def test_both_years_of_dcase_with_letters_lists_and_names_of_files(tmp_path):
    """2025: one JSON per question, whose name is its id; "B. text" is an option and an answer. 2026: lines."""
    (tmp_path / "dev").mkdir()
    for name, letter in (("q_one", "B"), ("q_two", "C")):
        options = [f"{a}. {text}" for a, text in zip("ABCD", ["crow", "owl", "wren", "jay"], strict=True)]
        answer = options["ABCD".index(letter)]
        content = {"audio_url": f"{name}.wav", "question": "Which bird?", "choice": options, "answer": answer}
        (tmp_path / "dev" / f"{name}.json").write_text(json.dumps(content | {"question_type": "bioacoustics"}))
    rows = read_annotations(tmp_path / "dev", Fields(layout="dcase2025"))
    assert [(r.question.key, r.question.answer, r.audio_path) for r in rows] == [
        ("DCASE2025/q_one", "owl", "q_one.wav"),
        ("DCASE2025/q_two", "wren", "q_two.wav"),
    ]
    assert rows[0].question.choices == ("crow", "owl", "wren", "jay")
    assert rows[0].question.question_type == "bioacoustics"
    record = {
        "id": 7,
        "audio_path": "./a/7.wav",
        "question_text": "Who?",
        "multi_choice": ["x", "y", "z"],
        "answer": "z",
    }
    (row,) = rows_of(tmp_path / "dev.json", [record], "dcase2026")
    assert (row.question.key, row.question.question, row.question.answer) == ("DCASE2026/7", "Who?", "z")
    assert (row.audio_path, row.question.split) == ("a/7.wav", "")
    (row,) = rows_of(tmp_path / "dev.json", [record | {"answer": 2}], "dcase2026", answer="index")
    assert row.question.answer == "z"


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
        InputError,
        match="^layout: unknown name 'xyz'; there are audiomcq, mmau, mmar, mmsu, dcase2025, dcase2026, mmau_pro, ",
    ):
        layout_named("xyz")
    assert layout_named("audiomcq")({"id": "1"}) == {"id": "1"}
