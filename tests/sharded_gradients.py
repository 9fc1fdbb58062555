"""Gradients of a sharded policy beside those of a whole one: `torchrun -m ... CHECKPOINT OUT`, any even world size."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch.distributed.device_mesh import init_device_mesh

from earwitness.datamodules.batch import Prompts, Sample
from earwitness.datamodules.questions.question import parse_question
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.dry_run import Allocated
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.sharding import clip_gradients, shard, whole
from earwitness.lightning_modules.policy.weights import adapter_weights, merged_weights
from earwitness.tests.lightning_modules.policy.test_policy import CLIP_OF_ROW, CLIPS, RECORDS

# What each of two ranks does, pass by pass: prompts 0 and 2 share a recording, and only rank 0 has both.
PASSES = (([0, 2], [0]), ([1], [3]))
COUNTS = ((True, False), (True, True))  # a pass that counts for nothing keeps its rank busy


def prompts_of(policy: OmniPolicy) -> Prompts:
    questions = [parse_question(r, "test") for r in (*RECORDS, RECORDS[0])]
    clips = [np.random.default_rng(n).normal(0, 0.1, n).astype(np.float32) for n in CLIPS]
    return policy.processor.batch([Sample(q, q.choices) for q in questions], clips, ["a"] * 4, CLIP_OF_ROW).prompts


def loss_of(policy: OmniPolicy, prompts: Prompts, rows: list[int], counts: bool = True) -> torch.Tensor:
    """The sum of two completions' log-probs per prompt, which are of unequal length."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(int(policy.suppressed.min()), (8, 5), generator=generator)
    mask = (torch.arange(5) < torch.tensor([5, 1, 3, 4, 2, 5, 5, 3])[:, None]).long() * counts
    weights = torch.randn(8, 5, generator=generator)
    chosen = torch.tensor([2 * row + n for row in rows for n in range(2)])
    prompt_of_row = torch.arange(len(rows)).repeat_interleave(2)
    logprob = policy(prompts.select(torch.tensor(rows)), ids[chosen], mask[chosen], prompt_of_row).logprob
    return (logprob * weights[chosen]).sum()


def make(checkpoint: str, lora: bool, recompute: bool, dtype: str = "float32") -> OmniPolicy:
    torch.manual_seed(2)
    policy = OmniPolicy(checkpoint, dtype=dtype, lora=Lora(rank=4) if lora else None, gradient_checkpointing=recompute)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return policy


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def case(
    checkpoint: str, lora: bool, recompute: bool, once: bool, size: int, offload: bool, double: bool = False
) -> dict[str, float]:
    """Largest differences of gradients, norm, log-probs without gradients and weights on their way to an engine.

    double: in float64, where sums in another order are the same to 1e-15 and nothing else may differ.
    """
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    plain, policy = make(checkpoint, lora, False), make(checkpoint, lora, recompute)
    if double:
        plain, policy = plain.double(), policy.double()
    prompts = prompts_of(plain)
    replicas = world // 2
    for passes, counts in zip(PASSES, COUNTS, strict=True):
        for rows, real in zip(passes, counts, strict=True):
            (loss_of(plain, prompts, rows, real) / 10).backward()
    wanted = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    if rank:  # rank 0's weights are everybody's
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.1 * parameter.requires_grad)
    mesh = init_device_mesh("cpu", (world // size, size), mesh_dim_names=("replicas", "shards"))
    shard(policy, mesh["shards"] if size == world else mesh, offload=offload)
    found = {"weights": 0.0}
    reading = [merged_weights, adapter_weights] if lora else [merged_weights]
    for weights in reading:
        expected = dict(weights(plain))
        for name, tensor in weights(policy):
            found["weights"] = max(found["weights"], float((tensor - expected[name]).abs().max()))
    with torch.no_grad(), whole(policy):  # ranks read as often as they like
        rows = [0, 1, 2, 3] if rank % 2 else [0]
        for _ in range(1 + rank):
            found["logprob"] = float((loss_of(policy, prompts, rows) - loss_of(plain, prompts, rows)).abs())
    for _ in range(2):  # what one update leaves behind must not disturb the next
        policy.zero_grad()
        with whole(policy, for_backward=True) if once else nullcontext():
            for rows, real in zip(PASSES[rank % 2], COUNTS[rank % 2], strict=True):
                (loss_of(policy, prompts, rows, real) / 10 / replicas * world).backward()
    ours = {name: gathered(p.grad) for name, p in policy.named_parameters() if p.grad is not None}
    assert set(ours) == set(wanted)
    found["gradients"] = max(float((ours[name] - gradient).abs().max()) for name, gradient in wanted.items())
    found["size"] = max(float(gradient.abs().max()) for gradient in wanted.values())
    norms = [clip_gradients([p for p in each.parameters() if p.requires_grad], 0.01) for each in (policy, plain)]
    found["norm"] = float((norms[0] - norms[1]).abs() / norms[1])
    ours = {name: gathered(p.grad) for name, p in policy.named_parameters() if p.grad is not None}
    found["clipped"] = max(float((ours[name] - gradient).abs().max()) for name, gradient in wanted.items())
    return found


def half(checkpoint: str, once: bool) -> dict[str, float]:
    """Shards in float32, computed with in bfloat16: like the rounded policy, and nothing of the weights is lost."""
    policy, mesh = make(checkpoint, False, False), init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    rounded = make(checkpoint, False, False)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    exact = {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}
    prompts = prompts_of(rounded)
    wanted = float(loss_of(rounded, prompts, [0, 2]).detach())
    sizes = [
        sum(p.numel() for p in part.parameters()) for part in (*policy.base.get_decoder().layers, *policy.tower.layers)
    ]
    trained = sum(p.numel() for p in exact.values())
    with Allocated() as counter:
        shard(policy, mesh, compute=torch.bfloat16)
    spare = counter.peak / 4 - trained / mesh.size()  # beside the parts that stay
    with whole(policy, for_backward=True) if once else nullcontext():
        loss = loss_of(policy, prompts, [0, 2])
        loss.backward()
        loss_of(policy, prompts, [1]).backward()
    kept = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    lost = max(float((gathered(p.detach()) - exact[name]).abs().max()) for name, p in kept.items())
    types = {p.dtype for p in kept.values()} | {p.grad.dtype for p in kept.values() if p.grad is not None}
    found = {"loss": abs(float(loss.detach()) - wanted), "lost": lost, "float32": float(types == {torch.float32})}
    return found | {"spare": spare / max(*sizes, trained - sum(sizes)), "parts": trained / max(sizes)}


def main(checkpoint: str, out: str) -> None:
    """Writes OUT, a JSON file of every case's differences."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    world, found = torch.distributed.get_world_size(), {}
    for lora, recompute, once in product((False, True), repeat=3):
        options = [(world, False)] if world == 2 else [(2, False)]
        if world == 2 and not recompute:
            options.append((world, True))
        for size, offload in options:
            name = f"lora={lora} recompute={recompute} once={once} size={size} offload={offload}"
            found[name] = case(checkpoint, lora, recompute, once, size, offload)
    for lora in (False, True):
        found[f"float64, lora={lora}"] = case(checkpoint, lora, False, False, 2, False, double=True)
    found |= {f"half, once={once}": half(checkpoint, once) for once in (False, True)}
    if torch.distributed.get_rank() == 0:
        Path(out).write_text(json.dumps(found))
    torch.distributed.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
