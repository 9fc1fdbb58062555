"""What a GRPO step costs beside the usual way: every completion with its own audio encoding, prompt and full logits.

    python benchmarks/grpo_step.py                 both, in turns, each in a process of its own
    python benchmarks/grpo_step.py --vocabulary 32768

Both train the same tiny Qwen2.5-Omni on the same questions with the same hashed draws, so their first gradients agree.
Time is the median of the steps after the first, memory the growth of the process's peak over its size before them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from earwitness.datamodules.batch import Prompts
from earwitness.datamodules.batches.requests import TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.kernels.linear_logprob import LogProbOutput, TokenLoss
from earwitness.lightning_modules.grpo import GRPO
from earwitness.lightning_modules.objectives.grpo_config import GRPOConfig
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.rollout.engine import Rollout
from earwitness.lightning_modules.rollout.sampling import PolicyEngine, sample

GROUP, PROMPTS, TOKENS, STEPS = 8, 8, 32, 6


def per_completion(prompts: Prompts, rows: torch.Tensor) -> Prompts:
    """Every completion's own copy of its prompt and recording."""
    clips = prompts.clip_of_row[rows]
    return Prompts(
        prompts.prefix_ids[clips],
        prompts.prefix_mask[clips],
        prompts.features[clips],
        prompts.feature_mask[clips],
        prompts.suffix_ids[rows],
        prompts.suffix_mask[rows],
        torch.arange(len(rows)),
    )


class UsualPolicy(OmniPolicy):
    """Encodes and reads every completion by itself, and takes the log-softmax of all logits."""

    def forward(  # type: ignore[override]
        self, prompts, ids, mask, rows=None, temperature=1.0, entropy=False, support=None, said=None, loss=None
    ) -> LogProbOutput | TokenLoss:
        hidden = self._hidden_unshared(per_completion(prompts, rows), ids, mask, torch.arange(len(rows)))
        logits = (hidden @ self.head.T).float() / temperature
        logits = logits.index_fill(-1, self.suppressed, -torch.inf)
        every = logits.log_softmax(-1)
        logprob = every.gather(-1, ids[..., None]).squeeze(-1) * mask
        spread = -(every.exp() * every.clamp(min=-1e4)).sum(-1).detach() * mask
        if loss is None:
            return LogProbOutput(logprob, spread)
        places = said.places(ids)
        return TokenLoss(loss(logprob.reshape(-1)[places], places).sum(), logprob.detach(), spread)


class UsualEngine(PolicyEngine):
    """A group is so many copies of a prompt."""

    def complete(self, batch, rollout, keys):
        rows = torch.arange(len(batch)).repeat_interleave(rollout.group_size)
        how = {"max_new_tokens": rollout.max_new_tokens, "temperature": rollout.temperature}
        return replace(sample(self.policy, per_completion(batch.prompts, rows), keys=keys, **how), prompt_of_row=rows)


def spread(completions, **columns):
    """A reward that differs within groups."""
    return [float(len(text) % 7) for text in completions]


class Watch(L.Callback):
    """Seconds of every step, and of its parts."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.gradients: list[float] = []
        self._now: dict[str, float] = {}

    def on_train_start(self, trainer, module) -> None:
        tower, watch = module.net.tower, self
        tower.register_forward_pre_hook(lambda *_: watch._now.update(tower=time.perf_counter()))
        tower.register_forward_hook(lambda *_: watch._add("encode", "tower"))

    def _add(self, phase: str, since: str) -> None:
        self._now[phase] = self._now.get(phase, 0.0) + time.perf_counter() - self._now[since]

    def on_train_batch_start(self, *_) -> None:
        self._now = {"step": time.perf_counter()}

    def on_before_backward(self, *_) -> None:
        self._now["back"] = time.perf_counter()

    def on_after_backward(self, *_) -> None:
        self._add("backward", "back")

    def on_train_batch_end(self, trainer, *_) -> None:
        self._add("whole", "step")
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        found = {"whole": self._now["whole"], "backward": self._now["backward"], "encode": self._now["encode"]}
        found |= {name: seen[f"time/{name}_s"] for name in ("rollout", "logprob", "update")}
        self.steps.append(found)
        self.gradients.append(seen["train/grad_norm"])


def child(variant: str, folder: Path) -> dict[str, Any]:
    """Trains a few steps; returns medians and the peak."""
    torch.set_num_threads(1)
    stage = {"name": "grpo", "algorithm": "grpo", "batch_size": PROMPTS, "budget": {"steps": STEPS}}
    data = AudioQuestions(
        str(folder / "shards" / "index.arrow"),
        str(folder / "tiny"),
        training=TrainingSpec(
            {"seed": 1, "cells": ["source"], "stages": [stage]}, "grpo", {"split": "train", "source": "sounds"}
        ),
    )
    usual = variant == "usual"
    module = GRPO(
        partial(UsualPolicy if usual else OmniPolicy, str(folder / "tiny")),
        partial(torch.optim.SGD, lr=1e-3),
        max_grad_norm=1e9,
        micro_batch_size=4,
        rollout=Rollout(GROUP, 1.0, TOKENS),
        objective=GRPOConfig(beta=0.01),
        rewards={"__main__.spread": 1.0},
        engine=UsualEngine() if usual else PolicyEngine(),
    )
    module.configure_model()
    before, watch = _peak(), Watch()
    L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[watch],
    ).fit(module, data)
    middle = {name: statistics.median(step[name] for step in watch.steps[1:]) for name in watch.steps[0]}
    return {"seconds": middle, "peak_mib": (_peak() - before) / 2**20, "gradients": watch.gradients}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def prepare(folder: Path, vocabulary: int) -> None:
    """A corpus of generated sounds and a tiny model, its vocabulary widened to so many words."""
    from earwitness.datamodules.corpora.sounds import build_sounds
    from earwitness.datamodules.shards.packing import shard
    from earwitness.lightning_modules.policy import tiny

    build_sounds(str(folder / "corpus"), train=64, val=4, test=4, listening=4, reading=4)
    questions = str(folder / "corpus" / "questions.jsonl")
    shard(questions, str(folder / "shards"))
    tiny.build_tiny(questions, str(folder / "tiny"))
    widened(folder / "tiny", vocabulary)


def widened(checkpoint: Path, vocabulary: int) -> None:
    """Has a tiny checkpoint's vocabulary hold so many words, which no prompt holds."""
    from types import SimpleNamespace

    from transformers import AutoTokenizer, WhisperFeatureExtractor

    from earwitness.lightning_modules.policy.checkpoint import load_thinker, save_thinker, thinker_state

    thinker = load_thinker(checkpoint)
    if vocabulary <= thinker.config.text_config.vocab_size:
        return
    thinker.resize_token_embeddings(vocabulary, mean_resizing=False)
    thinker.config.text_config.vocab_size = vocabulary
    files = SimpleNamespace(
        tokenizer=AutoTokenizer.from_pretrained(checkpoint),
        feature_extractor=WhisperFeatureExtractor.from_pretrained(checkpoint),
    )
    save_thinker(thinker_state(thinker), thinker.config, files, checkpoint)


def measure(vocabulary: int, rounds: int) -> dict[str, Any]:
    """Both variants in turns."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "usual": []}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), vocabulary)
        for _ in range(rounds):
            for variant, results in found.items():
                words = [sys.executable, __file__, "--variant", variant, "--folder", folder]
                done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
                if done.returncode:
                    sys.exit(done.stderr[-3000:])
                results.append(json.loads(done.stdout.splitlines()[-1]))
    # Later steps may part: one draw that rounding turns the other way is another rollout.
    gap = abs(found["ours"][0]["gradients"][0] / found["usual"][0]["gradients"][0] - 1)
    whole = {name: statistics.median(r["seconds"]["whole"] for r in runs) for name, runs in found.items()}
    peaks = {name: statistics.median(r["peak_mib"] for r in runs) for name, runs in found.items()}
    return {
        "vocabulary": vocabulary,
        "group": GROUP,
        "prompts": PROMPTS,
        "new_tokens": TOKENS,
        "time_ratio": round(whole["usual"] / whole["ours"], 2),
        "memory_ratio": round(peaks["usual"] / peaks["ours"], 2),
        "peak_mib": {name: round(value) for name, value in peaks.items()},
        "gap_of_the_first_gradients_norm": gap,
        "shares": {name: _shares(runs) for name, runs in found.items()},
    }


def _shares(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Of the step's time: rollout and log-prob passes without their encoding, encoding, backward, the rest."""
    each = [r["seconds"] for r in runs]
    middle = {name: statistics.median(seconds[name] for seconds in each) for name in each[0]}
    whole = middle["whole"]
    shares = {name: middle[name] / whole for name in ("rollout", "encode", "backward")}
    shares["fixed log-probs"] = middle["logprob"] / whole
    shares["forward"] = (middle["update"] - middle["backward"]) / whole
    return {name: round(value, 3) for name, value in shares.items()}


def main() -> None:
    """Measures and prints; with --variant one process's part of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[576, 32_768])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--variant", choices=["ours", "usual"])
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.variant:
        print(json.dumps(child(given.variant, given.folder)))
        return
    results = {
        "machine": f"{platform.processor() or platform.machine()}, one core, torch {torch.__version__}",
        "note": "encoding happens inside rollout, fixed log-probs and forward; its share overlaps with theirs",
        "runs": [measure(size, given.rounds) for size in given.vocabulary],
    }
    print(json.dumps(results, indent=1))
    if given.out:
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
