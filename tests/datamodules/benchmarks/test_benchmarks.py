"""Published scorers, case by case; what a scorer is given of a reply; benchmarks by name and import path."""

from __future__ import annotations

import csv
import io
import json

import pytest

from earwitness.datamodules.benchmarks.benchmark import Benchmark, Predicted, benchmark_named
from earwitness.datamodules.benchmarks.known import BENCHMARKS
from earwitness.datamodules.benchmarks.mmsu import drops_unread
from earwitness.datamodules.benchmarks.questions import open_benchmark
from earwitness.errors import InputError
from earwitness.tests.places import SHARED

CASES = SHARED / "conformance" / "mmau_string_match.jsonl"
OURS = Benchmark("ours", "earwitness.tests.datamodules.benchmarks.test_benchmarks.layout", facts=("made here",))


def layout(record):
    return {**record, "source_dataset": "ours", "audio_path": f"{record['id']}.wav"}


@pytest.mark.skipif(not CASES.is_file(), reason="shared/conformance is not beside the repository")
@pytest.mark.parametrize("name", ["mmau", "mmar"])
def test_the_official_rule_agrees_with_the_published_scorer_in_all_cases(name):
    scorer = BENCHMARKS[name].official
    cases = [json.loads(line) for line in CASES.read_text().splitlines()]
    found = [scorer(case["prediction"], case["answer"], case["choices"]) == case["match"] for case in cases]
    assert len(found) == 3_000 and all(found)


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("B", True),
        ("B. A bird", True),
        ("Bird", True),  # begins with B
        ("The answer is B.", True),
        ("The answer is B", None),  # the last but one is a blank
        ("A", False),
        ("Answer: B", False),  # begins with A
        ("D", False),  # there is no D
        ("b", None),
        ("the dog", None),
        ("It is \nB)", True),
        ("", None),
        ("None", None),
        ("-", None),
    ],
)
def test_the_scorer_of_mmsu_reads_the_first_sign_or_the_last_but_one(response, right):
    assert drops_unread(response, "a bird", ("a dog", "a bird", "a cat")) is right


def test_a_scorer_of_letters_is_given_letters_and_one_of_texts_texts():
    choices = ("a dog", "a bird")
    mmsu, mmau = BENCHMARKS["mmsu"], BENCHMARKS["mmau"]
    assert mmsu.said("<answer>a bird</answer>", choices, lettered=False) == "B"
    assert mmsu.said("Because", choices, lettered=False) == ""
    assert mmsu.said("Answer: B", choices, lettered=True) == "Answer: B"
    assert mmau.said("(B)", choices, lettered=True) == "a bird"
    assert mmau.said("<think>a dog?</think><answer>bird a</answer>", choices, lettered=False) == "bird a"


def test_forms_of_predictions_by_hand():
    record = {"id": 7, "question": "Which?", "choice_a": "x", "choice_b": "y", "answer_gt": "y"}
    said = [Predicted(record, "MMSU/7", text, option) for text, option in (("B", 1), ("", None), (" None", None))]
    lines = BENCHMARKS["mmsu"].write(said)["mmsu.jsonl"].splitlines()
    assert [json.loads(line)["response"] for line in lines] == ["B", "-", "-"]
    assert json.loads(lines[0]) == {**record, "response": "B"}
    trea = BENCHMARKS["trea"].write(
        [Predicted({"id": "0"}, "TREA/0", "C", 2), Predicted({"id": "1"}, "TREA/1", "", None)]
    )
    assert trea == {"trea.txt": "0 C\n1 -\n"}
    dcase = {"question_id": "q9", "choice": ["A. dog", "B. cat"], "answer": "B. cat"}
    (text,) = BENCHMARKS["dcase2025"].write([Predicted(dcase, "DCASE2025/q9", "cat", 1)]).values()
    assert list(csv.reader(io.StringIO(text))) == [["question", "answer"], ["q9", "B. cat"]]


def test_a_benchmark_of_ones_own_is_an_import_path(tmp_path):
    assert benchmark_named(f"{__name__}.OURS", BENCHMARKS) is OURS
    with pytest.raises(InputError, match="'earwitness.tests.places.ROOT' is a .*Path, and must be a Benchmark"):
        benchmark_named("earwitness.tests.places.ROOT", BENCHMARKS)
    with pytest.raises(InputError, match="unknown name 'mmaar'; did you mean 'mmar'"):
        benchmark_named("mmaar", BENCHMARKS)
    records = [{"id": "a", "question": "Which?", "choices": ["x", "y"], "answer": "y", "category": ["p", "q"]}]
    records += [records[0] | {"id": "b", "category": "r", "answer": "x"}, {"id": "c", "question": "Which?"}]
    (tmp_path / "q.json").write_text(json.dumps(records))
    opened = open_benchmark("ours", OURS, str(tmp_path / "q.json"), None, tmp_path / "cache", heard=True)
    assert [opened.reader.key(row) for row in range(2)] == ["ours/a", "ours/b"]
    assert opened.facets["category"] == ["p, q", "r"] and opened.lists == {"category": 1}
    assert len(opened.unusable) == 1 and "field 'answer'" in opened.unusable[0][1]
    with pytest.raises(InputError, match=r"a\.wav: no such recording"):
        opened.reader.wave(0)


def test_mmau_pro_counts_only_questions_with_options_about_one_recording(tmp_path):
    rows = [{"id": "a", "audio_path": ["1.wav"], "question": "q", "answer": "r", "choices": ["r", "u"]}]
    rows += [rows[0] | {"id": "b", "audio_path": ["1.wav", "2.wav"]}, rows[0] | {"id": "c", "choices": None}]
    (tmp_path / "q.json").write_text(json.dumps(rows))
    opened = open_benchmark("p", BENCHMARKS["mmau-pro"], str(tmp_path / "q.json"), None, tmp_path, heard=False)
    assert (len(opened.reader), opened.left_out, len(opened.unusable)) == (1, 2, 0)


def test_trea_and_rulistening_as_published(tmp_path):
    header = "id,question,audio_path,optionA,optionB,optionC,optionD,correct"
    (tmp_path / "order.csv").write_text(f'{header}\n0,First?,audios/0.wav,"Door, wood",dog,Dog,cat,B\n')
    trea = open_benchmark("t", BENCHMARKS["trea"], str(tmp_path / "order.csv"), None, tmp_path, heard=False)
    question = trea.reader.question(0)
    assert (question.choices, question.answer) == (("Door, wood", "dog", "Dog", "cat"), "dog")
    asked = {"question": "Which?", "correct_answer": "oud", "distractors": ["lute", "sitar"], "caption": "c", "PI": 0.9}
    (tmp_path / "rul.json").write_text(json.dumps({"17": asked}))
    rul = open_benchmark("r", BENCHMARKS["rulistening"], str(tmp_path / "rul.json"), None, tmp_path, heard=False)
    question = rul.reader.question(0)
    assert sorted(question.choices) == ["lute", "oud", "sitar"] and question.answer == "oud" and question.id == "17"
