"""A validation outside Lightning's own schedule: before the first step, or when training is over."""

from __future__ import annotations

import lightning as L


def validate_now(trainer: L.Trainer) -> None:
    """Runs the whole validation with all its hooks and logs, and goes on training; a collective operation."""
    log = trainer._logger_connector
    first, trainer.validating = log._first_loop_iter, True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training, log._first_loop_iter = True, first
