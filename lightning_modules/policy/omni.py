"""The policy: log-probs of completions, and states to sample from, around one Qwen2.5-Omni thinker.

A recording is encoded once, a prompt is read once, and both are shared by all the questions and completions that
continue them: the attention cache of a prefix is expanded, with its gradient, instead of recomputed. `share=False`
reads every row as one sequence; it costs more and gives the same numbers.

Shapes: U clips, B prompts, N completions (N = B x group size), P/S/C positions of prefix, suffix and completion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...datamodules.batch import Prompts
from ...datamodules.processors.omni import AUDIO, OmniProcessor, num_audio_tokens
from ...kernels.linear_logprob import LogProbOutput, TokenLoss, linear_logprob, linear_token_loss
from ...kernels.numerators import logits as head_logits
from .adapters import Lora, with_lora
from .checkpoint import load_thinker
from .hearing import can_take_windows, take_windows
from .keeping import keep_little
from .layers import read_completions, take_segments
from .parts import PARTS, train_parts, translate_names
from .said import Said

PLACEHOLDERS = (
    *("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|IMAGE|>", "<|VIDEO|>"),
    *("<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>"),
)


@dataclass
class State:
    """What N rows have read so far, L positions: the attention cache, its mask [N, L], the last hidden state [N, H].

    full: whether nothing of it is known to be padding.
    """

    cache: Any
    mask: Tensor
    last: Tensor
    full: bool = False

    def expand(self, rows: Tensor) -> State:
        """The state of M rows, `rows` [M] int64 of these N, which may repeat; gradients flow back to the N rows."""
        import copy

        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(rows)
        return State(cache, self.mask[rows], self.last[rows])


class OmniPolicy(nn.Module):
    """A Qwen2.5-Omni thinker that reads Prompts.

    Args:
        checkpoint: folder in the published layout, or hub id.
        dtype: of the weights as they are loaded and exported, and computed with where the trainer has no precision of
            its own: "auto" (the checkpoint's), "float32", "bfloat16". What trains is kept in float32 (`precision.py`).
        attention: transformers' attention implementation.
        train: which parts train with full fine-tuning, of "audio_tower", "projector" and "language_model".
        lora: adapters instead of full fine-tuning.
        gradient_checkpointing: recompute what is within a layer in the backward pass, over prefixes read once.
    """

    def __init__(
        self,
        checkpoint: str,
        dtype: str = "auto",
        attention: str = "sdpa",
        train: list[str] | None = None,
        lora: Lora | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.processor = OmniProcessor.from_pretrained(checkpoint)
        self.thinker = load_thinker(checkpoint, dtype, attention)
        self.dtype: torch.dtype = self.thinker.dtype
        self.compute_dtype = self.dtype  # until a trainer's precision says otherwise, see `precision.py`
        self.share = True
        self.by_layers = gradient_checkpointing  # whether `forward` reads layer by layer, see `layers.py`
        self.recompute = gradient_checkpointing
        self.sharded = self.gathered = False  # see `sharding.py`
        train_parts(self.thinker, PARTS if train is None else tuple(train))
        self.adapted = lora is not None
        if lora is not None:
            self.thinker = with_lora(self.thinker, lora).eval()
        take_segments(self.base.get_decoder())
        keep_little(self.base.get_decoder())
        if can_take_windows(self.tower):
            take_windows(self.tower)
        if gradient_checkpointing:
            self.recompute_layers()
        ids = self.processor.tokenizer.convert_tokens_to_ids
        self.audio_id = ids(AUDIO)
        suppressed = sorted({i for i in map(ids, PLACEHOLDERS) if i is not None})
        self.suppressed: Tensor
        self.register_buffer("suppressed", torch.tensor(suppressed), persistent=False)
        self.register_load_state_dict_pre_hook(translate_names)

    @property
    def base(self) -> Any:
        """The thinker itself, adapters included where there are any."""
        return self.thinker.get_base_model() if self.adapted else self.thinker

    @property
    def head(self) -> Tensor:
        """The weight [V, H] of the lm_head."""
        weight: Tensor = self.base.get_output_embeddings().weight
        return weight

    def recompute_layers(self) -> None:
        """From now on `forward` keeps only what enters each layer, and the backward pass computes the rest again."""
        self.recompute = self.by_layers = True
        self.tower.gradient_checkpointing_enable({"use_reentrant": False})

    @property
    def tower(self) -> Any:
        """The audio tower, wherever this version of transformers has it."""
        return self.base.audio_tower if hasattr(self.base, "audio_tower") else self.base.model.audio_tower

    @contextmanager
    def reference(self) -> Iterator[OmniPolicy]:
        """Inside, the policy is the one before training: its adapters are off. ValueError for a policy without any."""
        if not self.adapted:
            raise ValueError("only a LoRA policy contains its reference; keep a frozen copy with full fine-tuning")
        with self.thinker.disable_adapter():
            yield self

    @contextmanager
    def dropout(self) -> Iterator[None]:
        """Inside, the adapters' dropout acts. Elsewhere it never does: a ratio would compare two random networks."""
        layers = [m for m in self.thinker.modules() if isinstance(m, nn.Dropout)] if self.adapted else []
        for layer in layers:
            layer.train()
        try:
            yield
        finally:
            for layer in layers:
                layer.eval()

    def forward(
        self,
        prompts: Prompts,
        completion_ids: Tensor,
        completion_mask: Tensor,
        prompt_of_row: Tensor | None = None,
        temperature: float = 1.0,
        entropy: bool = False,
        support: Tensor | None = None,
        said: Said | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> LogProbOutput | TokenLoss:
        """Log-probs [N, C] of completions [N, C] under softmax(logits / temperature) without the placeholder ids.

        completion_mask is 1 on the tokens that count; elsewhere the log-prob is 0 with an exactly zero gradient.
        prompt_of_row [N] says which prompt a completion answers; default one completion per prompt.
        support [N, C, K], padded with -1: the ids a truncating sampler kept; probabilities are renormalised over them.
        entropy: also the entropy [N, C] of each token's distribution, without a gradient.
        said: what is known of the completions on the CPU; the device is then never waited for.
        loss: of single tokens, as `linear_token_loss` has it; given with the log-probs in one pass over the head.
        """
        rows = torch.arange(len(prompts), device=completion_ids.device) if prompt_of_row is None else prompt_of_row
        said = said._replace(group=1) if said is not None and prompt_of_row is None else said
        self._recompute_audio(self.recompute)
        if self.share:
            hidden = self._hidden_shared(prompts, completion_ids, completion_mask, rows, said)
        else:
            hidden = self._hidden_unshared(prompts, completion_ids, completion_mask, rows)
        targets = completion_ids.masked_fill(completion_mask == 0, -100)
        options: dict[str, Any] = {"temperature": temperature, "exclude": self.suppressed, "return_entropy": entropy}
        if said is not None:
            options |= {"places": said.places(targets), "validate_targets": False}
        if loss is not None:
            return linear_token_loss(hidden, self.head, targets, loss, **options)
        if support is not None:
            options["support"] = support
        return linear_logprob(hidden, self.head, targets, **options)

    def check_targets(self, ids: Tensor, mask: Tensor) -> None:
        """ValueError where one of these tokens [N, C] that count is none of the vocabulary, or has probability 0."""
        counted, size = ids[mask.bool()], len(self.head)
        if ((counted < 0) | (counted >= size)).any():
            raise ValueError(f"targets must lie in [0, {size})")
        if torch.isin(counted, self.suppressed).any():
            raise ValueError("a target is among the excluded token ids; its probability is 0")

    def read(self, prompts: Prompts) -> State:
        """The state of B rows that have read the prompts, from which completions start."""
        self._recompute_audio(False)
        prefix, suffix = self._embed_prompts(prompts)
        sizes = prompts.sizes
        if sizes.own_clips:
            mask = torch.cat([prompts.prefix_mask, prompts.suffix_mask], 1)
            state = self.extend(None, torch.cat([prefix, suffix], 1), mask)[0]
            return replace(state, full=len(set(sizes.prefix)) == len(set(sizes.suffix)) == 1)
        state, _ = self.extend(None, prefix, prompts.prefix_mask)
        return self.extend(state.expand(prompts.clip_of_row), suffix, prompts.suffix_mask)[0]

    def extend(self, state: State | None, embeds: Tensor, mask: Tensor) -> tuple[State, Tensor]:
        """Reads L more positions in each of N rows: the new state and their hidden states [N, L, H].

        state: None to begin. embeds: [N, L, H] token embeddings. mask: [N, L], 0 on padding.
        """
        full = mask if state is None else torch.cat([state.mask, mask], 1)
        positions = (full.cumsum(1) - 1).clamp(min=0)[:, -mask.shape[1] :]
        out = self.base.get_decoder()(
            inputs_embeds=embeds,
            attention_mask=full,
            position_ids=positions,
            past_key_values=None if state is None else state.cache,
            use_cache=True,
        )
        hidden = out.last_hidden_state
        return State(out.past_key_values, full, hidden[:, -1]), hidden

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings [..., H] of ids [...]."""
        embeddings: Tensor = self.base.get_input_embeddings()(ids)
        return embeddings

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """[N, V] float32 logits for the token after hidden states [N, H], to sample by: placeholder ids are -inf.

        They carry no gradient; `forward` gives log-probs that do.
        """
        logits = head_logits(hidden, self.head, 1.0)
        logits[:, self.suppressed] = -torch.inf
        return logits

    def _hidden_shared(self, prompts: Prompts, ids: Tensor, mask: Tensor, rows: Tensor, said: Said | None) -> Tensor:
        """[N, C, H] hidden states that predict the completions `ids` [N, C]; every prompt is read once."""
        # The last token's own hidden state predicts nothing that is asked for: it is not read.
        embeds: Any = self._embed_prompts(prompts, ids[:, :-1])
        group = 0 if said is None else said.group
        return read_completions(self.base.get_decoder(), prompts, embeds, mask[:, :-1], rows, group, self.recompute)

    def _hidden_unshared(self, prompts: Prompts, ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """As `_hidden_shared`, which it specifies, with every row read as one sequence [N, P + S + C]."""
        prefix, suffix, completion = self._embed_prompts(prompts, ids)
        embeds = torch.cat([prefix[prompts.clip_of_row][rows], suffix[rows], completion], 1)
        prefix_mask = prompts.prefix_mask[prompts.clip_of_row][rows]
        full = torch.cat([prefix_mask, prompts.suffix_mask[rows], mask], 1)
        out = self.base.get_decoder()(
            inputs_embeds=embeds,
            attention_mask=full,
            position_ids=(full.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
        )
        hidden: Tensor = out.last_hidden_state[:, -ids.shape[1] - 1 : -1]
        return hidden

    def _recompute_audio(self, wanted: bool) -> None:
        """Turns recomputation of the audio tower on or off; transformers recomputes in training mode only."""
        for module in self.tower.modules():
            if getattr(module, "gradient_checkpointing", False):
                module.training = wanted

    def _embed_prompts(self, prompts: Prompts, *more: Tensor) -> tuple[Tensor, ...]:
        """Embeddings [U, P, H] and [B, S, H] of prefix, with what was heard, and suffix, and of `more` ids [N, C].

        Looked up at once: every look-up has a gradient as large as the vocabulary. ValueError where the audio positions
        of the prompts are not as many as the recordings fill.
        """
        parts = (prompts.prefix_ids, prompts.suffix_ids, *more)
        flat = self.embed(torch.cat([ids.reshape(-1) for ids in parts])).split([ids.numel() for ids in parts])
        embeds = [found.view(*ids.shape, found.shape[-1]) for found, ids in zip(flat, parts, strict=True)]
        heard = torch.cat(self.hear(prompts)).to(embeds[0].dtype)
        places = sum(self.counted(prompts).sizes.audio or ())
        if places != len(heard):
            raise ValueError(f"the prompts have {places} audio positions, the recordings fill {len(heard)}")
        where = prompts.prefix_ids == self.audio_id
        return embeds[0].masked_scatter(where[..., None], heard), *embeds[1:]

    def counted(self, prompts: Prompts) -> Prompts:
        """The prompts with their audio positions counted; what is made of them needs not be counted again."""
        if prompts.sizes.audio is not None:
            return prompts
        audio = (prompts.prefix_ids == self.audio_id).sum(1).tolist()
        return prompts.knowing(prompts.sizes._replace(audio=audio), prompts.heard)

    def hear(self, prompts: Prompts) -> list[Tensor]:
        """What the audio tower makes of every clip, [positions, H] each; what is known already is not computed."""
        if prompts.heard is not None:
            return prompts.heard
        features = prompts.features.to(self.base.get_input_embeddings().weight.dtype)
        if can_take_windows(self.tower):
            flat, heard = self.tower(features, prompts.sizes.frames)
            return list(flat.split(heard))
        found = self.base.get_audio_features(features, prompts.feature_mask, return_dict=True).last_hidden_state
        return list(found.split([num_audio_tokens(frames) for frames in prompts.sizes.frames]))
