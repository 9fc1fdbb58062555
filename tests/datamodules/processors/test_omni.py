"""A prompt becomes the official token ids and features, bit for bit, at a fraction of the padding."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from earwitness.datamodules.audio.signals import silence
from earwitness.datamodules.batch import Sample
from earwitness.datamodules.processors.omni import AUDIO, OmniProcessor, num_audio_tokens
from earwitness.datamodules.questions.answers import target_text
from earwitness.datamodules.questions.prompts import question_text
from earwitness.datamodules.questions.question import parse_question
from earwitness.errors import InputError
from earwitness.lightning_modules.policy.tiny import build_thinker, train_tokenizer

LENGTHS = (400, 479, 480, 481, 1_599, 1_600, 1_601, 16_000, 24_123)  # one window, around multiples of 160, seconds
PREFIX = (
    "<|im_start|>system\n"
    "You are an audio understanding model that answers multiple choice questions based on audio content.<|im_end|>\n"
    "<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|>"
)
TAIL = "<|im_end|>\n<|im_start|>assistant\n"


def sample(number: int, question: str, choices: list[str], weight: float = 1.0) -> Sample:
    record = {"source_dataset": "s", "id": str(number), "question": question, "answer": choices[0], "choices": choices}
    return Sample(parse_question(record, "test"), tuple(choices), weight=weight)


SAMPLES = (
    sample(0, "Which sound is heard?", ["Rain", "a dog's bark", 'a "beep"', "Wind"]),
    sample(1, "  How many?\n", ["two", "three"], weight=0.0),
    sample(2, "Was hört man im Stück, ¿und wann? 🎵", ["Geige", "Flöte\\n", "C\t7"]),
    sample(3, "x", ["1.5 kHz", "3kHz", "''", "you're right", "2,000,000"]),
)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + samples).normal(0, 0.1, samples).astype(np.float32)


@pytest.fixture(scope="module")
def extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=128, chunk_length=300, return_attention_mask=True)


@pytest.fixture(scope="module")
def processor(extractor) -> OmniProcessor:
    texts = [question_text(s.question.question, s.choices) for s in SAMPLES]
    return OmniProcessor(train_tokenizer(texts, 400), extractor)


@pytest.fixture(scope="module")
def official(processor):
    """transformers' own processor; only its vision parts, which no recording reaches, would need torchvision."""
    from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor

    whole = Qwen2_5OmniProcessor.__new__(Qwen2_5OmniProcessor)
    whole.tokenizer, whole.feature_extractor = processor.tokenizer, processor.feature_extractor
    whole.image_processor = whole.video_processor = SimpleNamespace(merge_size=2)
    whole.image_token, whole.audio_token, whole.video_token = "<|IMAGE|>", "<|AUDIO|>", "<|VIDEO|>"
    return whole


def padded_to_300_s(extractor, clips: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    out = extractor(clips, sampling_rate=16_000, return_attention_mask=True, return_tensors="pt")
    assert out["input_features"].shape[-1] == 30_000
    return out["input_features"], out["attention_mask"]


@pytest.mark.parametrize("samples", LENGTHS)
def test_features_equal_those_of_300_s_of_padding_bit_for_bit(processor, extractor, samples):
    clip = noise(samples)
    features, mask = processor.features([clip])
    frames = -(-samples // 160)  # every begun hop is a frame
    expected, expected_mask = padded_to_300_s(extractor, [clip])
    assert mask.sum() == expected_mask.sum() == frames == mask.shape[1]
    assert torch.equal(features, expected[..., :frames])


def test_features_of_a_batch_do_not_depend_on_its_longest_clip(processor, extractor):
    clips = [noise(n) for n in (1_599, 24_123, 3_200)]
    features, mask = processor.features(clips)
    expected, expected_mask = padded_to_300_s(extractor, clips)
    assert mask.sum(1).tolist() == [10, 151, 20] and torch.equal(mask, expected_mask[:, :151].long())
    assert torch.equal(features, expected[..., :151])
    for clip, row, kept in zip(clips, features, mask.sum(1).tolist(), strict=True):
        assert torch.equal(processor.features([clip])[0][0], row[:, :kept])


def test_silence_is_the_lowest_mel_everywhere_and_is_computed_once(processor):
    """log10(1e-10) = -10, scaled (-10 + 4) / 4 = -1.5; 30 s are 3000 frames and 750 audio tokens."""
    features, mask = processor.silent_features(30.0)
    assert features.shape == (1, 128, 3_000) and mask.all()
    assert (features == -1.5).all()
    assert num_audio_tokens(int(mask.sum())) == 750
    assert processor.silent_features(30.0)[0] is features
    assert processor.silent_features(0.1)[0].shape == (1, 128, 10)


def test_the_prompt_is_the_papers_to_the_letter(processor):
    """Options as Python prints a list: an apostrophe turns the quotes of its option, nothing else is escaped."""
    assert (processor.prefix, processor.tail) == (PREFIX, TAIL)
    assert question_text("Which sound is heard?", ("Rain", "a dog's bark", 'a "beep"', "Wind")) == (
        "Which sound is heard? Please choose the answer from the following options: "
        "['Rain', \"a dog's bark\", 'a \"beep\"', 'Wind']. Output the final answer in <answer> </answer>."
    )
    assert target_text("Rain") == "<answer>Rain</answer>"


def whole_text(s: Sample, samples: int) -> str:
    tokens = num_audio_tokens(-(-samples // 160))
    return PREFIX.replace(AUDIO, AUDIO * tokens) + question_text(s.question.question, s.choices) + TAIL


def row_ids(prompts, row: int) -> list[int]:
    clip = prompts.clip_of_row[row]
    ids = torch.cat([prompts.prefix_ids[clip], prompts.suffix_ids[row]])
    return ids[torch.cat([prompts.prefix_mask[clip], prompts.suffix_mask[row]]).bool()].tolist()


def test_prefix_and_suffix_tokenised_apart_are_the_whole_tokenised_at_once(processor):
    batch = processor.batch(SAMPLES, [noise(n) for n in LENGTHS[:4]], ["a"] * 4)
    for row, s in enumerate(SAMPLES):
        whole = whole_text(s, LENGTHS[row])
        assert row_ids(batch.prompts, row) == processor.tokenizer(whole)["input_ids"]
        assert processor.tokenizer.decode(row_ids(batch.prompts, row)) == whole


def test_a_batch_is_the_official_processors(processor, official):
    samples = (1_600, 24_123, 481, 16_000)
    clips = [noise(n) for n in samples]
    texts = [PREFIX + question_text(s.question.question, s.choices) + TAIL for s in SAMPLES]
    expected = official(text=texts, audio=clips, padding=True, return_tensors="pt")
    prompts = processor.batch(SAMPLES, clips, ["a"] * 4).prompts
    for row, (ids, mask) in enumerate(zip(expected["input_ids"], expected["attention_mask"], strict=True)):
        assert row_ids(prompts, row) == ids[mask.bool()].tolist()
    frames = prompts.features.shape[-1]
    assert torch.equal(prompts.features, expected["input_features"][..., :frames])
    assert torch.equal(prompts.feature_mask, expected["feature_attention_mask"][:, :frames].long())
    assert expected["feature_attention_mask"].sum() == prompts.feature_mask.sum()


def test_prompts_are_padded_left_and_targets_right(processor):
    batch = processor.batch(SAMPLES, [noise(n) for n in LENGTHS[-4:]], ["a", "b b b b b", "c", "d d"])
    p = batch.prompts
    for ids, mask, left in (
        (p.prefix_ids, p.prefix_mask, True),
        (p.suffix_ids, p.suffix_mask, True),
        (batch.target_ids, batch.target_mask, False),
    ):
        assert mask.sum(1).max() == mask.shape[1] > mask.sum(1).min(), "as wide as the longest, and one is shorter"
        ordered = mask.sort(dim=1, descending=not left).values
        assert torch.equal(mask, ordered)
        assert (ids[mask == 0] == processor.pad_id).all() and (ids[mask == 1] != processor.pad_id).all()


def test_targets_end_with_the_end_of_the_turn_and_read_back(processor):
    targets = ["<answer>Flöte</answer>", "<answer>a dog's bark</answer>", "x", ""]
    batch = processor.batch(SAMPLES, 0.1, targets, step=7, plan="abc")
    assert (
        batch.target_ids[batch.target_mask.cumsum(1) == batch.target_mask.sum(1, keepdim=True)]
        .eq(processor.eos_id)
        .any()
    )
    lengths = batch.target_mask.sum(1)
    assert (batch.target_ids[torch.arange(4), lengths - 1] == processor.eos_id).all() and lengths[3] == 1
    assert processor.decode(batch.target_ids, batch.target_mask) == targets
    assert (batch.step, batch.plan, batch.samples) == (7, "abc", SAMPLES)
    assert batch.weights.tolist() == [1.0, 0.0, 1.0, 1.0]


def test_decoding_hides_the_end_of_the_turn_alone(processor):
    ids = processor.tokenizer("ab<|im_start|>c<|im_end|>d")["input_ids"]
    mask = [1] * (len(ids) - 1) + [0]
    assert processor.decode(torch.tensor([ids]), torch.tensor([mask])) == ["ab<|im_start|>c"]


def test_a_silent_batch_has_one_clip_for_all(processor):
    prompts = processor.batch(SAMPLES, 2.0, ["a"] * 4).prompts
    assert prompts.clip_of_row.tolist() == [0, 0, 0, 0] and len(prompts.features) == 1
    alone = processor.batch(SAMPLES[:1], [silence(2.0)], ["a"]).prompts
    assert torch.equal(prompts.features, alone.features) and row_ids(prompts, 0) == row_ids(alone, 0)


def test_token_counts_by_hand():
    """100 frames: 50 after the convolution, 25 after the pooling. 3 frames are the shortest clip."""
    counts = {3: 1, 4: 1, 5: 1, 6: 1, 7: 2, 100: 25, 101: 25, 1_000: 250, 3_000: 750, 30_000: 7_500}
    assert {frames: num_audio_tokens(frames) for frames in counts} == counts


def test_the_audio_tower_fills_as_many_positions_as_the_prompt_holds(processor):
    """Also around 200 frames, where the tower's window ends, and for clips of different lengths together."""
    thinker = build_thinker(processor.tokenizer, hidden=32, layers=1, audio_hidden=16, audio_layers=1, seed=0)
    frames = [*range(3, 13), 99, 100, 199, 200, 201, 202, 203, 204, 205, 399, 400, 401, 402, 403, 1_000]
    with torch.no_grad():
        for lengths in [*([n] for n in frames), frames]:
            mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
            filled = thinker.get_audio_features(torch.zeros(len(lengths), 128, max(lengths)), mask, return_dict=True)
            assert len(filled.last_hidden_state) == sum(map(num_audio_tokens, lengths)), lengths


@pytest.mark.parametrize("rows", [[0], [3], [5, 0], [4, 4, 1], [2, 3], [5, 4, 3, 2, 1, 0], slice(1, 4), slice(4, 6)])
def test_a_selection_keeps_each_rows_own_clip_and_words(processor, rows):
    clips, clip_of_row = [noise(n, 7) for n in (24_123, 1_600, 480)], [2, 0, 1, 0, 2, 1]
    whole = processor.batch([*SAMPLES, *SAMPLES[:2]], clips, ["a"] * 6, clip_of_row).prompts
    numbers = list(range(6))[rows] if isinstance(rows, slice) else rows
    part = whole.select(rows if isinstance(rows, slice) else torch.tensor(rows))
    assert len(part) == len(numbers) and len(part.features) == len({clip_of_row[n] for n in numbers})
    for i, n in enumerate(numbers):
        mine, theirs = part.clip_of_row[i], clip_of_row[n]
        assert row_ids(part, i) == row_ids(whole, n)
        kept = whole.feature_mask[theirs].bool()
        assert torch.equal(part.features[mine][:, part.feature_mask[mine].bool()], whole.features[theirs][:, kept])
    for mask in (part.prefix_mask, part.suffix_mask, part.feature_mask):
        assert mask.any(0).all(), "no column is padding alone"


def test_what_is_no_omni_processor_is_refused(processor, extractor, tmp_path):
    with pytest.raises(InputError, match=rf"^{tmp_path}/none: no Qwen2\.5-Omni processor there"):
        OmniProcessor.from_pretrained(tmp_path / "none")
    with pytest.raises(InputError, match="wants 8000 Hz"):
        OmniProcessor(processor.tokenizer, SimpleNamespace(sampling_rate=8_000))
    template = processor.tokenizer.chat_template
    try:
        processor.tokenizer.chat_template = template.replace("<|audio_bos|><|AUDIO|><|audio_eos|>", "")
        with pytest.raises(InputError, match="chat template does not put one recording before the user's text"):
            OmniProcessor(processor.tokenizer, extractor)
    finally:
        processor.tokenizer.chat_template = template


def test_a_saved_processor_is_the_same_processor(processor, extractor, tmp_path):
    processor.tokenizer.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    again = OmniProcessor.from_pretrained(tmp_path)
    one, two = (p.batch(SAMPLES, [noise(n) for n in LENGTHS[:4]], ["a"] * 4).prompts for p in (processor, again))
    assert row_ids(one, 2) == row_ids(two, 2) and torch.equal(one.features, two.features)
