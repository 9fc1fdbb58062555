"""vLLM's formats: prompts as it takes them, and its outputs as completions. Nothing here needs vLLM itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor
from torch.nn import functional

from ...curriculum.identity import hash64
from ...datamodules.batch import Prompts
from ...errors import InputError
from ..policy.omni import OmniPolicy
from .engine import Completions, Rollout, prompt_of_row

TIES = 16  # tokens beyond top_k that are asked for: bfloat16 logits tie, and all that tie with the last are kept


@dataclass(frozen=True)
class TokenIds:
    """The token ids that an engine has to know of a policy, and the size of its vocabulary."""

    audio: int  # stands for the recording
    stops: tuple[int, ...]  # end a completion
    pad: int
    suppressed: tuple[int, ...]  # placeholders, which have probability 0
    vocabulary: int  # ids that the policy's head scores

    @classmethod
    def of(cls, policy: OmniPolicy) -> TokenIds:
        """The token ids of a policy and its processor."""
        processor = policy.processor
        suppressed = tuple(policy.suppressed.tolist())
        return cls(policy.audio_id, processor.stop_ids, processor.pad_id, suppressed, len(policy.head))

    @classmethod
    def from_header(cls, header: dict[str, Any]) -> TokenIds:
        """The inverse of `header`, after a way through JSON, which makes lists of tuples."""
        return cls(**header | {"stops": tuple(header["stops"]), "suppressed": tuple(header["suppressed"])})

    def header(self) -> dict[str, Any]:
        """The fields by name, as the header of a message carries them."""
        return asdict(self)


def vocabulary_hash(tokenizer: Any) -> str:
    """16 hex digits, equal for two tokenizers exactly where every token has the same id in both."""
    return f"{hash64(*(part for pair in sorted(tokenizer.get_vocab().items()) for part in pair)):016x}"


def architecture(config: Any) -> str:
    """The sizes in a thinker's config that decide the shapes of its weights, as one line of text.

    A model cannot load the weights of another whose line differs.
    """
    text, audio = config.text_config, config.audio_config
    heads = f"{text.num_attention_heads}/{text.num_key_value_heads}"
    return (
        f"text {text.num_hidden_layers}x{text.hidden_size} heads {heads} mlp {text.intermediate_size} "
        f"vocabulary {text.vocab_size}, audio {audio.encoder_layers}x{audio.d_model}"
    )


def vllm_prompts(prompts: Prompts, tokens: TokenIds) -> list[dict[str, Any]]:
    """[B] prompts as vLLM takes them, without padding, the audio as the policy's own log-mel features.

    The positions of the recording are folded into one placeholder, which vLLM unfolds again. A clip is named by its
    content, so rows and steps that share it share its encoding, and no two different clips ever do.
    """
    features, lengths = prompts.features.cpu(), prompts.feature_mask.sum(1).tolist()
    clips = [_clip(features[u, :, :length]) for u, length in enumerate(lengths)]
    prefixes = [
        _folded(ids[mask.bool()].tolist(), tokens.audio)
        for ids, mask in zip(prompts.prefix_ids.cpu(), prompts.prefix_mask.cpu(), strict=True)
    ]
    formatted = []
    suffixes = zip(prompts.suffix_ids.cpu(), prompts.suffix_mask.cpu(), prompts.clip_of_row.tolist(), strict=True)
    for ids, mask, clip in suffixes:
        data, name = clips[clip]
        formatted.append(
            {
                "prompt_token_ids": prefixes[clip] + ids[mask.bool()].tolist(),
                "multi_modal_data": {"audio": data},
                "multi_modal_uuids": {"audio": [name]},
            }
        )
    return formatted


def num_positions(prompts: Prompts) -> int:
    """Number of positions (tokens) of the longest prompt, those of its recording included."""
    return int((prompts.prefix_mask.sum(1)[prompts.clip_of_row] + prompts.suffix_mask.sum(1)).max())


def num_logprobs(rollout: Rollout, vocabulary: int, most: int) -> int:
    """How many of the likeliest tokens to ask for at every position, so that all that truncation keeps are among them.

    vocabulary: number of tokens. most: what the engine gives at most. 0 where nothing is truncated; with top_p alone,
    where the number cannot be known beforehand, `most`. InputError where top_k needs more than the engine gives.
    """
    if not rollout.truncates:
        return 0
    wanted = rollout.top_k + TIES if rollout.top_k else most
    if min(wanted, vocabulary) > most:
        raise InputError(
            f"rollout.top_k: {rollout.top_k} needs {wanted} log-probs per token, the engine gives {most}; "
            f"set the engine's options max_logprobs: {wanted}"
        )
    return min(wanted, vocabulary)


def completions_of(
    outputs: Sequence[Any], rollout: Rollout, tokens: TokenIds, asked: int, device: torch.device
) -> Completions:
    """[N = B x group_size] completions from vLLM's outputs [B], each with its group inside and flat log-probs.

    asked: the number of likeliest tokens that were asked for, 0 where sampling was not truncated. A completion is
    finished where its last token is one that ends completions, also at the length limit. ValueError for another number
    of completions than were asked for, or for an empty one; InputError where more was kept than was asked for.
    """
    rows = [member for output in outputs for member in sorted(output.outputs, key=lambda member: member.index)]
    if len(rows) != len(outputs) * rollout.group_size or any(not member.token_ids for member in rows):
        raise ValueError(f"the engine returned {len(rows)} completions, or empty ones, for {len(outputs)} prompts")
    width = max(len(member.token_ids) for member in rows)
    ids = torch.full((len(rows), width), tokens.pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    logprob = torch.zeros((len(rows), width), dtype=torch.float32)
    kept: list[list[list[int]]] = []
    for row, member in enumerate(rows):
        count = len(member.token_ids)
        ids[row, :count], mask[row, :count] = torch.tensor(list(member.token_ids)), 1
        given = [member.logprobs.logprobs[at] for at in member.logprobs.start_indices]
        logprob[row, :count] = torch.tensor(given, dtype=torch.float32)
        if asked:
            kept.append([_kept(member.logprobs, at, rollout, tokens.vocabulary, asked) for at in range(count)])
    last = ids.gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)
    finished = torch.isin(last, torch.tensor(tokens.stops))
    support = _support(kept, width) if asked else None
    prompts = prompt_of_row(len(outputs), rollout.group_size)
    tensors = [ids, mask, finished, prompts, logprob, support]
    return Completions(*(part if part is None else part.to(device) for part in tensors))  # type: ignore[arg-type]


def concatenated(parts: Sequence[Completions], pad: int, device: torch.device) -> Completions:
    """The completions of a batch's consecutive parts as one, on the device, padded to the longest with `pad`."""
    width = max(part.ids.shape[1] for part in parts)

    def padded(name: str, value: float) -> Tensor:
        tensors = [getattr(part, name) for part in parts]
        return torch.cat([functional.pad(t, (0, width - t.shape[1]), value=value) for t in tensors]).to(device)

    counts = [0, *(int(part.prompt_of_row.max()) + 1 for part in parts)]
    first = [sum(counts[: number + 1]) for number in range(len(parts))]
    support = None
    if kept := [part.support for part in parts if part.support is not None]:
        most = max(ids.shape[2] for ids in kept)
        grown = [functional.pad(s, (0, most - s.shape[2], 0, width - s.shape[1]), value=-1) for s in kept]
        support = torch.cat(grown).to(device)
    return Completions(
        padded("ids", pad),
        padded("mask", 0),
        torch.cat([part.finished for part in parts]).to(device),
        torch.cat([part.prompt_of_row + start for part, start in zip(parts, first, strict=True)]).to(device),
        padded("logprob", 0.0),
        support,
    )


def _kept(flat: Any, at: int, rollout: Rollout, vocabulary: int, asked: int) -> list[int]:
    """Ids that truncation kept at position `at`, likeliest first. InputError where more may have been kept than came.

    flat: vLLM's flat log-probs of one completion.
    """
    entries = range(flat.start_indices[at] + 1, flat.end_indices[at])  # the first repeats the sampled token
    ids = [flat.token_ids[i] for i in entries if math.isfinite(flat.logprobs[i])]
    if len(ids) >= asked and asked < vocabulary:  # perhaps more was kept than was asked for
        more = (
            f"the {asked} likeliest tokens all tie with number {rollout.top_k}; raise the engine's options max_logprobs"
            if rollout.top_k
            else f"top_p alone kept {asked} tokens or more, too many to return with every token; set rollout.top_k too"
        )
        raise InputError(f"rollout: what the sampler kept is not known: {more}")
    if flat.token_ids[flat.start_indices[at]] not in ids:
        raise ValueError("the engine sampled a token that it says it left out")
    return ids


def _support(kept: list[list[list[int]]], width: int) -> Tensor:
    """[N, C, K] int64 ids padded with -1, K the most that was kept anywhere, from the ids kept at each position."""
    most = max(len(ids) for row in kept for ids in row)
    support = torch.full((len(kept), width, most), -1, dtype=torch.long)
    for number, row in enumerate(kept):
        for at, ids in enumerate(row):
            support[number, at, : len(ids)] = torch.tensor(ids)
    return support


def _folded(ids: list[int], audio: int) -> list[int]:
    """The ids with the run of audio placeholders made one."""
    first, count = ids.index(audio), ids.count(audio)
    return ids[: first + 1] + ids[first + count :]


def _clip(features: Tensor) -> tuple[dict[str, Tensor], str]:
    """A clip [128, F] as vLLM's parser takes features that were computed elsewhere, and a name made of its content."""
    features = features.contiguous()
    frames = features.shape[1]
    data = {
        "input_audio_features": features,
        "audio_feature_lengths": torch.tensor([frames]),
        "feature_attention_mask": torch.ones(1, frames, dtype=torch.long),
    }
    return data, f"{frames}-{xxhash.xxh3_128_hexdigest(features.numpy().tobytes())}"
