"""The arms of an experiment: its recipe with the changes of each, controls and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...configs.files import read_beside, read_curriculum, read_extended, resolved, shipped_file
from ...configs.plugins import nearest
from ...configs.typed import known_keys, mapping
from ...curriculum.preview.compare import arms_of
from ...curriculum.schedule.prefix import decided_by
from ...curriculum.schedule.stages import parse_curriculum
from ...errors import InputError
from .controls import Control, controls_of
from .experiment import Experiment

HERE = "@OUT@"  # stands for the folder of a recipe until each of its steps has one of its own
_SEEDS = ("seed", "seed_everything", "data.init_args.seed", "model.init_args.rollout.seed")  # what `_seed` sets
_CURRICULUM = ("stages", "cells", "columns", "disjoint", "cost", "include")


class Arm(NamedTuple):
    """One arm: its recipe with HERE for a folder, the curriculum of it, and keys that its kind declares to differ."""

    recipe: dict[str, Any]
    curriculum: dict[str, Any]
    declared: tuple[str, ...] = ()


def arms_of_experiment(experiment: Experiment, path: Path) -> dict[str, Arm]:
    """Arm -> what it does, controls included, before seeds; path: of the experiment's file.

    InputError names the arm whose keys or values are wrong.
    """
    base, origin = _base(experiment, path)
    curriculum = _curriculum_of(base, origin)
    changes = {name: _split(name, change, base, origin) for name, change in experiment.arms.items()}
    curricula = arms_of(
        {"base": curriculum, "arms": {n: c for n, (c, _) in changes.items()}}, partial(read_beside, path)
    )
    for name, curriculum in curricula.items():
        try:
            parse_curriculum(curriculum)
        except InputError as error:
            raise InputError(f"{path}: arm {name!r}: {error}") from None
    arms = {name: _arm(base, changes[name][1], curricula[name], f"{path}: arm {name!r}") for name in changes}
    first = experiment.reference or next(iter(arms))
    if first not in arms:
        raise InputError(f"{path}: reference: no arm {first!r}; {nearest(first, arms, 'there are')}")
    for control in controls_of(experiment.controls, arms[first].recipe, arms[first].curriculum, first, str(path)):
        arms[control.name] = _controlled(control, arms, base, changes, path)
    if isinstance(experiment.differs, dict):
        known_keys(experiment.differs, ["all", *arms], f"{path}: differs")
    return arms


def _arm(base: DictConfig, changes: Mapping[str, Any], curriculum: dict[str, Any], where: str) -> Arm:
    """The arm of a curriculum and of changes of the recipe; InputError for a seed that `seeds.train` would replace."""
    arm = Arm(_with(base, {**changes, "curriculum": curriculum}, where), curriculum)
    spec = _changed(base, changes, where)
    for name, step in arm.recipe["steps"].items():
        if trained_by(step, curriculum) is not None:
            _refuse_seeds(_seeds(base, name), _seeds(spec, name), f"{where}: steps.{name}")
    return arm


def _controlled(
    control: Control, arms: Mapping[str, Arm], base: DictConfig, changes: Mapping[str, Any], path: Path
) -> Arm:
    """The arm of a control: the one that it is of, with another curriculum."""
    if control.name in arms:
        raise InputError(f"{path}: there are two arms {control.name!r}; rename yours")
    more = changes[control.of][1] | {"curriculum": control.curriculum}
    return Arm(_with(base, more, f"{path}: control {control.name!r}"), control.curriculum, control.declared)


def with_seeds(arm: Arm, train: int, draw: int) -> dict[str, Any]:
    """The recipe of an arm with a seed of training in its trained steps, and one of the draw in its curriculum.

    A step's curriculum is that part which decides what its stage takes, so that arms that begin alike share a stage.
    """
    recipe = deepcopy(arm.recipe)
    recipe["curriculum"] = recipe["curriculum"] | {"seed": draw}
    for step in recipe["steps"].values():
        where = trained_by(step, arm.curriculum)
        if where is not None:
            where["curriculum"] = decided_by(recipe["curriculum"], str(where.get("stage")))
            _seed(step, train)
        elif isinstance(step, dict) and step.get("curriculum") == arm.curriculum:
            step["curriculum"] = recipe["curriculum"]
    return recipe


def with_curriculum(arm: Arm, curriculum: Mapping[str, Any]) -> Arm:
    """The arm with another curriculum, in every step that has it."""

    def replaced(value: Any) -> Any:
        if value == arm.curriculum:
            return deepcopy(dict(curriculum))
        if isinstance(value, dict):
            return {key: replaced(one) for key, one in value.items()}
        return [replaced(one) for one in value] if isinstance(value, list) else value

    return arm._replace(recipe=replaced(arm.recipe), curriculum=dict(curriculum))


def trained_by(step: Any, curriculum: Mapping[str, Any] | str) -> dict[str, Any] | None:
    """Where a step that trains a stage of this curriculum has the two; None for any other step.

    That is the `training` of `fit`, or the arguments `curriculum` and `stage` of a function of a lab's own.
    """
    if not isinstance(step, dict):
        return None
    data = data_of(step)
    training = data.get("training") if step.get("do") == "fit" else data if "stage" in data else None
    return training if isinstance(training, dict) and training.get("curriculum") == curriculum else None


def data_of(step: dict[str, Any]) -> dict[str, Any]:
    """What the data of a step are given: the arguments of a trainer's data module, or those of a function."""
    if step.get("do") != "fit":
        return step
    data = (step.get("data") or {}).get("init_args")
    return data if isinstance(data, dict) else {}


def _seed(step: dict[str, Any], seed: int) -> None:
    """Sets the seeds of a step that trains: of the trainer, of its data and its rollouts; `seed` of a function."""
    data_of(step)["seed"] = seed
    if step.get("do") == "fit":
        step["seed_everything"] = seed
        model = (step.get("model") or {}).get("init_args") or {}
        if isinstance(model.get("rollout"), dict):
            model["rollout"]["seed"] = seed


def _base(experiment: Experiment, path: Path) -> tuple[DictConfig, str]:
    """The recipe with the changes for all arms, its interpolations still open, and where it came from."""
    near = path.parent / experiment.recipe
    origin = near if near.is_file() else shipped_file(experiment.recipe, "recipes")
    spec = read_extended(origin)
    if not isinstance(spec.get("steps"), DictConfig) or "curriculum" not in spec:
        raise InputError(f"{origin}: a recipe that is compared has `curriculum` and `steps`")
    spec["out"] = HERE
    for key, instead in (("out", "`out`, beside `set`, is the folder"), ("curriculum.seed", "say seeds.draw")):
        if key in experiment.set:
            raise InputError(f"{path}: set: {key} is not the recipe's in an experiment; {instead}")
    whole = _changed(spec, experiment.set, f"{path}: set")
    before, after = (_walked(OmegaConf.to_container(one, resolve=False), "steps") for one in (spec, whole))
    for name, step in after.items() if isinstance(after, dict) else ():
        if trained_by(step, "${curriculum}") is not None:
            then, now = ({key: _walked(one, key) for key in _SEEDS} for one in (before.get(name), step))
            _refuse_seeds(then, now, f"{path}: set: steps.{name}")
    return whole, str(origin)


def _refuse_seeds(before: Mapping[str, Any], after: Mapping[str, Any], where: str) -> None:
    """Raises InputError where a change gives a step that is trained a seed, which `seeds.train` would replace."""
    for key, seed in after.items():
        if seed is not None and seed != before.get(key):
            raise InputError(f"{where}.{key}: the seeds of a stage that is trained are those of `seeds.train`")


def _seeds(spec: DictConfig, name: str) -> dict[str, Any]:
    """Key -> seed in a step of a recipe, interpolated; one that is still to be set is left out."""
    found: dict[str, Any] = {}
    for key in _SEEDS:
        with suppress(OmegaConfBaseException):
            step = spec.steps.get(name)
            found[key] = OmegaConf.select(step, key) if isinstance(step, DictConfig) else None
    return found


def _walked(node: Any, key: str) -> Any:
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _curriculum_of(base: DictConfig, origin: str) -> dict[str, Any]:
    content = base["curriculum"]
    return read_curriculum(content) if isinstance(content, str) else resolved(content, Path(origin))


def _split(name: str, change: Any, base: DictConfig, origin: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """An arm's changes: of the curriculum, and of the recipe."""
    if change is not None and not isinstance(change, Mapping):
        raise InputError(f"arm {name!r}: a mapping of changes is needed, got {change!r}")
    curriculum: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    for key, value in (change or {}).items():
        top = str(key).partition(".")[0].partition("[")[0]
        if top in ("curriculum", *_CURRICULUM):
            curriculum[str(key)] = value
        elif top in base:
            recipe[str(key)] = value
        else:
            known = [*_CURRICULUM, *map(str, base)]
            raise InputError(f"arm {name!r}: no key {key!r} in {origin}; {nearest(top, known, 'there are')}")
    for key in ("out", "seed", "curriculum.seed"):
        if key in recipe or key in curriculum:
            raise InputError(
                f"arm {name!r}: {key} is the same for all arms; `seeds` of the experiment has train and draw"
            )
    return curriculum, recipe


def _changed(base: DictConfig, changes: Mapping[str, Any], where: str) -> DictConfig:
    """A copy of the recipe with values at the ends of paths; InputError for a path that leads nowhere."""
    spec = deepcopy(base)
    for key, value in changes.items():
        _check_key(spec, str(key), value, where)
        try:
            OmegaConf.update(spec, str(key), value, merge=False, force_add=True)
        except (OmegaConfBaseException, TypeError, ValueError, IndexError) as error:
            raise InputError(f"{where}: {key}: {str(error).splitlines()[0]}") from None
    return spec


def _check_key(spec: DictConfig, key: str, value: Any, where: str) -> None:
    """Free keys must exist, and steps unless they are whole; what lies inside one is checked by its verb later."""
    parts = key.replace("[", ".").replace("]", "").split(".")
    if parts[0] not in list(spec):
        raise InputError(f"{where}: no key {key!r}; {nearest(parts[0], map(str, spec), 'there are')}")
    whole = len(parts) == 2 and isinstance(value, Mapping) and "do" in value
    if parts[0] == "steps" and len(parts) > 1 and parts[1] not in spec.steps and not whole:
        raise InputError(f"{where}: no step {parts[1]!r}; {nearest(parts[1], map(str, spec.steps), 'there are')}")


def _with(base: DictConfig, changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The recipe with changes, resolved; a step that is null stays so. InputError where a step is no mapping."""
    spec = _changed(base, changes, where)
    try:
        whole: Any = OmegaConf.to_container(spec, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        said = str(error).splitlines()[0]
        raise InputError(f"{where}: {f'{key}: ' if key else ''}{said}; set it by key=value") from None
    for name, step in mapping(whole["steps"], f"{where}: steps").items():
        if step is not None:
            mapping(step, f"{where}: steps.{name}")
    return dict(whole)
