"""Knows what a GRPO step logs: by contribution label, over all ranks, under the same names in every stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .base import LABELS
from .experience import Experience
from .observing import mix_of

if TYPE_CHECKING:
    from .grpo import GRPO

SUMS = ("tokens", "kl", "ratio", "clip_low", "clip_high", "entropy", "gap", "correction", "corrected")


class Meter:
    """Sums over the tokens of a step's micro-batches on this rank."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = dict.fromkeys(SUMS, 0.0)

    def add(self, name: str, value: Tensor) -> None:
        """Adds a scalar."""
        self.sums[name] += float(value)


def mean_facts(module: GRPO, meter: Meter, first: bool) -> dict[str, float]:
    """Means per token over all ranks; with several iterations per rollout those of the last."""
    sums = dict(zip(SUMS, module.over_ranks(*(meter.sums[name] for name in SUMS)), strict=True))
    tokens = max(sums["tokens"], 1.0)
    shown = {"kl": "train/kl", "ratio": "train/ratio", "clip_low": "train/clip_low", "clip_high": "train/clip_high"}
    shown["entropy"] = "train/entropy"
    if module.objective.correction is not None:
        shown |= {"correction": "rollout/correction", "corrected": "rollout/corrected"}
    if first:
        shown["gap"] = "rollout/logprob_gap"
    if not module.objective.beta:
        del shown["kl"]
    return {name: sums[key] / tokens for key, name in shown.items()}


def by_label(module: GRPO, found: list[Experience]) -> dict[str, float]:
    """Reward, accuracy, groups without advantage, spread and length by label; what was tried, kept and finished.

    `zero_adv/{label}` is split into all right and all wrong; its prediction p^G + (1 - p)^G would hold if every
    question of the label were answered with the label's accuracy p.
    """
    columns = [_columns(each) for each in found]
    table = {name: torch.cat([one[name] for one in columns]) for name in columns[0]}
    labels = [s.label or "unlabelled" for each in found for s in each.batch.samples]
    real = torch.cat([each.real for each in found])
    sums: list[float] = []
    for label in ("all", *LABELS):
        mine = real & torch.tensor([label in ("all", name) for name in labels])
        sums += [float(values[mine].sum()) for values in table.values()] + [float(mine.sum())]
    reduced = module.over_ranks(*sums)
    log: dict[str, float] = {}
    width = len(table) + 1
    for place, label in enumerate(("all", *LABELS)):
        *totals, count = reduced[place * width : (place + 1) * width]
        if count:
            means = {name: total / count for name, total in zip(table, totals, strict=True)}
            log |= {name.format(label=label): value for name, value in means.items()}
            p, size = means["accuracy/{label}"], found[0].group_size
            log[f"zero_adv/{label}/predicted"] = p**size + (1 - p) ** size
            log[f"seen/prompts/{label}"] = count
    log |= _filter_facts(module, found)
    return log | _rollout_facts(module, found)


def _columns(each: Experience) -> dict[str, Tensor]:
    """[B] float64 per prompt, named as logged."""
    rewards, accuracy, constant = each.grouped(each.scored.total), each.accuracy().mean(1), each.constant
    scorable = (~rewards.isnan()).double()
    mean = rewards.nan_to_num(0.0).sum(1) / scorable.sum(1).clamp(min=1)
    squares = ((rewards - mean[:, None]).nan_to_num(0.0) ** 2).sum(1)
    columns = {
        "reward/{label}": mean,
        "accuracy/{label}": accuracy,
        "zero_adv/{label}": constant.double(),
        "zero_adv/{label}/all_right": (constant & (accuracy > 0.5)).double(),
        "zero_adv/{label}/all_wrong": (constant & (accuracy <= 0.5)).double(),
        "group_std/{label}": (squares / (scorable.sum(1) - 1).clamp(min=1)).sqrt(),
        "rollout/tokens/{label}": each.grouped(each.done.mask.sum(1).cpu().double()).mean(1),
    }
    return columns | {
        f"reward/{name}/{{label}}": each.grouped(part).nan_to_num(0.0).mean(1)
        for name, part in each.scored.parts.items()
    }


def _filter_facts(module: GRPO, found: list[Experience]) -> dict[str, float]:
    """What dynamic sampling did: rounds, prompts that were tried for nothing, the labels' mix before and after."""
    data: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    if data.plan.dealt(found[0].batch.stage or data.training.stage).stage.on_zero_advantage == "keep":
        return {}
    tried = [(s.label, bool(r)) for s, r in zip(found[0].batch.samples, found[0].real, strict=True)]
    kept = [(s.label, bool(k)) for each in found for s, k in zip(each.batch.samples, each.kept, strict=True)]
    discarded = float(sum(int((each.real & ~each.kept).sum()) for each in found))
    discarded, trained = module.over_ranks(discarded, float(sum(k for _, k in kept)))
    log = {"filter/rounds": float(len(found) - 1), "filter/discarded": discarded, "filter/kept": trained}
    log |= {f"filter/mix_before/{label}": share for label, share in mix_of(module, tried).items()}
    return log | {f"filter/mix_after/{label}": share for label, share in mix_of(module, kept).items()}


def _rollout_facts(module: GRPO, found: list[Experience]) -> dict[str, float]:
    lengths = float(sum(each.done.mask.sum() for each in found))
    finished = float(sum(each.done.finished.sum() for each in found))
    rows = float(sum(len(each.texts) for each in found))
    lengths, finished, rows = module.over_ranks(lengths, finished, rows)
    return {"rollout/mean_tokens": lengths / rows, "rollout/finished": finished / rows}
