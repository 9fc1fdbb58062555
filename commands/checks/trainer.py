"""What a trainer's configuration must have before anything is loaded: its conditions, its stage, what it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...configs.plugins import function_named, nearest
from ...configs.typed import placed
from ...curriculum.schedule.named import curriculum_of
from ...curriculum.schedule.stages import Curriculum
from ...errors import InputError
from .paths import Read


def trainer_reads(verb: str, config: Mapping[str, Any]) -> Iterator[Read]:
    """What our data module and our policy read, and a checkpoint to resume."""
    from ...datamodules.module import AudioQuestions
    from ...lightning_modules.policy.omni import OmniPolicy

    data = _arguments_of(config["data"], AudioQuestions) or {}
    parts = {"": ("index", "labels", "checkpoint"), "reading": ("shards",), "training": ("replan",)}
    for part, names in parts.items():
        given = (data.get(part) or {}) if part else data
        for name in names:
            if given.get(name) and (part != "training" or verb == "fit"):
                key = ".".join(filter(None, ["data.init_args", part, name]))
                for path in given[name] if isinstance(given[name], list) else [given[name]]:
                    yield Read(key, path, name == "checkpoint")
    model = (config["model"] or {}).get("init_args") or {}
    policy = _arguments_of(model.get("policy"), OmniPolicy)
    if policy and policy.get("checkpoint"):
        yield Read("model.init_args.policy.init_args.checkpoint", policy["checkpoint"], True)
    resumed = config.get("ckpt_path")
    if resumed and "/" in resumed:  # other words, like `last`, are Lightning's
        yield Read("ckpt_path", resumed, False)


def check_questions(verb: str, config: Mapping[str, Any]) -> None:
    """Raises InputError for a condition that is not there, and for a stage or a trainer that `fit` cannot follow."""
    from ...datamodules.batches.conditions import parse_condition
    from ...datamodules.module import AudioQuestions
    from ...lightning_modules.step.trainer_options import refuse_options

    data = _arguments_of(config.get("data"), AudioQuestions)
    for part in ("training", "validation", "evaluation"):
        asked = (data or {}).get(part) or {}
        for number, condition in enumerate(asked.get("conditions") or ()):
            try:
                parse_condition(condition)
            except InputError as error:
                raise InputError(f"data.init_args.{part}.conditions[{number}]: {error}") from error
    if verb == "fit" and data is not None:
        refuse_options(config.get("trainer") or {})
        _check_stage(data.get("training"), config["model"]["class_path"])


def _check_stage(training: Mapping[str, Any] | None, model: str) -> None:
    """Raises InputError where the curriculum cannot be, or the stage is not in it or not for the model's class."""
    where = "data.init_args.training"
    if not training:
        raise InputError(f"{where}: `fit` needs a curriculum and one of its stages")
    curriculum = checked_curriculum(training["curriculum"], f"{where}.curriculum")
    stage = training["stage"]
    turns = {group.name: group.members for group in curriculum.interleaves}
    names = [*(one.name for one in curriculum.stages), *turns]
    if stage not in names:
        raise InputError(f"{where}.stage: no stage {stage!r} in the curriculum; {nearest(stage, names, 'it has')}")
    kind = function_named(model, {}, "model.class_path")
    trained = getattr(kind, "algorithms", None)
    for member in turns.get(stage, (stage,)):
        algorithm = curriculum.stage(member).algorithm
        if trained is not None and algorithm not in trained:
            raise InputError(
                f"{where}.stage: {member!r} is for the algorithm {algorithm!r}, {kind.__name__} trains "
                f"{' and '.join(trained) or 'nothing'}; name another stage or another model class"
            )


def checked_curriculum(spec: Mapping[str, Any] | str, where: str) -> Curriculum:
    """A curriculum from its mapping or from the file of that name; an InputError begins with `where`."""
    # What a trainer's command line makes of a path below a name, or into a list.
    if isinstance(spec, Mapping) and (
        isinstance(spec.get("stages"), Mapping) or set(spec) <= {"seed", "cells", "cost"}
    ):
        raise InputError(
            f"{where} needs `stages`, a list; a value of a curriculum that has a file is changed behind its name: "
            '"weak_to_strong stages.grpo.budget.steps=50"'
        )
    try:
        return curriculum_of(spec)
    except InputError as error:
        raise InputError(placed(str(error), where)) from error


def _arguments_of(made: Any, kind: type) -> dict[str, Any] | None:
    """The init_args of an object that is of that class, else None."""
    if not isinstance(made, Mapping) or "." not in str(made.get("class_path")):
        return None
    found = function_named(made["class_path"], {}, "class_path")
    return dict(made.get("init_args") or {}) if isinstance(found, type) and issubclass(found, kind) else None
