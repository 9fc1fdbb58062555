"""Options and answers as people write them; how answers are written is decided by all of them, or said by a flag."""

import json
from pathlib import Path

import pytest

from earwitness.datamodules.questions.annotations import read_annotations
from earwitness.datamodules.questions.fields import Fields
from earwitness.errors import InputError

PLAIN = ["Wind", "Water", "A dog"]


def record(number: int, answer, choices=PLAIN, **more) -> dict:
    fixed = {"source_dataset": "s", "id": number, "question": "What is heard?", "audio_path": "a.wav"}
    return {name: v for name, v in (fixed | {"choices": choices, "answer": answer} | more).items() if v is not None}


def read(folder: Path, records: list[dict], **fields) -> list[tuple[tuple[str, ...], str]]:
    path = folder / "q.json"
    path.write_text(json.dumps(records))
    return [(r.question.choices, r.question.answer) for r in read_annotations(path, Fields(**fields))]


WRITTEN = {
    "letters": ["B", "C", "A"],
    "small letters": ["b", "c", "a"],
    "brackets": ["(B)", "(C)", "(A)"],
    "half brackets": ["B)", "C)", "A)"],
    "full stops": ["B.", "C.", "A."],
    "letters and texts": ["B. Water", "C. A dog", "A. Wind"],
    "letters in brackets and texts": ["(B) Water", "(C) A dog", "(A) Wind"],
    "texts": ["Water", "A dog", "Wind"],
    "places from 0": [1, 2, 0],
    "places as text": ["1", "2", "0"],
    "places as fractions": [1.0, 2.0, 0.0],
    "places from 1": [2, 3, 1],
}


@pytest.mark.parametrize("how", WRITTEN)
def test_answers_are_read_as_all_of_them_are_written(tmp_path, how):
    records = [record(n, answer) for n, answer in enumerate(WRITTEN[how])]
    assert [answer for _, answer in read(tmp_path, records)] == ["Water", "A dog", "Wind"]


def test_numbers_that_may_count_from_0_or_from_1_are_not_guessed(tmp_path):
    records = [record(n, answer) for n, answer in enumerate([1, 2, 1])]
    with pytest.raises(
        InputError, match=r"q\.json\[0\]: the answers can be read as index and as index1, which differ; "
    ):
        read(tmp_path, records)
    assert [a for _, a in read(tmp_path, records, answer="index")] == ["Water", "A dog", "Water"]
    assert [a for _, a in read(tmp_path, records, answer="index1")] == ["Wind", "Water", "Wind"]
    with pytest.raises(InputError, match=r"q\.json\[1\]: the answer 3 is none of the 3 options \(index\)$"):
        read(tmp_path, [record(0, 1), record(1, 3)], answer="index")
    with pytest.raises(InputError, match=r"the answer 0 is none of the 3 options \(index1\)$"):
        read(tmp_path, [record(0, 0)], answer="index1")


def test_numbers_among_the_options_are_texts_only_where_that_says_the_same(tmp_path):
    """ "3" is the text of the first option, the place of none, and the third from 1 on."""
    counts = ["3", "1", "2"]
    with pytest.raises(
        InputError, match=r"can be read as index1 and as text, which differ; give --answer index1 or text"
    ):
        read(tmp_path, [record(0, "3", counts)])
    assert read(tmp_path, [record(0, "3", counts)], answer="text") == [(("3", "1", "2"), "3")]
    assert read(tmp_path, [record(0, "3", counts)], answer="index1") == [(("3", "1", "2"), "2")]
    assert read(tmp_path, [record(0, "7", ["7", "8", "9"])]) == [(("7", "8", "9"), "7")]
    assert read(tmp_path, [record(0, 7, [7, 8.5, 9])]) == [(("7", "8.5", "9"), "7")]


def test_letters_that_are_options_are_texts_only_where_that_says_the_same(tmp_path):
    keys = ["C", "A", "B"]
    with pytest.raises(InputError, match=r"can be read as letter and as text, which differ"):
        read(tmp_path, [record(0, "A", keys)])
    assert read(tmp_path, [record(0, "A", keys)], answer="text") == [(("C", "A", "B"), "A")]
    assert read(tmp_path, [record(0, "A", keys)], answer="letter") == [(("C", "A", "B"), "C")]
    assert read(tmp_path, [record(0, "A", ["A", "B", "C"])]) == [(("A", "B", "C"), "A")]


def test_answers_in_several_ways_are_refused_with_both_places(tmp_path):
    with pytest.raises(
        InputError, match=r"in several ways: by text at .*q\.json\[0\], by letter at .*q\.json\[1\]; give --answer text"
    ):
        read(tmp_path, [record(0, "Water"), record(1, "B")])
    with pytest.raises(
        InputError, match=r"q\.json\[1\] \(s/1\): answer 'B' is not among .*; give --answer letter if that"
    ):
        read(tmp_path, [record(0, "Water"), record(1, "B")], answer="text")


def test_a_few_answers_by_another_way_behind_a_thousand_are_faults_of_their_own(tmp_path):
    path, faults = tmp_path / "q.json", []
    path.write_text(json.dumps([record(n, "Water") for n in range(1_100)] + [record(1_100, "B")]))
    assert len(read_annotations(path, faults=faults)) == 1_100
    assert len(faults) == 1 and faults[0].startswith(f"{path}[1100] (s/1100): answer 'B' is not among the choices")


@pytest.mark.parametrize(
    "choices",
    [
        {"A": "Wind", "B": "Water", "C": "A dog"},
        {"C": "A dog", "A": "Wind", "B": "Water"},
        {"text": PLAIN, "label": ["A", "B", "C"]},
        json.dumps(PLAIN),
        str(PLAIN),
        str(tuple(PLAIN)),
        "{'A': 'Wind', 'B': 'Water', 'C': \"A dog\"}",
        ["A. Wind", "B. Water", "C. A dog"],
        ["(A) Wind", "(B) Water", "(C) A dog"],
        ["A: Wind", "B: Water", "C: A dog"],
        ["A) Wind", "B) Water", "C) A dog"],
    ],
    ids=str,
)
@pytest.mark.parametrize("answer", ["B", "Water"])
def test_options_are_read_however_a_file_holds_them(tmp_path, choices, answer):
    assert read(tmp_path, [record(0, answer, choices)]) == [(tuple(PLAIN), "Water")]


def test_labels_of_ones_own_are_what_a_letter_means(tmp_path):
    """As in ARC, where some questions are labelled 1 to 4, and where an option is missing from the alphabet."""
    numbered = {"text": PLAIN, "label": ["1", "2", "3"]}
    assert read(tmp_path, [record(0, "2", numbered)], answer="letter") == [(tuple(PLAIN), "Water")]
    gap = {"text": PLAIN, "label": ["A", "C", "D"]}
    assert read(tmp_path, [record(0, "C", gap)]) == [(tuple(PLAIN), "Water")]
    with pytest.raises(InputError, match=r"column choices: 3 texts have 2 labels$"):
        read(tmp_path, [record(0, "A", {"text": PLAIN, "label": ["A", "B"]})])


def test_letters_are_taken_off_only_where_all_options_have_theirs_written_alike(tmp_path):
    """An answer's letter means the one that an option carries, also where they are not in order."""
    for choices in (["A. Wind", "Water", "A dog"], ["A. Wind", "B) Water", "C. A dog"], ["A. x", "A. y", "B. z"]):
        assert read(tmp_path, [record(0, choices[0], choices)]) == [(tuple(choices), choices[0])]
    shuffled = ["B. Water", "A. Wind", "C. A dog"]
    assert read(tmp_path, [record(0, "A", shuffled)]) == [(("Water", "Wind", "A dog"), "Wind")]
    assert read(tmp_path, [record(0, "A. Wind", shuffled)]) == [(("Water", "Wind", "A dog"), "Wind")]
    with pytest.raises(InputError, match="is none of the 3 options"):  # B or C? its letters contradict its order
        read(tmp_path, [record(0, "B", ["Wind", "C. Water", "A dog"])], answer="letter")
    chords = ["A:maj/5", "B:min7/1"]
    assert read(tmp_path, [record(0, "B:min7/1", chords)]) == [(tuple(chords), "B:min7/1")]


def test_columns_of_options_keep_their_letters_where_one_is_empty(tmp_path):
    """C is the third column, also where the second is empty; so is place 2."""
    rows = [{"a": "x", "b": None, "c": "z", "d": "w"}, {"a": "p", "b": "q", "c": "r", "d": None}]
    for answers in (["C", "B"], ["z", "q"], [2, 0]):
        records = [record(n, answer, None, **row) for n, (answer, row) in enumerate(zip(answers, rows, strict=True))]
        found = read(tmp_path, records, columns={"choices": ["a", "b", "c", "d"]})
        assert found == [(("x", "z", "w"), "z"), (("p", "q", "r"), "p" if answers == [2, 0] else "q")]


@pytest.mark.parametrize("choices", ["no list", "[open('x')]", "['a' 'b']", "[" * 2_000, "{'a', 'b'}", "[1,", "7"])
def test_texts_that_are_no_lists_are_refused_and_never_run(tmp_path, choices):
    with pytest.raises(InputError, match=r"q\.json\[0\].*choices(: not JSON| must be a list)"):
        read(tmp_path, [record(0, "a", choices)], answer="text")


def test_numbers_as_ids_and_sources_are_texts(tmp_path):
    path = tmp_path / "q.json"
    path.write_text(json.dumps([record(7, "Water", source_dataset=3), record(8.0, "Water"), record(True, "Water")]))
    faults: list[str] = []
    assert [r.question.key for r in read_annotations(path, faults=faults)] == ["3/7", "s/8"]
    assert faults == [f"{path}[2]: field 'id' must be a non-empty text, got True"]


def test_files_without_answers_are_read_where_that_is_said(tmp_path):
    records = [record(n, None) for n in range(2)]
    with pytest.raises(
        InputError, match=r"field 'answer' must be a non-empty text, got None; --answer none reads a file"
    ):
        read(tmp_path, records)
    assert read(tmp_path, records, answer="none") == [(tuple(PLAIN), "")] * 2
    with pytest.raises(InputError, match=r"q\.json\[1\]: has the answer 'Water', though none was announced"):
        read(tmp_path, [records[0], record(1, "Water")], answer="none")
