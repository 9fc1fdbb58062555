"""How questions are put: to the letter, as models were trained on these words."""

from __future__ import annotations

import pytest

from earwitness.datamodules.processors import omni as processor
from earwitness.datamodules.questions.prompts import LETTERED, STYLES, prompt_text, question_text
from earwitness.errors import InputError

ASKED = "Which sound is heard?"
CHOICES = ("A dog", "rain", "wind.", 'It\'s "loud"')

PAPER = [
    (
        CHOICES,
        "Which sound is heard? Please choose the answer from the following options: "
        "['A dog', 'rain', 'wind.', 'It\\'s \"loud\"']. Output the final answer in <answer> </answer>.",
    ),
    (
        ("it's", 'say "no"', "a\\b", "a\nb"),  # as Python writes quotes, backslashes and line ends
        "Which sound is heard? Please choose the answer from the following options: "
        "[\"it's\", 'say \"no\"', 'a\\\\b', 'a\\nb']. Output the final answer in <answer> </answer>.",
    ),
    (
        ("\u72d7", "caf\u00e9"),  # letters of any alphabet stay themselves
        "Which sound is heard? Please choose the answer from the following options: "
        "['\u72d7', 'caf\u00e9']. Output the final answer in <answer> </answer>.",
    ),
    (
        ["\u00a0x", "\u200bx"],  # what cannot be seen is escaped
        "Which sound is heard? Please choose the answer from the following options: "
        "['\\xa0x', '\\u200bx']. Output the final answer in <answer> </answer>.",
    ),
]


@pytest.mark.parametrize(("choices", "text"), PAPER)
def test_the_papers_prompt_is_bit_for_bit_what_it_was(choices, text):
    assert question_text(ASKED, choices) == text == prompt_text("paper", ASKED, choices)
    assert question_text(ASKED, list(choices)) == question_text(ASKED, tuple(choices))
    assert processor.prompt_text is prompt_text, "training asks with the same words"


OTHERS = {
    "think": (
        "Which sound is heard? Please choose the answer from the following options: "
        "['A dog', 'rain', 'wind.', 'It\\'s \"loud\"']. "
        "Output the thinking process in <think> </think> and final answer in <answer> </answer>."
    ),
    "letters": (
        'Which sound is heard?\nA. A dog\nB. rain\nC. wind.\nD. It\'s "loud"\n'
        "Answer with the letter of the right option, A, B, C or D, and nothing else."
    ),
    "inline": 'Which sound is heard? (A) A dog. (B) rain. (C) wind. (D) It\'s "loud".',
    "lines": 'Which sound is heard?\nSelect one option from the provided choices:\nA dog\nrain\nwind.\nIt\'s "loud"',
}


@pytest.mark.parametrize(("style", "text"), OTHERS.items())
def test_the_other_prompts_to_the_letter(style, text):
    assert prompt_text(style, ASKED, CHOICES) == text


def test_two_options_and_twenty_six():
    assert prompt_text("letters", "Q?", ["yes", "no"]) == (
        "Q?\nA. yes\nB. no\nAnswer with the letter of the right option, A or B, and nothing else."
    )
    many = prompt_text("letters", "Q?", [f"option {n}" for n in range(26)])
    assert many.count("\n") == 27 and "\nZ. option 25\n" in many and "X, Y or Z, and" in many


def test_every_style_shows_every_option_in_the_order_given():
    for style in STYLES:
        text = prompt_text(style, ASKED, ["second", "first", "third"])
        assert text.startswith(ASKED) and text.index("second") < text.index("first") < text.index("third")
    assert set(LETTERED) == {
        style for style in STYLES if prompt_text(style, "Q?", ["x", "y"]).count("B") == 1 + (style == "letters")
    }


def test_an_unknown_style_lists_the_known():
    with pytest.raises(InputError, match="style: unknown name 'mmau'; there are paper, letters, inline, lines, think "):
        prompt_text("mmau", ASKED, CHOICES)
