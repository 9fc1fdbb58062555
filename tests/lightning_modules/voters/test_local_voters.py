"""Voters that are loaded here score what the whole sequence scores, alone or in a batch."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from earwitness.curriculum.contribution.verdicts import Readable
from earwitness.datamodules.batch import Sample
from earwitness.datamodules.questions.answers import target_text
from earwitness.datamodules.questions.prompts import question_text
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.voting.answer_store import AnswerId, AnswerStore
from earwitness.datamodules.voting.tasks import Ask, PromptingSpec, Task, VoterTasks
from earwitness.errors import InputError
from earwitness.lightning_modules.base import PolicyModule
from earwitness.lightning_modules.policy.tiny import train_tokenizer
from earwitness.lightning_modules.voters.local import ChatVoter, OmniVoter, kind_of
from earwitness.lightning_modules.voters.module import VoterModule

CONDITIONS = ["audio", "silence:1", "noise"]


@pytest.fixture(scope="module")
def reader(small) -> ShardReader:
    return ShardReader(small.index)


@pytest.fixture(scope="module")
def omni(small) -> OmniVoter:
    """For every test: what it is asked for is set by each."""
    return OmniVoter(small.tiny, dtype="float32", max_new_tokens=8)


def ready(voter, **settings):
    """The voter, asked in another manner than before."""
    defaults = {"scoring": "generate", "style": "paper", "temperature": 0.0, "seed": 0, "max_new_tokens": 8}
    for name, value in (defaults | settings).items():
        setattr(voter, name, value)
    return voter


def asks_of(reader: ShardReader, manner: PromptingSpec, count: int = 4, conditions=tuple(CONDITIONS)) -> list[Ask]:
    """Of some questions that share a recording and some that do not."""
    ballot = VoterTasks(reader, manner)
    rows = [row for row in range(len(reader)) if reader.text("split", row) == "test"][:count]
    return [ballot.ask(task) for task in ballot.tasks(rows, conditions)]


def plain_logprob(voter: OmniVoter, ask: Ask, answer: str) -> torch.Tensor:
    """[T] log-probs of an answer and its end, by transformers' own model over the whole unpadded sequence.

    Placeholder tokens are no answers: they have no probability here either.
    """
    processor, policy = voter.policy.processor, voter.policy
    features, mask = processor.features([ask.wave])
    prompts = processor.prompts([ask.text], features, mask, [0])
    target, _ = processor.targets([answer])
    ids = torch.cat([prompts.prefix_ids, prompts.suffix_ids, target], 1)
    with torch.no_grad():
        logits = policy.thinker(
            input_ids=ids,
            input_features=features,
            feature_attention_mask=mask,
            attention_mask=torch.ones_like(ids),
        ).logits.double()
    logits[..., policy.suppressed] = -math.inf
    logprob = torch.log_softmax(logits[0, :-1], -1)
    return logprob.gather(-1, ids[0, 1:, None])[-target.shape[1] :, 0]


@pytest.mark.parametrize("style", ["paper", "lines"])
def test_an_options_score_is_the_log_prob_of_the_whole_answer(reader, omni, style):
    """In the paper's prompt the answer stands between tags, elsewhere alone; its end counts."""
    asks = asks_of(reader, PromptingSpec(style=style, scoring="options", rotations=2), 2)
    replies = ready(omni, scoring="options", style=style).replies(asks)
    assert len(replies) == 12
    for ask, reply in zip(asks, replies, strict=True):
        written = [target_text(choice) if style == "paper" else choice for choice in ask.choices]
        expected = [float(plain_logprob(omni, ask, answer).sum()) for answer in written]
        assert reply.task is ask.task and reply.scores == pytest.approx(expected, abs=1e-4)
        assert len({round(score, 3) for score in reply.scores}) == 4


def test_a_letters_score_is_the_log_prob_of_the_first_token(reader, omni):
    asks = asks_of(reader, PromptingSpec("letters", scoring="letters"), 3)
    replies = ready(omni, scoring="letters", style="letters").replies(asks)
    for ask, reply in zip(asks, replies, strict=True):
        expected = [float(plain_logprob(omni, ask, letter)[0]) for letter in "ABCD"[: len(ask.choices)]]
        assert reply.scores == pytest.approx(expected, abs=1e-4)


def policy_answers(small, reader: ShardReader, asks: list[Ask], voter: OmniVoter) -> list[str]:
    """What training's own evaluation says to these questions at temperature 0."""
    module = PolicyModule(lambda: voter.policy, max_new_tokens=voter.max_new_tokens)
    module.configure_model()
    said = []
    for ask in asks:
        question = reader.question(ask.task.row)
        sample = Sample(question, question.choices, condition=ask.task.id.condition, row=ask.task.row)
        batch = voter.policy.processor.batch([sample], [ask.wave], [""])
        said += [record["raw"] for record in module.answer(batch)]
    return said


def test_generated_answers_are_those_of_the_policys_own_evaluation(small, reader, omni):
    asks = asks_of(reader, PromptingSpec(rotations=1))
    replies = ready(omni).replies(asks)
    assert [reply.text for reply in replies] == policy_answers(small, reader, asks, omni)
    assert len({reply.text for reply in replies}) > 1, "the sound and the words matter"
    for reply in replies:
        assert reply.finished or reply.completion_tokens == 8


@pytest.mark.parametrize("scoring", ["generate", "options", "letters"])
def test_what_stands_beside_a_question_in_a_batch_changes_nothing(reader, omni, scoring):
    """Alone, in one batch of clips of three lengths, in reverse, in odd parts, with shared and with unshared sounds."""
    style = "letters" if scoring == "letters" else "paper"
    asks = asks_of(reader, PromptingSpec(style, "letter" if style == "letters" else "exact", scoring, rotations=2), 4)
    voter = ready(omni, scoring=scoring, style=style)
    alone = {ask.task: voter.replies([ask])[0] for ask in asks}
    own = [Ask(a.task, a.text, a.choices, a.wave, ("own", n)) for n, a in enumerate(asks)]
    assert len({ask.sound for ask in asks}) < len(asks)
    for order in (asks, asks[::-1], asks[1::3] + asks[::3], own):
        for start in range(0, len(order), 10):
            for reply in voter.replies(order[start : start + 10]):
                expected = alone[reply.task]
                assert (reply.text, reply.finished) == (expected.text, expected.finished)
                assert reply.completion_tokens == expected.completion_tokens
                assert reply.scores == (None if scoring == "generate" else pytest.approx(expected.scores, abs=1e-4))


def test_a_recording_is_read_once_for_all_that_is_asked_about_it(reader, omni, monkeypatch):
    """Eight asks hear one silence, 12 rotations of three questions their recordings: as many clips as sounds."""
    clips = []
    features = omni.policy.processor.features
    monkeypatch.setattr(omni.policy.processor, "features", lambda waves: (clips.append(len(waves)), features(waves))[1])
    asks = asks_of(reader, PromptingSpec(scoring="options", rotations="all"), 3, ("silence:1", "audio"))
    ready(omni, scoring="options").replies(asks)
    sounds = {reader.clip(ask.task.row) for ask in asks}
    assert clips == [1 + len(sounds)] and len(asks) == 24


def test_sampled_answers_depend_on_what_is_asked_alone(reader, omni):
    """Not on the batch; other draws, rotations, conditions and seeds are other answers."""
    asks = asks_of(reader, PromptingSpec(draws=3), 3)
    voter = ready(omni, temperature=1.0)
    together = [reply.text for reply in voter.replies(asks)]
    assert [reply.text for reply in voter.replies(asks[::-1])] == together[::-1]
    assert [voter.replies([ask])[0].text for ask in asks[:6]] == together[:6]
    assert len(set(together)) == len(asks)
    assert not set(together) & {reply.text for reply in ready(omni, temperature=1.0, seed=1).replies(asks)}


def test_a_finished_answer_is_told_from_one_that_was_cut_off(reader, omni):
    asks = asks_of(reader, PromptingSpec(draws=9), 2)
    replies = ready(omni, temperature=3.0, max_new_tokens=60).replies(asks)
    cut = [reply for reply in replies if not reply.finished]
    assert cut and len(cut) < len(replies), "of 54 random answers some end"
    assert all(reply.completion_tokens == 60 for reply in cut)
    assert all(reply.completion_tokens <= 60 and "<|im_end|>" not in reply.text for reply in replies)


def test_omni_is_not_asked_without_a_recording(reader, omni):
    with pytest.raises(InputError, match="use silence, or an endpoint for none"):
        ready(omni).replies(asks_of(reader, PromptingSpec(), 1, ("none",)))


def test_the_system_turn_of_a_voter_is_its_own(small, reader):
    assert "You are an audio understanding model" in OmniVoter(small.tiny).policy.processor.prefix
    other = OmniVoter(small.tiny, system="Listen well.")
    assert "Listen well." in other.policy.processor.prefix
    assert "You are an audio" not in other.policy.processor.prefix


def test_the_module_keeps_the_records_of_every_batch(reader, omni, tmp_path):
    ballot = VoterTasks(reader, PromptingSpec(scoring="options"))
    store = AnswerStore(tmp_path / "v.arrow")
    module = VoterModule(ready(omni, scoring="options"), ballot, store, Readable("tiny", 1.0))
    asks = asks_of(reader, ballot.prompting, 2, ("audio",))
    assert module.transfer_batch_to_device(asks, "cuda:7", 0) is asks
    module.predict_step(asks[:1], 0)
    assert [record["uid"] for record in store.read()] == [asks[0].task.id.uid]
    module.predict_step(asks[1:], 1)
    replies = omni.replies(asks)
    expected = [ballot.record(ask, reply) for ask, reply in zip(asks, replies, strict=True)]
    for kept, record in zip(store.read(), expected, strict=True):
        assert kept["scores"] == pytest.approx(record["scores"], abs=1e-4)
        assert {**kept, "scores": 0, "p_right": 0} == {**record, "scores": 0, "p_right": 0}


# Qwen2-Audio and Audio Flamingo 3: the real classes, tiny, with windows of two seconds instead of thirty.

WINDOW_S = 2
TEXT = {"model_type": "qwen2", "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048, "initializer_range": 0.3}
FLAMINGO_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<sound>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LENGTHS = (8_000, 20_000, 31_999, 5_000)
WORDS = ("Which sound?", "And after all of this, which sound comes last?", "Hm?", "Which sound comes first?")
CHOICES = [
    ("rain", "a dog's bark", "wind"),
    ("a", "b"),
    ("rain", "wind", "a bell", "a man"),
    ("low", "very, very high"),
]


def build_qwen(folder: Path) -> Path:
    """With the tokenizer's end of the published model, which is not the end of a turn."""
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    tokenizer, extractor = words_and_sounds()
    tokenizer.eos_token = "<|endoftext|>"
    sound = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    sound |= {"max_source_positions": 50 * WINDOW_S, "num_mel_bins": 128, "initializer_range": 0.3}
    config = Qwen2AudioConfig(
        audio_config=sound, text_config=dict(TEXT), audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    )
    torch.manual_seed(0)
    Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    Qwen2AudioProcessor(extractor, tokenizer).save_pretrained(folder)
    return folder


def build_flamingo(folder: Path) -> Path:
    from transformers import AudioFlamingo3Config, AudioFlamingo3ForConditionalGeneration, AudioFlamingo3Processor

    tokenizer, extractor = words_and_sounds()
    tokenizer.add_tokens(["<sound>"], special_tokens=True)
    sound = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sound |= {"max_source_positions": 50 * WINDOW_S, "num_mel_bins": 128, "initializer_range": 0.3}
    config = AudioFlamingo3Config(
        audio_config=sound, text_config=dict(TEXT), audio_token_id=tokenizer.convert_tokens_to_ids("<sound>")
    )
    torch.manual_seed(0)
    AudioFlamingo3ForConditionalGeneration(config).save_pretrained(folder)
    AudioFlamingo3Processor(extractor, tokenizer, chat_template=FLAMINGO_TEMPLATE).save_pretrained(folder)
    return folder


def words_and_sounds() -> tuple:
    from transformers import WhisperFeatureExtractor

    texts = [question_text(words, choices) for words, choices in zip(WORDS, CHOICES, strict=True)]
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=WINDOW_S, return_attention_mask=True)
    return train_tokenizer(texts, 400), extractor


@pytest.fixture(scope="module", params=["qwen2_audio", "audioflamingo3"])
def chat(request, tmp_path_factory) -> SimpleNamespace:
    build = {"qwen2_audio": build_qwen, "audioflamingo3": build_flamingo}[request.param]
    folder = build(tmp_path_factory.mktemp(request.param))
    kind = "AUDIO" if request.param == "qwen2_audio" else "sound"
    return SimpleNamespace(folder=str(folder), kind=kind, voter=ChatVoter(str(folder), dtype="float32"))


def chat_asks(texts=WORDS, silent: bool = False, sounds=LENGTHS) -> list[Ask]:
    """Four questions about recordings of four lengths; a length of 0 is none at all."""
    found = []
    for number, (words, choices, length) in enumerate(zip(texts, CHOICES, sounds, strict=True)):
        wave = np.random.default_rng(number).normal(0, 0.1, length).astype(np.float32) * (not silent)
        task = Task(AnswerId(number, "silence" if silent else "audio"), number)
        found.append(Ask(task, words, choices, wave if length else None, ("x", number)))
    return found


def by_hand(chat: SimpleNamespace, ask: Ask, answer_ids: list[int]) -> torch.Tensor:
    """[T] log-probs of these tokens after the prompt, in one forward pass over one unpadded row of ids."""
    tokenizer, extractor, model = (
        chat.voter.processor.tokenizer,
        chat.voter.processor.feature_extractor,
        chat.voter.model,
    )
    heard, features = "", {}
    if ask.wave is not None:
        whole = {"padding": "max_length", "return_attention_mask": True, "return_tensors": "pt"}
        padded = extractor(ask.wave, sampling_rate=16_000, **whole)
        frames = int(padded["attention_mask"].sum())
        count = ((frames - 1) // 2 + 1 - 2) // 2 + 1
        heard = "<sound>" * count
        mask = "input_features_mask"
        if chat.kind == "AUDIO":
            heard = f"Audio 1: <|audio_bos|>{'<|AUDIO|>' * count}<|audio_eos|>\n"
            mask = "feature_attention_mask"
        features = {"input_features": padded["input_features"], mask: padded["attention_mask"]}
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" if chat.kind == "AUDIO" else ""
    text = f"{system}<|im_start|>user\n{heard}{ask.text}<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"] + answer_ids])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **features).logits.double()
    assert logits.shape[1] == ids.shape[1]
    logprob = torch.log_softmax(logits[0, :-1], -1).gather(-1, ids[0, 1:, None])[:, 0]
    return logprob[len(logprob) - len(answer_ids) :]


def ids_of(chat: SimpleNamespace, text: str) -> list[int]:
    return chat.voter.processor.tokenizer(text, add_special_tokens=False)["input_ids"]


SITUATIONS = {
    "audio": {},
    "silence": {"silent": True, "sounds": (8_000,) * 4},
    "none": {"sounds": (0,) * 4},
    "some": {"sounds": (8_000, 0, 20_000, 0)},
}


@pytest.mark.parametrize("style", ["paper", "lines"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_chat_models_score_options_as_one_forward_pass_does(chat, situation, style):
    """The answer ends with what ends a turn, also in the model whose tokenizer ends texts with another token."""
    asks = chat_asks(**SITUATIONS[situation])
    replies = ready(chat.voter, scoring="options", style=style).replies(asks)
    for ask, reply in zip(asks, replies, strict=True):
        written = [target_text(choice) if style == "paper" else choice for choice in ask.choices]
        expected = [float(by_hand(chat, ask, ids_of(chat, f"{text}<|im_end|>")).sum()) for text in written]
        assert reply.task is ask.task and reply.scores == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_chat_models_score_letters_as_one_forward_pass_does(chat, situation):
    """Four prompts of different lengths in one batch, padded on the left."""
    asks = chat_asks(**SITUATIONS[situation])
    replies = ready(chat.voter, scoring="letters", style="letters").replies(asks)
    for ask, reply in zip(asks, replies, strict=True):
        expected = [float(by_hand(chat, ask, ids_of(chat, letter))[0]) for letter in "ABCD"[: len(ask.choices)]]
        assert reply.task is ask.task and reply.scores == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_chat_models_say_the_likeliest_token_after_the_other(chat, situation):
    """Greedy by hand: whatever token is appended next, it is the likeliest of all."""
    asks = chat_asks(**SITUATIONS[situation])
    voter = ready(chat.voter, max_new_tokens=4)
    replies = voter.replies(asks)
    ends = {ids_of(chat, "<|im_end|>")[0], voter.processor.tokenizer.eos_token_id}
    for ask, reply in zip(asks, replies, strict=True):
        said: list[int] = []
        while len(said) < 4 and not set(said) & ends:
            said.append(likeliest(chat, ask, said))
        finished = bool(set(said) & ends)
        text = voter.processor.tokenizer.decode([each for each in said if each not in ends], skip_special_tokens=True)
        assert (reply.text, reply.finished, reply.completion_tokens) == (text, finished, len(said))


def likeliest(chat: SimpleNamespace, ask: Ask, said: list[int]) -> int:
    """By the log-probs of all 512 tokens at the next place: one pass, its last row of logits."""
    rows = []
    forward = chat.voter.model.forward

    def kept(*args, **kwargs):
        found = forward(*args, **kwargs)
        rows.append(found.logits[0, -1])
        return found

    chat.voter.model.forward = kept
    try:
        by_hand(chat, ask, said)
    finally:
        chat.voter.model.forward = forward
    return int(rows[0].argmax())


@pytest.mark.parametrize("scoring", ["generate", "options", "letters"])
def test_chat_models_answer_one_by_one_as_in_any_batch(chat, scoring):
    """Recordings of four lengths, one of them silent; with and without a recording."""
    asks = [*chat_asks()[:3], *chat_asks(**SITUATIONS["silence"])[:1], *chat_asks(**SITUATIONS["none"])[2:]]
    voter = ready(chat.voter, scoring=scoring, style="letters" if scoring == "letters" else "paper", max_new_tokens=5)
    alone = [voter.replies([ask])[0] for ask in asks]
    orders = [list(order) for order in permutations(range(len(asks)))][:: 720 // 6]
    for order in orders:
        replies = voter.replies([asks[place] for place in order])
        for place, reply in zip(order, replies, strict=True):
            assert reply.task is asks[place].task and reply.text == alone[place].text
            expected = None if scoring == "generate" else pytest.approx(alone[place].scores, abs=1e-4)
            assert reply.scores == expected


def test_chat_models_hear(chat):
    """Another sound, silence and no sound at all are four different scores."""
    (ask, *_), (silent, *_), (none, *_) = chat_asks(), chat_asks(silent=True), chat_asks(**SITUATIONS["none"])
    other = Ask(ask.task, ask.text, ask.choices, ask.wave[::-1].copy())
    voter = ready(chat.voter, scoring="letters", style="letters")
    scores = [
        tuple(round(score, 3) for score in voter.replies([each])[0].scores) for each in (ask, silent, none, other)
    ]
    assert len(set(scores)) == 4


def test_a_recording_longer_than_a_window_is_read_to_its_end_by_flamingo(chat):
    """Five seconds are three windows: what the last holds is heard. Qwen2-Audio hears one window and no more."""
    wave = np.random.default_rng(0).normal(0, 0.1, 5 * 16_000).astype(np.float32)
    changed = wave.copy()
    changed[-8_000:] *= -3
    asks = [Ask(Task(AnswerId(0, "audio"), 0), WORDS[0], CHOICES[0], each) for each in (wave, changed)]
    one, two = (reply.scores for reply in ready(chat.voter, scoring="letters").replies(asks))
    assert (one != pytest.approx(two, abs=1e-3)) == (chat.kind == "sound")


def test_sampled_answers_of_chat_models_are_the_same_for_the_same_batch_and_seed(chat):
    asks = chat_asks()
    first = [reply.text for reply in ready(chat.voter, temperature=1.5).replies(asks)]
    torch.rand(3)
    assert [reply.text for reply in chat.voter.replies(asks)] == first
    assert [reply.text for reply in ready(chat.voter, temperature=1.5, seed=1).replies(asks)] != first


def test_the_system_turn_is_said_first(chat):
    voter = ready(chat.voter)
    said: list[str] = []
    processor = voter.processor

    class Told:
        tokenizer = processor.tokenizer
        chat_template = processor.chat_template

        def __call__(self, text, **more):
            said.extend(text)
            return processor(text=text, **more)

    voter.processor, voter.system = Told(), "Listen well."
    try:
        ready(voter, max_new_tokens=1).replies(chat_asks())
    finally:
        voter.processor, voter.system = processor, None
    assert all(text.startswith("<|im_start|>system\nListen well.<|im_end|>\n") for text in said) and len(said) == 4


def test_weights_of_half_precision_hear_as_well(chat):
    """Sounds come in float32 whatever the weights are."""
    asks = chat_asks()
    half = ready(ChatVoter(chat.folder, dtype="bfloat16"), scoring="letters", style="letters")
    full = ready(chat.voter, scoring="letters", style="letters").replies(asks)
    for a, b in zip(half.replies(asks), full, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=0.5)


def test_what_cannot_vote_is_told_at_once(small, tmp_path):
    assert kind_of(small.tiny) == "omni"
    with pytest.raises(InputError, match="nowhere: neither a checkpoint folder nor a known model id") as refused:
        kind_of(str(tmp_path / "nowhere"))
    assert "\n" not in str(refused.value)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="a bert cannot vote here; use an OpenAI-compatible endpoint"):
        ChatVoter(str(tmp_path))
