"""A policy as a folder that others load: merged, with the source's speech parts, or as adapters alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ...datamodules.processors.omni import OmniProcessor
from ...errors import InputError
from .checkpoint import check_speech, check_tensors, save_thinker, source_folder, thinker_config
from .files import Weights, check_place, chunks, write_json, written_beside
from .omni import OmniPolicy
from .runs import read_run
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


def export_run(
    run: str, to: str, form: str = "merged", config: str | None = None, source: str | None = None
) -> dict[str, Any]:
    """Writes the policy of a run's checkpoint to the folder `to` in a form of FORMS; the model is never built.

    config, source: as in `read_run`. Returns the step of the checkpoint and the number of tensors. InputError where
    there is no such checkpoint, or the folder cannot be written.
    """
    trained = read_run(run, config, source)
    if form == "adapter":
        count = save_adapter(trained.adapters(), trained.adapter_config(), trained.source, to)
    else:
        processor, settings = OmniProcessor.from_pretrained(trained.source), thinker_config(trained.source)
        check_tensors(source_folder(trained.source), settings)
        count = save_thinker(trained.weights(), settings, processor, to, trained.source, form == "full-omni")
    return {"step": trained.step, form: to, "tensors": count}


def save_adapter(weights: Weights, config: Mapping[str, Any], base: str, out: str | Path) -> int:
    """Writes adapters as plain peft loads them, with every layer named by its full path.

    In `out` itself for the class of the whole model, and for vLLM; in `nested/` for that class as transformers builds
    it from 5.21 on; in `thinker/` for the thinker's class. weights: named as by `adapter_weights`. config: of
    `adapter_config`. base: checkpoint that the adapters belong to. Returns how many tensors there are. InputError where
    the folder cannot be written, or is the base itself.
    """
    check_place(out, base)
    (held,) = chunks(((name.removeprefix(_WHOLE), tensor) for name, tensor in weights), 1 << 62)
    settings = dict(config) | {"base_model_name_or_path": base, "inference_mode": True}
    with written_beside(out) as scratch:
        for place, before in (
            (".", "thinker.model."),
            ("nested", "thinker.model.language_model."),
            ("thinker", "model."),
        ):
            folder = scratch / place
            folder.mkdir(exist_ok=True)
            named = {name.replace("model.", before, 1): tensor for name, tensor in held.items()}
            content = {f"base_model.model.{name}": tensor for name, tensor in named.items()}
            save_file(content, folder / "adapter_model.safetensors", {"format": "pt"})
            write_json(folder / "adapter_config.json", settings | {"target_modules": _pattern(named, before)})
    return len(held)


def _pattern(names: Iterable[str], before: str) -> str:
    """A regular expression of the full paths of the adapted layers.

    The talker has layers of the same names, which short names would adapt too.
    """
    layers = sorted(
        name.removeprefix(before).removesuffix(".lora_A.weight") for name in names if name.endswith(".lora_A.weight")
    )
    nested = r"(language_model\.)?" if before == "model." else ""  # peft translates the names of the thinker's class
    return f"{re.escape(before)}{nested}({'|'.join(map(re.escape, layers))})"
