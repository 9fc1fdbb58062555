"""The rewards that a config may name without an import path.

Each is `(completions, **columns) -> list`, one value per completion, and ignores columns it does not know.

    accuracy, format      the paper's (reward plugin of AudioMCQ), with the weights 2.0 and 0.5
    choice                right by the letter, by the option's text, or both
    contains, mmau        right by other rules of datamodules/questions/answers.py
    format_think          thoughts, then the answer, each in its tags
    length                DAPO's punishment of completions that come near the longest allowed, or reach it
    contribution, heard   accuracy beyond what the policy knows without the audio: needs `silence`
    shuffled              a control: the right rewards, on the wrong completions of the group
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...datamodules.questions.answers import is_right, is_well_formed, is_well_thought, judge


def accuracy(completions: Sequence[str], solution: Sequence[str], **_: Any) -> list[float]:
    """1 where the extracted answer equals the solution, in lower case; an untagged right answer counts."""
    return [float(is_right(text, truth)) for text, truth in zip(completions, solution, strict=True)]


def format(completions: Sequence[str], **_: Any) -> list[float]:
    """1 where the completion is exactly one <answer>...</answer> pair."""
    return [float(is_well_formed(text)) for text in completions]


def choice(
    completions: Sequence[str], solution: Sequence[str], choices: Sequence[Sequence[str]], **_: Any
) -> list[float]:
    """1 where the letter, the option's text or "B. text" names the right option: rule `letter`."""
    return _judged("letter", completions, solution, choices)


def contains(
    completions: Sequence[str], solution: Sequence[str], choices: Sequence[Sequence[str]], **_: Any
) -> list[float]:
    """1 where the right option is named and no other: rule `contains`."""
    return _judged("contains", completions, solution, choices)


def mmau(
    completions: Sequence[str], solution: Sequence[str], choices: Sequence[Sequence[str]], **_: Any
) -> list[float]:
    """1 where the words match as the scorer of MMAU wants them: rule `mmau`."""
    return _judged("mmau", completions, solution, choices)


def format_think(completions: Sequence[str], **_: Any) -> list[float]:
    """1 where the completion is one <think>...</think> around something, then one <answer>...</answer> pair."""
    return [float(is_well_thought(text)) for text in completions]


def length(
    completions: Sequence[str],
    num_tokens: Sequence[int],
    finished: Sequence[bool],
    max_new_tokens: Sequence[int],
    buffer: float = 0.2,
    **_: Any,
) -> list[float]:
    """Soft overlong punishment (DAPO, Yu et al. 2025, eq. 13), from 0 to -1.

    buffer: the share of max_new_tokens, in [0, 1], over which it grows: 0 up to max_new_tokens (1 - buffer) tokens,
    then falling linearly to -1 at max_new_tokens. A completion that was cut off gets -1 whatever its length. ValueError
    for a buffer outside [0, 1].
    """
    if not 0 <= buffer <= 1:
        raise ValueError(f"buffer is a share of max_new_tokens, from 0 to 1; got {buffer}")
    scored = zip(num_tokens, finished, max_new_tokens, strict=True)
    return [_overlong(size, most, most * buffer) if done else -1.0 for size, done, most in scored]


def contribution(
    completions: Sequence[str], solution: Sequence[str], silence: Sequence[float | None], **_: Any
) -> list[float | None]:
    """Accuracy minus the policy's probability of the right answer under silence: what the audio added, in [-1, 1].

    None where that probability (`silence`) is not known. Within a group it is accuracy shifted by a constant; between
    groups it tells questions that need the audio from those that do not (scale "batch" or "none" keeps that).
    """
    right = accuracy(completions, solution)
    return [None if silent is None else value - silent for value, silent in zip(right, silence, strict=True)]


def heard(
    completions: Sequence[str], solution: Sequence[str], silence: Sequence[float | None], **_: Any
) -> list[float | None]:
    """Accuracy x (1 - probability of the right answer under silence): right answers count as far as they needed audio.

    None where that probability (`silence`) is not known.
    """
    right = accuracy(completions, solution)
    return [None if silent is None else value * (1 - silent) for value, silent in zip(right, silence, strict=True)]


def shuffled(completions: Sequence[str], solution: Sequence[str], group: Sequence[int], **_: Any) -> list[float]:
    """The accuracy of the next completion of the same group, cyclically, in the order in which they stand.

    A control: every group has the rewards it would have, so that spread and scale stay, and none belongs to its
    completion. A group of one keeps its own.
    """
    right = accuracy(completions, solution)
    members: dict[int, list[int]] = {}
    for place, number in enumerate(group):
        members.setdefault(int(number), []).append(place)
    following = {a: b for places in members.values() for a, b in zip(places, places[1:] + places[:1], strict=True)}
    return [right[following[place]] for place in range(len(right))]


def _overlong(size: int, most: int, buffer: float) -> float:
    """The punishment of `size` tokens: 0 up to most - buffer, -1 from `most` on, linear between."""
    over = size - (most - buffer)
    if over <= 0:
        return 0.0
    return -min(over / buffer, 1.0) if buffer else -1.0


def _judged(
    rule: str, completions: Sequence[str], solution: Sequence[str], choices: Sequence[Sequence[str]]
) -> list[float]:
    """1 where a rule of datamodules/questions/answers.py finds the completion right, else 0."""
    return [
        float(judge(rule, text, truth, shown))
        for text, truth, shown in zip(completions, solution, choices, strict=True)
    ]


contribution.needs_silence = True  # type: ignore[attr-defined]
heard.needs_silence = True  # type: ignore[attr-defined]

BUILT_IN: dict[str, Callable[..., Sequence[float | None]]] = {
    function.__name__: function
    for function in (
        accuracy, format, choice, contains, mmau, format_think, length, contribution, heard, shuffled,
    )
}  # fmt: skip
