"""Checkpoints of any kind loaded into weights and optimizers that are sharded over the ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ...errors import InputError
from . import shards


@torch.no_grad()
def from_shards(folder: Path, trained: Mapping[str, Tensor], optimizers: Sequence[Any]) -> None:
    """Loads the weights that train, and their optimizer states where there are optimizers; a collective operation.

    InputError where the folder has no such weight.
    """
    tensors: dict[str, Any] = {f"weights.{name}": weight.detach() for name, weight in trained.items()}
    shapes = shards.shapes_in(folder) if optimizers else {}
    states: dict[str, dict[str, Tensor]] = {name: {} for name in trained}
    for name, weight in trained.items():
        prefix = f"optimizer.{name}."
        for key, (shape, dtype) in shapes.items():
            if key.startswith(prefix):
                like = shape == tuple(weight.shape)
                empty = torch.zeros_like(weight, dtype=dtype) if like else torch.zeros(shape, dtype=dtype)
                tensors[key] = states[name][key.removeprefix(prefix)] = empty
    shards.read_into(tensors, folder)
    for optimizer in optimizers:
        _set_states(optimizer, {trained[name]: state for name, state in states.items()})


@torch.no_grad()
def from_whole(
    checkpoint: Mapping[str, Any],
    file: Path,
    weights: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    optimizers: Sequence[Any],
) -> None:
    """Loads what one process or DDP saved; every rank takes its part. InputError where a weight that trains is missing.

    weights: all of the module. trained: those that train, in the optimizer's order.
    """
    saved = checkpoint["state_dict"]
    for name, weight in weights.items():
        if name in saved:
            if saved[name].shape != weight.shape:
                raise InputError(f"{file}: {name!r} has the shape {list(saved[name].shape)}, not {list(weight.shape)}")
            _local(weight).copy_(_local(_part(saved[name], weight)))
        elif name in trained:
            raise InputError(f"{file}: holds no {name!r}; it was saved by a run that trained other parts")
    for optimizer, state in zip(optimizers, checkpoint.get("optimizer_states", []), strict=False):
        found = [state["state"].get(number, {}) for number in range(len(trained))]
        parts = {
            weight: {key: _part(value, weight) for key, value in each.items()}
            for each, weight in zip(found, trained.values(), strict=True)
        }
        _set_states(optimizer, parts)


def settings(checkpoint: Mapping[str, Any], optimizers: Sequence[Any]) -> None:
    """Gives the optimizers the settings of the checkpoint, such as the learning rate.

    InputError where the optimizer has other groups of parameters than the one that was saved.
    """
    for optimizer, state in zip(optimizers, checkpoint.get("optimizer_states", []), strict=False):
        here, there = (
            [len(group["params"]) for group in groups] for groups in (optimizer.param_groups, state["param_groups"])
        )
        if here != there:
            raise InputError(
                f"the optimizer has groups of {here} parameters, in the checkpoint they have {there}; name the "
                "optimizer of then to continue, or start anew with --fresh"
            )
        for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
            group |= {name: value for name, value in saved.items() if name != "params"}


def _set_states(optimizer: Any, states: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
    for parameter, state in states.items():
        if state:
            optimizer.state[parameter] = dict(state)


def _part(value: Any, weight: Tensor) -> Any:
    """Of a whole tensor of the weight's shape, the part that this rank holds of the weight; of others all."""
    if not isinstance(value, Tensor) or value.shape != weight.shape:
        return value
    if not isinstance(weight, DTensor):
        return value.to(weight.device)
    part = distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)
    there = part.to_local().to(weight.to_local().device)  # offloaded weights lie on the CPU
    where = weight.device_mesh, weight.placements
    return DTensor.from_local(there, *where, run_check=False, shape=part.shape, stride=part.stride())


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
