"""Stages that an arm does not have: their steps are left out, and what comes after them begins where they would have.

Of a step that is left out, further training starts from the model that it would have started from, answers and
evaluations of its model are left out too, and lists and mappings lose the entries that name its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import InputError
from .arms import HERE, trained_by
from .expansion import Owners, paths_in, rewritten

_GONE = object()


def absent_stages(steps: Mapping[str, Any], curriculum: Mapping[str, Any]) -> list[str]:
    """The steps of a recipe that train a stage which its curriculum does not have, and those that are null."""
    stages = [stage for stage in curriculum.get("stages") or () if isinstance(stage, Mapping)]
    names = {one.get("name") for stage in stages for one in (stage, *(stage.get("stages") or ()))}
    names |= {"+".join(str(one.get("name")) for one in stage["stages"]) for stage in stages if stage.get("stages")}
    trained = {name: trained_by(step, curriculum) for name, step in steps.items()}
    return [
        name
        for name, step in steps.items()
        if step is None or ((training := trained[name]) is not None and training.get("stage") not in names)
    ]


def without(steps: Mapping[str, Any], gone: list[str], base: Mapping[str, Any]) -> dict[str, Any]:
    """The steps without those that are gone; base: the recipe's own steps, which say what a null step would have read.

    Raises InputError where a step needs more of one that is gone than the model.
    """
    owners = Owners()
    kept: dict[str, Any] = {}
    start: dict[str, str | None] = {}  # of a step that is gone: the model that it would have started from
    for name, step in steps.items():
        whole: dict[str, Any] = (base.get(name) if step is None else step) or {}
        owned = {rest: owners.of(rest, name) for rest in paths_in(whole)}
        if name in gone:
            checkpoint = _checkpoint(whole)
            start[name] = None if checkpoint is None else _moved(checkpoint, owned, start, name)
            continue
        lost = {rest for rest, owner in owned.items() if owner in start}
        if lost and (whole.get("do") == "fit" or "stage" in whole):
            kept[name] = _restarted(whole, owned, start, name)
        elif lost and ((left := _pruned(whole, lost)) is _GONE or _scalar_lost(whole, lost)):
            start[name] = None
        else:
            kept[name] = left if lost else whole
    return kept


def _checkpoint(step: Any) -> str | None:
    """The model that a step trains or asks; of a function its argument `checkpoint`."""
    if isinstance(step, Mapping) and isinstance(step.get("checkpoint"), str):
        return str(step["checkpoint"])
    node = step
    for key in ("model", "init_args", "policy", "init_args", "checkpoint"):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, str) else None


def _moved(path: str, owned: Mapping[str, str], start: Mapping[str, str | None], name: str) -> str:
    """A path to a model, that of a step before where its own step is gone."""
    owner = owned.get(path.removeprefix(HERE), "")
    if owner not in start:
        return path
    instead = start[owner]
    if instead is None:
        raise InputError(
            f"step {name!r} starts from {path.removeprefix(HERE + '/')}, and its step {owner!r} is left out"
        )
    return instead


def _restarted(step: Any, owned: Mapping[str, str], start: Mapping[str, str | None], name: str) -> Any:
    """A training step that starts from another model than that of a step which is gone."""
    checkpoint = _checkpoint(step)
    lost = {rest: owner for rest, owner in owned.items() if owner in start}
    other = [rest for rest in lost if checkpoint is None or HERE + rest != checkpoint]
    if other:
        raise InputError(
            f"step {name!r} reads {other[0][1:]}, and the step {lost[other[0]]!r} that writes it is left out"
        )
    instead = _moved(str(checkpoint), owned, start, name)
    return rewritten(step, {rest: instead if rest in lost else HERE + rest for rest in owned})


def _pruned(value: Any, lost: set[str]) -> Any:
    """A value without the entries that name a lost path; _GONE where nothing of it is left."""
    if isinstance(value, str):
        return _GONE if any(rest in lost for rest in paths_in(value)) else value
    if isinstance(value, Mapping):
        left = {key: one for key, old in value.items() if (one := _pruned(old, lost)) is not _GONE}
        return _GONE if value and not left else left
    if isinstance(value, list):
        listed = [one for old in value if (one := _pruned(old, lost)) is not _GONE]
        return _GONE if value and not listed else listed
    return value


def _scalar_lost(step: Mapping[str, Any], lost: set[str]) -> bool:
    """Whether the step needs a lost path itself and not as one of several: its model, its results."""
    alone = [one for one in step.values() if isinstance(one, str)]
    checkpoint = _checkpoint(step)
    return any(rest in lost for one in [*alone, checkpoint or ""] for rest in paths_in(one))
