"""A policy as a folder that others load: merged, with the source's speech parts, or as adapters alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import InputError
from .checkpoint import check_speech, save_thinker
from .files import Weights, check_place, write_json, write_weights, written_beside
from .omni import OmniPolicy
from .weights import adapter_config, adapter_weights, merged_weights

FORMS = ("merged", "full-omni", "adapter")
_WHOLE = "base_model.model.thinker."


def check_export(policy: OmniPolicy, folder: str, form: str) -> None:
    """Raises InputError where the policy could not be written to the folder in this form."""
    check_place(folder, policy.checkpoint)
    if form == "adapter" and not policy.adapted:
        raise InputError('ExportPolicy: form "adapter" needs policy.lora; with full fine-tuning it is "merged"')
    if form == "full-omni":
        check_speech(policy.checkpoint)


def policy_weights(policy: OmniPolicy, form: str) -> Iterator[tuple[str, Tensor]]:
    """The (name, tensor) pairs that `write_policy` writes; with sharded weights every rank reads them to the end."""
    return adapter_weights(policy) if form == "adapter" else merged_weights(policy)


def write_policy(weights: Weights, policy: OmniPolicy, folder: str, form: str) -> None:
    """Writes the weights of a policy in a form of FORMS; InputError where the folder cannot be written."""
    if form == "adapter":
        save_adapter(weights, adapter_config(policy), policy.checkpoint, folder)
    else:
        save_thinker(weights, policy.base.config, policy.processor, folder, policy.checkpoint, form == "full-omni")


def save_adapter(weights: Weights, config: Mapping[str, Any], base: str, out: str | Path) -> None:
    """Writes adapters as peft loads them: for the class of the whole model, and in `thinker/` for the thinker's.

    weights: named as by `adapter_weights`. config: of `adapter_config`. base: checkpoint that the adapters belong to.
    InputError where the folder cannot be written, or is the base itself.
    """
    check_place(out, base)
    whole = dict(weights)
    alone = {name.replace(_WHOLE, "base_model.model.", 1): tensor for name, tensor in whole.items()}
    settings = dict(config) | {"base_model_name_or_path": base, "inference_mode": True}
    with written_beside(out) as scratch:
        for folder, part in ((scratch, whole), (scratch / "thinker", alone)):
            folder.mkdir(exist_ok=True)
            write_weights(part.items(), folder)
            (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
            write_json(folder / "adapter_config.json", settings)
