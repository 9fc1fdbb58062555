"""earwitness: post-training of audio language models that knows whether the audio mattered."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # what type checkers and editors see; at run time `_PUBLIC` names the same
    from .curriculum.plan.plan import Plan as Plan
    from .curriculum.schedule.components import Paced as Paced
    from .curriculum.schedule.stages import parse_curriculum as parse_curriculum
    from .curriculum.table import read_table as read_table
    from .datamodules.batches.requests import Augmentation as Augmentation
    from .datamodules.batches.requests import EvaluationSpec as EvaluationSpec
    from .datamodules.batches.requests import TrainingSpec as TrainingSpec
    from .datamodules.module import AudioQuestions as AudioQuestions
    from .datamodules.shards.reader import ShardReader as ShardReader
    from .datamodules.shards.streams import IndexedSamples as IndexedSamples
    from .datamodules.shards.streams import QuestionDataset as QuestionDataset
    from .datamodules.storage.files import Reading as Reading
    from .errors import InputError as InputError
    from .kernels.linear_logprob import linear_cross_entropy as linear_cross_entropy
    from .kernels.linear_logprob import linear_grpo_loss as linear_grpo_loss
    from .kernels.linear_logprob import linear_logprob as linear_logprob
    from .lightning_modules.base import PolicyModule as PolicyModule
    from .lightning_modules.callbacks.checkpoints import Checkpoints as Checkpoints
    from .lightning_modules.callbacks.completions import CompletionTable as CompletionTable
    from .lightning_modules.callbacks.outputs import AnswerTable as AnswerTable
    from .lightning_modules.callbacks.outputs import ExportPolicy as ExportPolicy
    from .lightning_modules.callbacks.pass_rates import PassRateTable as PassRateTable
    from .lightning_modules.callbacks.retention_gate import RetentionGate as RetentionGate
    from .lightning_modules.callbacks.silent_probe import SilentProbe as SilentProbe
    from .lightning_modules.callbacks.throughput import Throughput as Throughput
    from .lightning_modules.callbacks.watchdog import Watchdog as Watchdog
    from .lightning_modules.checkpoints.folders import Keep as Keep
    from .lightning_modules.grpo import GRPO as GRPO
    from .lightning_modules.interleaved import Interleaved as Interleaved
    from .lightning_modules.objectives.correction import Correction as Correction
    from .lightning_modules.objectives.grpo_config import GRPOConfig as GRPOConfig
    from .lightning_modules.policy.adapters import Lora as Lora
    from .lightning_modules.policy.omni import OmniPolicy as OmniPolicy
    from .lightning_modules.rollout.engine import Rollout as Rollout
    from .lightning_modules.rollout.remote import VllmServer as VllmServer
    from .lightning_modules.rollout.sampling import PolicyEngine as PolicyEngine
    from .lightning_modules.rollout.vllm_engine import VllmEngine as VllmEngine
    from .lightning_modules.sft import SFT as SFT
    from .lightning_modules.step.learning_rate import Schedule as Schedule
    from .lightning_modules.strategies.fsdp2 import FSDP2 as FSDP2

_PUBLIC = {
    "AnswerTable": "lightning_modules.callbacks.outputs",
    "AudioQuestions": "datamodules.module",
    "Augmentation": "datamodules.batches.requests",
    "Checkpoints": "lightning_modules.callbacks.checkpoints",
    "CompletionTable": "lightning_modules.callbacks.completions",
    "Correction": "lightning_modules.objectives.correction",
    "FSDP2": "lightning_modules.strategies.fsdp2",
    "EvaluationSpec": "datamodules.batches.requests",
    "ExportPolicy": "lightning_modules.callbacks.outputs",
    "GRPO": "lightning_modules.grpo",
    "GRPOConfig": "lightning_modules.objectives.grpo_config",
    "IndexedSamples": "datamodules.shards.streams",
    "InputError": "errors",
    "Interleaved": "lightning_modules.interleaved",
    "Keep": "lightning_modules.checkpoints.folders",
    "Lora": "lightning_modules.policy.adapters",
    "OmniPolicy": "lightning_modules.policy.omni",
    "Paced": "curriculum.schedule.components",
    "PassRateTable": "lightning_modules.callbacks.pass_rates",
    "Plan": "curriculum.plan.plan",
    "PolicyEngine": "lightning_modules.rollout.sampling",
    "PolicyModule": "lightning_modules.base",
    "QuestionDataset": "datamodules.shards.streams",
    "Reading": "datamodules.storage.files",
    "RetentionGate": "lightning_modules.callbacks.retention_gate",
    "Rollout": "lightning_modules.rollout.engine",
    "SFT": "lightning_modules.sft",
    "Schedule": "lightning_modules.step.learning_rate",
    "ShardReader": "datamodules.shards.reader",
    "SilentProbe": "lightning_modules.callbacks.silent_probe",
    "Throughput": "lightning_modules.callbacks.throughput",
    "TrainingSpec": "datamodules.batches.requests",
    "VllmEngine": "lightning_modules.rollout.vllm_engine",
    "VllmServer": "lightning_modules.rollout.remote",
    "Watchdog": "lightning_modules.callbacks.watchdog",
    "linear_cross_entropy": "kernels.linear_logprob",
    "linear_grpo_loss": "kernels.linear_logprob",
    "linear_logprob": "kernels.linear_logprob",
    "parse_curriculum": "curriculum.schedule.stages",
    "read_table": "curriculum.table",
}
__all__ = ["__version__", *_PUBLIC]

if not TYPE_CHECKING:  # a type checker that sees `__getattr__` takes any misspelt name for a public one

    def __getattr__(name: str) -> Any:
        """A public name, imported on first use: `earwitness --help` must not pay for torch."""
        if name not in _PUBLIC:
            raise AttributeError(f"module 'earwitness' has no attribute {name!r}")
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)
