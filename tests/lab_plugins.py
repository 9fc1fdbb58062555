"""A layout, prompt styles and judging rules of a lab's own, which tests name by their import path."""

from __future__ import annotations


def layout(record):
    """Records {"name", "file", "text", "right", "wrong"} of a file nobody else has."""
    return {
        "source_dataset": "lab",
        "id": record["name"],
        "audio_path": record["file"],
        "question": record["text"],
        "answer": record["right"],
        "choices": [record["right"], *record["wrong"]],
        "split": "train",
    }


def style(question, choices):
    """Options with a bar between them."""
    return f"LAB {question} {' | '.join(choices)}"


def lettered(question, choices):
    """Options with letters."""
    return "\n".join([question, *(f"{'ABCDEF'[place]}) {choice}" for place, choice in enumerate(choices))])


lettered.lettered = True


def rule(completion, answer, choices):
    """The answer read backwards is right, and no other."""
    return completion[::-1] == answer and answer in choices


def first_word(completion, answer, choices):
    """The first word counts; without one there is no answer."""
    words = completion.replace("<answer>", "").replace("</answer>", "").split()
    return words[0] == answer if words else None


def no_text(question, choices):
    """A style that forgets to return."""


def half_right(completion, answer, choices):
    """A rule that scores instead of judging."""
    return 0.5


def one_argument(text):
    """Neither a style nor a rule."""
    return text


not_a_function = "text"
