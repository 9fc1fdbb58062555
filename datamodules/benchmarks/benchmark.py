"""What a benchmark is: the layout of its file, its published scorer, what must be said of it, its form of predictions.

A further one is a file like `mmau.py`, or a `Benchmark` of your own named by its import path
(`--benchmark my_lab.benchmarks.OURS=questions.json`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, NamedTuple

from ...configs.plugins import nearest
from ...errors import InputError
from ..questions.answers import extract_answer, letter_of

FACETS = {
    "task": ("task", "task_name"),
    "category": ("category", "question_type"),
    "sub-category": ("sub-category", "sub_category"),
    "difficulty": ("difficulty",),
    "modality": ("modality",),
    "language": ("language",),
    "source": ("source", "dataset", "source_dataset"),
}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Predicted(NamedTuple):
    """One question of a file with what was answered.

    record: as it stands in the file. key: readable identity. said: what the published scorer is given, "" for nothing.
    option: place in the file of the option that was picked, None where none was read.
    """

    record: Mapping[str, Any]
    key: str
    said: str
    option: int | None


# Of what the scorer is given, the right option's text, and the options as asked: right, wrong, or not counted (None).
Scorer = Callable[[str, str, Sequence[str]], "bool | None"]
Writer = Callable[[Sequence[Predicted]], dict[str, str]]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Args:
        name: as it is called on the command line. layout: of `questions/layouts.py`, or an import path.
        official: the published scorer, None where it is none that can be repeated here; `why_not` says so.
        given: what that scorer is given, the option's "text" or its "letter". rule: its description in words.
        facts: sentences that are printed with every number. reorders: it takes an answer's words in any order.
        write: file name -> content of the predictions in the benchmark's own form; None where it has none.
        facets: name of a grouping -> columns of the file, of which the first that is there is taken.
    """

    name: str
    layout: str
    official: Scorer | None = None
    given: Literal["text", "letter"] = "text"
    rule: str = ""
    why_not: str = ""
    facts: tuple[str, ...] = ()
    reorders: bool = False
    write: Writer | None = None
    facets: Mapping[str, Sequence[str]] = field(default_factory=lambda: FACETS)

    def said(self, raw: str, choices: Sequence[str], lettered: bool) -> str:
        """What the scorer is given of a reply: the extracted answer, or the letter or option that it names.

        choices: in the order shown. lettered: whether the prompt showed letters. A scorer of texts is given the option
        that a letter names, a scorer of letters the letter of the option that a text names.
        """
        answer = extract_answer(raw)
        if lettered == (self.given == "letter"):
            return answer
        letter = letter_of(raw, choices, lettered)
        if self.given == "letter":
            return letter
        return choices[_LETTERS.index(letter)] if letter else answer


def benchmark_named(name: str, known: Mapping[str, Benchmark]) -> Benchmark:
    """A benchmark of the table, or anybody's by its import path; InputError where there is none."""
    if name in known:
        return known[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        raise InputError(f"benchmark: unknown name {name!r}; {nearest(name, known, 'there are')} (or an import path)")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"benchmark: cannot import {name!r} ({error})") from None
    if not isinstance(found, Benchmark):
        raise InputError(f"benchmark: {name!r} is a {type(found).__name__}, and must be a Benchmark")
    return found
