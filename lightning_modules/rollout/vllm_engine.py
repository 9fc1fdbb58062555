"""The engine that samples with one vLLM inside the training process: started, given weights, asked, put to sleep.

Deviation from the engine that samples with the policy itself: a draw is not a hash of its completion's key. vLLM draws
from the process's generators, which are set, for each call, to a hash of the seed, the rank and all its keys, and put
back afterwards. The same calls on the same machine give the same completions; another batch order does not.
"""

from __future__ import annotations

import gc
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file

from ...boundary.files import write_text
from ...curriculum.identity import hash64
from ...datamodules.batch import Batch, Prompts
from ...errors import InputError
from ..policy.checkpoint import PREFIX
from ..policy.omni import OmniPolicy
from ..policy.weights import (
    CHUNK_BYTES,
    Weights,
    adapter_config,
    adapter_weights,
    chunks,
    merged_weights,
    without_vision,
)
from .engine import Completions, Engine, Rollout
from .vllm_format import TokenIds, completions_of, num_logprobs, num_positions, vllm_prompts

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the sizes of room for adapters that vLLM knows
_SERVED_LORA_RANK = 64  # a server starts before it knows the rank of the adapters that will come
_MAX_LOGPROBS = 128
_SETTINGS = {  # what exact log-probs, features instead of waves, and stops of our own need
    "logprobs_mode": "processed_logprobs",
    "enable_mm_embeds": True,
    "generation_config": "vllm",
    "limit_mm_per_prompt": {"audio": 1, "image": 0, "video": 0},
}


class VllmEngine(Engine):
    """A vLLM on the training process's own device; one per rank, each with the whole model.

    Args:
        gpu_memory_utilization: share of the device's memory that vLLM may take, weights included.
        max_model_len: positions of the longest prompt and completion together.
        tensor_parallel_size: devices for one engine; more than one only with a single training process.
        dtype: of vLLM's weights; "auto" is that which the policy computes in. Another dtype makes ratios differ from 1.
        enforce_eager: no CUDA graphs: slower, starts sooner. max_num_seqs: completions sampled at once.
        sync: "merged" sends all weights, adapters added; "adapter" sends the adapters alone and needs policy.lora.
        sleep: gives the device's memory back between rollouts; needs a GPU.
        seed: of the draws, with the rank. options: further arguments of vLLM's LLM, by name.
    """

    def __init__(
        self,
        gpu_memory_utilization: float = 0.45,
        max_model_len: int = 4096,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        enforce_eager: bool = False,
        max_num_seqs: int = 256,
        sync: Literal["merged", "adapter"] = "merged",
        sleep: bool = False,
        seed: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        options = dict(options or {})
        if fixed := sorted(options.keys() & (_SETTINGS.keys() | {"seed", "model"})):
            raise InputError(f"engine.options: {fixed[0]} is set by earwitness; leave it out")
        if sync not in ("merged", "adapter"):
            raise InputError(f'engine.sync: {sync!r} is neither "merged" nor "adapter"')
        self.settings = {
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_model_len": max_model_len,
            "tensor_parallel_size": tensor_parallel_size,
            "enforce_eager": enforce_eager,
            "max_num_seqs": max_num_seqs,
            "max_logprobs": _MAX_LOGPROBS,
            **options,
        }
        self.dtype, self.sync_mode, self.sleeps, self.seed, self.rank = dtype, sync, sleep, seed, 0
        self._llm: Any = None
        self._asleep = self._has_weights = self._shares_groups = False
        self._adapter: tuple[Any, tempfile.TemporaryDirectory[str]] | None = None  # vLLM's request, and its files
        self._num_adapters = 0

    def start(self, policy: OmniPolicy, rank: int, world_size: int) -> None:
        """Starts vLLM on the policy's checkpoint, on the policy's device. InputError where the settings forbid it."""
        device = policy.suppressed.device
        if self.sleeps and device.type != "cuda":
            raise InputError("engine.sleep: only a GPU's memory can be given back; set sleep: false")
        dtype = str(policy.compute_dtype).removeprefix("torch.") if self.dtype == "auto" else self.dtype
        more: dict[str, Any] = {}
        if self.sync_mode == "adapter":
            more["max_lora_rank"] = int(adapter_config(policy)["r"])
        if world_size > 1:
            if self.settings["tensor_parallel_size"] > 1:
                raise InputError("engine.tensor_parallel_size: 1 with several training processes; or use a server")
            more["distributed_executor_backend"] = "external_launcher"
            os.environ.setdefault("RANK", str(rank))
            os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
        self.open(policy.checkpoint, dtype, rank, **more)
        self.tokens = TokenIds.of(policy)

    def open(self, checkpoint: str, dtype: str, rank: int = 0, **settings: Any) -> None:
        """Starts vLLM on a checkpoint; `settings`, arguments of vLLM's LLM, win over the constructor's.

        InputError where vLLM is not installed, has no room for the adapters, or does not start.
        """
        # A process of its own could not be handed tensors; all must be set before vLLM is imported.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        try:
            from vllm import LLM
        except ImportError as error:
            raise InputError(f"engine: vLLM cannot be imported ({error}); pip install 'earwitness[vllm]'") from error
        settings = self.settings | settings
        if self.sync_mode == "adapter":
            rank_needed = settings.get("max_lora_rank", _SERVED_LORA_RANK)
            fitting = [size for size in _LORA_RANKS if size >= rank_needed]
            if not fitting:
                raise InputError(f"policy.lora.rank: {rank_needed}, vLLM takes at most {_LORA_RANKS[-1]}; sync: merged")
            settings |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": fitting[0]}
        self.rank, self._shares_groups = rank, torch.distributed.is_initialized()
        settings |= {"enable_sleep_mode": self.sleeps, "seed": self.seed + rank, "dtype": dtype, **_SETTINGS}
        try:
            with _seeded(self.seed + rank):
                self._llm = LLM(model=checkpoint, **settings)
        except (TypeError, ValueError, RuntimeError) as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"engine: vLLM did not start on {checkpoint} ({why}); where memory is short, lower "
                "gpu_memory_utilization or max_model_len"
            ) from error

    def sync(self, policy: OmniPolicy) -> None:
        """Gives vLLM the policy's present weights, or adapters, and drops all that it computed with others."""
        if self.sync_mode == "adapter":
            self.update_weights(lambda: self.load_adapter(adapter_weights(policy), adapter_config(policy)))
        else:
            self.update_weights(lambda: self.load_weights(merged_weights(policy, policy.compute_dtype)))

    def update_weights(self, change: Callable[[], None]) -> None:
        """Loads weights by calling `change`, vLLM awake and its caches empty afterwards; until then nothing is sampled.

        Weights that slept are gone or old. So the memory for them is woken first, filled next, and only then the rest.
        ValueError where vLLM keeps its cache of keys and values.
        """
        self._has_weights = False
        if self._asleep:
            self._llm.wake_up(tags=["weights"])
        change()
        if self._asleep:
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()
        if not self._llm.reset_prefix_cache():
            raise ValueError("vLLM keeps keys and values of a request that is still running")
        self._has_weights = True

    def load_weights(self, weights: Weights) -> None:
        """Replaces vLLM's weights by those of a whole thinker."""
        named = ((PREFIX + name, tensor) for name, tensor in without_vision(weights))
        if self.settings["tensor_parallel_size"] == 1:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": named})
            return
        with tempfile.TemporaryDirectory(prefix="earwitness-weights-") as folder:  # the workers are other processes
            for number, part in enumerate(chunks(named, CHUNK_BYTES)):
                save_file(part, Path(folder) / f"model-{number:05d}.safetensors", {"format": "pt"})
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})

    def load_adapter(self, weights: Weights, config: dict[str, Any]) -> None:
        """Puts adapters, with peft's config, in the place of the ones before. ValueError where vLLM does not take them.

        They get a number that was never used: under a known one vLLM would keep the old adapters.
        """
        from vllm.lora.request import LoRARequest

        if self._adapter is not None:
            self._llm.llm_engine.remove_lora(self._adapter[0].lora_int_id)
            self._adapter[1].cleanup()
            self._adapter = None
        self._num_adapters += 1
        folder = tempfile.TemporaryDirectory(prefix="earwitness-adapter-")
        (part,) = chunks(weights, 1 << 62)
        save_file(part, Path(folder.name) / "adapter_model.safetensors", {"format": "pt"})
        write_text(Path(folder.name) / "adapter_config.json", json.dumps(config))
        self._adapter = LoRARequest(f"policy-{self._num_adapters}", self._num_adapters, folder.name), folder
        if not self._llm.llm_engine.add_lora(self._adapter[0]):
            raise ValueError("vLLM did not take the adapter")

    def complete(self, batch: Batch, rollout: Rollout, keys: Sequence[int]) -> Completions:
        """[N = B x group_size] completions; a recording is encoded once and a prompt read once for its group.

        keys: [N] seed the draws of the whole call, see above.
        """
        return self.generate(batch.prompts, rollout, keys, self.tokens)

    def generate(self, prompts: Prompts, rollout: Rollout, keys: Sequence[int], tokens: TokenIds) -> Completions:
        """As `complete`, for a policy that is known by its token ids alone.

        InputError where a prompt and its completion have more positions than max_model_len; ValueError before `sync`.
        """
        if not self._has_weights:
            raise ValueError("the engine has no weights of this step: sync comes before complete, also after rest")
        room, needed = self.settings["max_model_len"], num_positions(prompts) + rollout.max_new_tokens
        if needed > room:
            raise InputError(f"engine.max_model_len: {room}, a prompt and its completion need {needed} positions")
        from vllm import SamplingParams

        asked = num_logprobs(rollout, tokens.vocabulary, self.settings["max_logprobs"])
        sampling = SamplingParams(
            n=rollout.group_size,
            temperature=rollout.temperature,
            top_k=rollout.top_k,
            top_p=rollout.top_p,
            max_tokens=rollout.max_new_tokens,
            stop_token_ids=list(tokens.stops),
            ignore_eos=True,  # the stops above are all there are, whatever the checkpoint's files say
            logit_bias=dict.fromkeys(tokens.suppressed, -torch.inf),  # only the constructor takes it unclamped
            logprobs=asked,
            flat_logprobs=True,
            detokenize=False,
        )
        adapter = None if self._adapter is None else self._adapter[0]
        with _seeded(hash64("vllm", self.seed, self.rank, *keys)):
            outputs = self._llm.generate(vllm_prompts(prompts, tokens), sampling, use_tqdm=False, lora_request=adapter)
        return completions_of(outputs, rollout, tokens, asked, prompts.suffix_ids.device)

    def rest(self) -> None:
        """Where `sleep` is set, frees the GPU: merged weights are dropped, a base under adapters moves to the CPU."""
        self._has_weights = False
        if self.sleeps and not self._asleep:
            self._llm.sleep(level=1 if self.sync_mode == "adapter" else 2)
            self._asleep = True

    def close(self) -> None:
        """Ends vLLM and frees its memory; the training's own process groups stay."""
        self._has_weights = False
        if self._llm is not None:
            core = self._llm.llm_engine.engine_core
            if self._shares_groups:  # vLLM's own shutdown, also by the garbage collector, ends the training's groups
                core._finalizer.detach()
                core.engine_core.model_executor.shutdown()
            else:
                core.shutdown()
            self._llm = None
            gc.collect()
        if self._adapter is not None:
            self._adapter[1].cleanup()
            self._adapter = None


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside, all random generators of this process start from `seed`; afterwards they are where they were."""
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed & (1 << 63) - 1)
        np.random.seed(seed & 0xFFFFFFFF)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
