"""What a GRPO step reports to an adaptive stage: how every cell of the curriculum fared, with the audio and without."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ...curriculum.schedule.cells import Cells
from ...curriculum.schedule.feedback import SUMS, Observations
from ...curriculum.schedule.stages import Probe
from ...datamodules.batch import Batch
from ...datamodules.training import TrainingData
from ..ranks import Ranks
from .experience import Experience
from .probing import due


def probe_wanted(data: TrainingData, batch: Batch) -> Probe | None:
    """How the policy is to be probed in silence at this step; None where no adaptive stage asks for it now."""
    probe = data.stage_of(batch).probe if data.cursor.adapts else None
    return probe if probe is not None and due(batch.step, probe.rate) else None


def report_to_curriculum(
    experiences: Sequence[Experience], silent: Sequence[Tensor] | None, data: TrainingData, ranks: Ranks
) -> dict[str, float]:
    """Adds what all ranks observed to an adaptive stage's window; returns metrics of what it has learnt so far.

    silent: accuracy in silence [B] of every experience, where it was probed. Every prompt that was tried is reported,
    also one whose group was dropped: estimates would lean upward without it. Where the stage does not adapt, nothing is
    done and the metrics are empty.
    """
    if not data.cursor.adapts:
        return {}
    num_cells = len(data.plan.cells)
    sums = np.zeros((len(SUMS), num_cells))
    for number, experience in enumerate(experiences):
        real = experience.real.numpy()
        cells = data.cells_of([sample.row for sample in experience.batch.samples])[real]
        accuracy = experience.accuracy().mean(1).numpy()
        gain = experience.grouped(experience.advantages.double()).abs().mean(1).numpy()
        gain = np.where(experience.constant.numpy(), 0.0, np.maximum(gain, 1e-6))
        sums = sums + Observations(cells, accuracy[real], "audio", gain[real]).sums(num_cells)
        if silent is not None:
            sums = sums + Observations(cells, silent[number].numpy()[real], "silence").sums(num_cells)
    sums = np.array(ranks.sums(*sums.ravel())).reshape(sums.shape)
    data.cursor.observe(sums)
    live = data.cursor.live()
    shown = [name for name in ("ac", "necessity", "useful") if name in live]
    return silent_metrics(data.plan.cells, sums) | {f"live/{name}": float(live[name].mean()) for name in shown}


def silent_metrics(cells: Cells, sums: np.ndarray) -> dict[str, float]:
    """`silent/all`, and `silent/{label}` where the label is an axis of the cells: accuracy of the prompts probed.

    sums: [8, Q], rows named by `SUMS`.
    """
    prompts, right = sums[SUMS.index("silent_prompts")], sums[SUMS.index("silent_right")]
    groups = {"all": np.ones(len(cells), bool)}
    if "label" in cells.axes:
        groups |= {str(name): cells.values("label") == name for name in cells.axes["label"]}
    counts = {name: (right[chosen].sum(), prompts[chosen].sum()) for name, chosen in groups.items()}
    return {f"silent/{name}": float(total / count) for name, (total, count) in counts.items() if count}
