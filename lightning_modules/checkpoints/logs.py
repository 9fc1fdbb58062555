"""Logs that go on: a continued run writes into the version it had, and no step stands there twice."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.logger import _convert_params, _flatten_dict
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from ...boundary.files import open_regular, write_text


def versions_of(loggers: Iterable[Logger]) -> dict[str, Any]:
    """`Class:number` -> the version, or run id, that each logger writes to."""
    found = {f"{type(each).__name__}:{number}": each.version for number, each in enumerate(loggers)}
    return {name: version for name, version in found.items() if isinstance(version, (int, str))}


def continued(loggers: Iterable[Logger], versions: Mapping[str, Any], step: int | None) -> None:
    """Has each logger write on where the recorded run did; step: where that is, for logs that cannot be cut later."""
    logger: Any  # the names that classes keep their versions under are their own
    for number, logger in enumerate(loggers):
        version = versions.get(f"{type(logger).__name__}:{number}")
        if version is None:
            continue
        if hasattr(logger, "_wandb_init"):
            logger._wandb_init |= {"id": version, "resume": "allow"}
            logger._id = version
        elif getattr(logger, "_run_id", "") is None:  # MLflow's
            logger._run_id = version
        elif getattr(logger, "_version", "") is None:
            logger._version = version
        if step is not None and isinstance(getattr(logger, "_kwargs", None), dict):  # TensorBoard's
            logger._kwargs.setdefault("purge_step", step)
        if isinstance(logger, CSVLogger):
            logger._experiment = _Continued(logger.log_dir)


def tell(logger: Any, facts: Mapping[str, Any]) -> None:
    """Gives a logger what a run is; MLflow only what is new to it, for it refuses other values for what it was told."""
    if hasattr(logger, "_run_id"):
        known = logger.experiment.get_run(logger.run_id).data.params
        flat = _flatten_dict(_convert_params(dict(facts)))
        facts = {name: value for name, value in flat.items() if name not in known}
    logger.log_hyperparams(facts)


def cut(loggers: Iterable[Logger], step: int) -> None:
    """Takes the rows of a step and those after it out of CSV logs: they are trained again."""
    for logger in loggers:
        if isinstance(logger, CSVLogger) and isinstance(logger._experiment, _Continued):
            logger._experiment.cut(step)


class _Continued(ExperimentWriter):
    """A writer that keeps what lies there."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        path = Path(self.metrics_file_path)
        if path.is_file():
            with io.TextIOWrapper(open_regular(path), "utf-8", newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])

    def _check_log_dir_exists(self) -> None:
        """Lightning's deletes the log."""

    def cut(self, step: int) -> None:
        """Leaves the rows of the steps before; one that a killed run wrote in part goes, too."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with io.TextIOWrapper(open_regular(path), "utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
        rows = [row for row in rows if row.get("step", "").isdigit() and int(row["step"]) < step]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=self.metrics_keys)
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
