"""Knows what a GRPO step logs: by contribution label, over all ranks, under the same names in every stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .data_metrics import LABELS, label_of
from .experience import Experience
from .observing import mix_of

if TYPE_CHECKING:
    from ..grpo import GRPO

SUMS = ("tokens", "kl", "ratio", "clip_low", "clip_high", "entropy", "gap", "correction", "corrected")
_NAMES = {
    "kl": "train/kl",
    "ratio": "train/ratio",
    "clip_low": "train/clip_low",
    "clip_high": "train/clip_high",
    "entropy": "train/entropy",
    "gap": "rollout/logprob_gap",
    "correction": "rollout/correction",
    "corrected": "rollout/corrected",
}


class Meter:
    """Sums over the tokens of a step's micro-batches on this rank, by label."""

    def __init__(self) -> None:
        self.sums = torch.zeros(len(SUMS), len(LABELS), dtype=torch.float64)

    def add(self, name: str, values: Tensor, labels: Tensor) -> None:
        """Adds values [n, C], 0 where nothing counts, of completions whose labels are these places in LABELS [n]."""
        rows = values.detach().sum(-1).double().cpu()
        self.sums[SUMS.index(name)].index_add_(0, labels, rows)


def label_places(each: Experience, rows: Tensor) -> Tensor:
    """[n] places in LABELS of these completions' labels, on the CPU."""
    places = torch.tensor([LABELS.index(label_of(s)) for s in each.batch.samples])
    return places[each.group[rows.cpu()]]


def mean_metrics(module: GRPO, meter: Meter) -> dict[str, float]:
    """Means per token over all ranks, of all and by label; with several iterations per rollout those of the last.

    The gap to the engine's log-probs is that of the first: later ones have learnt.
    """
    sums = torch.tensor(module.over_ranks(*meter.sums.ravel().tolist()), dtype=torch.float64).view_as(meter.sums)
    log: dict[str, float] = {}
    for place, label in [(slice(None), ""), *((slice(k, k + 1), f"/{name}") for k, name in enumerate(LABELS))]:
        totals = dict(zip(SUMS, sums[:, place].sum(1).tolist(), strict=True))
        if label and not totals["tokens"]:
            continue
        log |= {f"{shown}{label}": totals[name] / max(totals["tokens"], 1.0) for name, shown in _NAMES.items()}
    skipped = [] if module.objective.beta else ["train/kl"]
    if module.objective.correction is None:
        skipped += ["rollout/correction", "rollout/corrected"]
    return {name: value for name, value in log.items() if "/".join(name.split("/")[:2]) not in skipped}


def by_label(module: GRPO, found: list[Experience]) -> dict[str, float]:
    """Reward, accuracy, groups without advantage, spread and length by label; what was tried, kept and finished.

    `zero_adv/{label}` is split into all right and all wrong; its prediction p^G + (1 - p)^G would hold if every
    question of the label were answered with the label's accuracy p.
    """
    columns = [_columns(each) for each in found]
    table = {name: torch.cat([one[name] for one in columns]) for name in columns[0]}
    labels = [label_of(s) for each in found for s in each.batch.samples]
    real = torch.cat([each.real for each in found])
    sums: list[float] = []
    for label in ("all", *LABELS):
        mine = real & torch.tensor([label in ("all", name) for name in labels])
        for values in table.values():
            known = values[mine & ~values.isnan()]
            sums += [float(known.sum()), float(len(known))]
        sums.append(float(mine.sum()))
    reduced = iter(module.over_ranks(*sums))
    log: dict[str, float] = {}
    size = found[0].group_size
    for label in ("all", *LABELS):
        pairs = {name.format(label=label): (next(reduced), next(reduced)) for name in table}
        count = next(reduced)
        log |= {name: total / known for name, (total, known) in pairs.items() if known}
        if count:
            p = log[f"accuracy/{label}"]
            log[f"zero_adv/{label}/predicted"] = p**size + (1 - p) ** size
            log[f"seen/prompts/{label}"] = count
    log |= _filter_metrics(module, found)
    return log | _rollout_metrics(module, found)


def _columns(each: Experience) -> dict[str, Tensor]:
    """[B] float64 per prompt, named as logged; NaN where nothing of the group could be scored."""
    rewards, accuracy, constant = each.grouped(each.scored.total), each.accuracy().mean(1), each.constant
    scorable = (~rewards.isnan()).sum(1).double()
    squares = (rewards - rewards.nanmean(1, keepdim=True)).square().nansum(1)
    spread = (squares / (scorable - 1).clamp(min=1)).sqrt().where(scorable > 1, torch.nan)
    columns = {
        "reward/{label}": rewards.nanmean(1),
        "accuracy/{label}": accuracy,
        "zero_adv/{label}": constant.double(),
        "zero_adv/{label}/all_right": (constant & (accuracy > 0.5)).double(),
        "zero_adv/{label}/all_wrong": (constant & (accuracy <= 0.5)).double(),
        "group_std/{label}": spread,
        "rollout/tokens/{label}": each.grouped(each.done.mask.sum(1).cpu().double()).mean(1),
    }
    return columns | {
        f"reward/{name}/{{label}}": each.grouped(part).nanmean(1) for name, part in each.scored.parts.items()
    }


def _filter_metrics(module: GRPO, found: list[Experience]) -> dict[str, float]:
    """What dynamic sampling did: rounds, prompts that were tried for nothing, the labels' mix before and after."""
    data: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    if data.plan.stage_plan(found[0].batch.stage or data.training.stage).stage.on_zero_advantage == "keep":
        return {}
    tried = [(label_of(s), bool(r)) for s, r in zip(found[0].batch.samples, found[0].real, strict=True)]
    kept = [(label_of(s), bool(k)) for each in found for s, k in zip(each.batch.samples, each.kept, strict=True)]
    discarded = float(sum(int((each.real & ~each.kept).sum()) for each in found))
    discarded, trained = module.over_ranks(discarded, float(sum(k for _, k in kept)))
    log = {"filter/rounds": float(len(found) - 1), "filter/discarded_valid": discarded, "filter/kept": trained}
    log |= {f"filter/mix_before/{label}": share for label, share in mix_of(module, tried).items()}
    return log | {f"filter/mix_after/{label}": share for label, share in mix_of(module, kept).items()}


def _rollout_metrics(module: GRPO, found: list[Experience]) -> dict[str, float]:
    rows = [each.real[each.group] for each in found]
    lengths = float(sum(each.done.mask.sum(1).cpu()[mine].sum() for each, mine in zip(found, rows, strict=True)))
    finished = float(sum(each.done.finished.cpu()[mine].sum() for each, mine in zip(found, rows, strict=True)))
    lengths, finished, count = module.over_ranks(lengths, finished, float(sum(mine.sum() for mine in rows)))
    return {"rollout/mean_tokens": lengths / max(count, 1.0), "rollout/finished": finished / max(count, 1.0)}
