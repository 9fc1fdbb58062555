"""A tiny, random Qwen2.5-Omni: the real classes and the real layout, with a tokenizer trained on the spot.

For demos and tests. Everything downstream loads it exactly as it would load Qwen/Qwen2.5-Omni-7B. The wide
initialisation (0.1 instead of 0.02) is what lets so small a model bind options to sounds within a few hundred steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ...datamodules.processors.omni import SYSTEM
from ...datamodules.questions.annotations import read_annotations
from ...datamodules.questions.answers import reasoned_text, target_text
from ...datamodules.questions.prompts import prompt_text, question_text
from ...datamodules.questions.question import Question
from ...datamodules.shards.reader import ShardReader
from .checkpoint import save_thinker, thinker_state

SPECIAL_TOKENS = (  # in the order of the published vocabulary
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
    *("<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>"),
)
_INIT_STD = 0.1  # the published one is 0.02
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] + '\\n' }}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'audio' -%}<|audio_bos|><|AUDIO|><|audio_eos|>
{%- elif 'text' in part -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}<|im_end|>{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant{{ '\\n' }}{%- endif -%}
"""


def train_tokenizer(texts: Iterable[str], vocab_size: int = 512) -> Any:
    """A byte-level BPE tokenizer of at most `vocab_size` tokens, trained on the texts, with Qwen2's pre-tokenisation
    and Omni's special tokens and chat template.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast  # type: ignore[attr-defined]
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.decoder = decoders.ByteLevel()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = vocab_size - len(SPECIAL_TOKENS)
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=alphabet))
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    named = ("image", "audio", "video", "vision_bos", "vision_eos", "audio_bos", "audio_eos")
    tokens = (
        "<|IMAGE|>",
        "<|AUDIO|>",
        "<|VIDEO|>",
        "<|vision_bos|>",
        "<|vision_eos|>",
        "<|audio_bos|>",
        "<|audio_eos|>",
    )
    tokenizer = Qwen2TokenizerFast(
        vocab=model["vocab"],
        merges=merges,
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={f"{name}_token": token for name, token in zip(named, tokens, strict=True)},
    )
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|vision_pad|>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_thinker(tokenizer: Any, hidden: int, layers: int, audio_hidden: int, audio_layers: int, seed: int) -> Any:
    """A thinker with weights drawn from the seed; hidden, layers: of the language model, with hidden / 32 heads."""
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    token = tokenizer.convert_tokens_to_ids
    heads = max(1, hidden // 32)
    half = hidden // heads // 2
    config_class: Any = Qwen2_5OmniThinkerConfig
    config = config_class(
        audio_config={
            "num_mel_bins": 128,
            "d_model": audio_hidden,
            "encoder_layers": audio_layers,
            "encoder_attention_heads": max(1, audio_hidden // 16),
            "encoder_ffn_dim": 2 * audio_hidden,
            "output_dim": hidden,
            "max_source_positions": 1500,
            "n_window": 100,
            "initializer_range": _INIT_STD,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [0],
        },
        text_config={
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": max(1, heads // 2),
            "max_position_embeddings": 2048,
            "initializer_range": _INIT_STD,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8],
            },
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": False,
        },
        audio_token_index=token("<|AUDIO|>"),
        image_token_index=token("<|IMAGE|>"),
        video_token_index=token("<|VIDEO|>"),
        audio_start_token_id=token("<|audio_bos|>"),
        audio_end_token_id=token("<|audio_eos|>"),
        vision_start_token_id=token("<|vision_bos|>"),
        vision_end_token_id=token("<|vision_eos|>"),
        initializer_range=_INIT_STD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        thinker: Any = Qwen2_5OmniThinkerForConditionalGeneration(config)
        return thinker.eval()


def build_tiny(
    annotations: str,
    out: str,
    seed: int = 0,
    hidden: int = 128,
    layers: int = 3,
    audio_hidden: int = 64,
    audio_layers: int = 2,
    vocab_size: int = 512,
    processor_from: str | None = None,
) -> dict[str, int]:
    """Writes a tiny checkpoint to `out`; returns its number of parameters and the size of its vocabulary.

    annotations: the file of questions, or the index, whose texts train the tokenizer; of an index 2,000 at most.
    processor_from: a checkpoint whose tokenizer is used instead, so that several models share one vocabulary. The sizes
    are as in `build_thinker`.
    """
    from transformers import AutoTokenizer, WhisperFeatureExtractor

    extractor_class: Any = WhisperFeatureExtractor
    if processor_from is not None:
        tokenizer = AutoTokenizer.from_pretrained(processor_from, trust_remote_code=False)
    else:
        texts = []
        for question in _questions(annotations):
            # The system turn is part of every prompt, so it weighs as much in the training of the tokenizer.
            texts += [SYSTEM, question_text(question.question, question.choices), target_text(question.answer)]
            if thought := question.structured_cot or question.unstructured_cot:
                texts += [prompt_text("think", question.question, question.choices)]
                texts += [reasoned_text(thought, question.answer)]
        tokenizer = train_tokenizer(texts, vocab_size)
    extractor = extractor_class(feature_size=128, chunk_length=300, return_attention_mask=True)
    thinker = build_thinker(tokenizer, hidden, layers, audio_hidden, audio_layers, seed)
    processor = SimpleNamespace(tokenizer=tokenizer, feature_extractor=extractor)
    save_thinker(thinker_state(thinker), thinker.config, processor, Path(out))
    return {"parameters": sum(p.numel() for p in thinker.parameters()), "vocabulary": len(tokenizer)}


def _questions(source: str) -> list[Question]:
    """The questions of an annotation file, or of an index: every so manieth of more than 2,000."""
    if not source.endswith(".arrow"):
        return [question for question, *_ in read_annotations(source)]
    reader = ShardReader(source)
    rows = range(0, len(reader), len(reader) // 2_000 + 1)
    fetched = reader.fetch(rows, [])
    return [reader.question(row, fetched) for row in rows]
