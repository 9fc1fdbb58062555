"""Weights of a policy divided over ranks by torch's `fully_shard` (FSDP2), and gathered again where they are used.

Every decoder and audio layer is a unit of its own; the policy itself is the root, which holds what is left: embeddings,
lm_head, norms, convolutions, the projector. A unit is gathered when it computes, or all are once, by `whole`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ...errors import InputError
from .omni import OmniPolicy

UNITS = ("Qwen2_5OmniDecoderLayer", "Qwen2_5OmniAudioEncoderLayer")


def shard(
    policy: OmniPolicy,
    mesh: DeviceMesh,
    units: Sequence[str] = UNITS,
    compute: torch.dtype | None = None,
    offload: bool = False,
) -> None:
    """Divides the policy's weights over the mesh, in place; rank 0's trainable weights are everybody's.

    mesh: one dimension, or (replicas, shards) where several groups of ranks hold a copy each. units: class names of the
    modules that are gathered one by one. compute: dtype to gather and compute in; what trains is then kept in float32,
    what is frozen in `compute`. offload: shards and gradients lie on the CPU. InputError for a unit that is not there.
    """
    found = [module for module in policy.modules() if type(module).__name__ in units]
    for name in units:
        if not any(type(module).__name__ == name for module in found):
            raise InputError(f"trainer.strategy.units: the policy has no module of the class {name!r}")
    on_gpu = mesh.device_type == "cuda"
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(compute, torch.float32 if compute else None, cast_forward_inputs=False),
        "offload_policy": CPUOffloadPolicy(pin_memory=on_gpu) if offload else OffloadPolicy(),
    }
    for module in [*_idle(policy), *found, policy]:  # one after the other: whole weights are not held but of one
        _settle_weights(module, mesh, compute)
        fully_shard(module, **options)
    _settle(policy)
    policy.sharded = policy.by_layers = True


@contextmanager
def whole(policy: OmniPolicy, for_backward: bool = False) -> Iterator[None]:
    """Inside, every rank has all weights of a sharded policy, and nothing that it computes waits for another rank.

    Entering and leaving are collective operations. for_backward: any number of backward passes may be made inside;
    when it ends, the gradients are averaged over the ranks and each keeps its shard. Nothing to do for other policies,
    nor inside another `whole`.
    """
    if not policy.sharded or policy.gathered:
        yield
        return
    root: Any = policy
    units = _units(policy)
    root.set_is_last_backward(False)
    root.set_reshard_after_backward(False)
    for unit in units:  # not those that are never gathered: torch 2.13 would look for their gradients
        unit.set_requires_gradient_sync(False, recurse=False)
        unit.set_reshard_after_forward(False, recurse=False)
    for handle in [unit.unshard(async_op=True) for unit in units]:
        if handle is not None:
            handle.wait()
    policy.gathered = True
    done = False
    try:
        yield
        done = True
    finally:
        policy.gathered = False
        root.set_requires_gradient_sync(True)
        root.set_is_last_backward(True)
        root.set_reshard_after_backward(True)
        if done and for_backward:
            _reduce(policy)
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(unit is not policy, recurse=False)


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], most: float) -> Tensor:
    """Scales the gradients down to the L2 norm `most`, over all ranks where they are sharded; returns what it was."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not any(isinstance(gradient, DTensor) for gradient in gradients):
        return torch.nn.utils.clip_grad_norm_(parameters, most)
    norm: Any = torch.nn.utils.get_total_norm(gradients)
    total: Tensor = norm.full_tensor()
    torch._foreach_mul_([g.to_local() for g in gradients], min(1.0, most / (float(total) + 1e-6)))  # type: ignore[attr-defined]
    return total


def _units(policy: OmniPolicy) -> list[Any]:
    """The sharded modules that compute, the policy first."""
    idle = _idle(policy)
    return [module for module in policy.modules() if isinstance(module, FSDPModule) and module not in idle]


def _idle(policy: OmniPolicy) -> list[Any]:
    """Parts that never compute, and are never gathered."""
    visual = getattr(policy.base, "visual", None)
    return [] if visual is None else [visual]


@torch.no_grad()
def _settle_weights(module: Any, mesh: DeviceMesh, compute: torch.dtype | None) -> None:
    """Gives weights that are not sharded yet the type they are kept in, those that train with rank 0's values.

    In new memory: what was read from a checkpoint stays mapped from its file, which all ranks of a host share.
    """
    stored = None if compute is None else torch.promote_types(compute, torch.float32)
    for parameter in module.parameters():
        if isinstance(parameter, DTensor):
            continue
        if parameter.requires_grad:
            kept = parameter.data.to(mesh.device_type, stored or parameter.dtype, copy=True)
            torch.distributed.broadcast(kept, 0)
            parameter.data = kept
        elif compute is not None:
            parameter.data = parameter.data.to(compute)


def _settle(policy: Any) -> None:
    """Makes the policy the root, whatever part of it computes first. Private in torch 2.13."""
    policy._get_fsdp_state()._lazy_init()


def _reduce(policy: Any) -> None:
    """Averages gradients that backward passes without synchronisation left whole on every rank. Private in torch 2.13.

    What torch itself does when a backward pass ends, for all units in the same order on every rank.
    """
    policy._get_fsdp_state()._root_post_backward_final_callback()
