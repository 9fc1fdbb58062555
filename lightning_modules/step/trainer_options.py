"""Arguments of Lightning's trainer that mean something else here, or nothing: refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L

from ...errors import InputError

_UNSET = (None, -1, 1000)  # what Lightning has for `max_epochs` where nobody said anything


def refuse_options(given: Mapping[str, Any]) -> None:
    """Raises InputError for an argument of the trainer that `fit` cannot follow, with the key that does what it means.

    given: arguments of the trainer by name, as far as they were given.
    """
    epochs = given.get("max_epochs")
    if epochs not in (*_UNSET, 1):
        raise InputError(
            f"trainer.max_epochs: a stage of the curriculum is one epoch, got {epochs}; leave it out, and say how "
            "often every question is shown by `budget: {epochs: ...}` of the stage"
        )
    for name, neutral, instead in (
        ("accumulate_grad_batches", (None, 1), "model.init_args.micro_batch_size, which splits a batch"),
        ("gradient_clip_val", (None, 0), "model.init_args.max_grad_norm"),
        ("gradient_clip_algorithm", (None, "norm"), "model.init_args.max_grad_norm"),
        ("min_epochs", (None, 0, 1), "`budget: {epochs: ...}` of the stage"),
    ):
        if given.get(name) not in neutral:
            raise InputError(f"trainer.{name}: {given[name]!r} has no effect on a step here; use {instead}")


def prepare(trainer: L.Trainer) -> None:
    """Refuses what the trainer was given in code, and has an omitted `max_epochs` mean one epoch."""
    names = ("max_epochs", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "min_epochs")
    refuse_options({name: getattr(trainer, name) for name in names})
    trainer.fit_loop.max_epochs = 1
