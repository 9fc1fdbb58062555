"""How well labels find the planted truth: by votes alone, by the latent classes, with and without rotated options.

    python benchmarks/labels.py RUN [--source sounds] [--split test] [--scored] [--out FILE.json]

RUN is the folder of a finished recipe (demo, spoken_digits): its voters answer again, in one order of the options and
in all of them, by what they say and by the log-probs of the options. Their answers stay in RUN/labels.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from earwitness.commands.labelling.job import LabelJob, LocalVoter, VoterSpec
from earwitness.commands.labelling.run import run_job
from earwitness.curriculum.evaluation.evaluate import HEARD
from earwitness.curriculum.identity import keyed, uid_of, unit
from earwitness.curriculum.statistics import wilson_interval
from earwitness.curriculum.table import read_arrow
from earwitness.datamodules.voting.tasks import PromptingSpec

MANNERS = {
    "said, one order": PromptingSpec(rotations=1),
    "said, all orders": PromptingSpec(rotations="all"),
    "options scored, one order": PromptingSpec(scoring="options", rotations=1),
    "options scored, all orders": PromptingSpec(scoring="options", rotations="all"),
}


def planted(path: Path) -> dict[int, bool]:
    """uid -> whether the question can only be heard."""
    records = map(json.loads, path.read_text().splitlines())
    return {uid_of(*r["key"].split("/", 1)): r["planted"] == HEARD for r in records}


def areas(heard: np.ndarray, score: np.ndarray, draws: int = 1_000) -> np.ndarray:
    """Areas under the curve over resampled questions; the draws are hashed, so two scores see the same ones."""
    found = []
    for draw in range(draws):
        chosen = (unit(keyed(np.arange(len(heard), dtype=np.uint64), "auc", draw)) * len(heard)).astype(int)
        found.append(roc_auc_score(heard[chosen], score[chosen]))
    return np.array(found)


def interval(values: np.ndarray, value: float) -> list[float]:
    """The value with the middle 95 % of the resampled ones."""
    return [float(value), *map(float, np.quantile(values, [0.025, 0.975]))]


def quality(labels: Path, truth: dict[int, bool]) -> dict[str, Any]:
    """Agreement with the truth, and how well two scores order what can only be heard before the rest."""
    table = read_arrow(labels)
    uid = table.column("uid").to_pylist()
    known = np.array([u in truth for u in uid])
    heard = np.array([truth.get(u, False) for u in uid])[known]
    strong = np.array([name == "strong" for name in table.column("label").to_pylist()])[known]
    required = table.column("ac_vote").to_numpy()[known]
    votes = -table.column("votes").to_numpy()[known].astype(float)
    by_class, by_count = areas(heard, required), areas(heard, votes)
    exact = roc_auc_score(heard, required), roc_auc_score(heard, votes)
    agree = int((strong == heard).sum())
    return {
        "questions": len(heard),
        "agreement": [agree / len(heard), *wilson_interval(agree, len(heard))],
        "heard but labelled weak": float((~strong)[heard].mean()),
        "auc of the latent classes": interval(by_class, exact[0]),
        "auc of the number of votes": interval(by_count, exact[1]),
        "auc difference": interval(by_class - by_count, exact[0] - exact[1]),
    }


def main() -> None:
    """Prints and, where asked, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--source", default="sounds")
    parser.add_argument("--split", nargs="+", default=["train", "val", "test"])
    parser.add_argument("--scored", action="store_true", help="also by the log-probs of the options")
    parser.add_argument("--out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    truth = planted(args.run / "corpus" / "planted.jsonl")
    found: dict[str, Any] = {}
    for name, manner in MANNERS.items():
        if manner.scoring == "options" and not args.scored:
            continue
        temperature = 0.7 if manner.scoring == "generate" else 0.0
        voters = [
            VoterSpec(
                voter.name,
                manner,
                local=LocalVoter(str(voter / "model"), max_new_tokens=12, temperature=temperature, batch_size=64),
            )
            for voter in sorted(args.run.glob("voter_?"))
        ]
        out = args.run / "labels" / name.replace(",", "").replace(" ", "-")
        index = str(args.run / "shards" / "index.arrow")
        run_job(LabelJob(index, str(out), voters, {"source": args.source, "split": args.split}, bootstrap=100))
        found[name] = quality(out / "labels.arrow", truth)
        print(name, json.dumps(found[name]))
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
