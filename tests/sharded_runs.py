"""Runs that several processes make under a strategy, and one alone: `torchrun -m ... ROOT OUT case ...`.

Every case ends with a file OUT/CASE.pt: the trained weights, whole, and what the steps logged.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch

from earwitness.datamodules.batches.requests import Augmentation, EvaluationSpec, TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.lightning_modules.callbacks.outputs import ExportPolicy
from earwitness.lightning_modules.callbacks.silent_probe import SilentProbe
from earwitness.lightning_modules.grpo import GRPO
from earwitness.lightning_modules.objectives.grpo_config import GRPOConfig
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.weights import merged_weights
from earwitness.lightning_modules.rollout.engine import Rollout
from earwitness.lightning_modules.rollout.sampling import PolicyEngine
from earwitness.lightning_modules.rollout.vllm_engine import VllmEngine
from earwitness.lightning_modules.sft import SFT
from earwitness.tests.grpo_parts import Kept
from earwitness.tests.trainers import trainer_of

SGD = partial(torch.optim.SGD, lr=0.05)
LORA = {"lora": Lora(rank=4)}


def data_of(small: Any, algorithm: str, **stage: Any) -> AudioQuestions:
    """Seven questions in batches of four: the last batch is partly filled."""
    stage = {"name": "it", "algorithm": algorithm, "batch_size": 4, "budget": {"samples": 7}, **stage}
    curriculum = {"seed": 3, "cells": ["label"], "stages": [stage]}
    training = TrainingSpec(curriculum, "it", shuffle_options=True, augmentation=Augmentation())
    asked = EvaluationSpec({"split": "val"}, batch_size=4)
    return AudioQuestions(small.index, small.tiny, small.labels, training, asked, asked)


def sft(small: Any, policy: dict[str, Any], **more: Any) -> tuple[Any, AudioQuestions]:
    """Supervised fine-tuning of weak questions, gradients clipped."""
    module = SFT(partial(OmniPolicy, small.tiny, **policy), SGD, max_grad_norm=0.5, micro_batch_size=1, **more)
    return module, data_of(small, "sft", pool={"label": "weak"})


def grpo(small: Any, policy: dict[str, Any], beta: float = 0.05, **more: Any) -> tuple[Any, AudioQuestions]:
    """GRPO by the policy engine, completions of unequal lengths, two steps on every rollout, refilled groups."""
    rewards: Any = {"earwitness.tests.grpo_parts.half": 1.0, "contribution": 0.1}
    more = {"rollout": Rollout(4, 1.0, 6, refill_rounds=1), "objective": GRPOConfig(beta=beta), **more}
    make = partial(OmniPolicy, small.tiny, **policy)
    module = GRPO(make, SGD, max_grad_norm=0.5, micro_batch_size=1, rewards=rewards, num_iterations=2, **more)
    return module, data_of(small, "grpo", pool={"label": "strong"}, on_zero_advantage="refill_same_cell")


class Mirror(PolicyEngine):
    """Samples, as an engine of its own would, from a second policy that takes over the weights it is sent."""

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def start(self, policy: OmniPolicy, rank: int, world_size: int) -> None:
        self.policy = OmniPolicy(self.checkpoint)

    def sync(self, policy: OmniPolicy) -> None:
        sent = {name: tensor.clone() for name, tensor in merged_weights(policy)}
        self.policy.base.load_state_dict(sent)


def online(small: Any) -> tuple[Any, AudioQuestions]:
    """A stage that follows what it observes: two steps a window, every second one probed."""
    module, _ = grpo(small, {})
    weight = {"product": [{"power": {"by": "live.p"}}, {"useful": {}}], "floor": 0.2}
    feedback = {"contribution": {"audio": 0.3, "strength": 4, "group_size": 2}}
    stage = {"window": 2, "probe": {"rate": 0.5}, "feedback": feedback, "weight": weight, "budget": {"steps": 4}}
    return module, data_of(small, "grpo", pool={"source": "sounds"}, **stage)


CASES: dict[str, Callable[[Any], tuple[Any, AudioQuestions]]] = {
    "sft-full": lambda small: sft(small, {}),
    "sft-lora": lambda small: sft(small, LORA),
    "grpo-full": lambda small: grpo(small, {}),
    "grpo-lora": lambda small: grpo(small, LORA),
}
MORE = {
    "mirror-full": lambda small: grpo(small, {}, engine=Mirror(small.tiny)),
    "mirror-lora": lambda small: grpo(small, LORA, engine=Mirror(small.tiny)),
    "online": lambda small: online(small),
}


def vllm(small: Any, policy: dict[str, Any], sync: str) -> tuple[Any, AudioQuestions]:
    """GRPO by a real vLLM in every process, which gets the weights in one of the ways to send them."""
    engine = VllmEngine(max_model_len=1024, enforce_eager=True, max_num_seqs=32, sync=sync)  # type: ignore[arg-type]
    return grpo(small, policy, engine=engine, rollout=Rollout(4, 1.5, 6, top_k=4, refill_rounds=1))


VLLM = {
    "vllm-full": lambda small: vllm(small, {}, "merged"),
    "vllm-lora": lambda small: vllm(small, LORA, "adapter"),
}
ADAM = partial(torch.optim.AdamW, lr=1e-3)
MOMENTUM = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def grouped(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Matrices decay, vectors do not: two groups, in another order than the policy's own."""
    matrices, vectors = ([p for p in parameters if (p.ndim > 1) == wanted] for wanted in (True, False))
    groups: list[dict[str, Any]] = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices}]
    return torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.1)


def saved(small: Any, policy: dict[str, Any], optimizer: Any) -> tuple[Any, AudioQuestions]:
    """Supervised fine-tuning by an optimizer whose state has to be continued."""
    module = SFT(partial(OmniPolicy, small.tiny, **policy), optimizer, micro_batch_size=2)
    return module, data_of(small, "sft", pool={"label": "weak"}, budget={"samples": 16})


CONTINUED = {
    "groups-full": lambda small: saved(small, {}, grouped),
    "momentum-lora": lambda small: saved(small, LORA, MOMENTUM),
    "adam-lora": lambda small: saved(small, LORA, ADAM),
}


KNOWN = CASES | CONTINUED | MORE | VLLM


def small_of(root: Path) -> SimpleNamespace:
    """The paths of the corpus that `conftest.py` makes."""
    return SimpleNamespace(
        index=str(root / "shards" / "index.arrow"), labels=str(root / "labels.arrow"), tiny=str(root / "tiny")
    )


def whole_weights(policy: OmniPolicy) -> dict[str, torch.Tensor]:
    """Name -> weight, gathered where it is sharded; of what trains."""
    found = {}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            tensor = parameter.detach()
            found[name] = (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).clone()
    return found


def digest(weights: dict[str, torch.Tensor]) -> str:
    """The same for the same bits."""
    parts = [weights[name].contiguous().view(torch.uint8).numpy().tobytes() for name in sorted(weights)]
    return sha256(b"".join(parts)).hexdigest()


class Rows(L.Callback):
    """Which rows every step had, in the order of the batch over all ranks."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        own = [sample.row for sample in batch.samples if sample.weight > 0]
        shares: list[Any] = [own] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(shares, own)
        dealt = zip_longest(*shares)  # the first rank has the first row, the second the next, ...
        self.steps.append([row for round_ in dealt for row in round_ if row is not None])


class Saves(L.Callback):
    """Saves the run after its second step, to a path."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch.step == 1:
            trainer.save_checkpoint(self.path)


def train(case: str, small: Any, out: Path, **options: Any) -> dict[str, Any]:
    """Trains a case, validates it, exports it; returns weights, logs and results.

    case: a name, with `@save=PATH` or `@load=PATH` behind it to save after two steps or to go on from there.
    """
    torch.manual_seed(1)  # adapters begin at random
    case, _, action = case.partition("@")
    verb, _, path = action.partition("=")
    module, data = KNOWN[case](small)
    kept, rows = Kept(), Rows()
    if verb == "save":
        options["callbacks"] = [Saves(path)]
    callbacks: list[L.Callback] = [
        kept,
        rows,
        SilentProbe(1),
        ExportPolicy(str(out / case)),
        *options.pop("callbacks", []),
    ]
    trainer = trainer_of(out, callbacks=callbacks, **options)
    trainer.fit(module, data, ckpt_path=path if verb == "load" else None)
    trainer.limit_val_batches = 1.0
    (validated,) = trainer.validate(module, data, verbose=False)
    logs = [{name: v for name, v in step.items() if not name.startswith("time/")} for step in kept.logs]
    trained = whole_weights(module.net)
    torch.manual_seed(1)
    start = whole_weights(KNOWN[case](small)[0].make_policy())
    moved = max(float((trained[name] - start[name]).abs().max()) for name in start)
    return {"weights": trained, "logs": logs, "validated": validated, "moved": moved, "rows": rows.steps}


def launch(root: Path, out: Path, world: int, strategy: str, *cases: str, timeout: float = 300) -> dict[str, Any]:
    """What so many processes saved that ran these cases under a strategy, such as `FSDP2(gather='step')`."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world)]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "earwitness.tests.sharded_runs"]
    done = subprocess.run(
        [*command, str(root), str(out), str(world), strategy, *cases],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    names = [case.partition("@")[0] for case in cases]
    return {name: torch.load(out / f"{name}.pt") for name in names}


def main(root: str, out: str, world: str, strategy: str, *cases: str) -> None:
    """What each process does."""
    from lightning.pytorch.strategies import DDPStrategy  # noqa: F401 (a name that `strategy` may use)

    from earwitness.lightning_modules.strategies.fsdp2 import FSDP2  # noqa: F401

    torch.set_num_threads(1)
    for case in cases:
        options = {"strategy": eval(strategy), "devices": int(world)}
        found = train(case, small_of(Path(root)), Path(out), **options)
        digests: list[Any] = [None] * int(world)
        torch.distributed.all_gather_object(digests, digest(found["weights"]))
        assert len(set(digests)) == 1, f"{case}: the ranks have other weights each"
        if torch.distributed.get_rank() == 0:
            torch.save(found, Path(out) / f"{case.partition('@')[0]}.pt")
    torch.distributed.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
