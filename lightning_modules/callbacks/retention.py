"""What a stage keeps of what the policy knew: validation, question by question, against that before its first step."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np

from ...curriculum.arrays import Bools, Floats
from ...curriculum.statistics import cluster_mean, cluster_share
from ...datamodules.module import AudioQuestions
from ..step.data_metrics import LABELS

Outcome = tuple[int, str, str, int, bool]  # uid, condition, label, recording, whether it was right
GROUPS = ("all", *LABELS)


class Retention(L.Callback):
    """Logs `val/accuracy/CONDITION/GROUP` with its interval, and its change since the validation before step 1.

    CONDITION is its kind: those of one kind, as `silence:1` and `silence:30`, are taken together, each paired with
    itself.
    GROUP is all, weak, strong or unlabelled. Beside the accuracy are `.../low` and `.../high`, of its 95 % interval by
    recording; `val/change/CONDITION/GROUP`, with the same two, is the paired difference to the first validation of the
    stage; `val/step` the optimizer steps trained by then. The first validation's answers are saved with checkpoints.
    """

    def __init__(self) -> None:
        self._asked: list[Outcome] = []  # by this rank, in the validation that is running
        self.first: dict[str, dict[int, bool]] = {}  # condition -> uid -> whether it was right before step 1

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Forgets what a validation that was cut off had asked."""
        self._asked = []

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Keeps the answers to the batch's questions; outputs: their records."""
        if trainer.sanity_checking or not outputs:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        clips = data.reader.numbers.get("clip") if isinstance(data, AudioQuestions) else None
        rows = [sample.row for sample in batch.samples if sample.weight > 0]
        for record, row in zip(outputs, rows, strict=True):
            clip = int(record["uid"] if clips is None else clips[row])
            label = record["label"] if record["label"] in LABELS else LABELS[-1]
            self._asked.append((int(record["uid"]), record["condition"], label, clip, bool(record["correct"])))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Logs over all ranks; a collective operation."""
        if trainer.sanity_checking:
            return
        outcomes = [one for part in pl_module.ranks.gathered(self._asked) for one in part]
        self._asked = []
        if trainer.state.fn == "fit":
            position = trainer.datamodule.position  # type: ignore[attr-defined]
            pl_module.log("val/step", float(position), rank_zero_only=False)
            if position == 0:
                self.first = first_of(outcomes)
        for name, value in compared(outcomes, self.first).items():
            pl_module.log(name, value, rank_zero_only=False)

    def state_dict(self) -> dict[str, Any]:
        """Which questions were right before step 1, by condition."""
        return {"first": {condition: [list(right), list(right.values())] for condition, right in self.first.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues to compare with the validation before step 1, of a checkpoint that has one."""
        self.first = {name: dict(zip(*pair, strict=True)) for name, pair in state_dict.get("first", {}).items()}


def first_of(outcomes: list[Outcome]) -> dict[str, dict[int, bool]]:
    """Condition -> uid -> whether it was right."""
    found: dict[str, dict[int, bool]] = {}
    for uid, condition, _, _, right in outcomes:
        found.setdefault(condition, {})[uid] = right
    return found


def compared(outcomes: list[Outcome], first: dict[str, dict[int, bool]]) -> dict[str, float]:
    """The metrics of one validation, by name; those of changes where all of a group's questions were asked at first."""
    found: dict[str, float] = {}
    for condition in dict.fromkeys(one[1].partition(":")[0] for one in outcomes):
        asked = [one for one in outcomes if one[1].partition(":")[0] == condition]
        label = np.array([one[2] for one in asked])
        clip, right = np.array([one[3] for one in asked], np.uint64), np.array([one[4] for one in asked], float)
        before = np.array([first.get(one[1], {}).get(one[0], np.nan) for one in asked], float)
        for group in GROUPS:
            rows: Bools = np.asarray((label == group) | (group == "all"), bool)
            if rows.any():
                name = f"val/accuracy/{condition}/{group}"
                mean, low, high = cluster_share(right[rows], clip[rows])
                found |= {name: mean} if group == "all" else {}
                found |= {f"{name}/low": low, f"{name}/high": high}
                found |= _change(f"val/change/{condition}/{group}", right[rows] - before[rows], clip[rows])
    return found


def _change(name: str, difference: Floats, clip: Any) -> dict[str, float]:
    if np.isnan(difference).any():
        return {}
    mean, low, high = cluster_mean(difference, clip)
    return {name: mean, f"{name}/low": low, f"{name}/high": high}
