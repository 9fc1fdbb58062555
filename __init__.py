"""earwitness: post-training of audio language models that knows whether the audio mattered."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "CompletionTable": "earwitness.lightning_modules.callbacks.completions",
    "AnswerTable": "earwitness.lightning_modules.callbacks.outputs",
    "AudioQuestions": "earwitness.datamodules.module",
    "ExportPolicy": "earwitness.lightning_modules.callbacks.outputs",
    "InputError": "earwitness.errors",
    "GRPO": "earwitness.lightning_modules.grpo",
    "Interleaved": "earwitness.lightning_modules.interleaved",
    "OmniPolicy": "earwitness.lightning_modules.policy.omni",
    "PolicyModule": "earwitness.lightning_modules.base",
    "SilentProbe": "earwitness.lightning_modules.callbacks.silent_probe",
    "SFT": "earwitness.lightning_modules.sft",
    "VllmEngine": "earwitness.lightning_modules.rollout.vllm_engine",
    "VllmServer": "earwitness.lightning_modules.rollout.remote",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Public classes are imported on first use: `earwitness --help` must not pay for torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'earwitness' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
