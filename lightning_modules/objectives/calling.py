"""How a reward function is called: by the names of its parameters, with the columns that it asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import InputError

# What every function is offered, one value per completion: the names used here, then those of other trainers (TRL's
# prompts and completion_ids, ms-swift's messages and response_token_ids, datasets' answer). `silence`, the policy's
# probability of the right answer without the audio, is there only where a function asks for it.
COLUMNS = ("solution", "choices", "question", "question_type", "label", "key", "group", "num_tokens", "finished",
    "max_new_tokens", "prompts", "messages", "completion_ids", "response_token_ids", "answer", "silence")  # fmt: skip
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Call:
    """A reward function with its arguments, called as `call(completions, columns)`.

    Completions go to the parameter `completions`, wherever it stands, else to the first. A function that takes
    `**columns` gets all of them, any other those that it names. InputError for an argument that it does not name, and
    for a parameter without a default that is neither an argument nor a column.
    """

    def __init__(self, name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        self.name, self.function, self.arguments = name, function, dict(arguments)
        self.by_keyword, self.takes_all = False, True
        self.named: list[str] = []
        required: list[str] = []
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # written in C
            parameters = []
        if parameters:
            names = [p.name for p in parameters if p.kind in _NAMED]
            self.takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
            self.by_keyword = "completions" in names or parameters[0].kind is inspect.Parameter.VAR_KEYWORD
            given = "completions" if self.by_keyword else parameters[0].name
            self.named = [each for each in names if each != given]
            required = [p.name for p in parameters if p.name in self.named and p.default is inspect.Parameter.empty]
        self._check(required)
        self.needs_silence = bool(getattr(function, "needs_silence", False)) or "silence" in required

    def _check(self, required: Sequence[str]) -> None:
        for argument in self.arguments:
            if argument in COLUMNS:
                raise InputError(f"rewards: {self.name!r}: {argument!r} is a column of the batch, not an argument")
            if argument not in self.named:  # `**columns` names none, or it would hide a misspelling
                takes = ", ".join(self.named) or "none"
                raise InputError(f"rewards: {self.name!r} has no argument {argument!r}; it takes {takes}")
        for parameter in required:
            if parameter not in self.arguments and parameter not in COLUMNS:
                raise InputError(
                    f"rewards: {self.name!r} asks for {parameter!r}, which is no column; there are completions, "
                    f"{', '.join(COLUMNS)}; what is the same for all goes behind the weight: "
                    f"{{weight: 1.0, {parameter}: ...}}"
                )

    def __call__(self, completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> Any:
        """What the function returns; every call gets lists of its own, which it may change."""
        given = {name: list(values) for name, values in columns.items() if self.takes_all or name in self.named}
        if self.by_keyword:
            return self.function(completions=list(completions), **given, **self.arguments)
        return self.function(list(completions), **given, **self.arguments)
