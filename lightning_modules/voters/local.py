"""Voters loaded with transformers: Qwen2.5-Omni through our policy, Qwen2-Audio and Audio Flamingo 3.

Every voter turns a list of asks into replies. Draws of the Omni voter are hashed from what is asked; the others sample
with torch's generator, seeded from the first ask of a batch, so their draws depend on how asks are batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ...curriculum.identity import hash64
from ...datamodules.audio.waves import SAMPLE_RATE
from ...datamodules.batch import Prompts
from ...datamodules.processors.model_files import check_model_files
from ...datamodules.processors.omni import SYSTEM, OmniProcessor
from ...datamodules.processors.templates import rendered
from ...datamodules.questions.answers import target_text
from ...datamodules.voting.tasks import Ask, Reply, Scoring
from ...errors import InputError
from ..policy.omni import OmniPolicy
from ..rollout.sampling import sample

_CLASSES = {
    "qwen2_audio": "Qwen2AudioForConditionalGeneration",
    "audioflamingo3": "AudioFlamingo3ForConditionalGeneration",
}
_MARK = "\x00"  # a text that no chat template contains


def kind_of(checkpoint: str) -> str:
    """How a checkpoint is loaded: "omni", by `OmniVoter`, or the name of a class of transformers, by `ChatVoter`.

    InputError where the checkpoint cannot be found or is of another kind.
    """
    import transformers

    check_model_files(checkpoint)
    try:
        kind = transformers.AutoConfig.from_pretrained(checkpoint, trust_remote_code=False).model_type
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{checkpoint}: neither a checkpoint folder nor a known model id ({reason})") from None
    if kind.startswith("qwen2_5_omni"):
        return "omni"
    if kind not in _CLASSES:
        raise InputError(f"{checkpoint}: a {kind} cannot vote here; use an OpenAI-compatible endpoint")
    return _CLASSES[kind]


class Voter(Protocol):
    """A model that replies to asks."""

    def replies(self, asks: Sequence[Ask]) -> list[Reply]:
        """A reply to each ask, in order."""
        ...


class OmniVoter(nn.Module):
    """Qwen2.5-Omni: one reading of a recording for all questions about it, and for all their options.

    Args:
        checkpoint: folder or hub id. dtype, attention: as of `OmniPolicy`.
        scoring: see `PromptingSpec`; style: of the prompt, which decides how an option is written as an answer.
        system: system turn; null for the paper's.
        max_new_tokens, temperature: of generated answers. seed: of their draws.
    """

    def __init__(
        self,
        checkpoint: str,
        scoring: Scoring = "generate",
        style: str = "paper",
        dtype: str = "auto",
        attention: str = "sdpa",
        system: str | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.policy = OmniPolicy(checkpoint, dtype, attention)
        self.policy.processor = OmniProcessor.from_pretrained(checkpoint, SYSTEM if system is None else system)
        self.scoring, self.style = scoring, style
        self.max_new_tokens, self.temperature, self.seed = max_new_tokens, temperature, seed

    @torch.no_grad()
    def replies(self, asks: Sequence[Ask]) -> list[Reply]:
        """A reply to each ask, in order."""
        prompts = self._prompts(asks)
        if self.scoring == "letters":
            return self._by_letter(asks, prompts)
        if self.scoring == "options":
            return self._by_option(asks, prompts)
        keys = [hash64(self.seed, "vote", *ask.task.id) for ask in asks]
        done = sample(self.policy, prompts, max_new_tokens=self.max_new_tokens, temperature=self.temperature, keys=keys)
        texts = self.policy.processor.decode(done.ids, done.mask)
        lengths, finished = done.mask.sum(1).tolist(), done.finished.tolist()
        return [
            Reply(ask.task, text, completion_tokens=tokens, finished=whole)
            for ask, text, tokens, whole in zip(asks, texts, lengths, finished, strict=True)
        ]

    def _prompts(self, asks: Sequence[Ask]) -> Prompts:
        """The asks as prompts on the model's device, a clip for all that hear the same; InputError without audio."""
        sounds: dict[tuple[str, int], np.ndarray] = {}
        for ask in asks:
            if ask.wave is None:
                raise InputError("Qwen2.5-Omni is asked with a recording; use silence, or an endpoint for none")
            sounds.setdefault(ask.sound, ask.wave)
        order = list(sounds)
        processor = self.policy.processor
        features, mask = processor.features(list(sounds.values()))
        rows = [order.index(ask.sound) for ask in asks]
        device = next(self.policy.parameters()).device
        prompts: Prompts = processor.prompts([ask.text for ask in asks], features, mask, rows).to(device)
        return prompts

    def _as_answer(self, choice: str) -> str:
        return target_text(choice) if self.style == "paper" else choice

    def _by_option(self, asks: Sequence[Ask], prompts: Prompts) -> list[Reply]:
        """Replies with the log-prob of every option as a whole answer with its end token; a prompt is read once."""
        counts = [len(ask.choices) for ask in asks]
        ids, mask = self.policy.processor.targets([self._as_answer(choice) for ask in asks for choice in ask.choices])
        device = prompts.suffix_ids.device
        prompt_of_row = torch.repeat_interleave(torch.arange(len(asks)), torch.tensor(counts)).to(device)
        logprob = self.policy(prompts, ids.to(device), mask.to(device), prompt_of_row).logprob
        totals = logprob.double().sum(1).split(counts)
        return [Reply(ask.task, scores=scores.tolist()) for ask, scores in zip(asks, totals, strict=True)]

    def _by_letter(self, asks: Sequence[Ask], prompts: Prompts) -> list[Reply]:
        """Replies with the log-probs of the letters as the first token of the answer, in one reading of the prompt."""
        letters = _letter_ids(self.policy.processor.tokenizer, max(len(ask.choices) for ask in asks))
        logprob = torch.log_softmax(self.policy.logits(self.policy.read(prompts).last).double(), -1)[:, letters]
        return [
            Reply(ask.task, scores=row[: len(ask.choices)].tolist()) for ask, row in zip(asks, logprob, strict=True)
        ]


def _letter_ids(tokenizer: Any, count: int) -> list[int]:
    """The token ids of the first `count` letters. InputError where one of them is not a single token."""
    ids = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in ascii_uppercase[:count]]
    if any(len(tokens) != 1 for tokens in ids):
        raise InputError("the tokenizer has no single token for each letter; score by options")
    return [tokens[0] for tokens in ids]


class ChatVoter(nn.Module):
    """Qwen2-Audio (R1-AQA is one) or Audio Flamingo 3, by their own processor and chat template.

    Args as of `OmniVoter`; options are scored in one pass over each option.
    """

    def __init__(
        self,
        checkpoint: str,
        scoring: Scoring = "generate",
        style: str = "paper",
        dtype: str = "auto",
        attention: str = "sdpa",
        system: str | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        import transformers

        model_class = getattr(transformers, kind_of(checkpoint))
        self.model, found = model_class.from_pretrained(
            checkpoint,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            output_loading_info=True,
        )
        if missing := sorted(found["missing_keys"]):
            raise InputError(f"{checkpoint}: {len(missing)} of its tensors are missing ({missing[0]}); copy it again")
        self.model.eval()
        processor_class: Any = transformers.AutoProcessor
        self.processor = processor_class.from_pretrained(checkpoint, trust_remote_code=False)
        self.processor.tokenizer.padding_side = "left"
        self.scoring, self.style, self.system = scoring, style, system
        self.max_new_tokens, self.temperature, self.seed = max_new_tokens, temperature, seed
        self.end = self._end_of_turn()

    def _end_of_turn(self) -> str:
        """The token that ends an answer in the chat template; the tokenizer's own end where the template has none.

        They differ in Qwen2-Audio, whose tokenizer ends texts and whose template ends turns.
        """
        messages = [{"role": role, "content": [{"type": "text", "text": _MARK}]} for role in ("user", "assistant")]
        text = rendered(self.processor, messages, add_generation_prompt=False)
        tokenizer, behind = self.processor.tokenizer, text.rpartition(_MARK)[2].strip()
        first = tokenizer(behind, add_special_tokens=False)["input_ids"][:1] if behind else []
        special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        return str(tokenizer.convert_ids_to_tokens(first)[0] if set(first) & special else tokenizer.eos_token)

    @torch.no_grad()
    def replies(self, asks: Sequence[Ask]) -> list[Reply]:
        """A reply to each ask, in order."""
        if self.scoring == "options":
            return [self._by_option(ask) for ask in asks]
        if len({ask.wave is None for ask in asks}) == 2:  # processors take a recording with every text, or with none
            heard = iter(self.replies([ask for ask in asks if ask.wave is not None]))
            unheard = iter(self.replies([ask for ask in asks if ask.wave is None]))
            return [next(unheard if ask.wave is None else heard) for ask in asks]
        inputs = self._inputs(asks, [""] * len(asks))
        if self.scoring == "letters":
            letters = _letter_ids(self.processor.tokenizer, max(len(ask.choices) for ask in asks))
            logprob = torch.log_softmax(self.model(**inputs).logits[:, -1].double(), -1)[:, letters]
            return [
                Reply(ask.task, scores=row[: len(ask.choices)].tolist()) for ask, row in zip(asks, logprob, strict=True)
            ]
        return self._generated(asks, inputs)

    def _generated(self, asks: Sequence[Ask], inputs: Any) -> list[Reply]:
        """Replies with the answers that the model generates, greedily at temperature 0."""
        torch.manual_seed(hash64(self.seed, "vote", *asks[0].task.id) % (1 << 63))
        drawing: dict[str, Any] = {"do_sample": True, "temperature": self.temperature} if self.temperature else {}
        tokenizer, replies = self.processor.tokenizer, []
        configured = _as_list(self.model.generation_config.eos_token_id)
        ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(self.end), *configured}
        ids = self.model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=sorted(ends),
            pad_token_id=tokenizer.pad_token_id,
            **(drawing or {"do_sample": False, "temperature": None}),
        )
        for ask, row in zip(asks, ids[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            finished = any(token in ends for token in row)
            answer = row[: next((place for place, token in enumerate(row) if token in ends), len(row))]
            text = tokenizer.decode(answer, skip_special_tokens=True)
            replies.append(Reply(ask.task, text, completion_tokens=len(answer) + finished, finished=finished))
        return replies

    def _by_option(self, ask: Ask) -> Reply:
        """A reply with the log-prob of every option as a whole answer; InputError where they cannot be found."""
        tokenizer = self.processor.tokenizer
        answers = [(target_text(choice) if self.style == "paper" else choice) + self.end for choice in ask.choices]
        tokens = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
        inputs = self._inputs([ask] * len(answers), answers)
        ids = inputs["input_ids"]
        if any(row[-len(own) :] != own for row, own in zip(ids.tolist(), tokens, strict=True)):
            raise InputError(f"the tokenizer joins an option with what stands before it: {ask.choices!r:.200}")
        logits: Tensor = self.model(**inputs).logits
        if logits.shape[1] != ids.shape[1]:  # some models put the audio in only while they read
            raise InputError("this model lengthens its input; score by letters or generate")
        longest = max(map(len, tokens))
        logprob = torch.log_softmax(logits[:, -longest - 1 : -1].double(), -1)
        per_token = logprob.gather(-1, ids[:, -longest:, None])[..., 0]
        scores = [float(row[-len(own) :].sum()) for row, own in zip(per_token, tokens, strict=True)]
        return Reply(ask.task, scores=scores)

    def _inputs(self, asks: Sequence[Ask], answers: Sequence[str]) -> dict[str, Tensor]:
        """The model's inputs for the asks, each with its answer behind; InputError where audio was ignored."""
        texts = []
        for ask, answer in zip(asks, answers, strict=True):
            content: list[dict[str, Any]] = [{"type": "text", "text": ask.text}]
            if ask.wave is not None:
                content.insert(0, {"type": "audio", "audio": ""})
            messages = [{"role": "user", "content": content}]
            if self.system:
                messages.insert(0, {"role": "system", "content": [{"type": "text", "text": self.system}]})
            texts.append(rendered(self.processor, messages, add_generation_prompt=True) + answer)
        waves = [ask.wave for ask in asks if ask.wave is not None]
        sounds: dict[str, Any] = {"audio": waves, "audio_kwargs": {"sampling_rate": SAMPLE_RATE}} if waves else {}
        # Padding is asked of the texts alone: sounds are padded to the length that the audio tower wants.
        inputs = self.processor(text=texts, text_kwargs={"padding": True}, return_tensors="pt", **sounds)
        if waves and not any(name.startswith("input_features") for name in inputs):
            raise InputError("the processor ignored the recording; its version does not fit this model")
        device, dtype = next(self.model.parameters()).device, self.model.dtype
        return {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()}


def _as_list(value: Any) -> list[int]:
    """The ids of a setting that holds none, one or a list of them."""
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
