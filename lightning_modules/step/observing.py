"""Knows what a step tells the curriculum, and what it asks of it: observations, silent probes, more cards of a cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...curriculum.schedule.cells import Cells
from ...curriculum.schedule.feedback import SUMS, Observations
from ...datamodules.batch import Batch
from ...errors import InputError
from .data_metrics import LABELS
from .experience import Experience
from .probing import due, option_accuracy, rollout_accuracy, silent_prompts

if TYPE_CHECKING:
    from ..base import PolicyModule
    from ..grpo import GRPO


def silent_accuracy(module: PolicyModule, batch: Batch, how: str = "option_logprob") -> Tensor:
    """[B] float64, on the CPU: accuracy of the present policy without the audio.

    how: "option_logprob", the probability of the right option among the options, or "rollout", the share of right
    answers of a group sampled as in training.
    """
    silent, rollout = silent_prompts(module.net, batch), module.rollout
    ask: Callable[[slice], Tensor] = partial(option_accuracy, module.net, silent)
    if how == "rollout":
        if rollout is None:
            raise InputError(f"a probe by rollout: {type(module).__name__} samples nothing; use how: option_logprob")
        names = ("group_size", "temperature", "max_new_tokens", "top_k", "top_p")
        options = {name: getattr(rollout, name) for name in names}
        ask = partial(rollout_accuracy, module.net, silent, **options, name=(rollout.seed, batch.step))
    parts = module.micro_batches(len(batch))
    found = [ask(rows) for rows in parts]
    for _ in range(int(module.greatest(len(parts))) - len(parts)):  # weights that are sharded wait for all ranks
        ask(parts[0])
    return torch.cat(found).cpu()


def probe(module: GRPO, found: list[Experience]) -> list[Tensor] | None:
    """Every experience's accuracy in silence [B], before the update, where an adaptive stage asks for it."""
    data: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    if data.cursor is None or not data.cursor.adapts:
        return None
    wanted = data.plan.stage_plan(data.training.stage).stage.probe
    if wanted is None or not due(found[0].batch.step, wanted.rate):
        return None
    return [silent_accuracy(module, each.batch, wanted.how) for each in found]


def report_to_curriculum(module: GRPO, found: list[Experience], probed: list[Tensor] | None) -> dict[str, float]:
    """Tells an adaptive stage how its cells fared, over all ranks; returns what it has learnt so far.

    probed: as `probe` returned it.

    Every prompt that was tried is told, also one whose group was dropped: estimates would lean upward without it.
    """
    data: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    if data.cursor is None or not data.cursor.adapts:
        return {}
    sums = np.zeros((len(SUMS), len(data.plan.cells)))
    for number, each in enumerate(found):
        real = each.real.numpy()
        cells = data.cells_of([s.row for s in each.batch.samples])[real]
        accuracy = each.accuracy().mean(1).numpy()
        gain = each.grouped(each.advantages.double()).abs().mean(1).numpy()
        gain = np.where(each.constant.numpy(), 0.0, np.maximum(gain, 1e-6))
        sums = sums + Observations(cells, accuracy[real], "audio", gain[real]).sums(len(data.plan.cells))
        if probed is not None:
            silent = probed[number].numpy()[real]
            sums = sums + Observations(cells, silent, "silence").sums(len(data.plan.cells))
    sums = np.array(module.over_ranks(*sums.ravel())).reshape(sums.shape)
    data.cursor.observe(sums)
    live = data.cursor.live()
    shown = [name for name in ("ac", "necessity", "useful") if name in live]
    return silent_metrics(data.plan.cells, sums) | {f"live/{name}": float(live[name].mean()) for name in shown}


def silent_metrics(cells: Cells, sums: np.ndarray) -> dict[str, float]:
    """`silent/all`, and `silent/{label}` where the label is an axis of the cells, of the prompts that were probed."""
    prompts, right = sums[SUMS.index("silent_prompts")], sums[SUMS.index("silent_right")]
    groups = {"all": np.ones(len(cells), bool)}
    if "label" in cells.axes:
        groups |= {str(name): cells.values("label") == name for name in cells.axes["label"]}
    counts = {name: (right[mine].sum(), prompts[mine].sum()) for name, mine in groups.items()}
    return {f"silent/{name}": float(total / count) for name, (total, count) in counts.items() if count}


def refill(module: GRPO, first: Experience) -> list[Experience]:
    """Does as the stage says with prompts whose group has no advantage; returns the experience of what came for them.

    keep: they stay in the denominator and under the KL. drop: they do not train. refill_same_cell: for each one more
    card of its cell is tried, `rollout.refill_rounds` times at most; what finds no successor is dropped.
    """
    data: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    batch = first.batch
    action = data.plan.stage_plan(batch.stage or data.training.stage).stage.on_zero_advantage
    if action == "keep":
        return []
    first.kept = first.real & ~first.constant
    found, last = [], first
    for number in range(1, module.rollout.refill_rounds + 1 if action == "refill_same_cell" else 1):
        flat = [s.row for s, bad in zip(last.batch.samples, (last.real & last.constant).tolist(), strict=True) if bad]
        more = _next_batch(module, batch, flat)
        if more is None:
            break
        last = module.experience(more, number)
        last.kept = last.real & ~last.constant
        found.append(last)
    return found


def _next_batch(module: GRPO, batch: Batch, flat: list[int]) -> Batch | None:
    """The successors of this rank's rows; None where no rank has any. The cards are dealt to ranks in their order."""
    data: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    stage = batch.stage or data.training.stage
    cells = data.cells_of(flat) if flat else np.empty(0, np.int64)
    counts = np.bincount(cells, minlength=len(data.plan.cells))
    everyone = module.gathered(counts)
    taken = data.cursor.refill(stage, np.sum(everyone, axis=0))
    if not taken:
        return None
    before = np.sum(everyone[: module.trainer.global_rank], axis=0) if module.trainer.global_rank else counts * 0
    rows = [taken[cell][before[cell] : before[cell] + counts[cell]] for cell in sorted(taken)]
    mine = data.builder.training_rows[np.concatenate(rows)]
    request = data.training_request(batch.step)
    real = request.weights > 0
    weight_of = dict(zip(data.cells_of(request.rows[real]).tolist(), request.weights[real].tolist(), strict=True))
    weights = np.array([weight_of[cell] for cell in data.cells_of(mine).tolist()], np.float32)
    if not len(mine):  # where weights are sharded all ranks must sample together
        mine, weights = np.array([batch.samples[0].row]), np.zeros(1, np.float32)
    more = data.prepare(replace(request, rows=mine, weights=weights, passes=np.zeros(len(mine), np.int64)))
    data.record_bad_samples(more)  # its bad samples count as those of any batch
    module.num_replaced += len(more.replaced)
    return more.to(module.device)


def mix_of(module: Any, prompts: list[tuple[str, bool]]) -> dict[str, float]:
    """Label -> share of the prompts [(label, counts)] that count, over all ranks."""
    counts = [float(sum(counts and name == label for name, counts in prompts)) for label in LABELS]
    totals = module.over_ranks(*counts)
    return {label: count / sum(totals) for label, count in zip(LABELS, totals, strict=True) if count}
