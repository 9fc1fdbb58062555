"""What is a question and what is not: every rejection names the place and the rule."""

import json
from pathlib import Path

import pytest

from earwitness.datamodules.questions.annotations import read_annotations
from earwitness.datamodules.questions.answers import is_right, is_well_formed, target_text
from earwitness.datamodules.questions.fields import Fields
from earwitness.datamodules.questions.question import REQUIRED, Question, parse_json, parse_question
from earwitness.errors import InputError

GOOD = {
    "source_dataset": "clotho",
    "id": "7",
    "question_type": "sound",
    "audio_path": "clips/7.wav",
    "question": "What is heard?",
    "answer": "Water",
    "choices": ["Wind", "Water", "A dog"],
    "split": "val",
}
MISSING = object()


def changed(**fields) -> dict:
    return {name: value for name, value in {**GOOD, **fields}.items() if value is not MISSING}


def write(path: Path, records: list[dict], **how) -> Path:
    text = json.dumps(records) if path.suffix == ".json" else "".join(json.dumps(r) + "\n" for r in records)
    path.write_text(text, **how)
    return path


def test_a_good_record_becomes_a_question_with_the_choices_in_the_order_of_the_file():
    question = parse_question(GOOD, "here")
    assert question == Question(
        "clotho", "7", "What is heard?", ("Wind", "Water", "A dog"), "Water", "sound", split="val"
    )
    assert question.key == "clotho/7"


def test_split_and_type_have_defaults():
    question = parse_question(changed(split=MISSING, question_type=MISSING), "here")
    assert (question.split, question.question_type) == ("", "unknown")


@pytest.mark.parametrize("record", [[GOOD], "text", None, 3])
def test_a_record_that_is_no_object_is_refused(record):
    with pytest.raises(InputError, match=f"^here: a question must be a JSON object, got {type(record).__name__}$"):
        parse_question(record, "here")


@pytest.mark.parametrize("name", ["source_dataset", "id", "question", "answer"])
def test_every_text_but_the_type_must_be_there(name):
    with pytest.raises(InputError, match=f"^here: field '{name}' must be a non-empty text, got None$"):
        parse_question(changed(**{name: MISSING}), "here")


@pytest.mark.parametrize("name", ["source_dataset", "id", "question", "answer", "question_type"])
@pytest.mark.parametrize("value", [None, "", " \n", 7, ["text"], "x" * 8_001], ids=lambda value: f"{value!r:.10}")
def test_every_text_must_be_a_text(name, value):
    with pytest.raises(InputError, match=f"^here: field '{name}' must be a non-empty text"):
        parse_question(changed(**{name: value}), "here")


def test_the_longest_text_is_8000_characters():
    assert parse_question(changed(question="x" * 8_000), "here").question == "x" * 8_000


@pytest.mark.parametrize("split", ["dev", "TRAIN", "", None, 1])
def test_an_unknown_split_is_refused(split):
    with pytest.raises(InputError, match=r"^here \(clotho/7\): split must be one of .*train.*val.*test"):
        parse_question(changed(split=split), "here")


@pytest.mark.parametrize(
    "choices",
    [
        *(MISSING, None, "Water", {"Water": 1, "Wind": 2}, [], ["Water"]),
        *(["Water", ""], ["Water", " "], ["Water", 3], ["Water", None], ["Water", ["Wind"]]),
        ["Water", *map(str, range(26))],
    ],
    ids=lambda value: "missing" if value is MISSING else f"{value!r:.30}",
)
def test_choices_must_be_2_to_26_texts(choices):
    with pytest.raises(InputError, match=r"^here \(clotho/7\): choices must be a list of 2 to 26 non-empty texts"):
        parse_question(changed(choices=choices), "here")


@pytest.mark.parametrize("count", [2, 26])
def test_2_and_26_choices_are_accepted(count):
    choices = ["Water", *map(str, range(count - 1))]
    assert parse_question(changed(choices=choices), "here").choices == tuple(choices)


def test_choices_must_differ():
    with pytest.raises(InputError, match=r"^here \(clotho/7\): choices occur twice: \['Wind', 'Water', 'Wind'\]"):
        parse_question(changed(choices=["Wind", "Water", "Wind"]), "here")


@pytest.mark.parametrize("answer", ["Rain", "water", "Water ", "B", "1"])
def test_the_answer_must_be_one_of_the_choices_to_the_letter(answer):
    with pytest.raises(InputError, match=rf"^here \(clotho/7\): answer '{answer}' is not among the choices"):
        parse_question(changed(answer=answer), "here")


@pytest.mark.parametrize("token", ["<|AUDIO|>", "<|im_end|>", "<|endoftext|>", "<|anything at all|>"])
def test_special_tokens_are_refused_wherever_the_prompt_would_show_them(token):
    for fields in ({"question": f"a {token} b"}, {"choices": ["Water", f"x{token}"]}, {"choices": [token, "Water"]}):
        with pytest.raises(InputError) as error:
            parse_question(changed(**fields), "here")
        assert str(error.value) == f"here (clotho/7): the text holds the special token {token}; remove or escape it"


@pytest.mark.parametrize("field", ["structured_cot", "unstructured_cot"])
def test_special_tokens_are_refused_in_the_reasoning_to_learn_from(field):
    """It becomes the completion; an end-of-turn mark in it would teach to stop there."""
    with pytest.raises(InputError) as error:
        parse_question(changed(**{field: "I hear water. <|im_end|> And then?"}), "here")
    assert str(error.value) == "here (clotho/7): the text holds the special token <|im_end|>; remove or escape it"
    assert getattr(parse_question(changed(**{field: "<think>|<|"}), "here"), field) == "<think>|<|"


@pytest.mark.parametrize("field", ["structured_cot", "unstructured_cot"])
def test_reasoning_may_be_missing_null_or_empty_and_up_to_40000_letters(field):
    for value in (MISSING, None, ""):
        assert getattr(parse_question(changed(**{field: value}), "here"), field) == ""
    assert getattr(parse_question(changed(**{field: "x" * 40_000}), "here"), field) == "x" * 40_000
    for value in (" ", "x" * 40_001, 7, ["x"], "\ud83d"):
        with pytest.raises(InputError, match=rf"^here \(clotho/7\): field '{field}' must be a text of at most 40000"):
            parse_question(changed(**{field: value}), "here")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"audio_contribution": "weak"}, "weak"),
        ({"audio-contribution": "strong"}, "strong"),
        ({"audio_contribution": None, "audio-contribution": "strong"}, "strong"),
        ({"audio_contribution": "", "audio-contribution": "weak"}, "weak"),
        ({"audio_contribution": "weak", "audio-contribution": None}, "weak"),
        ({"audio-contribution": None}, ""),
        ({"audio-contribution": ""}, ""),
        ({}, ""),
    ],
    ids=str,
)
def test_the_published_contribution_is_read_in_both_spellings_and_may_be_missing(fields, expected):
    assert parse_question(changed(**fields), "here").audio_contribution == expected
    with pytest.raises(InputError, match=r"^here \(clotho/7\): audio_contribution must be one of .*, got 'middling'"):
        parse_question(changed(**{"audio-contribution": "middling"}), "here")


@pytest.mark.parametrize("name", ["source_dataset", "id", "question_type"])
@pytest.mark.parametrize("letter", ["\0", "\n", "\r", "\x1b", "\x7f", "\x85", "\u2028"])
def test_what_a_question_is_named_by_is_one_line_without_control_characters(name, letter):
    with pytest.raises(InputError, match=rf"^here: field '{name}' must be one line") as error:
        parse_question(changed(**{name: f"a{letter}b"}), "here")
    assert str(error.value).isprintable()
    assert "b" in parse_question(changed(question=f"a{letter}b"), "here").question, "a question may break"


def test_angle_brackets_and_bars_alone_are_plain_text():
    text = "if a<b | c>d, or <b> || <c|?"
    assert parse_question(changed(question=text), "here").question == text


def test_the_record_of_a_question_reads_back_as_the_same_question():
    question = parse_question(changed(question="Qu'entend-on à 5 °C?", choices=['"A"', "Water", "l'eau"]), "here")
    record = question.record()
    assert parse_question(json.loads(json.dumps(record)), "there") == question
    assert set(record) == {*REQUIRED, "question_type", "split"}


def test_the_identity_is_source_and_id_and_where_the_one_ends():
    assert parse_question(GOOD, "x").uid == parse_question(changed(question="Other?", split="test"), "y").uid
    a = parse_question(changed(source_dataset="a/b", id="c"), "x")
    b = parse_question(changed(source_dataset="a", id="b/c"), "x")
    assert a.key == b.key and a.uid != b.uid


@pytest.mark.parametrize("name", ["q.json", "q.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_both_layouts_give_the_same_rows_with_and_without_a_byte_order_mark(tmp_path, name, encoding):
    records = [changed(id=str(i), question=f"Ist es schön, Nr. {i}?", audio_path=f"{i % 2}.wav") for i in range(3)]
    rows = read_annotations(write(tmp_path / name, records, encoding=encoding))
    assert rows == [(parse_question(record, ""), record["audio_path"], -1, None) for record in records]


def test_a_faulty_line_is_named_by_its_number_blank_lines_counted(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n  \n{json.dumps(changed(id='8', answer='Rain'))}\n")
    with pytest.raises(InputError, match=rf"^{path}:4 \(clotho/8\): answer 'Rain'"):
        read_annotations(path)
    path.write_text(f"{json.dumps(GOOD)}\n\n{json.dumps(GOOD)[:-1]}\n")
    with pytest.raises(InputError, match=rf"^{path}:3: not JSON: "):
        read_annotations(path)


def test_a_faulty_list_is_named_by_line_or_by_place(tmp_path):
    path = tmp_path / "q.json"
    path.write_text("[\n" + json.dumps(GOOD) + ",\n" + '{"id": }]')
    with pytest.raises(InputError, match=rf"^{path}:3: not JSON: "):
        read_annotations(path)
    write(path, [GOOD, changed(id="8", choices=["Water"])])
    with pytest.raises(InputError, match=rf"^{path}\[1\] \(clotho/8\): choices must be"):
        read_annotations(path)
    path.write_text(json.dumps(GOOD))
    with pytest.raises(InputError, match=f"^{path}: must hold a list of questions, got dict; an object is read where"):
        read_annotations(path)


@pytest.mark.parametrize("name", ["q.json", "q.jsonl"])
def test_an_empty_and_a_missing_file_are_refused(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match=f"^{path}: no such annotation file$"):
        read_annotations(path)
    with pytest.raises(InputError, match=f"^{path}: holds no question$"):
        read_annotations(write(path, []))


@pytest.mark.parametrize("name", ["q.json", "q.jsonl"])
@pytest.mark.parametrize("content", [b'"sch\xf6n"', b"[" * 100_000, b"1" * 5_000], ids=["latin-1", "depth", "digits"])
def test_what_the_json_reader_cannot_read_is_one_line_with_the_file(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{path}"):
        read_annotations(path)


@pytest.mark.parametrize("name", ["source_dataset", "id", "question", "answer"])
def test_half_a_surrogate_pair_is_no_text(name):
    with pytest.raises(InputError, match=f"^here: field '{name}' must be a non-empty text"):
        parse_question(changed(**{name: "\ud83d"}), "here")


def test_an_identity_given_twice_is_refused_with_both_places(tmp_path):
    path = write(tmp_path / "q.jsonl", [GOOD, changed(id="8"), changed(question="Another?")])
    with pytest.raises(InputError, match=rf"^{path}:3: clotho/7 was already given at {path}:1$"):
        read_annotations(path)


@pytest.mark.parametrize("value", [MISSING, None, "", 3])
def test_every_question_names_its_recording(tmp_path, value):
    path = write(tmp_path / "q.jsonl", [changed(audio_path=value)])
    with pytest.raises(InputError, match=rf"^{path}:1: field 'audio_path' must be a non-empty text"):
        read_annotations(path)


def test_a_column_map_renames_the_files_fields_and_wins_over_them(tmp_path):
    theirs = {
        "ds": "clotho",
        "uid": "7",
        "id": "not the id",
        "file": "clips/7.wav",
        "text": "What is heard?",
        "gold": "Water",
        "options": GOOD["choices"],
        "part": "val",
        "kind": "sound",
    }
    path = write(tmp_path / "q.json", [theirs])
    ours = {"source_dataset": "ds", "id": "uid", "audio_path": "file", "question": "text", "answer": "gold"}
    ours |= {"choices": "options", "split": "part", "question_type": "kind"}
    assert read_annotations(path, Fields(ours)) == [(parse_question(GOOD, ""), "clips/7.wav", -1, None)]
    with pytest.raises(InputError, match=rf"^{path}\[0\]: no column 'texts' for question; there are ds, "):
        read_annotations(path, Fields(ours | {"question": "texts"}))


def test_a_column_map_of_an_unknown_field_is_refused(tmp_path):
    path = write(tmp_path / "q.json", [GOOD])
    with pytest.raises(InputError, match=r"^columns: unknown field 'audio'; the fields are source_dataset, id, "):
        read_annotations(path, Fields({"audio": "audio_path"}))


@pytest.mark.timeout(60)
def test_a_key_given_twice_is_found_in_one_pass():
    """Counting every key for every key would take hours for this one megabyte."""
    text = "{" + ",".join(f'"{n:x}":1' for n in range(90_000)) + ',"15f8f":1}'
    with pytest.raises(InputError, match=r"^here: not JSON that can be read: the key '15f8f' occurs twice"):
        parse_json(text, "here")


def test_a_value_nested_deeply_is_shown_by_its_beginning():
    """Printing it whole would need more of Python's stack than reading it did."""
    for depth in range(900, 1_000):
        try:
            value = json.loads("[" * depth + "]" * depth)
        except RecursionError:
            break
        for fields in ({"id": value}, {"choices": value}, {"choices": [value, "Water"]}, {"split": value}):
            with pytest.raises(InputError, match=r"^here.*\[\[\[\.\.\.\]\]\]"):
                parse_question(changed(**fields), "here")


# What judging could not tell apart, and what other trainers leave in texts.


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        (["tone", "Tone", "Water"], "choices that differ in case or outer spaces alone are judged equal"),
        (["tone", "tone ", "Water"], "choices that differ in case or outer spaces alone are judged equal"),
        (["É", "é", "Water"], "choices that differ in case or outer spaces alone are judged equal"),
        (["a</answer>b", "Water"], "the choice 'a</answer>b' holds </answer>; remove or escape it"),
        (["<answer>", "Water"], "the choice '<answer>' holds <answer>; remove or escape it"),
        (["x </THINK>", "Water"], "the choice 'x </THINK>' holds </THINK>; remove or escape it"),
        (["<audio>", "Water"], "the choice '<audio>' holds <audio>; remove or escape it"),
        (["an <image>", "Water"], "the choice 'an <image>' holds <image>; remove or escape it"),
    ],
    ids=str,
)
def test_options_that_judging_confuses_are_refused_whether_right_or_wrong(choices, says):
    for answer in choices:
        with pytest.raises(InputError) as error:
            parse_question(changed(choices=choices, answer=answer), "here")
        assert str(error.value).startswith(f"here (clotho/7): {says}")


def test_judging_the_target_of_every_accepted_question_finds_exactly_its_answer():
    """By the rule itself, for options that look alike or odd but are told apart."""
    for choices in (["tone", "tones"], ["<b>", "b"], ["a < b", "a > b"], ["x\ny", "x y"], ["ß", "ss"], ["1.", "1"]):
        for answer in choices:
            question = parse_question(changed(choices=choices, answer=answer), "here")
            right = [c for c in question.choices if is_right(target_text(answer), c)]
            assert right == [answer] and is_well_formed(target_text(answer))


def test_a_benchmark_may_show_options_that_are_equal_and_its_record_says_so():
    record = changed(choices=["Water", "Wind", "water", "Wind"], as_published=True)
    question = parse_question(record, "here")
    assert question.choices == ("Water", "Wind", "water", "Wind")
    assert question.record()["as_published"] is True and parse_question(question.record(), "again") == question
    assert "as_published" not in parse_question(changed(as_published=True), "here").record()
    with pytest.raises(InputError, match="holds </answer>"):
        parse_question(changed(choices=["Water", "</answer>"], as_published=True), "here")


@pytest.mark.parametrize(
    "question",
    [
        "<audio>What is heard?",
        "<audio>\nWhat is heard?",
        "What is heard?<sound>",
        "What is heard? <SpeechHere>",
        "<audio></audio>What is heard?",
        "<audio_1><audio2> What is heard?\n<audio>",
        "[AUDIO] What is heard?",
        "<audio_placeholder>\n\nWhat is heard?",
    ],
)
def test_marks_of_the_recording_are_taken_off_a_questions_ends(question):
    assert parse_question(changed(question=question), "here").question == "What is heard?"


def test_a_mark_on_a_line_of_its_own_is_taken_out_and_the_text_around_it_stays():
    question = parse_question(changed(question="Listen.\n<audio>\nWhat is heard?"), "here")
    assert question.question == "Listen.\nWhat is heard?"
    for plain in ("Is a <b> tag heard?", "a < b [music] c > d?", "<au dio> or <sounds like>?"):
        assert parse_question(changed(question=plain), "here").question == plain


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("What is in <audio> here?", "holds the placeholder <audio> within its text"),
        ("<image>What is heard?", "holds the placeholder <image> within its text"),
        ("<video>\nWhat?", "holds the placeholder <video> within its text"),
        ("<audio>x.wav</audio> What?", "holds the placeholder </audio> within its text"),
        ("<audio>", "is nothing but <audio>"),
        ("<|audio_bos|>What?", r"holds the special token <\|audio_bos\|>"),
        ("<|audio_bos What?", r"holds the special token <\|audio_bos"),
        ("audio_eos|> What?", r"holds the special token s\|>"),
        ("</s> What?", "holds the special token </s>"),
        ("[INST] What?", r"holds the special token \[INST\]"),
    ],
)
def test_other_marks_in_a_question_are_refused_by_name(question, says):
    with pytest.raises(InputError, match=rf"^here \(clotho/7\): .*{says}"):
        parse_question(changed(question=question), "here")


def test_a_question_without_an_answer_says_so_in_its_record():
    record = {name: value for name, value in GOOD.items() if name != "answer"} | {"unanswered": True}
    question = parse_question(record, "here")
    assert question.answer == "" and parse_question(json.loads(json.dumps(question.record())), "again") == question
    with pytest.raises(InputError, match="is marked as unanswered, and has the answer 'Water'"):
        parse_question(record | {"answer": "Water"}, "here")
    with pytest.raises(InputError, match="field 'answer' must be a non-empty text, got ''"):
        parse_question(changed(answer=""), "here")
