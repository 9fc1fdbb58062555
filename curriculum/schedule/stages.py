"""A curriculum and its stages, as a file describes them: pools, budgets, weights, batch sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from ...configs.typed import known_keys, read, value_of
from ...errors import InputError
from .budget import Budget, Cost
from .cells import Axis, parse_axes
from .columns import check_changes
from .feedback import Feedback, parse_feedback
from .paces import parse_pace
from .rehearsal import Rehearsal, parse_rehearsal
from .weights import UNIFORM, Weight, parse_weight

DISJOINT = ("uid", "clip")


@dataclass(frozen=True)
class Probe:
    """Questions asked of the current policy without the audio: a share `rate` of a step's prompts, scored `how`.

    Raises InputError for a rate, condition or way of scoring that does not exist.
    """

    rate: float = 0.25
    condition: Literal["silence"] = "silence"
    how: Literal["option_logprob", "rollout"] = "option_logprob"

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise InputError(f"probe: rate lies in (0, 1], got {self.rate}")


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
        rehearse: other questions that a share of the budget goes to, so that they are not forgotten.
        window, lag: an adaptive stage plans so many steps at a time from what was observed `lag` windows ago.
        feedback, probe: what is observed. on_zero_advantage: "keep", "drop" or "refill_same_cell".
    """

    name: str
    algorithm: Literal["sft", "grpo"]
    budget: Budget
    batch_size: int
    pool: Mapping[str, Any] = field(default_factory=dict)
    weight: Weight = UNIFORM
    mass: Literal["remaining", "size", "share"] | None = None
    loss_weight: Weight | None = None
    block: int | None = None
    mix: Literal["spread", "shuffle"] = "spread"
    claim: int = 0
    on_short: Literal["error", "stop", "repeat"] = "error"
    rehearse: Rehearsal | None = None
    window: int | None = None
    lag: int = 1
    feedback: Feedback | None = None
    probe: Probe | None = None
    on_zero_advantage: Literal["keep", "drop", "refill_same_cell"] = "keep"

    def __post_init__(self) -> None:
        for name in ("batch_size", "block", "window", "lag"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"stage {self.name!r}: {name} must be a whole number of at least 1, got {value!r}")
        weights = [self.weight] + ([] if self.rehearse is None else [self.rehearse.weight])
        if self.window is None and (self.feedback or self.probe or any(weight.adapts for weight in weights)):
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
        if plain.pop("rehearse") is not None:
            plain["rehearse"] = self.rehearse.spec  # type: ignore[union-attr]
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
    spec: `shares` as the file has them, for the fingerprint. at_most: share of what is left of the members' pools;
    there are fewer steps where the batches of all of them would be more.
    """

    name: str
    members: tuple[str, ...]
    steps: int
    shares: Mapping[str, Any]
    spec: Any = None
    at_most: float | None = None


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
        if not self.stages:
            raise InputError("a curriculum needs at least one stage, in the list `stages`")
        if len(set(names)) != len(names):
            raise InputError(f"a curriculum needs stages with different names, got {names}")
        unknown = [name for name in self.disjoint if name not in DISJOINT]
        if unknown:
            raise InputError(f"curriculum: disjoint knows {', '.join(DISJOINT)}, got {unknown[0]!r}")
        adaptive = [stage.name for stage in self.stages if stage.window is not None]
        if adaptive and adaptive != [self.stages[-1].name]:
            raise InputError(f"only the last stage may adapt to what is observed, got {', '.join(adaptive)}")

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
                | ({} if g.at_most is None else {"at_most": g.at_most})
                for g in self.interleaves
            ]
        if any(stage.budget.flops is not None for stage in self.stages):
            plain["cost"] = asdict(self.cost)
        described: dict[str, Any] = json.loads(json.dumps(plain))
        return described


def parse_curriculum(spec: Mapping[str, Any]) -> Curriculum:
    """A curriculum from the mapping of a YAML file; an InputError names the key that is wrong, with its path."""
    given = known_keys(spec, ("seed", "stages", "cells", "disjoint", "columns", "cost"), "curriculum")
    stages: list[Stage] = []
    interleaves: list[Interleave] = []
    listed = given.get("stages", ())
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
    more: dict[str, Any] = {}
    if "seed" in given:
        more["seed"] = value_of(given["seed"], int, "curriculum.seed")
    if "cells" in given:
        more["cells"] = parse_axes(given["cells"])
    if "disjoint" in given:
        disjoint = [given["disjoint"]] if isinstance(given["disjoint"], str) else given["disjoint"]
        if not isinstance(disjoint, Sequence):
            raise InputError(f"curriculum: disjoint is a list of {', '.join(DISJOINT)}, got {disjoint!r}")
        more["disjoint"] = tuple(disjoint)
    if "columns" in given:
        more["columns"] = check_changes(given["columns"])
    if "cost" in given:  # not by its annotations: a cost may be any number, and 1 or 0 for true and false
        more["cost"] = Cost(**known_keys(given["cost"], [f.name for f in fields(Cost)], "curriculum.cost"))
    return Curriculum(tuple(stages), tuple(interleaves), spec=dict(spec), **more)


def _stage(entry: Any, where: str, budget: Budget | None = None) -> Stage:
    """The stage of one entry of the list; members of an interleave are given their budget."""
    given = known_keys(entry, [*(f.name for f in fields(Stage)), "objective"], where)
    if "objective" in given:
        if "algorithm" in given:
            raise InputError(f"{where}: `objective` is the older spelling of `algorithm`; give one of them")
        given["algorithm"] = given.pop("objective")
    if budget is not None and "budget" in given:
        raise InputError(f"{where}: the interleave says how many steps a member has; drop its budget")
    given["budget"] = budget or read(Budget, given.get("budget", {}), f"{where}.budget")
    if "weight" in given:
        given["weight"] = parse_weight(given["weight"], f"{where}.weight")
    if given.get("loss_weight") is not None:
        given["loss_weight"] = parse_weight(given["loss_weight"], f"{where}.loss_weight")
    if given.get("rehearse") is not None:
        given["rehearse"] = parse_rehearsal(given["rehearse"], f"{where}.rehearse", str(given.get("name")))
    if given.get("feedback") is not None:
        given["feedback"] = parse_feedback(given["feedback"], f"{where}.feedback")
    if value_of(given.get("claim", 0), int | Literal["first"], f"{where}.claim") == "first":
        given["claim"] = -1
    return read(Stage, given, where)


def _interleave(entry: Mapping[str, Any], where: str) -> tuple[Interleave, list[Stage]]:
    """The stages that take turns, and how: an entry of the list with the key `interleave`."""
    given = known_keys(entry, ("name", "interleave", "stages"), where)
    where_turns = f"{where}.interleave"
    turns = known_keys(given["interleave"], ("steps", "share", "at_most"), where_turns)
    steps = value_of(turns.get("steps"), int, f"{where_turns}.steps")
    if steps < 1:
        raise InputError(f"{where_turns}: steps must be a whole number of at least 1, got {steps!r}")
    at_most = value_of(turns.get("at_most"), float | None, f"{where_turns}.at_most")
    if at_most is not None and not 0 < at_most <= 1:
        raise InputError(f"{where_turns}: at_most is a share, more than 0 and at most 1; got {at_most}")
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
    paces = known_keys(turns.get("share", {}), names, f"{where_turns}.share")
    if not paces:
        raise InputError(f"{where_turns}: `share` says which share of the steps a member has, e.g. {names[-1]}: 0.5")
    shares = {name: parse_pace(value, f"{where_turns}.share.{name}") for name, value in paces.items()}
    return Interleave(str(given.get("name", "+".join(names))), names, steps, shares, paces, at_most), members
