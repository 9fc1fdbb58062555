"""The parts of a Qwen2.5-Omni thinker, and their names: the published ones, whichever version of transformers loads it.

Published checkpoints call the parts `audio_tower`, `visual`, `model` and `lm_head`, and so do transformers' classes up
to 5.20. From 5.21 on the first three are `model.audio_tower`, `model.visual` and `model.language_model`.
"""

from __future__ import annotations

from typing import Any

from ...errors import InputError

PARTS = ("audio_tower", "projector", "language_model")
_NESTED = (("model.audio_tower.", "audio_tower."), ("model.visual.", "visual."), ("model.language_model.", "model."))
_PART = (  # the first that a published name begins with
    ("audio_tower.proj.", "projector"),
    ("audio_tower.audio_bos_eos_token.", "marks"),
    ("audio_tower.", "audio_tower"),
    ("visual.", "vision"),
    ("model.", "language_model"),
    ("lm_head.", "language_model"),
)


def published(name: str) -> str:
    """The published name, without `thinker.`, of a thinker's tensor or module in any version of transformers."""
    for nested, flat in _NESTED:
        if name.startswith(nested):
            return flat + name.removeprefix(nested)
    return name


def part_of(name: str) -> str:
    """The part a thinker's parameter belongs to: one of PARTS, "vision", or "marks" of begin and end of the audio.

    InputError for a name that no part has.
    """
    whole = published(name)
    for beginning, part in _PART:
        if whole.startswith(beginning):
            return part
    raise InputError(f"the parameter {name!r} is of no known part of Qwen2.5-Omni; {_version()} names it otherwise")


def train_parts(thinker: Any, train: tuple[str, ...]) -> None:
    """Freezes all but the named parts, of PARTS; InputError for another name, or a part without parameters.

    The vision tower and the audio tower's own marks of begin and end, which nothing uses, are always frozen.
    """
    unknown = [part for part in train if part not in PARTS]
    if unknown:
        raise InputError(f"policy.train: unknown part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    found: set[str] = set()
    for name, parameter in thinker.named_parameters():
        part = part_of(name)
        found.add(part)
        parameter.requires_grad_(part in train)
    empty = [part for part in PARTS if part not in found]
    if empty:
        raise InputError(f"the model has no parameter of {empty[0]!r}; {_version()} builds it otherwise")


def bare(name: str) -> str:
    """The published name of a thinker's tensor behind what peft puts before it, the same in every version."""
    front = "base_model.model."
    return front + published(name.removeprefix(front)) if name.startswith(front) else published(name)


def _version() -> str:
    import transformers

    return f"transformers {transformers.__version__}"


def translate_names(policy: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Gives weights that are loaded the names of this version of transformers, whichever version saved them."""
    front, own = f"{prefix}thinker.", {bare(name): name for name in policy.thinker.state_dict()}
    for name in [name for name in state if name.startswith(front)]:
        state[front + own.get(bare(name.removeprefix(front)), name.removeprefix(front))] = state.pop(name)
