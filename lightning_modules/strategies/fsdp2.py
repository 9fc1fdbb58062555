"""The strategy that divides weights, gradients and optimizer states over the processes: torch's FSDP2."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ...errors import InputError
from ..checkpoints import restore, shards
from ..checkpoints.whole_file import WholeFile, unwritten
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
                f"trainer.strategy.shard_over: {size} processes for one copy do not divide the run's {self.world_size}"
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
        """Divides the weights of a policy, or of a reference, over the processes. offload: its parts lie on the CPU."""
        assert self.mesh is not None
        shard(policy, self.mesh, self.units, policy.compute_dtype, offload or self.cpu_offload)

    @contextmanager
    def update(self, policy: OmniPolicy) -> Iterator[None]:
        """Inside, backward passes add up the gradients of one step; afterwards they are averaged over all processes."""
        if self.gather == "step" or (self.gather == "auto" and policy.adapted):
            with whole(policy, for_backward=True):
                yield
        else:
            yield  # torch's hooks gather each unit, and reduce its gradients in every backward pass

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What a checkpoint's own file holds of the module: nothing that is sharded, nothing that is frozen."""
        module: Any = self.lightning_module
        weights = {name for name, _ in module.named_parameters()}
        return {name: value for name, value in module.state_dict().items() if name not in weights}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """What a checkpoint's own file holds of the optimizer: its settings."""
        state: dict[str, Any] = getattr(optimizer, "_optimizer", optimizer).state_dict()
        return {"state": {}, "param_groups": state["param_groups"]}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Writes the trainer's file on rank 0, and beside it a folder of shards to which every rank writes its part.

        InputError on all ranks where one cannot write.
        """
        file = Path(self.broadcast(filepath))
        folder = shards.folder_for(file, checkpoint["global_step"])
        partial = folder.with_name(f"{folder.name}.partial")
        trained = self._trained()
        tensors = {f"weights.{name}": parameter.detach() for name, parameter in trained.items()}
        for optimizer in self.optimizers:
            tensors |= shards.named_states(optimizer, trained)
        self._on_first(file, lambda: shards.begun(folder))
        try:
            shards.write(tensors, partial)
        except OSError as error:
            raise unwritten(file, error) from error

        def finish() -> None:
            shards.finished(partial, folder)
            whole_file = checkpoint | {shards.KEY: folder.name, "trained": list(trained)}
            self.checkpoint_io.save_checkpoint(whole_file, file, storage_options)
            shards.remove_others(file, folder)

        self._on_first(file, finish)

    def _on_first(self, file: Path, act: Callable[[], Any]) -> None:
        """Rank 0 does it, and the others wait; where it cannot, all of them raise the same InputError."""
        failed = None
        if self.is_global_zero:
            try:
                act()
            except (InputError, OSError) as error:
                failed = str(error if isinstance(error, InputError) else unwritten(file, error))
        failed = self.broadcast(failed)
        if failed:
            raise InputError(failed)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads weights and optimizer of a checkpoint, sharded over any number of ranks or whole; returns the rest."""
        file = Path(self.broadcast(checkpoint_path))
        checkpoint = WholeFile().load_checkpoint(file, weights_only=weights_only, whole=False)
        module: Any = self.lightning_module
        if shards.KEY in checkpoint:
            restore.from_shards(file.with_name(checkpoint[shards.KEY]), self._trained(), self.optimizers)
        else:
            restore.from_whole(checkpoint, file, dict(module.named_parameters()), self._trained(), self.optimizers)
        restore.settings(checkpoint, self.optimizers)
        return checkpoint

    def remove_checkpoint(self, filepath: Any) -> None:
        """Removes a checkpoint's file and its shards."""
        if self.is_global_zero:
            self.checkpoint_io.remove_checkpoint(filepath)
            shards.remove_others(Path(filepath), None)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Nothing to do: `load_checkpoint` loads the weights."""

    def _trained(self) -> dict[str, Any]:
        """The weights that train, in the optimizer's order."""
        module: Any = self.lightning_module
        return shards.in_order({name: p for name, p in module.named_parameters() if p.requires_grad}, self.optimizers)


NAME = "earwitness.fsdp2"  # trainers look names of strategies up in lower case
if NAME not in StrategyRegistry:
    StrategyRegistry.register(NAME, FSDP2, description="weights divided over the processes")
