"""A curriculum and its stages, as a file describes them: pools, budgets, weights, batch sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from ...errors import InputError
from .allocation import MASSES
from .budget import Budget, Cost
from .cells import Axis, parse_axes
from .columns import check_changes
from .feedback import Feedback, parse_feedback
from .paces import parse_pace
from .weights import Weight, parse_weight

ALGORITHMS = ("sft", "grpo")
DISJOINT = ("uid", "clip")
UNIFORM = parse_weight("uniform", "weight")


@dataclass(frozen=True)
class Probe:
    """Questions asked of the current policy without the audio: a share `rate` of a step's prompts, scored `how`.

    Raises InputError for a rate, condition or way of scoring that does not exist.
    """

    rate: float = 0.25
    condition: str = "silence"
    how: str = "option_logprob"

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1 or self.condition != "silence" or self.how not in ("option_logprob", "rollout"):
            raise InputError(
                "probe: rate lies in (0, 1], condition is 'silence' and how is 'option_logprob' or 'rollout'; got "
                f"{self.rate}, {self.condition!r}, {self.how!r}"
            )


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum: which rows, how many, in what mix and in what batches.

    Raises InputError where a value is wrong, or does not go with another.

    Args:
        name: of the stage. algorithm: "sft" or "grpo"; files may call it `objective`.
        budget: how much it takes. batch_size: rows per optimizer step over all ranks.
        pool: column -> value, list of values, or {min, max} of a number column.
        weight: of the cells, uniform by default. mass: per sample that is left ("remaining"), per sample of the table
            ("size") or per cell ("share"); the weight's own by default.
        loss_weight: of the rows in the loss, in the weights' grammar; scaled to mean 1 over the stage.
        block: rows over which the mix is constant; 8,192, or a hundredth of the stage where the weight moves.
        mix: order inside a block: "spread" (every slice has the block's mix) or "shuffle".
        claim: which stage takes its rows first; lower numbers before higher ones, equal ones as listed; "first" is
            -1. Arms whose cells are the same then take the same rows; a pool of another column makes other cells.
        on_short: where the pool holds less than the budget: "error", "stop" early, or "repeat" it in a new order.
        window, lag: an adaptive stage plans so many steps at a time from what was observed `lag` windows ago.
        feedback, probe: what is observed. on_zero_advantage: "keep", "drop" or "refill_same_cell".
    """

    name: str
    algorithm: str
    budget: Budget
    batch_size: int
    pool: Mapping[str, Any] = field(default_factory=dict)
    weight: Weight = UNIFORM
    mass: str | None = None
    loss_weight: Weight | None = None
    block: int | None = None
    mix: str = "spread"
    claim: int = 0
    on_short: str = "error"
    window: int | None = None
    lag: int = 1
    feedback: Feedback | None = None
    probe: Probe | None = None
    on_zero_advantage: str = "keep"

    def __post_init__(self) -> None:
        _one_of(self, "algorithm", ALGORITHMS)
        _one_of(self, "mix", ("spread", "shuffle"))
        _one_of(self, "on_short", ("error", "stop", "repeat"))
        _one_of(self, "on_zero_advantage", ("keep", "drop", "refill_same_cell"))
        _one_of(self, "mass", (None, *MASSES))
        for name in ("batch_size", "block", "window", "lag"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"stage {self.name!r}: {name} must be a whole number of at least 1, got {value!r}")
        if isinstance(self.claim, bool) or not isinstance(self.claim, int):
            raise InputError(f"stage {self.name!r}: claim must be a whole number or 'first', got {self.claim!r}")
        if not isinstance(self.name, str):
            raise InputError(f"a stage's name must be a text, got {self.name!r}")
        if not isinstance(self.pool, Mapping):
            raise InputError(f"stage {self.name!r}: pool must map columns to values, got {self.pool!r}")
        if self.window is None and (self.feedback or self.probe or self.weight.adapts):
            raise InputError(f"stage {self.name!r}: what follows observations needs a `window`, a number of steps")
        if self.window is not None:
            if self.feedback is None:
                raise InputError(f"stage {self.name!r}: a window needs `feedback`, e.g. {{contribution: {{}}}}")
            if self.budget.epochs != 1 or self.on_short != "error":
                raise InputError(f"stage {self.name!r}: an adaptive stage has one pass and on_short: error")
            if self.loss_weight is not None:
                raise InputError(f"stage {self.name!r}: an adaptive stage has no loss_weight; its mean is not known")

    def described(self) -> dict[str, Any]:
        """All fields as plain values for JSON, defaults spelt out; a claim of "first" is -1."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["objective"] = plain.pop("algorithm")  # its older name, which fingerprints of earlier runs hold
        plain |= {name: None if plain[name] is None else plain[name].spec for name in ("weight", "loss_weight")}
        plain["budget"] = {k: v for k, v in asdict(self.budget).items() if v is not None}
        plain["feedback"] = None if self.feedback is None else self.feedback.spec
        plain["probe"] = None if self.probe is None else asdict(self.probe)
        described: dict[str, Any] = json.loads(json.dumps(plain))
        return described

    @property
    def mass_rule(self) -> str:
        """What the weight counts per: the stage's `mass`, or the weight's own where the stage has none."""
        return self.mass or self.weight.mass


@dataclass(frozen=True)
class Interleave:
    """Several stages that take turns, step by step.

    shares: member -> pace of its share of the steps; members that are not listed have the rest in equal parts.
    spec: `shares` as the file has them, for the fingerprint.
    """

    name: str
    members: tuple[str, ...]
    steps: int
    shares: Mapping[str, Any]
    spec: Any = None


@dataclass(frozen=True)
class Curriculum:
    """Stages over the cells of a table.

    Raises InputError for names that occur twice, an adaptive stage that is not the last, or an unknown `disjoint`.

    Args:
        stages: in the order they run, members of an interleave one after the other. interleaves: who takes turns.
        seed: of all orders. cells: axes. disjoint: what two stages never share, "uid" always and "clip" where listed.
        columns: changes of table columns before anything is planned, for controls. cost: for FLOPs.
        spec: the file's mapping, for the fingerprint and for messages.
    """

    stages: tuple[Stage, ...]
    interleaves: tuple[Interleave, ...] = ()
    seed: int = 0
    cells: tuple[Axis, ...] = (Axis("label", "label"),)
    disjoint: tuple[str, ...] = ("uid",)
    columns: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    spec: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages] + [group.name for group in self.interleaves]
        if not self.stages or len(set(names)) != len(names):
            raise InputError(f"a curriculum needs stages with different names, got {names}")
        unknown = [name for name in self.disjoint if name not in DISJOINT]
        if unknown:
            raise InputError(f"curriculum: disjoint knows {', '.join(DISJOINT)}, got {unknown[0]!r}")
        adaptive = [stage.name for stage in self.stages if stage.window is not None]
        if adaptive and adaptive != [self.stages[-1].name]:
            raise InputError(f"only the last stage may adapt to what is observed, got {', '.join(adaptive)}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InputError(f"curriculum: seed must be a whole number, got {self.seed!r}")

    def stage(self, name: str) -> Stage:
        """The stage of that name; an InputError lists the names there are."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise InputError(f"no stage {name!r} in the curriculum; it has {', '.join(s.name for s in self.stages)}")

    def interleave_of(self, stage: str) -> Interleave | None:
        """The interleave that the stage takes turns in, None where it runs alone."""
        return next((group for group in self.interleaves if stage in group.members), None)

    def canonical(self) -> str:
        """JSON with sorted keys, defaults spelt out: the same for any order of a file's keys.

        Weights, paces and pools stay as they are written: `uniform` and `{uniform: {}}` are two spellings of one thing
        and have two fingerprints.
        """
        return json.dumps(self.described(), sort_keys=True)

    def described(self) -> dict[str, Any]:
        """All fields as plain values for JSON, defaults spelt out; the cost only where a budget depends on it."""
        plain: dict[str, Any] = {
            "seed": self.seed,
            "cells": [asdict(axis) for axis in self.cells],
            "disjoint": ", ".join(sorted({"uid", *self.disjoint})),
            "columns": self.columns,
            "stages": [stage.described() for stage in self.stages],
        }
        if self.interleaves:
            plain["interleaves"] = [
                {"name": g.name, "members": list(g.members), "steps": g.steps, "share": g.spec}
                for g in self.interleaves
            ]
        if any(stage.budget.flops is not None for stage in self.stages):
            plain["cost"] = asdict(self.cost)
        described: dict[str, Any] = json.loads(json.dumps(plain))
        return described


def parse_curriculum(spec: Mapping[str, Any]) -> Curriculum:
    """A curriculum from the mapping of a YAML file; InputError names a misspelt key with its nearest neighbour."""
    known = ("seed", "stages", "cells", "disjoint", "columns", "cost")
    given = _known(spec, known, "curriculum")
    stages: list[Stage] = []
    interleaves: list[Interleave] = []
    listed = given.pop("stages", ())
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise InputError("curriculum: `stages` must be a list of stages")
    for number, entry in enumerate(listed):
        where = f"curriculum.stages[{number}]"
        if isinstance(entry, Mapping) and "interleave" in entry:
            group, members = _interleave(entry, where)
            interleaves.append(group)
            stages += members
        else:
            stages.append(_stage(entry, where))
    more: dict[str, Any] = {key: given[key] for key in ("seed",) if key in given}
    if "cells" in given:
        more["cells"] = parse_axes(given["cells"])
    if "disjoint" in given:
        disjoint = [given["disjoint"]] if isinstance(given["disjoint"], str) else given["disjoint"]
        if not isinstance(disjoint, Sequence):
            raise InputError(f"curriculum: disjoint is a list of {', '.join(DISJOINT)}, got {disjoint!r}")
        more["disjoint"] = tuple(disjoint)
    if "columns" in given:
        more["columns"] = check_changes(given["columns"])
    if "cost" in given:
        names = [f.name for f in fields(Cost)]
        more["cost"] = Cost(**_known(given["cost"], names, "curriculum.cost"))
    return Curriculum(tuple(stages), tuple(interleaves), spec=dict(spec), **more)


def _stage(entry: Any, where: str, budget: Budget | None = None) -> Stage:
    given = _known(entry, [*(f.name for f in fields(Stage)), "objective"], where)
    if "objective" in given:
        if "algorithm" in given:
            raise InputError(f"{where}: `objective` is the older spelling of `algorithm`; give one of them")
        given["algorithm"] = given.pop("objective")
    if budget is None:
        names = [f.name for f in fields(Budget)]
        budget = Budget(**_known(given.pop("budget", {}), names, f"{where}.budget"))
    elif "budget" in given:
        raise InputError(f"{where}: the interleave says how many steps a member has; drop its budget")
    if "name" not in given or "algorithm" not in given or "batch_size" not in given:
        missing = next(key for key in ("name", "algorithm", "batch_size") if key not in given)
        raise InputError(f"{where}: needs {missing!r}")
    if "weight" in given:
        given["weight"] = parse_weight(given["weight"], f"{where}.weight")
    if given.get("loss_weight") is not None:
        given["loss_weight"] = parse_weight(given["loss_weight"], f"{where}.loss_weight")
    if given.get("feedback") is not None:
        given["feedback"] = parse_feedback(given["feedback"], f"{where}.feedback")
    if given.get("probe") is not None:
        given["probe"] = Probe(**_known(given["probe"], [f.name for f in fields(Probe)], f"{where}.probe"))
    if given.get("claim") == "first":
        given["claim"] = -1
    return Stage(budget=budget, **given)


def _interleave(entry: Mapping[str, Any], where: str) -> tuple[Interleave, list[Stage]]:
    given = _known(entry, ("name", "interleave", "stages"), where)
    turns = _known(given["interleave"], ("steps", "share"), f"{where}.interleave")
    steps, share = turns.get("steps"), turns.get("share", {})
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"{where}.interleave: steps must be a whole number of at least 1, got {steps!r}")
    # The members' own steps follow from the shares; the budget is set when the plan is compiled.
    members = [
        _stage(one, f"{where}.stages[{number}]", Budget(steps=steps))
        for number, one in enumerate(given.get("stages", ()))
    ]
    names = tuple(stage.name for stage in members)
    if len(members) < 2:
        raise InputError(f"{where}: an interleave needs at least two `stages`")
    if any(stage.window for stage in members):
        raise InputError(f"{where}: an adaptive stage cannot take turns with others")
    paces = _known(share, names, f"{where}.interleave.share")
    if not paces:
        raise InputError(
            f"{where}.interleave: `share` says which share of the steps a member has, e.g. {names[-1]}: 0.5"
        )
    shares = {name: parse_pace(value, f"{where}.interleave.share.{name}") for name, value in paces.items()}
    return Interleave(str(given.get("name", "+".join(names))), names, steps, shares, dict(paces)), members


def _one_of(stage: Stage, name: str, allowed: Sequence[Any]) -> None:
    if getattr(stage, name) not in allowed:
        listed = ", ".join(repr(a) for a in allowed if a is not None)
        raise InputError(f"stage {stage.name!r}: {name} must be one of {listed}, got {getattr(stage, name)!r}")


def _known(spec: Any, names: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(spec, Mapping):
        raise InputError(f"{where} must be a mapping, got {type(spec).__name__}")
    for key in spec:
        if key not in names:
            near = get_close_matches(str(key), names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(names)}"
            raise InputError(f"{where}: unknown key {key!r}; {hint}")
    return dict(spec)
