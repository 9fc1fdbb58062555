"""An experiment: a recipe, arms that change it, controls, and seeds on two axes; what each of its runs would do.

An experiment is a YAML file:
    recipe: demo                       a shipped recipe or a file
    set: {seed: 3}                     changes of the recipe for all arms
    arms: {name: {...}}                changes of one arm: keys of the curriculum (`stages.grpo.pool`, `include: FILE`)
                                       and of the recipe (`steps.grpo.model.init_args.optimizer.init_args.lr`)
    seeds: {train: [1, 2], draw: [1]}  how training goes; which questions are dealt
    differs: [curriculum.stages]       what the arms are meant to differ in; everything else is an error
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

from ...boundary.words import is_name
from ...configs.files import read_yaml, resolved, shipped_file
from ...configs.overrides import assigned, value_in
from ...configs.typed import read
from ...errors import InputError

_OWN = ("seeds", "match", "differs", "controls", "reference", "family", "cluster")


@dataclass(frozen=True)
class Seeds:
    """Seeds of training (order inside batches, dropout, rollouts) and of the draw (which questions are dealt).

    cross: every seed of training with every one of the draw; otherwise they go in pairs, a single one with all.
    Raises InputError for no seed, one that occurs twice, or two lists that make no pairs.
    """

    train: list[int] = field(default_factory=lambda: [1])
    draw: list[int] = field(default_factory=lambda: [1])
    cross: bool = False

    def __post_init__(self) -> None:
        for name, seeds in (("train", self.train), ("draw", self.draw)):
            if not seeds or len(set(seeds)) != len(seeds):
                raise InputError(f"seeds.{name} is a list of different whole numbers, got {seeds}")
        if not self.cross and 1 not in (len(self.train), len(self.draw)) and len(self.train) != len(self.draw):
            raise InputError(
                f"seeds: {len(self.train)} of train and {len(self.draw)} of draw make no pairs; "
                "give as many of both, one of either, or cross: true"
            )

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(seed of training, seed of the draw) of every run of an arm."""
        if self.cross:
            return list(product(self.train, self.draw))
        count = max(len(self.train), len(self.draw))
        train, draw = (seeds * count if len(seeds) == 1 else seeds for seeds in (self.train, self.draw))
        return list(zip(train[:count], draw[:count], strict=True))


@dataclass(frozen=True)
class Experiment:
    """The keys of an experiment's file, but for its arms' meaning; see `read_experiment`.

    Args:
        differs: keys in which arms may differ, of all arms or by arm; a key stands for all below it, `*` for any part.
        match: what the arms' budgets are scaled to cost the same in. reference: the arm that others are tested against,
            the first by default. family: whether tests are corrected within their kind or all together.
        cluster: what answers depend on each other by: the recording, or the source. stand_in: a made-up table to
            plan over while the recipe's own is not there.
    """

    recipe: str
    arms: dict[str, Any]
    name: str | None = None
    title: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    controls: list[str] | dict[str, Any] = field(default_factory=list)
    seeds: Seeds = field(default_factory=Seeds)
    match: Literal["none", "samples", "steps", "tokens", "flops"] = "none"
    differs: list[str] | dict[str, list[str]] = field(default_factory=list)
    reference: str | None = None
    family: Literal["kind", "all"] = "kind"
    cluster: Literal["clip", "source"] = "clip"
    stand_in: Literal["audiomcq"] | None = None
    out: str | None = None

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(seed of training, seed of the draw) of every run of an arm."""
        return self.seeds.pairs

    def declared(self, arm: str) -> list[str]:
        """The keys in which the arm may differ from others."""
        given = self.differs
        return list(given) if isinstance(given, list) else [*given.get("all", ()), *given.get(arm, ())]


def read_experiment(name: str, words: Sequence[str] = ()) -> tuple[Experiment, Path]:
    """The experiment of a file or a shipped name, with words `key=value` that change its recipe, and where it lies.

    InputError for keys and values that are wrong; it names the file.
    """
    path = shipped_file(name, "experiments")
    spec = resolved(read_yaml(path), path)
    for word in words:
        key, mark, text = word.partition("=")
        if not mark or not key:
            raise InputError(f"override {word!r} is not of the form key=value")
        own = key.split(".")[0]
        if own in _OWN:
            spec = assigned(spec, [(key, value_in(text))])
        elif key == "out":
            spec["out"] = text
        else:
            spec["set"] = dict(spec.get("set") or {}) | {key: value_in(text)}
    experiment = read(Experiment, spec, f"{path}: ")
    if not experiment.arms:
        raise InputError(f"{path}: arms: an experiment has at least one")
    for what, name in (("an experiment's", experiment.name or "x"), *(("an arm's", arm) for arm in experiment.arms)):
        if not is_name(name) or name.startswith("."):
            raise InputError(f"{path}: {what} name is letters, digits, - _ and ., got {name!r:.80}")
    if "shared" in experiment.arms:
        raise InputError(f"{path}: `shared` is no name for an arm: --only shared runs the steps that arms share")
    return experiment, path
