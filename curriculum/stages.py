"""Knows the nouns of a curriculum file: stages with a pool, a budget and a batch size, dealt in the order listed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from math import ceil
from typing import Any

from ..errors import InputError

OBJECTIVES = ("sft", "grpo")


@dataclass(frozen=True)
class Budget:
    """How much a stage deals. Exactly one of `samples`, `fraction` and `steps`.

    samples: rows dealt, each presented `epochs` times. fraction: the same as a share of the pool.
    steps: optimizer steps; rows presented = steps x batch size, and where the pool is smaller than that it is
    presented again in a new order.
    """

    samples: int | None = None
    fraction: float | None = None
    steps: int | None = None
    epochs: int = 1

    def __post_init__(self) -> None:
        given = [name for name in ("samples", "fraction", "steps") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(f"a budget needs exactly one of samples, fraction and steps, got {given or 'none'}")
        value = getattr(self, given[0])
        whole = given[0] != "fraction"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise InputError(f"budget {given[0]} must be a {'whole ' if whole else ''}number, got {value!r}")
        if not value > 0 or (given[0] == "fraction" and value > 1):
            raise InputError(f"budget {given[0]} must be positive (a fraction at most 1), got {value}")
        if self.epochs < 1 or (self.steps is not None and self.epochs != 1):
            raise InputError(f"budget epochs must be at least 1, and is not combined with steps; got {self.epochs}")


@dataclass(frozen=True)
class Stage:
    """One leg of the curriculum: which rows (`pool`: column -> value or values), how many, in what batches."""

    name: str
    objective: str
    budget: Budget
    batch_size: int
    pool: Mapping[str, Any] = field(default_factory=dict)
    shares: Mapping[str, float] | None = None  # over the curriculum's cells, e.g. {weak: 0.3, strong: 0.7}
    block: int = 16_384

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InputError(f"stage {self.name!r}: objective must be one of {OBJECTIVES}, got {self.objective!r}")
        if self.batch_size < 1 or self.block < 1:
            raise InputError(f"stage {self.name!r}: batch_size and block must be at least 1")
        if not isinstance(self.pool, Mapping):
            raise InputError(f"stage {self.name!r}: pool must map columns to values, got {self.pool!r}")
        if self.shares is not None and any(not share >= 0 for share in self.shares.values()):
            raise InputError(f"stage {self.name!r}: shares must not be negative, got {dict(self.shares)}")


@dataclass(frozen=True)
class Curriculum:
    """Stages over cells: rows with equal values in the `cells` columns share a deck."""

    stages: tuple[Stage, ...]
    seed: int = 0
    cells: tuple[str, ...] = ("label",)

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise InputError(f"a curriculum needs stages with different names, got {names}")

    def stage(self, name: str) -> Stage:
        """The stage of that name; an error lists the names there are."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise InputError(f"no stage {name!r} in the curriculum; it has {', '.join(s.name for s in self.stages)}")

    def canonical(self) -> str:
        """JSON with sorted keys: independent of the order of keys, different after any edit of a value."""
        return json.dumps(asdict(self), sort_keys=True)


def parse_curriculum(spec: Mapping[str, Any]) -> Curriculum:
    """A curriculum from the mapping of a YAML file; a misspelt key is named with its nearest neighbour."""
    spec = _known(spec, Curriculum, "curriculum")
    stages, cells = [], spec.get("cells", ("label",))
    if isinstance(cells, str) or not isinstance(spec.get("stages", []), (list, tuple)):
        raise InputError("curriculum: `cells` must be a list of columns and `stages` a list of stages")
    for number, entry in enumerate(spec.pop("stages", ())):
        entry = _known(entry, Stage, f"curriculum.stages[{number}]")
        budget = Budget(**_known(entry.pop("budget", {}), Budget, f"curriculum.stages[{number}].budget"))
        try:
            stages.append(Stage(budget=budget, **entry))
        except TypeError as error:
            raise InputError(f"curriculum.stages[{number}]: {str(error).split('__init__() ')[-1]}") from None
    return Curriculum(stages=tuple(stages), **{**spec, "cells": tuple(cells)})


def num_presented(budget: Budget, batch_size: int, dealt: int) -> int:
    """Rows a stage presents over all its steps, repetitions included."""
    return budget.steps * batch_size if budget.steps is not None else dealt * budget.epochs


def num_steps(presented: int, batch_size: int) -> int:
    """Optimizer steps; the last batch may be padded."""
    return ceil(presented / batch_size)


def _known(spec: Mapping[str, Any], kind: type, where: str) -> dict[str, Any]:
    if not isinstance(spec, Mapping):
        raise InputError(f"{where} must be a mapping, got {type(spec).__name__}")
    names = [f.name for f in fields(kind)]
    for key in spec:
        if key not in names:
            near = get_close_matches(str(key), names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(names)}"
            raise InputError(f"{where}: unknown key {key!r}; {hint}")
    return dict(spec)
