"""What a file's columns mean can be said; what is not used is named; what is kept goes all the way into the index."""

import json
from pathlib import Path

import pytest

from earwitness.datamodules.questions.annotations import iter_annotations, read_annotations
from earwitness.datamodules.questions.fields import Fields
from earwitness.datamodules.questions.question import parse_question
from earwitness.errors import InputError


def record(number: int, **more) -> dict:
    fixed = {"source_dataset": "s", "id": str(number), "question": "?", "audio_path": "a.wav"}
    fields = fixed | {"choices": ["x", "y"], "answer": "y"} | more
    return {name: value for name, value in fields.items() if value is not None}


def write(path: Path, *records: dict) -> Path:
    path.write_text(json.dumps(records))
    return path


def test_constants_stand_in_for_columns_that_a_file_lacks(tmp_path):
    path = write(tmp_path / "q.json", record(0, source_dataset=None, choices=None))
    with pytest.raises(
        InputError,
        match=r"field 'source_dataset' must .*; there are id, question, audio_path, answer; "
        r"give --column choices=THEIRS --constant source_dataset=NAME$",
    ):
        read_annotations(path)
    (row,) = read_annotations(path, {"constants": {"source_dataset": "lab", "choices": '["x", "y"]'}})
    assert (row.question.key, row.question.choices) == ("lab/0", ("x", "y"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"columns": {"ids": "x"}}, "columns: unknown field 'ids'"),
        ({"constants": {"sauce": "x"}}, "constants: unknown field 'sauce'"),
        ({"constants": {"id": "x"}}, "constants: the id cannot be the same for every question"),
        ({"constants": {"split": "val"}, "columns": {"split": "part"}}, "split is given a column and a constant"),
        ({"answer": "letters"}, "answer: did you mean 'letter'?"),
        ({"splits": {"a": "dev"}}, "splits: a must be train, val, test or skip, got 'dev'"),
        ({"keep": "language"}, "keep: must be a list of column names"),
        ({"colums": {}}, "fields: no entry 'colums'; did you mean 'columns'?"),
    ],
    ids=str,
)
def test_fields_that_make_no_sense_are_refused(fields, says):
    with pytest.raises(InputError) as error:
        Fields.of(fields)
    assert str(error.value).startswith(says)


def test_fields_survive_as_json():
    fields = Fields({"choices": ["a", "b"]}, {"split": "test"}, "index1", {"lang": "language"}, {"x": "skip"}, "mmar")
    assert Fields.of(json.loads(json.dumps(fields.record()))) == fields
    assert (
        Fields().record() == {}
        and Fields(keep={}).plain
        and not Fields(answer="text").plain
        and Fields.of({}) == Fields()
        and Fields().plain
    )


def test_columns_that_nobody_asked_for_are_named_and_near_misses_with_their_flag(tmp_path, capsys):
    path = write(tmp_path / "q.json", record(0, **{"structured-cot": "So.", "gemini_cot": "Hm."}), record(1, url="u"))
    list(iter_annotations(path, Fields(keep=["url"]), notes=True))
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: column 'structured-cot' is not structured_cot; --column structured_cot=structured-cot reads it",
        f"{path}: columns not used: structured-cot, gemini_cot (--keep NAME carries one into the index)",
    ]
    fields = Fields({"structured_cot": "structured-cot", "unstructured_cot": "gemini_cot"}, keep=["url"])
    rows = list(iter_annotations(path, fields, notes=True))
    assert capsys.readouterr().err == "" and rows[0].question.structured_cot == "So."


def test_kept_columns_are_texts_numbers_and_bools_and_lists_of_texts_are_one_text(tmp_path):
    more = {"category": ["Reasoning", "Music"], "layer": 3, "hard": True, "language": "en", "empty": None, "blank": ""}
    path = write(tmp_path / "q.json", record(0, **more), record(1, empty="x", blank="y"))
    names = ["category", "layer", "hard", "blank", "empty"]
    keep = {name: name for name in names} | {"lang": "language"}
    first, second = (r.question for r in read_annotations(path, Fields(keep=keep)))
    assert dict(first.columns) == {"category": "Reasoning, Music", "layer": 3, "hard": True, "lang": "en"}
    assert dict(second.columns) == {"blank": "y", "empty": "x"}
    assert parse_question(json.loads(json.dumps(first.record())), "again") == first
    with pytest.raises(InputError, match=r"^keep: no column 'langauge'; there are source_dataset, id, "):
        read_annotations(path, Fields(keep=["langauge"]))
    with pytest.raises(InputError, match=r"q\.json\[0\]: column 'meta' cannot be kept: it holds dict$"):
        read_annotations(write(path, record(0, meta={"a": 1})), Fields(keep=["meta"]))


def test_a_layouts_other_columns_can_be_mapped_and_kept(tmp_path, capsys):
    mmar = {"id": "a", "audio_path": "./audio/a.wav", "question": "Who?", "choices": ["x", "y"], "answer": "y"}
    mmar |= {"modality": "speech", "category": "Semantic Layer", "language": "en", "rubric": "r"}
    path = write(tmp_path / "q.json", mmar)
    fields = Fields({"question_type": "category"}, layout="mmar", keep=["language"])
    (row,) = iter_annotations(path, fields, notes=True)
    assert (row.question.question_type, dict(row.question.columns)) == ("Semantic Layer", {"language": "en"})
    assert capsys.readouterr().err == f"{path}: columns not used: rubric (--keep NAME carries one into the index)\n"
