"""Prompts as token ids and Whisper features, bit for bit as the official Qwen2.5-Omni processor makes them.

Deviations from transformers' Qwen2_5OmniProcessor: no vision stack, and clips are padded to the longest of the batch
instead of 300 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ..audio.features import LogMel
from ..audio.signals import silence
from ..batch import Batch, Prompts, Sample
from ..questions.prompts import prompt_text
from .model_files import check_model_files
from .templates import rendered

SYSTEM = "You are an audio understanding model that answers multiple choice questions based on audio content."
AUDIO, AUDIO_BOS, AUDIO_EOS = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"
_TEXT_MARK = "\x00"


def num_audio_tokens(frames: int) -> int:
    """Tokens that the audio tower makes of so many mel frames: a convolution and a pooling, each of stride 2.

    A second has 100 frames, so this is `Cost.audio_tokens_per_s` of curriculum/schedule/budget.py.
    """
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


class OmniProcessor:
    """Tokenizer and feature extractor of one checkpoint, and the prompt template around them.

    system: the system turn. Raises InputError where the chat template does not put one recording before the text.
    """

    # Any: the types that transformers gives its tokenizers do not fit how they are meant to be called.
    def __init__(self, tokenizer: Any, feature_extractor: Any, system: str = SYSTEM) -> None:
        self.tokenizer, self.feature_extractor = tokenizer, feature_extractor
        self._features = LogMel(feature_extractor)
        asked = [
            {"role": "system", "content": [{"type": "text", "text": system}]},
            {"role": "user", "content": [{"type": "audio", "audio": ""}, {"type": "text", "text": _TEXT_MARK}]},
        ]
        text = rendered(tokenizer, asked, add_generation_prompt=True)
        self.prefix, mark, self.tail = text.partition(_TEXT_MARK)
        if not mark or self.prefix.count(AUDIO) != 1 or not self.prefix.endswith(AUDIO_EOS):
            raise InputError("the checkpoint's chat template does not put one recording before the user's text")
        self.eos_id, self.pad_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        self._silent_features = lru_cache(maxsize=8)(lambda seconds: self.features([silence(seconds)]))

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path, system: str = SYSTEM) -> OmniProcessor:
        """From a checkpoint folder or a hub id; InputError where it is not one of Qwen2.5-Omni."""
        from transformers import AutoTokenizer, WhisperFeatureExtractor

        check_model_files(checkpoint)
        try:
            tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
            extractor = WhisperFeatureExtractor.from_pretrained(checkpoint, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{checkpoint}: no Qwen2.5-Omni processor there ({str(error).splitlines()[0]})") from None
        for token in (AUDIO, AUDIO_BOS, AUDIO_EOS):
            if tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id):
                raise InputError(f"{checkpoint}: its tokenizer has no {token}; this is not a Qwen2.5-Omni checkpoint")
        try:
            return cls(tokenizer, extractor, system)
        except InputError as error:
            raise InputError(f"{checkpoint}: {error}") from None

    def features(self, clips: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Log-mel [U, 128, F] and mask [U, F] of U waves at 16 kHz, padded to the longest."""
        return self._features(clips)

    def silent_features(self, seconds: float) -> tuple[Tensor, Tensor]:
        """Log-mel [1, 128, F] and mask [1, F] of so many seconds of silence, computed once."""
        return self._silent_features(seconds)

    def prompts(self, texts: Sequence[str], features: Tensor, mask: Tensor, clip_of_row: Sequence[int]) -> Prompts:
        """Prompts for B user texts over the U clips of these features; clip_of_row: [B] the clip of each text."""
        counts = [num_audio_tokens(int(frames)) for frames in mask.sum(1)]
        prefix = [self.prefix.replace(AUDIO, AUDIO * count) for count in counts]
        prefix_ids, prefix_mask = self._padded(prefix, left=True)
        suffix_ids, suffix_mask = self._padded([text + self.tail for text in texts], left=True)
        return Prompts(prefix_ids, prefix_mask, features, mask, suffix_ids, suffix_mask, torch.tensor(clip_of_row))

    def batch(
        self,
        samples: Sequence[Sample],
        clips: Sequence[np.ndarray] | float,
        targets: Sequence[str],
        clip_of_row: Sequence[int] | None = None,
        **where: Any,
    ) -> Batch:
        """A batch of B samples, each asked in its own style, over U waves, or over one silence of `clips` seconds.

        targets: [B] texts to be said. clip_of_row: [B] the wave of each sample; without, each has its own, in order.
        where: the batch's step, plan, stage, replaced and passes.
        """
        if isinstance(clips, (int, float)):
            (features, mask), rows = self.silent_features(float(clips)), [0] * len(samples)
        else:
            features, mask = self.features(clips)
            rows = list(range(len(samples))) if clip_of_row is None else list(clip_of_row)
        texts = [prompt_text(s.style, s.question.question, s.choices) for s in samples]
        target_ids, target_mask = self.targets(targets)
        weights = torch.tensor([s.weight for s in samples], dtype=torch.float32)
        prompts = self.prompts(texts, features, mask, rows)
        return Batch(prompts, target_ids, target_mask, weights, tuple(samples), **where)

    def targets(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids [N, T] and mask [N, T] of texts to be said, with the end token, right-padded."""
        return self._padded([text + self.tokenizer.eos_token for text in texts], left=False)

    @property
    def stop_ids(self) -> tuple[int, int]:
        """Token ids that end a completion: the end of the turn, and the end of the text, which also pads batches."""
        return self.eos_id, self.pad_id

    def decode(self, ids: Tensor, mask: Tensor) -> list[str]:
        """Texts of [N, C] completions; tokens of `stop_ids` are dropped, other special tokens are kept visible."""
        texts = []
        for row, valid in zip(ids.tolist(), mask.bool().tolist(), strict=True):
            kept = [i for i, v in zip(row, valid, strict=True) if v and i not in self.stop_ids]
            texts.append(self.tokenizer.decode(kept, skip_special_tokens=False))
        return texts

    def difference(self, other: OmniProcessor) -> str:
        """What differs in another processor: "vocabularies", "chat templates" or "audio features"; "" for nothing."""
        if self.tokenizer.get_vocab() != other.tokenizer.get_vocab():
            return "vocabularies"
        mine, theirs = ((each.prefix, each.tail, each.stop_ids) for each in (self, other))
        if mine != theirs:
            return "chat templates"
        names = ("feature_size", "sampling_rate", "hop_length", "n_fft", "dither", "mel_filters")
        for name in names:
            one, two = (np.asarray(getattr(each.feature_extractor, name, None)) for each in (self, other))
            if not np.array_equal(one, two):
                return "audio features"
        return ""

    def _padded(self, texts: Sequence[str], left: bool) -> tuple[Tensor, Tensor]:
        """Token ids [N, T] and mask [N, T] of texts, padded to the longest on the left or right."""
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            where = slice(width - len(row), width) if left else slice(0, len(row))
            ids[i, where], mask[i, where] = torch.tensor(row), 1
        return ids, mask
