"""The rewards that a config may name without an import path.

Each is `(completions, **columns) -> list`, one value per completion, and ignores columns it does not know.

    accuracy, format      the paper's (reward plugin of AudioMCQ), with the weights 2.0 and 0.5
    choice                right by the letter, by the option's text, or both
    contains, mmau        right by other rules of datamodules/questions/answers.py
    format_think          thoughts, then the answer, each in its tags
    length                DAPO's punishment of completions that come near the longest allowed, or reach it
    contribution, heard   accuracy beyond what the policy knows without the audio: needs `silence`
    adaptive_thinking     right answers without thinking count more, wrong ones less than nothing (Audio-Thinker)
    brief_thought         right, and thought about in few words (Step-Audio 2)
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


def adaptive_thinking(
    completions: Sequence[str], solution: Sequence[str], balance: float = 0.5, strength: float = 2.0, **_: Any
) -> list[float]:
    """What decides when to think: with b, a bonus in [0, 1], from -b to 1 + b.

        thoughts, then the answer:   right 1       wrong 0
        the answer at once:          right 1 + b   wrong -b          b = 1 - clip(strength (d - balance), 0, 1)

    d: share of all these completions that answer at once, also behind an empty pair of think tags. With b = 1 these are
    the four values of AutoThink (Tu et al. 2025): where thinking makes no answer better, answering at once pays as soon
    as more than half of the answers are right. Audio-Thinker (Wu et al. 2025, arXiv 2508.08039) rewards by the same
    idea; its constants are published in no code. That the bonus fades where answering at once prevails, which keeps
    thinking alive, is our own. A completion in another form counts as wrong and at once. ValueError for a balance
    outside [0, 1] or a negative strength.
    """
    if not 0 <= balance <= 1 or strength < 0:
        raise ValueError(f"balance is a share, strength not negative; got {balance} and {strength}")
    formed = [is_well_thought(text) or is_well_formed(_unthought(text)) for text in completions]
    right = [value * form for value, form in zip(accuracy(completions, solution), formed, strict=True)]
    at_once = [not is_well_thought(text) for text in completions]
    bonus = 1 - min(1.0, max(0.0, strength * (sum(at_once) / max(len(at_once), 1) - balance)))
    return [value + bonus * (2 * value - 1) * quick for value, quick in zip(right, at_once, strict=True)]


def brief_thought(completions: Sequence[str], solution: Sequence[str], most: int = 20, **_: Any) -> list[float]:
    """1 where the answer is right and stands behind thoughts of 1 to `most` words, each in its tags; else 0.

    The binary reward on right answers and the length of thinking with which Step-Audio 2 (arXiv 2507.16632) begins its
    reinforcement learning; its limit is not published.
    """
    right = accuracy(completions, solution)
    words = [len(text.partition("</think>")[0].removeprefix("<think>").split()) for text in map(str.strip, completions)]
    formed = [is_well_thought(text) and count <= most for text, count in zip(completions, words, strict=True)]
    return [value * form for value, form in zip(right, formed, strict=True)]


def _unthought(text: str) -> str:
    """The completion without an empty pair of think tags before it."""
    thought, end, said = text.strip().removeprefix("<think>").partition("</think>")
    return said if end and not thought.strip() and text.strip().startswith("<think>") else text


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
        accuracy, format, choice, contains, mmau, format_think, length, contribution, heard, adaptive_thinking,
        brief_thought, shuffled,
    )
}  # fmt: skip
