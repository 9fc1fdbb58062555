"""What a GRPO step logs: by contribution label, over all ranks, under the same names in every stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ranks import Ranks
from .data_metrics import LABELS, label_of
from .experience import Experience

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
    """Sums over the tokens of a step's micro-batches on this rank, by label; they stay on the device until `sums`."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._of: list[tuple[int, Tensor]] = []

    def add(self, name: str, values: Tensor, labels: Tensor) -> None:
        """Adds values [n, C], 0 where nothing counts, of completions whose labels are these places in LABELS [n]."""
        self._rows.append(values.detach().sum(-1).float())
        self._of.append((SUMS.index(name), labels))

    @property
    def sums(self) -> Tensor:
        """[sums, labels] float64 on the CPU, in one transfer."""
        sums = torch.zeros(len(SUMS), len(LABELS), dtype=torch.float64)
        if self._rows:
            flat = torch.cat(self._rows).cpu().double()
            for (number, labels), rows in zip(self._of, flat.split([len(r) for r in self._rows]), strict=True):
                sums[number].index_add_(0, labels, rows)
        return sums


def token_metrics(meter: Meter, ranks: Ranks, unused: Sequence[str] = ()) -> dict[str, float]:
    """Means per token over all ranks, of all and by label (`train/kl`, `train/kl/weak`, ...).

    unused: names of SUMS that this run does not measure; they are left out.
    """
    own = meter.sums
    sums = torch.tensor(ranks.sums(*own.ravel().tolist()), dtype=torch.float64).view_as(own)
    metrics: dict[str, float] = {}
    for place, label in [(slice(None), ""), *((slice(k, k + 1), f"/{name}") for k, name in enumerate(LABELS))]:
        totals = dict(zip(SUMS, sums[:, place].sum(1).tolist(), strict=True))
        if label and not totals["tokens"]:
            continue
        shown = {name: key for name, key in _NAMES.items() if name not in unused}
        metrics |= {f"{key}{label}": totals[name] / max(totals["tokens"], 1.0) for name, key in shown.items()}
    return metrics


def label_metrics(experiences: Sequence[Experience], ranks: Ranks) -> dict[str, float]:
    """Reward, accuracy, groups without advantage, spread and length by label; how long completions are, how many end.

    `zero_adv/{label}` is split into all right and all wrong; its prediction p^G + (1 - p)^G would hold if every
    question of the label were answered with the label's accuracy p.
    """
    columns = [_columns(experience) for experience in experiences]
    table = {name: torch.cat([one[name] for one in columns]) for name in columns[0]}
    labels = [label_of(sample) for experience in experiences for sample in experience.batch.samples]
    real = torch.cat([experience.real for experience in experiences])
    sums: list[Tensor] = []
    for label in ("all", *LABELS):
        chosen = real & torch.tensor([label in ("all", name) for name in labels])
        for values in table.values():
            known = values[chosen & ~values.isnan()]
            sums += [known.sum().double(), torch.tensor(float(len(known)), dtype=torch.float64)]
        sums.append(chosen.sum().double())
    reduced = iter(ranks.sums(*torch.stack(sums).tolist()))
    metrics: dict[str, float] = {}
    size = experiences[0].group_size
    for label in ("all", *LABELS):
        pairs = {name.format(label=label): (next(reduced), next(reduced)) for name in table}
        count = next(reduced)
        metrics |= {name: total / known for name, (total, known) in pairs.items() if known}
        if count:
            p = metrics[f"accuracy/{label}"]
            metrics[f"zero_adv/{label}/predicted"] = p**size + (1 - p) ** size
            metrics[f"seen/prompts/{label}"] = count
    return metrics | _rollout_metrics(experiences, ranks)


def _columns(experience: Experience) -> dict[str, Tensor]:
    """[B] float64 per prompt, named as logged; NaN where nothing of the group could be scored."""
    scored, constant = experience.scored, experience.constant
    rewards, accuracy = experience.grouped(scored.total), experience.accuracy().mean(1)
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
        "rollout/tokens/{label}": experience.grouped(experience.lengths.double()).mean(1),
    }
    parts = {f"reward/{name}/{{label}}": experience.grouped(part).nanmean(1) for name, part in scored.parts.items()}
    return columns | parts


def filter_metrics(experiences: Sequence[Experience], ranks: Ranks) -> dict[str, float]:
    """What dynamic sampling did: rounds, prompts that were tried for nothing, the labels' mix before and after.

    experiences: that of the batch, then those of its refills.
    """
    first = experiences[0]
    tried = [(label_of(s), bool(r)) for s, r in zip(first.batch.samples, first.real, strict=True)]
    kept = [(label_of(s), bool(k)) for e in experiences for s, k in zip(e.batch.samples, e.kept, strict=True)]
    discarded = float(sum(int((e.real & ~e.kept).sum()) for e in experiences))
    discarded, trained = ranks.sums(discarded, float(sum(counts for _, counts in kept)))
    metrics = {
        "filter/rounds": float(len(experiences) - 1),
        "filter/discarded_valid": discarded,
        "filter/kept": trained,
    }
    metrics |= {f"filter/mix_before/{label}": share for label, share in _mix(tried, ranks).items()}
    return metrics | {f"filter/mix_after/{label}": share for label, share in _mix(kept, ranks).items()}


def _mix(prompts: Sequence[tuple[str, bool]], ranks: Ranks) -> dict[str, float]:
    """Label -> share of the prompts [(label, counts)] that count, over all ranks."""
    counts = [float(sum(counts and name == label for name, counts in prompts)) for label in LABELS]
    totals = ranks.sums(*counts)
    return {label: count / sum(totals) for label, count in zip(LABELS, totals, strict=True) if count}


def _rollout_metrics(experiences: Sequence[Experience], ranks: Ranks) -> dict[str, float]:
    rows = [experience.real[experience.group] for experience in experiences]
    pairs = list(zip(experiences, rows, strict=True))
    lengths = float(sum(experience.lengths[real].sum() for experience, real in pairs))
    finished = float(sum(experience.completions.finished.cpu()[real].sum() for experience, real in pairs))
    lengths, finished, count = ranks.sums(lengths, finished, float(sum(real.sum() for real in rows)))
    return {"rollout/mean_tokens": lengths / max(count, 1.0), "rollout/finished": finished / max(count, 1.0)}
