"""The callback that keeps a run's record: ranks must agree on it, and logs go on where it says."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L

from ...boundary.files import alone_in
from ..checkpoints.logs import cut, versions_of
from ..checkpoints.run_record import decisive, write_record


class RunFolder(L.Callback):
    """Compares the ranks' configurations, writes the record beside the checkpoints, and cuts logs to the position.

    record: of this process, from `record_of`. folder: of the checkpoints, None where there are none. continued: the
    checkpoint that the run goes on from.
    """

    def __init__(self, record: dict[str, Any], folder: Path | None, continued: Path | None) -> None:
        self.record, self.folder, self.continued = record, folder, continued
        self.alone = ExitStack()

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Compares what the ranks were started with, before any weight is loaded; rank 0 writes the record."""
        if stage != "fit":
            return
        ranks = pl_module.ranks
        ranks.agree({"checkpoint to continue from": None if self.continued is None else str(self.continued)})
        ranks.agree(decisive(self.record))
        if self.folder is not None and trainer.is_global_zero:
            self.alone.enter_context(alone_in(self.folder, "training"))
            write_record(self.folder, self.record | {"logs": versions_of(trainer.loggers)})

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Leaves the folder to others."""
        self.alone.close()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leaves the folder to others."""
        self.alone.close()

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """What is trained again is not logged twice."""
        if trainer.is_global_zero:
            cut(trainer.loggers, trainer.datamodule.position)  # type: ignore[attr-defined]
