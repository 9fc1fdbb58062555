"""What the writer and the grader are asked of a draft, in which form they answer, and what is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...configs.prompt_files import Prompt, read_prompt
from ...curriculum.identity import hash64
from ..asking import schemas
from ..asking.runner import Want
from ..sources.item import Item
from .draft import CHAIN, DIMENSIONS, Draft, listed, structured, told

_OPTION, _QUESTION, _SENTENCE = 160, 400, 600
_GRADES = [1, 2, 3, 4, 5]
NAMES = (
    *(f"question_{kind}" for kind in ("sound", "music", "speech", "temporal", "instruction")),
    *("reasoning", "simple", "merged", "grade", "repair", "distractors"),
)


class Prompts:
    """The prompts of a job. files: name -> a file in the place of the shipped one."""

    def __init__(self, files: Mapping[str, str] | None = None) -> None:
        self.of: dict[str, Prompt] = {name: read_prompt(name, files) for name in NAMES}

    def hashes(self) -> dict[str, str]:
        """Name -> hash of each prompt."""
        return {name: prompt.hash for name, prompt in self.of.items()}

    def question(self, item: Item, merged: bool = False) -> Want:
        """A question with its options and type; merged: with all reasoning in the same answer."""
        prompt = self.of[f"question_{question_kind(item)}"]
        values = {"told": told(item), "types": ", ".join(item.types)}
        values |= {"event": str(item.facts.get("event", "")), "instruction": str(item.facts.get("instruction", ""))}
        fields: dict[str, Any] = {
            "question": schemas.text(_QUESTION),
            "answer": schemas.text(_OPTION),
            "wrong": schemas.texts(3, _OPTION),
            "type": schemas.one_of(item.types),
        }
        more = ""
        if merged:
            more = "\n" + self.of["merged"].fixed
            fields |= {name: schemas.text(_SENTENCE) for name in (*CHAIN, "analysis")}
        messages = prompt.messages(values, more)
        return Want(item.id, messages, schemas.record(**fields), 900 if merged else 400, "question")

    def reasoning(self, draft: Draft) -> Want:
        """The three texts of the structured chain of thought."""
        schema = schemas.record(**{name: schemas.text(_SENTENCE) for name in CHAIN})
        return Want(draft.item.id, self.of["reasoning"].messages(_values(draft)), schema, 600, "reasoning")

    def simple(self, draft: Draft) -> Want:
        """The simple chain of thought, from the structured one."""
        values = _values(draft) | {"reasoning": structured(draft)}
        schema = schemas.record(analysis=schemas.text(_SENTENCE))
        return Want(draft.item.id, self.of["simple"].messages(values), schema, 250, "simple")

    def grade(self, draft: Draft, name: str = "") -> Want:
        """Five grades and a reason. name: who it is about, the item by default."""
        values = _values(draft) | {"reasoning": structured(draft), "simple": draft.analysis}
        fields: dict[str, Any] = {"reason": schemas.text(300)}
        fields |= {dimension: schemas.one_of(_GRADES) for dimension in DIMENSIONS}
        messages = self.of["grade"].messages(values)
        return Want(name or draft.item.id, messages, schemas.record(**fields), 250, "grades")

    def repair(self, draft: Draft) -> Want:
        """All texts without talk of captions."""
        values = {"question": draft.question, "answer": draft.answer, "analysis": draft.analysis, **draft.chain}
        values |= {f"wrong_{number}": text for number, text in enumerate(draft.wrong, 1)}
        fields: dict[str, Any] = {
            "question": schemas.text(_QUESTION),
            "answer": schemas.text(_OPTION),
            "wrong": schemas.texts(3, _OPTION),
        }
        fields |= {name: schemas.text(_SENTENCE) for name in (*CHAIN, "analysis")}
        return Want(draft.item.id, self.of["repair"].messages(values), schemas.record(**fields), 900, "repair")

    def distractors(self, draft: Draft) -> Want:
        """Three other wrong options."""
        values = _values(draft) | {"options": listed(draft.wrong)}
        schema = schemas.record(wrong=schemas.texts(3, _OPTION))
        return Want(draft.item.id, self.of["distractors"].messages(values), schema, 300, "distractors")


def question_kind(item: Item) -> str:
    """Which question prompt an item is asked with: by its instruction, else by its type."""
    return "instruction" if "instruction" in item.facts else item.types[0]


def with_answer(draft: Draft, value: Mapping[str, Any], attempts: int = 0) -> Draft:
    """The draft with the fields of an answer."""
    for name in ("question", "answer", "wrong", "type", "analysis"):
        if name in value:
            setattr(draft, name, value[name])
    draft.chain |= {name: value[name] for name in CHAIN if name in value}
    draft.attempts += attempts
    return draft


def _values(draft: Draft) -> dict[str, str]:
    """What prompts show of a draft; the options in an order of their own, so that no place tells which is right."""
    options = sorted(draft.options, key=lambda option: hash64("shown", draft.item.uid, option))
    shown = {"told": told(draft.item), "question": draft.question, "answer": draft.answer}
    return shown | {"options": listed(options)}
