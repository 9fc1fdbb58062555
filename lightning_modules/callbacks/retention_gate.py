"""A gate that a stage must pass at every validation: what the policy knew before it must not be lost."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from ...boundary.files import made_folder
from ...boundary.words import say
from ...errors import InputError
from ..checkpoints.restore import from_whole
from ..checkpoints.whole_file import WholeFile
from ..policy.precision import forget_copies
from ..policy.weights import whole_tensor
from .validating import validate_now

FILE = "best.ckpt"


class RetentionGate(L.Callback):
    """Acts where a watched group fell by more than so many points since the validation before the first step.

    The change is the paired one that is logged as `val/change/...`; all ranks see the same numbers. Logs `train/beta`
    where it raises it. Raises InputError for arguments that do not go together.

    Args:
        watch: the accuracy of a group of validation questions, as it is logged.
        points: of a hundred, that it may fall. sure: what must be certain at 95 %: "fall", that it fell at all;
            "points", that it fell by more than so many; "nothing", then the estimate alone decides.
        act: "stop" training; "restore" the best weights so far and stop; "raise_kl", multiply `objective.beta`.
        best: the accuracy by which weights are the best, among validations at which the group had not fallen; "all" of
            the watched condition by default. folder: where those weights lie, for "restore".
        factor, most: by how much and how often "raise_kl" multiplies.
    """

    def __init__(
        self,
        watch: str = "val/accuracy/audio/weak",
        points: float = 2.0,
        sure: Literal["fall", "points", "nothing"] = "fall",
        act: Literal["stop", "restore", "raise_kl"] = "stop",
        best: str | None = None,
        folder: str | None = None,
        factor: float = 2.0,
        most: int = 4,
    ) -> None:
        if not watch.startswith("val/accuracy/") or watch.count("/") != 3:
            raise InputError(f"RetentionGate: watch is an accuracy as val/accuracy/audio/weak, got {watch!r}")
        if sure not in ("fall", "points", "nothing"):
            raise InputError(f"RetentionGate: sure is fall, points or nothing, got {sure!r}")
        if act not in ("stop", "restore", "raise_kl"):
            raise InputError(f"RetentionGate: act is stop, restore or raise_kl, got {act!r}")
        if not 0 <= points < 100 or factor <= 1 or most < 1:
            raise InputError("RetentionGate: 0 <= points < 100, factor > 1 and most >= 1 are needed")
        if act == "restore" and folder is None:
            raise InputError("RetentionGate: to restore, it needs a `folder` for the best weights")
        self.watch, self.points, self.sure, self.act = watch, points, sure, act
        self.best, self.folder = best or f"{watch.rpartition('/')[0]}/all", Path(folder or "")
        self.factor, self.most, self.raised = factor, most, 0
        self.found: dict[str, float] = {}  # value and step of the best weights so far
        self._beta, self._due = 0.0, False

    @property
    def state_key(self) -> str:
        """Tells several gates of one run apart."""
        return f"RetentionGate {self.watch} {self.act}"

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Refuses a run without validation, and one whose KL cannot be raised."""
        if not trainer.enable_validation:
            raise InputError("RetentionGate watches validation, which is switched off; set limit_val_batches")
        if self.act == "raise_kl":
            self._beta = float(getattr(getattr(pl_module, "objective", None), "beta", 0.0))
            if not self._beta:
                raise InputError("RetentionGate: raise_kl multiplies objective.beta of GRPO, which is 0 or not there")

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Goes on with the KL weight that a resumed run had reached."""
        self._raise(pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs the KL weight of the step."""
        if self.act == "raise_kl":
            pl_module.log("train/beta", self._beta * self.factor**self.raised)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Looks at what was validated, and acts; a collective operation."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or self._due:
            return
        change, low, high = self._change(trainer)
        bound = {"fall": high, "points": high + self.points / 100, "nothing": -1.0}[self.sure]
        if change < -self.points / 100 and bound < 0:
            self._act(trainer, pl_module, f"{100 * change:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]")
        elif self.act == "restore":
            self._keep(trainer, pl_module)

    def _change(self, trainer: L.Trainer) -> list[float]:
        logged = trainer.callback_metrics
        name = self.watch.replace("val/accuracy/", "val/change/")
        for needed in (name, self.best):
            if needed not in logged:
                there = sorted(each for each in logged if each.startswith("val/change/") and each.count("/") == 3)
                raise InputError(
                    f"RetentionGate: validation logs no {needed}; it logs {', '.join(there) or 'no change'}, of a run "
                    "that was validated before its first step"
                )
        return [float(logged[each]) for each in (name, f"{name}/low", f"{name}/high")]

    def _act(self, trainer: L.Trainer, pl_module: Any, fell: str) -> None:
        step = trainer.datamodule.position  # type: ignore[attr-defined]
        done = "training stops"
        if self.act == "raise_kl":
            done = f"objective.beta stays {pl_module.objective.beta:g}"
            if self.raised < self.most:
                self.raised += 1
                self._raise(pl_module)
                done = f"objective.beta is now {pl_module.objective.beta:g}"
        else:
            trainer.should_stop, self._due = True, self.act == "restore" and bool(self.found)
        if trainer.is_global_zero:
            say(f"RetentionGate, step {step}: {self.watch} changed by {fell} since the start; {done}", file=sys.stderr)

    def _raise(self, pl_module: Any) -> None:
        if self.act == "raise_kl":
            pl_module.objective = replace(pl_module.objective, beta=self._beta * self.factor**self.raised)

    def _keep(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Writes the weights that train where they are better than those kept; a collective operation."""
        value = float(trainer.callback_metrics[self.best])
        if self.found and value <= self.found["value"]:
            return
        self.found = {"value": value, "step": float(trainer.datamodule.position)}  # type: ignore[attr-defined]
        kept: dict[str, Any] = {}
        for name, weight in pl_module.named_parameters():
            whole = whole_tensor(weight) if weight.requires_grad else None  # one after the other, of sharded ones
            if whole is not None and trainer.is_global_zero:
                kept[name] = whole.to("cpu", copy=True)
        failed = None
        if trainer.is_global_zero:
            try:
                made_folder(self.folder)
                WholeFile().save_checkpoint({"state_dict": kept, **self.found}, self.folder / FILE)
            except (InputError, OSError) as error:
                failed = f"RetentionGate: {error}"
        failed = trainer.strategy.broadcast(failed)
        if failed:
            raise InputError(failed)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Restores the best weights where that is due, before the end is saved and exported, and validates them."""
        if not self._due:
            return
        file = self.folder / FILE
        trained = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        from_whole(WholeFile().load_checkpoint(file), file, trained, trained, [])
        forget_copies(pl_module.net)
        if trainer.is_global_zero:
            say(f"RetentionGate: the weights are those after step {self.found['step']:.0f} again", file=sys.stderr)
        validate_now(trainer)
        self._due = False

    def state_dict(self) -> dict[str, Any]:
        """How often the KL weight was raised; value and step of the best weights."""
        return {"raised": self.raised, "found": dict(self.found)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues with them."""
        self.raised, self.found = int(state_dict["raised"]), dict(state_dict["found"])
