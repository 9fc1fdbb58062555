"""How completions are judged: tables by hand, the scorer of MMAU line by line, and what holds for any options."""

from __future__ import annotations

import json
from string import ascii_uppercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earwitness.datamodules.questions.answers import RULES, extract_answer, judge, letter_of, matches_words, verdict
from earwitness.errors import InputError
from earwitness.tests.places import SHARED

MATCHES = SHARED / "conformance" / "mmau_string_match.jsonl"
FOUR = ("A dog", "A man", "rain", "wind")


@pytest.mark.skipif(not MATCHES.is_file(), reason="no shared/conformance/mmau_string_match.jsonl beside the repository")
def test_the_string_match_is_that_of_mmau_on_three_thousand_predictions():
    lines = [json.loads(line) for line in MATCHES.read_text(encoding="utf-8").splitlines()]
    wrong = [r for r in lines if matches_words(r["prediction"], r["answer"], r["choices"]) != r["match"]]
    assert len(lines) == 3_000 and not wrong and {r["match"] for r in lines} == {True, False}


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("<answer>rain</answer>", "rain"),
        ("I hear <answer> rain\n</answer> outside", "rain"),
        ("<ANSWER>rain</Answer>", "rain"),
        ("<answer>two\nlines</answer>", "two\nlines"),
        ("<answer>first</answer> <answer>second</answer>", "first"),
        ("<answer></answer>", ""),
        ("  rain \n", "rain"),
        ("<answer>rain", "<answer>rain"),
        ("rain</answer>", "rain</answer>"),
        ("", ""),
    ],
)
def test_the_answer_is_what_stands_between_the_tags_or_all(completion, text):
    assert extract_answer(completion) == text


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("rain", True),
        ("RAIN", True),
        (" rain\n", True),
        ("<answer>Rain</answer>", True),
        ("It is <Answer> rain </ANSWER>.", True),
        ("<answer>wind</answer> rain", False),
        ("rain.", False),
        ("C", False),
        ("it is rain", False),
        ("<answer>rain", False),
        ("", False),
    ],
)
def test_rule_exact(completion, right):
    assert judge("exact", completion, "rain", FOUR) is right


@pytest.mark.parametrize(
    ("completion", "answer", "choices", "right"),
    [
        ("It is the rain", "rain", FOUR, True),
        ("<answer>the RAIN</answer> not wind", "rain", FOUR, True),  # what is outside of the tags is not read
        ("rain, no wind", "rain", FOUR, False),  # a word of a wrong option
        ("raining", "rain", FOUR, False),
        ("man A", "A man", FOUR, True),  # a bag of words has no order
        ("man", "A man", FOUR, False),
        ("a man and a dog", "A man", FOUR, False),
        ("", "rain", FOUR, False),
        ("high then low", "low then high", ("low then high", "high then low"), True),  # the known blindness
        ("hot dog", "dog", ("dog", "hot dog"), False),
        ("dog", "hot dog", ("dog", "hot dog"), False),
        ("hot dog", "hot dog", ("dog", "hot dog"), True),
        ("12.5 s", "12.5 s", ("12.5 s", "5 s"), True),
        ("?", "?", ("?", "!"), False),  # without words nothing is right
        ("", "?", ("?", "!"), False),
    ],
)
def test_rule_mmau(completion, answer, choices, right):
    assert judge("mmau", completion, answer, choices) is right


LETTERS = {
    "B": "B",
    "b": "B",
    " B\n": "B",
    "(B)": "B",
    "[B]": "B",
    "{B}": "B",
    "B.": "B",
    "B)": "B",
    "(B) A man": "B",
    "B. A man": "B",
    "B: A man": "B",
    "B, as a man speaks": "B",
    "B; the others are silent": "B",
    "B - A man": "B",
    "B \u2014 A man": "B",
    "B\nA man is heard.": "B",
    "**B**": "B",
    "**B. A man**": "B",
    "__B__": "B",
    '"B"': "B",
    "'B'.": "B",
    "`b`": "B",
    "B because he speaks": "B",
    "<answer>B</answer>": "B",
    "<ANSWER> (b) </Answer>": "B",
    "<answer>B</answer> or maybe C": "B",
    "The answer is B": "B",
    "the answer is b.": "B",
    "Answer: B": "B",
    "answer - (B)": "B",
    "Answer is: **B**": "B",
    "The correct answer is (B), a man.": "B",
    "The right answer is option B.": "B",
    "The answer to this question is B.": "B",
    "The answer would be B": "B",
    "My choice is B": "B",
    "Option B": "B",
    "Option B sounds right": "B",
    "I choose option (B) here.": "B",
    "The letter is B": "B",
    "It is (B) I think": "B",
    "Option A is wrong, so the answer is B": "B",
    "A. A dog\nB. A man\nThe answer is B": "B",
    "First I thought the answer is A. No, the answer is B.": "B",
    "The answer is B because a dog barks": "B",
    "A man": "B",  # an option's own text counts as its letter
    "a MAN": "B",
    "A man.": "B",
    '"A man"': "B",
    "**A man**": "B",
    "The answer is a man.": "B",
    "Answer: A dog": "A",
    "rain": "C",
    "<answer>Wind</answer>": "D",
    "A": "A",
    "A.": "A",
    "A, I think": "A",
    "The answer is A.": "A",
    "The answer is A because a dog barks": "A",
    # None of these names a letter that is an option's.
    "": "",
    "A man is heard": "",
    "A cat": "",
    "The answer is A cat": "",
    "the answer is a cat": "",
    "I'm not sure": "",
    "D'accord": "",
    "B-flat": "",
    "E": "",
    "(E)": "",
    "The answer is Z": "",
    "A, B": "",
    "A or B": "",
    "(A) or (B)": "",
    "A and C": "",
    "option A or option B": "",
    "Option A is wrong, option B fits": "B",
    "It is (A) and also (B)": "",
    "The answer is not B": "",
    "BB": "",
    "7": "",
    "?": "",
}


@pytest.mark.parametrize(("completion", "letter"), LETTERS.items())
def test_letters_in_many_spellings(completion, letter):
    assert letter_of(completion, FOUR) == letter
    truth = {"": "", **dict(zip("ABCD", FOUR, strict=True))}[letter]
    for option in FOUR:
        assert judge("letter", completion, option, FOUR) is (option == truth)


@pytest.mark.parametrize(
    ("completion", "choices", "letter"),
    [
        ("C major", ("D minor", "C major", "G major"), "B"),  # a key is no letter
        ("The answer is C major.", ("D minor", "C major", "G major"), "B"),
        ("The answer is D minor", ("C major", "B minor", "A minor", "F minor"), ""),
        ("dog", ("Dog", "dog", "DOG"), "B"),  # to the letter first
        ("dOG", ("Dog", "dog", "DOG"), "A"),
        ("dog", (" dog ", "cat"), "A"),
        ("Yes.", ("Yes", "Yes."), "B"),
        ("C", ("C", "D", "E"), "A"),  # where notes are the options, a note is its own text
        ("E", ("C", "D", "E"), "C"),
        ("F", ("C", "D", "E"), ""),
        ("z", tuple(f"option {n}" for n in range(26)), "Z"),
        ("C", ("yes", "no"), ""),
    ],
)
def test_letters_beside_other_options(completion, choices, letter):
    assert letter_of(completion, choices) == letter


def test_a_letter_is_that_of_the_order_shown():
    assert judge("letter", "A", "rain", ("rain", "wind")) and not judge("letter", "A", "rain", ("wind", "rain"))


@pytest.mark.parametrize(
    ("completion", "answer", "choices", "right"),
    [
        ("I hear rain", "rain", FOUR, True),
        ("I hear RAIN!", "rain", FOUR, True),
        ("I hear rain and wind", "rain", FOUR, False),
        ("<answer>rain</answer> and wind", "rain", FOUR, True),
        ("a train", "rain", FOUR, False),  # not as a whole word
        ("nothing", "rain", FOUR, False),
        ("", "rain", FOUR, False),
        ("a hot dog", "dog", ("dog", "hot dog"), False),  # it is the other one
        ("a hot dog", "hot dog", ("dog", "hot dog"), True),
        ("a dog", "dog", ("dog", "hot dog"), True),
        ("a dog beside a hot dog", "hot dog", ("dog", "hot dog"), False),  # both are named
        ("a woman", "man", ("man", "child"), False),
        ("a woman", "woman", ("man", "woman"), True),
        ("red car park", "red car", ("red car", "car park"), False),  # they overlap: both are named
        ("10 pulses", "1", ("1", "10"), False),
        ("10 pulses", "10", ("1", "10"), True),
        ("Dog", "dog", ("Dog", "dog", "cat"), True),  # not told apart by their case
        ("a.b (c)*", "a.b (c)*", ("a.b (c)*", "a"), True),  # no pattern
        ("axb c", "a.b (c)*", ("a.b (c)*", "d"), False),
        ("\u662f\u72d7\u53eb", "\u72d7", ("\u72d7", "\u732b"), True),  # no spaces between these words
        ("une \u00e9toile", "toile", ("toile", "vent"), False),
        ("rain ", " rain", (" rain", "wind"), True),
    ],
)
def test_rule_contains(completion, answer, choices, right):
    assert judge("contains", completion, answer, choices) is right


def test_an_unknown_rule_lists_the_known():
    with pytest.raises(
        InputError, match="rule: unknown name 'best'; there are exact, mmau, letter, contains, mmsu \\(or"
    ):
        judge("best", "A", "A", ["A", "B"])


def plain(text: str) -> str:
    return text.strip().lower()


TEXTS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs", "S")), min_size=1, max_size=12)
OPTIONS = st.lists(
    (
        TEXTS | st.sampled_from(["dog", "hot dog", "a dog", "A", "B", "the answer is B", "man", "woman", "1", "10"])
    ).filter(lambda text: text.strip() and "<" not in text),
    min_size=2,
    max_size=26,
    unique_by=plain,
)


def has_words(text: str) -> bool:
    return any(letter.isalnum() or letter == "_" for letter in text)


@given(OPTIONS, st.data())
def test_the_right_options_own_text_is_right_under_every_rule(choices, data):
    answer = data.draw(st.sampled_from(choices))
    for rule in set(RULES) - {"mmsu"}:
        if rule != "mmau" or has_words(answer):  # the scorer wants at least one word
            for completion in (
                answer,
                f" {answer}\n",
                f"<answer>{answer}</answer>",
                f"So: <Answer> {answer} </ANSWER>",
            ):
                assert judge(rule, completion, answer, choices), rule


@given(OPTIONS, st.data())
def test_another_options_own_text_is_wrong_where_options_are_compared_as_texts(choices, data):
    """Bags of words may be equal; letters and texts are not."""
    answer = data.draw(st.sampled_from(choices))
    for other in choices:
        if other != answer:
            assert not any(judge(rule, other, answer, choices) for rule in ("exact", "letter", "contains"))


@given(OPTIONS, st.data())
def test_a_letter_chooses_its_option_alone(choices, data):
    """Unless an option is itself a letter: then its text comes first."""
    lettered = [choice for choice in choices if len(choice.strip(" .:\"'`*_")) > 1]
    place = data.draw(st.integers(0, max(0, len(lettered) - 1)))
    if len(lettered) >= 2:
        letter = ascii_uppercase[place]
        for spelled in (letter, f"({letter})", f"{letter}.", f"**{letter}**", f"The answer is {letter}"):
            if not any(plain(spelled) == plain(choice) for choice in lettered):
                assert letter_of(spelled, lettered) == letter


@given(st.text(max_size=60), OPTIONS, st.data())
def test_any_text_at_all_is_judged(completion, choices, data):
    answer = data.draw(st.sampled_from(choices))
    assert {judge(rule, completion, answer, choices) for rule in RULES} <= {True, False}
    assert letter_of(completion, choices) in ("", *ascii_uppercase[: len(choices)])


RAIN = ("dog", "dog and cat", "rain", "wind")
UNFINISHED, UNREADABLE = "unfinished", "unreadable"


@pytest.mark.parametrize(
    ("rule", "completion", "finished", "cut"),
    [
        ("exact", "<answer>Rain</answer>", "right", "right"),
        ("exact", "RAIN", "right", "right"),
        ("exact", " wind\n", "wrong", "wrong"),
        ("exact", "dog", "wrong", UNFINISHED),  # it may become "dog and cat"
        ("exact", "dog and cat", "wrong", "wrong"),
        ("exact", "<answer>dog</answer>", "wrong", "wrong"),
        ("exact", "rain.", UNREADABLE, "unfinished"),
        ("exact", "it is rain", UNREADABLE, UNFINISHED),
        ("exact", "<answer>rain", UNREADABLE, UNFINISHED),
        ("exact", "<answer>snow</answer>", UNREADABLE, UNFINISHED),
        ("exact", "", UNREADABLE, UNFINISHED),
        ("exact", "<answer></answer>", UNREADABLE, UNFINISHED),
        ("exact", "<think>rain or wind?", UNREADABLE, UNFINISHED),
        ("exact", "<think>rain or wind?</think>", UNREADABLE, UNFINISHED),
        ("exact", "<think>wind?</think><answer>rain</answer>", "right", "right"),
        ("exact", "<think>wind?</think>rain", "right", "right"),
        ("mmau", "It is the rain", "right", UNFINISHED),  # a wrong option may follow
        ("mmau", "<answer>it is the rain</answer>", "right", "right"),
        ("mmau", "I hear a cat and a dog", "wrong", UNFINISHED),
        ("mmau", "rain, no wind", UNREADABLE, UNFINISHED),
        ("mmau", "raining", UNREADABLE, UNFINISHED),
        ("mmau", "rain", "right", "right"),
        ("mmau", "", UNREADABLE, UNFINISHED),
        ("mmau", "<think>it is rain", UNREADABLE, UNFINISHED),
        ("contains", "I hear rain", "right", UNFINISHED),
        ("contains", "I hear a dog", "wrong", UNFINISHED),
        ("contains", "<answer>I hear a dog</answer> or", "wrong", "wrong"),
        ("contains", "rain and wind", UNREADABLE, UNFINISHED),
        ("contains", "nothing", UNREADABLE, UNFINISHED),
        ("contains", "<think>it is rain", UNREADABLE, UNFINISHED),
        ("mmsu", "C", "right", "right"),
        ("mmsu", "Cats and", "right", "right"),
        ("mmsu", "The answer is C.", "right", "right"),
        ("mmsu", "Because it", "wrong", "wrong"),
        ("mmsu", "\nC\n", "right", "right"),
        ("mmsu", "c", UNREADABLE, UNFINISHED),
        ("mmsu", "The answer is C", UNREADABLE, UNFINISHED),
        ("mmsu", "rain", UNREADABLE, UNFINISHED),
        ("mmsu", "", UNREADABLE, UNFINISHED),
        ("letter", "C", "right", "right"),
        ("letter", "C. rain", "right", "right"),
        ("letter", "The answer is C because it", "right", "right"),
        ("letter", "(D) wi", "wrong", "wrong"),
        ("letter", "dog", "wrong", UNFINISHED),
        ("letter", "I think it's C, but", "right", UNFINISHED),
        ("letter", "Let me go through the options. Option C says", "right", UNFINISHED),
        ("letter", "A and B", UNREADABLE, UNFINISHED),
        ("letter", "It is raining", UNREADABLE, UNFINISHED),
        ("letter", "<think>The answer is C. Or", UNREADABLE, UNFINISHED),
        ("letter", "", UNREADABLE, UNFINISHED),
    ],
)
def test_the_four_verdicts_of_a_finished_reply_and_of_one_cut_off(rule, completion, finished, cut):
    """The third of the options, "rain", is right."""
    assert verdict(rule, completion, "rain", RAIN, True, rule == "letter") == finished
    assert verdict(rule, completion, "rain", RAIN, False, rule == "letter") == cut
    assert judge(rule, completion, "rain", RAIN, rule == "letter") is (finished == "right")


def test_a_rule_of_ones_own_may_say_that_it_finds_no_answer():
    lab = "earwitness.tests.lab_plugins.first_word"
    said = {"rain falls": True, "wind": False, "": None}
    for completion, right in said.items():
        finished = {True: "right", False: "wrong", None: "unreadable"}[right]
        assert verdict(lab, completion, "rain", RAIN) == finished and judge(lab, completion, "rain", RAIN) is bool(
            right
        )
        assert verdict(lab, completion, "rain", RAIN, False) == ("right" if right else "unfinished")
    assert verdict(lab, "<answer>wind</answer>", "rain", RAIN, False) == "wrong"
    half = "earwitness.tests.lab_plugins.half_right"
    with pytest.raises(InputError, match="must return True, False or None, got 0.5"):
        verdict(half, "rain", "rain", RAIN)


@given(st.text(max_size=60), OPTIONS, st.booleans(), st.booleans(), st.data())
def test_a_verdict_is_right_only_where_the_rule_judges_so(completion, choices, finished, lettered, data):
    answer = data.draw(st.sampled_from(choices))
    for rule in RULES:
        found = verdict(rule, completion, answer, choices, finished, lettered)
        right = judge(rule, completion, answer, choices, lettered)
        assert right or found != "right"
        assert (found == "right") == right or not finished
        assert found != ("unreadable" if not finished else "unfinished")


@given(OPTIONS, st.data())
def test_what_training_teaches_is_right_for_its_own_option_alone(choices, data):
    """The target of SFT, whatever an option looks like, under the rules that compare texts and letters."""
    answer = data.draw(st.sampled_from(choices))
    for rule in ("exact", "letter"):
        found = {choice: verdict(rule, f"<answer>{answer}</answer>", choice, choices) for choice in choices}
        assert found == {choice: "right" if choice == answer else "wrong" for choice in choices}
