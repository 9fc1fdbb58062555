"""The strategy that divides weights, gradients and optimizer states over the processes: torch's FSDP2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ...errors import InputError
from ..policy.omni import OmniPolicy
from ..policy.sharding import UNITS, shard, whole


class FSDP2(ModelParallelStrategy):
    """Every process holds a part of each weight, its gradient and its optimizer state.

    Args:
        gather: when an update gathers the weights: "layer" by layer, in every pass, which needs the least memory;
            "step": all of them once a step, which needs the least communication and room for all weights and for the
            gradients of what trains; "auto": the latter with LoRA, the former otherwise.
        shard_over: processes that hold one copy together; 0 for all. With fewer, as the GPUs of one node, each group
            holds a copy and exchanges gradients with the others (hybrid sharding).
        cpu_offload: parts lie in the CPU's memory, where the optimizer steps. recompute: as `gradient_checkpointing`
            of the policy. units: class names of the modules that are gathered one by one.
        process_group_backend, timeout_s: of the process group, as torch names it and in seconds.
    """

    def __init__(
        self,
        gather: Literal["auto", "layer", "step"] = "auto",
        shard_over: int = 0,
        cpu_offload: bool = False,
        recompute: bool = False,
        units: list[str] | None = None,
        process_group_backend: str | None = None,
        timeout_s: float = 1800.0,
    ) -> None:
        if gather not in ("auto", "layer", "step"):
            raise InputError(f"trainer.strategy.gather: auto, layer or step, got {gather!r}")
        if shard_over < 0:
            raise InputError(f"trainer.strategy.shard_over: a number of processes, or 0 for all, got {shard_over}")
        super().__init__(process_group_backend=process_group_backend, timeout=timedelta(seconds=timeout_s))
        self.gather, self.shard_over, self.cpu_offload, self.recompute = gather, shard_over, cpu_offload, recompute
        self.units = UNITS if units is None else tuple(units)
        self.mesh: DeviceMesh | None = None

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """How many parts data have, and which is this process's."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    def setup_environment(self) -> None:
        """Starts the process group. InputError where `shard_over` does not divide the number of processes."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        if self._process_group_backend is None and self.root_device.type == "cuda":
            self._process_group_backend = "cpu:gloo,cuda:nccl"  # the CPU's for offloaded shards and checkpoints
        super().setup_environment()
        size = self.shard_over or self.world_size
        if self.world_size % size:
            raise InputError(
                f"trainer.strategy.shard_over: {size} processes for one copy do not divide the {self.world_size} of the run"
            )
        shape, names = ((self.world_size // size, size), ("replicas", "shards"))
        mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=names)
        self.mesh = mesh["shards"] if size == self.world_size else mesh

    def setup(self, trainer: Any) -> None:
        """Divides the policy, unless it is already, moves everything else to the device, and makes the optimizer."""
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        module: Any = self.lightning_module
        policy, module.policy = module.policy, None  # offloaded shards must stay where they are
        module.to(self.root_device)
        module.policy = policy
        if not policy.sharded:
            self.shard(policy)
            if self.recompute:
                policy.recompute_layers()
        self.model = module
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def shard(self, policy: OmniPolicy, offload: bool = False) -> None:
        """Divides the weights of a policy, as those of a reference, over the processes. offload: its parts lie on the CPU."""
        assert self.mesh is not None
        compute = torch.bfloat16 if str(self.precision_plugin.precision).startswith("bf16") else None
        shard(policy, self.mesh, self.units, compute, offload or self.cpu_offload)

    @contextmanager
    def update(self, policy: OmniPolicy) -> Iterator[None]:
        """Inside, backward passes add up the gradients of one step; afterwards they are averaged over all processes."""
        if self.gather == "step" or (self.gather == "auto" and policy.adapted):
            with whole(policy, for_backward=True):
                yield
        else:
            yield  # torch's hooks gather each unit, and reduce its gradients in every backward pass

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Nothing to do: `load_checkpoint` loads the weights."""


if "earwitness.FSDP2" not in StrategyRegistry:
    StrategyRegistry.register("earwitness.FSDP2", FSDP2, description="weights divided over the processes")
