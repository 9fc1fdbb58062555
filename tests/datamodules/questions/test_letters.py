"""Which letter a reply names: outright, in a final phrase, as the one left among several, or none at all."""

from __future__ import annotations

import json
import random
from string import ascii_uppercase

import pytest

from earwitness.datamodules.questions.answers import judge, letter_of, verdict
from earwitness.datamodules.questions.letters import choice_of
from earwitness.datamodules.questions.prompts import prompt_text
from earwitness.tests.places import SHARED

FOUR = ("A dog", "A man", "rain", "wind")
REPLIES = {
    "The answer is (B)": "B",
    "Answer: B": "B",
    "final answer: **B**": "B",
    "**Final answer:** B": "B",
    "**Answer:** **B**": "B",
    "Therefore B is correct": "B",
    "I choose B": "B",
    "B is the correct answer": "B",
    "B is the correct answer.": "B",
    "\u6b63\u786e\u7b54\u6848\u662fB": "B",
    "\u9009B": "B",
    "\u6211\u9009B\u3002": "B",
    "\u7b54\u6848\uff1aB": "B",
    "\u7b54\u6848\u662f\uff08B\uff09\u3002": "B",
    "\u4e0d\u9009A\uff0c\u9009B": "B",
    "\u5e94\u8be5\u9009\u62e9B\u9009\u9879": "B",
    "\u7efc\u4e0a\u6240\u8ff0\uff0c\u6b63\u786e\u9009\u9879\u4e3a B\u3002": "B",
    "\\boxed{B}": "B",
    "\\boxed{\\text{B}}": "B",
    "So the result is $\\boxed{B}$.": "B",
    "$$\\boxed{\\mathbf{B}}$$": "B",
    "\\boxed{A man}": "B",
    "\\(\\boxed{\\text{B. A man}}\\)": "B",
    "\uff22": "B",
    "\uff08B\uff09": "B",
    "\uff08\uff22\uff09": "B",
    "\uff42": "B",
    "\u3010B\u3011": "B",
    "B\u3002": "B",
    "\uff22\uff0eA man": "B",
    "b": "B",
    "B)": "B",
    "(b)": "B",
    "[B]": "B",
    "Option B": "B",
    "option b": "B",
    "B: text": "B",
    "B. Dog": "B",
    "B. A dog": "B",
    "(B) A dog": "B",
    "B A man": "B",
    "B A dog": "B",
    "b. a man": "B",
    "A and B are wrong, so C": "C",
    "A and B are wrong, so C.": "C",
    "not A but B": "B",
    "It's not A but B.": "B",
    "between A and B, I'd say B": "B",
    "Between A and B, I would go with B.": "B",
    "Let me think. The sound is low.\nB": "B",
    "Let me think. The sound is low and it rains.\n\n**B**": "B",
    "Reasoning: there is a voice.\nFinal: B": "B",
    "There is barking.\nAnswer - B": "B",
    "A and B": "",
    "A or B": "",
    "Either B or C": "",
    "Because...": "",
    "A dog barks": "",
    "Because the sound is low": "",
    "A dog is barking in the background": "",
    "I think it is a man": "",
    "I think B": "B",
    "I think it's B.": "B",
    "I believe the answer is B": "B",
    "I'd go with C": "C",
    "i'd go with c": "C",
    "it's b": "B",
    "the answer is b": "B",
    "the answer is a": "A",
    "the answer is a cat": "",
    "the answer is A cat": "",
    "Answer: A man": "B",
    "Answer: A man.": "B",
    "C major": "",
    "B-flat": "",
    "The chord is B flat": "",
    "It's in A minor": "",
    "A#": "",
    "B\u266d": "",
    "Bb": "",
    "C#": "",
    "A4": "",
    "Option A is wrong, option B fits": "B",
    "Option A is wrong, so the answer is B": "B",
    "First I thought the answer is A. No, the answer is B.": "B",
    "The answer is A. No wait, B.": "B",
    "A? No, B.": "B",
    "A. A dog\nB. A man\nC. rain\nD. wind": "",
    "A. A dog B. A man C. rain D. wind": "",
    "A. A dog\nB. A man\nThe answer is B": "B",
    "A. A dog\nB. A man\n\nB": "B",
    "Speaker B is right": "",
    "Speaker A and speaker B talk": "",
    "vitamin C": "",
    "Plan B": "",
    "The key of C": "",
    "D'accord": "",
    "U.S.A": "",
    "A.M.": "",
    "I'm not sure": "",
    "Not B": "",
    "It is not B": "",
    "B is wrong": "",
    "Option B is incorrect.": "",
    "(B) is wrong": "",
    "The answer is not B": "",
    "The answer isn't B, it's C": "C",
    "The answer cannot be A, so it must be D.": "D",
    "Neither A nor B; C is the right option": "C",
    "C, not A": "C",
    "C rather than D": "",
    "The answer is C rather than D": "C",
    "I would rule out A and D. B is more likely than C.": "B",
    "Answer: A, B": "",
    "The answer is A and B": "",
    "The answer could be A or B": "",
    "The answer is either A or B": "",
    "Both A and C": "",
    "A/B": "",
    "A, B, C": "",
    "A & B": "",
    "B, as a man speaks": "B",
    "B because he speaks": "B",
    "B is correct because A dog does not speak": "B",
    "The best answer is option B: A man": "B",
    "The most likely option is (B).": "B",
    "B. A man (not A. A dog)": "B",
    "The correct option is therefore B.": "B",
    "So, the correct answer to the question is B": "B",
    "The right choice would be: b)": "B",
    "My guess is B": "B",
    "My final answer would be B": "B",
    "I am going with (B).": "B",
    "I'm going with B": "B",
    "Let's choose B.": "B",
    "Choose B": "B",
    "Selected option: B": "B",
    "Prediction: B": "B",
    "B is my answer": "B",
    "=> B": "B",
    "-> B": "B",
    "\u2192 B": "B",
    "Hence (B).": "B",
    "Thus, B.": "B",
    "That leaves B.": "B",
    "It must be B": "B",
    "<answer>B": "B",
    "<answer>B</answer>": "B",
    "Answer:\nB": "B",
    "### Answer\nB": "B",
    "Answer: B\n\nExplanation: A dog would bark.": "B",
    "B\n\nA dog would bark, so A is wrong.": "B",
    "B\nA": "",
    "A\nB\nC\nD": "",
    "The sound is a man speaking (B)": "B",
    "The man speaks clearly. B": "B",
    "Certainly! B.": "B",
    "Sure, the answer is B!": "B",
    "Sure: B": "B",
    "Okay. B. A man": "B",
    "The correct answer is (B), a man.": "B",
    "Is it A? No. It is B.": "B",
    "Is it (A)?": "",
    "It could be B": "B",
    "Can't say": "",
    "None of the above": "",
    "A man and a dog": "",
    "a": "A",
    "A": "A",
    "A.": "A",
    "A, I think": "A",
    "I hear A": "",
    "A a a": "",
    "The answer is A because a dog barks": "A",
    "E": "",
    "(E)": "",
    "The answer is Z": "",
    "'B'": "B",
    '"B"': "B",
    "`b`": "B",
    "__B__": "B",
    "*B*": "B",
    "_B_": "B",
    "\u201cB\u201d": "B",
    "B - A man": "B",
    "B \u2013 A man": "B",
    "{B}": "B",
    "<B>": "B",
    "Answer(B)": "B",
    "answer=B": "B",
    "B.A man": "B",
    "B.Dog": "B",
    "The answer is B.A man": "B",
    "B:": "B",
    "B!": "B",
    "B?": "B",
    "Respuesta: B": "B",
    "Die Antwort ist B.": "B",
    "La r\xe9ponse est B": "B",
    "\u7b54\u3048\u306fB": "B",
    "The answer is **B. A man**.": "B",
    "The answer is \u201cB\u201d.": "B",
    "Out of A, B, C and D, B is the best choice.": "B",
    "Of options A and B, option B is more likely.": "B",
    "I was torn between A and B but chose B": "B",
    "Options A and B are both wrong": "",
    "I eliminate A, C and D, leaving B.": "B",
    "A man, so B": "B",
    "It is a man, i.e. option B": "B",
    "It is a man, which is B.": "B",
    "The loudest is A.": "",
    "Let's see: A) a dog - no. B) a man - no. C) rain - yes! D) wind - no.": "C",
    "The speaker says 'A' and then 'B'.": "",
    "It sounds like B": "B",
    "It sounds like a B": "",
    "Clearly B": "",
    "Definitely B.": "",
    "B definitely": "",
    "B obviously": "",
    "B indeed": "",
    "B seems right": "B",
    "B sounds right": "B",
    "B fits best": "B",
    "I think it might be B": "B",
    "It might be B": "B",
    "Could be B": "",
    "Probably B": "B",
    "Perhaps A": "A",
    "Perhaps A man": "",
    "Maybe A?": "",
    "The answer is probably B": "B",
    "The correct letter is B.": "B",
    "Letter B": "B",
    "Correct: B": "B",
    "Correct answer: B": "B",
    "Ans: B": "B",
    "Ans. B": "B",
    "ANSWER: B": "B",
    "ANSWER IS B": "B",
    "THE ANSWER IS A": "A",
    "A MAN": "B",
    "IT IS A MAN": "",
    "Response: (B)": "B",
    "My response is B": "B",
    "Output: B": "B",
    "B (A man)": "B",
    "B [A man]": "B",
    "B = A man": "B",
    "B/ A man": "B",
    "1. B": "B",
    "Q1: B": "B",
    "Answer 1: B": "B",
    "# B": "B",
    "- B": "B",
    "\u2022 B": "B",
    "\u2705 B": "B",
    "B \u2705": "B",
    "The answer: option (B) - A man": "B",
    "The answer is option B, not option A.": "B",
    "It's option B: A man.": "B",
    "None": "",
    "N/A": "",
    "A man (B)": "B",
    "A man, option B": "B",
    "A man, B": "B",
    "B, A man": "B",
    "B or C? I choose C.": "C",
    "If I had to choose, B": "B",
    "If I had to choose between A and C, I would choose C.": "C",
    "I can't choose between A and C.": "",
    "I cannot determine; A": "A",
    "Not A, B, or C; therefore D": "D",
    "It isn't A or B. C or D are possible. D is more likely.": "D",
    "all except B": "",
    "Everything but B": "",
    "A (low) hum": "",
    "B (a male voice)": "B",
    "A (A dog)": "A",
    "The options are A, B, C, D. I pick D.": "D",
    "Question: which? Answer with the letter of the right option, A, B, C or D, and nothing else.": "",
    "A, B, C or D": "",
    "My answer would be A, since it barks": "A",
    "The dog barks; answer A": "A",
    "I'd say A dog": "",
    "I'd say the answer is A dog": "A",
    "So a dog": "",
    "so c": "C",
    "it's a.": "A",
    "I'm leaning towards B, but C is also possible": "B",
    "While A is possible, B is more likely": "B",
    "B is possible": "",
    "B could be right, but so could C": "",
    "B, though C is close": "B",
    "Could be B or C": "",
    "It's B or C": "",
    "I'd say B or C": "",
    "Not sure. B": "B",
    "Hmm, B": "B",
    "B... or C?": "B",
    "The sound is B": "",
    "The sound is B.": "",
    "Group B": "",
    "Type B answer": "",
    "C4": "",
    "In bar B the answer is given": "",
    "The answer is given in bar B": "",
    "The answer lies in B": "",
    "The answer: not A": "",
    "Definitely not A": "",
    "I would eliminate A.": "",
    "A is eliminated, B is eliminated, D is eliminated": "",
    "A is eliminated, B is eliminated, D is eliminated, so it's C": "C",
    "Only C is left.": "",
    "C remains.": "",
    "The only one left is C.": "C",
    "We are left with C": "C",
    "C it is": "C",
    "C is it": "",
    "C!": "C",
    "C :)": "C",
    "[[C]]": "C",
    '{"answer": "C"}': "C",
    "{'answer': 'C'}": "C",
    '{"choice": "(C)"}': "C",
    "answer: [C]": "C",
    "Answer: ( C )": "C",
    "answer is C)": "C",
    "Answer: C)": "C",
    "Answer: C) rain": "C",
    "Answer: C, rain": "C",
    "answer c": "C",
    "ANSWER C": "C",
    "Answer C": "C",
    "The final answer is $\\boxed{C}$": "C",
    "\\boxed{(C)}": "C",
    "\\boxed{C. rain}": "C",
    "The answer is $C$.": "C",
    "\\text{C}": "C",
    "<choice>C</choice>": "C",
    "<ans>C</ans>": "C",
    "<b>C</b>": "C",
    "C<|im_end|>": "C",
    "C</s>": "C",
    "assistant: C": "C",
    "User: A or B? Assistant: B": "B",
}


@pytest.mark.parametrize(("reply", "letter"), REPLIES.items())
def test_what_a_reply_to_a_lettered_prompt_names(reply, letter):
    assert letter_of(reply, FOUR, lettered=True) == letter


REASONED = (
    "The audio contains a low rumble followed by barking. Option A mentions a dog, which fits the barking. Option B "
    "mentions a man, but there is no speech. Option C is rain; the rumble could be rain, but it stops. Option D, wind, "
    "is unlikely. "
)


@pytest.mark.parametrize(
    ("ending", "letter"),
    [
        ("", ""),
        ("Therefore, the correct answer is A.", "A"),
        ("So A.", "A"),
        ("\n\nA", "A"),
        ("The best match is (A) A dog.", "A"),
        ("I would answer A", "A"),
        ("A dog", ""),
        ("A is the answer, not B", "A"),
        ("Thus the answer is A dog.", "A"),
    ],
)
def test_reasoning_about_all_options_is_decided_by_its_ending(ending, letter):
    assert letter_of(REASONED + ending, FOUR, lettered=True) == letter


NINE = tuple(f"thing {n}" for n in range(9))
OTHERS: list[tuple[tuple[str, ...], bool, dict[str, str]]] = [
    (
        ("C", "A", "B", "D"),
        True,
        {
            "A": "A",
            "B": "B",
            "(C)": "C",
            "The answer is D.": "D",
            "A. C": "A",
            "C: B": "C",
            "C. B": "C",
            "answer: a": "A",
            "<b>B</b>": "B",
            "The answer is B. A": "B",
        },
    ),
    (
        ("C", "A", "B", "D"),
        False,
        {
            "A": "B",
            "The answer is A.": "B",
            "The answer is D.": "D",
            "b": "C",
        },
    ),
    (
        ("C", "D", "E"),
        True,
        {
            "C": "C",
            "E": "C",
            "e": "C",
            "F": "",
            "The chord is E.": "",
        },
    ),
    (
        NINE,
        True,
        {
            "I": "I",
            "I.": "I",
            "(I)": "I",
            "The answer is I": "I",
            "The answer is I.": "I",
            "I think it is H": "H",
            "I am not sure": "",
            "I'd say H": "H",
            "I choose I": "I",
            "I choose (I).": "I",
            "I is correct": "I",
            "I, H": "",
            "H or I": "",
            "I hear a bell": "",
            "i": "I",
            "i think d": "D",
            "I thing 8": "I",
            "I thing": "",
            "Thing 3": "D",
        },
    ),
    (
        ("D minor", "C major", "G major"),
        True,
        {
            "C major": "B",
            "The answer is C major.": "B",
            "C": "C",
            "A minor": "",
            "The answer is D minor.": "A",
            "B. C major": "B",
            "B: C major, because the third is major": "B",
            "C. G major": "C",
        },
    ),
    (
        ("a", "b", "c"),
        True,
        {
            "a": "A",
            "b": "B",
            "A": "A",
            "the answer is c": "C",
        },
    ),
    (
        ("yes", "no"),
        True,
        {
            "C": "",
            "No": "B",
            "no.": "B",
            "Yes, so A": "A",
            "No, it is A": "A",
            "A. No": "A",
            "No. A": "A",
        },
    ),
    (
        ("A man is singing", "A woman is singing", "A man is speaking", "wind"),
        True,
        {
            "Answer: A man is speaking": "C",
            "A man is speaking": "C",
            "A man is speaking.": "C",
            "The answer is A man is speaking.": "C",
            "Answer: A": "A",
            "A: A man is singing": "A",
            "A woman": "",
            "A man is talking": "",
        },
    ),
    (
        ("dog", "cat", "cow"),
        True,
        {
            "A dog": "A",
            "A cat": "",
            "A dog barks": "",
            "a dog": "A",
            "The answer is A dog": "A",
            "Answer: A cat": "",
            "B dog": "B",
            "C cow": "C",
            "B cow": "B",
            "A) cat": "A",
            "A. cat": "A",
            "The answer is B cow": "B",
        },
    ),
    (
        ("major", "minor", "dorian"),
        True,
        {
            "C major": "",
            "B minor": "B",
            "C": "C",
            "It is major": "",
            "The answer is major": "A",
        },
    ),
    (
        ("True", "False", "Not given"),
        True,
        {
            "B. False": "B",
            "The answer is B. False": "B",
            "The answer is B. False.": "B",
            "A: True": "A",
            "(C) Not given": "C",
            "The answer is (C) Not given, since nobody says so.": "C",
            "B. False is wrong, so A. True": "A",
            "I say C: not given": "C",
            "False": "B",
            "The answer is false.": "B",
            "B - False": "B",
            "B. False - no. C. Not given - no. So A.": "A",
            "Answer: B, false": "B",
        },
    ),
    (
        ("Impossible to tell", "No sound", "Less noise", "Wrong note"),
        True,
        {
            "B. No sound at all": "B",
            "The answer is C, less noise than before": "C",
            "The answer is D: wrong note.": "D",
            "A. Impossible to tell from this": "A",
            "(A) Impossible to tell is wrong. (B) No sound": "B",
        },
    ),
    (
        ("A:maj/5", "A:min7/1", "G", "A#"),
        True,
        {
            "The answer is A:min7/1.": "B",
            "A:maj/5": "A",
            "B. A:min7/1": "B",
            "C. G": "C",
            "G": "C",
            "The answer is G.": "C",
            "The answer is C.": "C",
            "A#": "D",
            "D": "D",
            "I would choose option B, A:min7/1.": "B",
        },
    ),
    (
        ("twenty-one", "Berman's", "said", "a"),
        True,
        {
            "I would choose option D, a.": "D",
            "The answer is D, a": "D",
            "D. a": "D",
            'D: "a"': "D",
        },
    ),
    (
        FOUR,
        True,
        {
            "The answer is a dog. No, the answer is B.": "B",
            "The answer is A man speaking": "",
            "(B) A man is the correct answer": "B",
            "B. A man is the correct answer": "B",
            "B. A man fits, A. A dog does not": "B",
            "Option A, a dog, is unlikely, and option B fits.": "B",
        },
    ),
]
EACH = [(choices, lettered, reply, letter) for choices, lettered, table in OTHERS for reply, letter in table.items()]


@pytest.mark.parametrize(("choices", "lettered", "reply", "letter"), EACH)
def test_letters_beside_options_that_look_like_letters_or_begin_with_one(choices, lettered, reply, letter):
    assert letter_of(reply, choices, lettered) == letter


SPELLINGS = ("{0}", "{0}.", "({0})", "**{0}**", "{1}", "The answer is {0}.", "<answer>{0}</answer>", "{0}. {2}")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_oracle_that_answers_letters_is_right_about_chords_in_any_order(spelling):
    """Twenty-four questions whose options are chords, notes, "a" and "b": every letter of a prompt finds its option."""
    draw, right = random.Random(7), 0
    for number in range(24):
        pool = (list("ABCDEFG"), ["a", "b", "c", "d", "e"], ["A minor", "B", "C major", "D"])[number % 3]
        choices = draw.sample(pool, 4)
        answer = draw.choice(choices)
        assert f"\nB. {choices[1]}\n" in prompt_text("letters", "Which?", choices)
        letter = ascii_uppercase[choices.index(answer)]
        said = spelling.format(letter, letter.lower(), answer)
        right += judge("letter", said, answer, choices, lettered=True)
        for other in choices:
            assert (verdict("letter", said, other, choices, lettered=True) == "right") == (other == answer)
    assert right == 24


def test_without_letters_in_the_prompt_an_options_own_text_goes_first():
    assert letter_of("A", ("C", "A", "B"), lettered=False) == "B" and letter_of("A", ("C", "A", "B"), True) == "A"
    assert letter_of("The answer is A.", ("C", "A", "B"), False) == "B"


@pytest.mark.parametrize(
    ("cut", "sure"),
    [
        ("B", True),
        ("B. A ma", True),
        ("(B) because the", True),
        ("The answer is B because the", True),
        ("I hear speech.\nB", True),
        ("A man", True),
        ("It is not A, so B would", False),
        ("Option B sounds like", True),
        ("It could be (B), which", False),
        ("I think it's B, but the", False),
    ],
)
def test_what_might_still_change_in_a_longer_reply_is_not_sure(cut, sure):
    found = choice_of(cut, FOUR, True)
    assert found.letter == "B" and found.sure is sure


FORMS = (
    ["{0}", "({0})", "{0}.", "**{0}**", "<answer>{0}</answer>", "\\boxed{{{0}}}"]
    + ["{0}) {2}", "{0}. {2}", "({0}) {2}", "**{0}. {2}**", "{0} - {2}", "{0} {2}", "<answer>{0}. {2}</answer>", "{1}"]
    + [
        "The answer is {0}.",
        "The correct answer is ({0}) {2}.",
        "Answer: {0}: {2}",
        "I think the answer is {0}",
        "So {0}.",
    ]
    + ["It suggests several things.\n\n{0}", "{0}\n\nBecause {2} is heard.", "{0}, because it is {2}.", "Option {0}"]
    + ["I would choose option {0}, {2}.", "The best option is {0}) {2}", "By its sound, the answer is **{0}. {2}**"]
)
IN_WORDS = ("{0}", "{0}.", "The answer is {0}.", "Answer: {0}", "<answer>{0}</answer>")
MMAU = SHARED / "data" / "mmau-test-mini.json"


@pytest.mark.skipif(not MMAU.is_file(), reason="no shared/data/mmau-test-mini.json beside the repository")
def test_every_option_of_a_benchmark_is_found_by_its_letter_and_by_its_text():
    """Every option of the thousand questions in many forms; options that are letters of others are read as letters."""
    questions = json.loads(MMAU.read_text(encoding="utf-8"))
    assert len(questions) == 1_000
    for question in questions:
        choices = question["choices"]
        letters = set(ascii_uppercase[: len(choices)])
        for letter, choice in zip(ascii_uppercase, choices, strict=False):
            for form in FORMS:
                said = form.format(letter, letter.lower(), choice)
                found = letter_of(said, choices, lettered=True)
                assert found and choices[ascii_uppercase.index(found)] == choice, (said, choices, found)
            if choice.upper() not in letters:
                for form in IN_WORDS:
                    found = letter_of(form.format(choice), choices, lettered=True)
                    assert found and choices[ascii_uppercase.index(found)] == choice, (form, choice, choices)
