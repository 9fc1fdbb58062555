"""Knows how an answer is written, found in a completion, and compared.

Follows the reward plugin of the AudioMCQ release: the text between <answer> and </answer>, or the whole completion
where the tags are missing, compared in lower case.
"""

from __future__ import annotations

import re

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)


def target_text(answer: str) -> str:
    """What the model learns to say."""
    return f"<answer>{answer}</answer>"


def extract_answer(completion: str) -> str:
    """The tagged text, or the whole completion where there is no tag pair; white space stripped."""
    found = _TAGGED.search(completion)
    return (found[1] if found else completion).strip()


def is_right(completion: str, answer: str) -> bool:
    """Rule `exact`: the extracted text equals the answer, in lower case."""
    return extract_answer(completion).lower() == extract_answer(answer).lower()


def is_well_formed(completion: str) -> bool:
    """One case-sensitive pair of tags around the whole, stripped completion."""
    text = completion.strip()
    return (
        text.startswith("<answer>")
        and text.endswith("</answer>")
        and text.count("<answer>") == 1
        and text.count("</answer>") == 1
    )
