"""What a question can be heard with, in numbers; and that accuracies are told apart by it."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from earwitness.curriculum.identity import hash64, uniforms
from earwitness.datamodules.audio.signals import noise
from earwitness.datamodules.batches.conditions import Condition, parse_condition
from earwitness.datamodules.batches.requests import EvaluationSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.datamodules.processors.omni import OmniProcessor
from earwitness.datamodules.shards.partners import Partners
from earwitness.errors import InputError
from earwitness.lightning_modules.base import PolicyModule
from earwitness.tests.datamodules.batches.test_bad_samples import answers
from earwitness.tests.datamodules.test_datamodule import build, module, tensors

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
# Recording, split, source and type of each question. Recording 0 has twelve questions.
ROWS = [(0, "train", "s", "a")] * 12
ROWS += [(1 + n // 2, "train", "s", "ab"[n // 2 % 2]) for n in range(38)]
ROWS += [(20, "train", "t", "a"), (20, "train", "t", "b"), (21, "train", "t", "b")]  # no other of type a in source t
ROWS += [(22, "train", "u", "a")]  # alone in its source
ROWS += [(23, "val", "s", "a"), (23, "val", "s", "b")]  # alone in its split
ROWS += [(24, "test", "s", "a"), (25, "test", "s", "a")]  # each the other's only choice


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """The tokenizer is read once."""
    monkeypatch.setattr(OmniProcessor, "from_pretrained", lru_cache(OmniProcessor.from_pretrained))


def packed(folder: Path, order: np.ndarray, per_shard: int) -> Path:
    rows = [ROWS[n] for n in order]
    clips, splits, sources, types = zip(*rows, strict=True)
    texts = {"id": lambda n: f"{order[n]:02}", "question": lambda n: f"Question {order[n]}?"}
    texts |= {"source_dataset": lambda n: sources[n], "question_type": lambda n: types[n]}
    return build(folder, list(clips), list(splits), per_shard=per_shard, **texts)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return packed(tmp_path_factory.mktemp("conditions") / "corpus", np.arange(len(ROWS)), 6)


@pytest.fixture
def data(corpus) -> AudioQuestions:
    return module(corpus, setup="test")


def number(data: AudioQuestions, row: int) -> int:
    """Which of ROWS the row of the index is."""
    return int(data.reader.key(row)[2:])


def ask(data: AudioQuestions, condition: str, **pool) -> list:
    return data.evaluation_requests(EvaluationSpec(pool, [condition], batch_size=20))


@pytest.mark.parametrize(
    ("name", "condition", "reads"),
    [
        ("audio", Condition("audio"), True),
        ("silence", Condition("silence", 30.0), False),
        ("silence:4", Condition("silence", 4.0), False),
        ("silence:0.1", Condition("silence", 0.1), False),
        ("silence:clip", Condition("silence"), False),
        ("noise", Condition("noise"), False),
        ("noise:300", Condition("noise", 300.0), False),
        ("mismatched", Condition("mismatched"), True),
    ],
)
def test_names_of_conditions(name, condition, reads):
    assert parse_condition(name) == condition and condition.reads_audio == reads


@pytest.mark.parametrize(
    ("name", "samples"), [("silence", 480_000), ("silence:4", 64_000), ("silence:0.5", 8_000), ("silence:clip", None)]
)
def test_silence_is_zeros_of_its_length_alone(data, name, samples):
    """30 s, so many seconds, or as long as the recording: 1,600 + 160 c samples for recording c; a frame is 160."""
    (request,) = ask(data, name, split="test")
    for row in request.rows.tolist():
        wave = data.builder.sound(row, parse_condition(name), request, None)
        length = samples or 1_600 + 160 * ROWS[number(data, row)][0]
        assert len(wave) == length and wave.dtype == np.float32 and not wave.any()
    batch = data.builder.batch(request)
    assert (batch.prompts.features == -1.5).all(), "log10(1e-10) = -10, then (-10 + 4) / 4"
    frames = batch.prompts.feature_mask.sum(1)[batch.prompts.clip_of_row].tolist()
    lengths = [samples or 1_600 + 160 * ROWS[number(data, s.row)][0] for s in batch.samples]
    assert frames == [length // 160 for length in lengths]


def test_noise_is_that_of_the_recording_and_has_an_rms_of_a_tenth(data):
    """Questions on one recording hear one noise; it depends on the recording and the seed alone."""
    (request,) = ask(data, "noise", split="test")
    waves = {}
    for row in range(len(data.reader)):
        clip = ROWS[number(data, row)][0]
        wave = data.builder.sound(row, Condition("noise"), request, None)
        assert len(wave) == 1_600 + 160 * clip
        assert np.array_equal(waves.setdefault(clip, wave), wave)
        long = data.builder.sound(row, Condition("noise", 20.0), request, None)
        assert len(long) == 320_000 and long.dtype == np.float32
        # The RMS of n Gaussian numbers strays by 1 / sqrt(2 n) = 0.13 %, their mean by 0.1 / sqrt(n) = 1.8e-4.
        assert np.sqrt(np.mean(long.astype(float) ** 2)) == pytest.approx(0.1, rel=0.008)
        assert abs(long.mean(dtype=float)) < 0.001
    assert len({wave[:400].tobytes() for wave in waves.values()}) == 26, "each recording its own"
    (request,) = data.evaluation_requests(EvaluationSpec({}, ["noise"], batch_size=len(ROWS)))
    batch = data.builder.batch(request)
    assert len(batch.prompts.features) == 26
    for place, sample in enumerate(batch.samples):
        (features,), _ = data.processor.features([waves[ROWS[number(data, sample.row)][0]]])
        mine = batch.prompts.clip_of_row[place]
        assert torch.equal(batch.prompts.features[mine][:, batch.prompts.feature_mask[mine].bool()], features)


def test_noise_has_the_same_values_in_every_process_and_can_be_worked_by_hand():
    """Box-Muller: 0.1 sqrt(-2 ln(1 - u)) times the cosine, then the sine, of 2 pi v over hashed numbers u, v."""
    u0, u1, v0, v1 = uniforms(77, 4, "noise", 5, "condition")
    radius = 0.1 * np.sqrt(-2 * np.log(1 - np.array([u0, u1])))
    angle = 2 * np.pi * np.array([v0, v1])
    expected = [*(radius * np.cos(angle)), *(radius * np.sin(angle))]
    assert noise(4, 77, 5, "condition").tolist() == pytest.approx(expected, rel=1e-6)
    assert noise(3, 77, 5, "condition").tolist() == noise(4, 77, 5, "condition")[:3].tolist()
    assert expected == pytest.approx([-0.014362127, -0.092388913, 0.150828123, 0.046177909], rel=1e-6)


@pytest.mark.parametrize("condition", ["silence", "silence:1", "silence:clip", "noise", "noise:1"])
@pytest.mark.parametrize("training", [False, True])
def test_conditions_without_recordings_read_none(corpus, monkeypatch, condition, training):
    """Only texts are fetched, also in training and also when batches are read ahead."""
    data = module(corpus, 24, conditions=[condition]) if training else module(corpus, setup="test")
    request = data.training_data.request(0) if training else ask(data, condition)[0]
    fetch = data.reader.files.fetch
    texts = {data.reader.range(row, "json") for row in range(len(data.reader))}
    seen = []
    monkeypatch.setattr(data.reader.files, "fetch", lambda wanted: seen.extend(wanted) or fetch(wanted))
    assert len(data.builder.batch(request)) == len(request.rows)
    data.builder.fetch([request])
    assert seen and set(seen) <= texts and data.builder.rows_heard(request) == []


def partner_of(data: AudioQuestions, row: int, seed: int = 0) -> int:
    """By the rule: of the recordings of its like, in the order of their hashes and without its own, the hash-th."""
    clips, mine = data.reader.numbers["clip"], data.reader.clip(row)
    for columns in ((1, 2, 3), (1, 2), (1,)):
        like = [ROWS[number(data, row)][c] for c in columns]
        rows = [r for r in range(len(data.reader)) if [ROWS[number(data, r)][c] for c in columns] == like]
        others = sorted({int(clips[r]) for r in rows} - {mine})
        if others:
            return others[hash64(seed, "mismatched", data.reader.uid(row)) % len(others)]
    raise AssertionError(row)


def test_a_mismatched_recording_is_another_of_the_same_split_source_and_type(data):
    """Of fewer of these where there is none; never its own, never one of another split."""
    partners = Partners(data.reader, 0)
    for row in range(len(data.reader)):
        clip, split, source, kind = ROWS[number(data, row)]
        if split == "val":
            with pytest.raises(InputError) as error:
                partners.partner(row)
            says = "its split has no other recording to hear instead"
            assert str(error.value) == f"{data.reader.where(row)}: {says}"
            continue
        other = partners.partner(row)
        assert data.reader.clip(other) == partner_of(data, row)
        its_clip, its_split, its_source, its_kind = ROWS[number(data, other)]
        assert its_clip != clip and its_split == split
        assert its_source == source or source == "u"
        assert its_kind == kind or source == "u" or (clip, kind) == (20, "a")
    assert any(Partners(data.reader, 1).partner(r) != partners.partner(r) for r in range(40) if r not in lone(data))


def lone(data: AudioQuestions) -> set[int]:
    return {row for row in range(len(data.reader)) if ROWS[number(data, row)][1] == "val"}


def test_every_recording_is_as_likely_a_partner_however_many_questions_it_has(corpus):
    """Twenty rows are about ten recordings, twelve rows about an eleventh, recording 0.

    Over 40 seeds each of the twenty hears recording 0 once in ten times, 80 in all; chosen by row it were 12 of 30.
    """
    data = module(corpus, setup="test")
    heard = Counter()
    rows = [row for row in range(len(data.reader)) if ROWS[number(data, row)][1:] == ("train", "s", "a")]
    rows = [row for row in rows if ROWS[number(data, row)][0] != 0]
    for seed in range(40):
        partners = Partners(data.reader, seed)
        heard.update(ROWS[number(data, partners.partner(row))][0] for row in rows)
    assert len(rows) == 20 and len(heard) == 11
    assert 56 < heard[0] < 104, "80 within three standard deviations of 8.5"


def test_partners_do_not_depend_on_the_order_of_the_files(corpus, tmp_path):
    """Other shards, another order of the questions: by identity the same partners."""
    order = np.random.default_rng(4).permutation(len(ROWS))
    both = [module(folder, setup="test") for folder in (corpus, packed(tmp_path / "other", order, 9))]
    heard = []
    for data in both:
        partners = Partners(data.reader, 3)
        rows = [row for row in range(len(data.reader)) if row not in lone(data)]
        heard.append({number(data, row): data.reader.clip(partners.partner(row)) for row in rows})
    assert heard[0] == heard[1] and len(heard[0]) == len(ROWS) - 2
    assert [both[0].reader.key(r) for r in range(20)] != [both[1].reader.key(r) for r in range(20)]


def test_a_mismatched_batch_hears_its_partners_and_asks_its_own_questions(data):
    (request,) = ask(data, "mismatched", split="test")
    batch = data.builder.batch(request)
    assert [number(data, s.row) for s in batch.samples] == [number(data, int(r)) for r in request.rows]
    assert {s.condition for s in batch.samples} == {"mismatched"}
    for place, sample in enumerate(batch.samples):
        partner = next(row for row in request.rows.tolist() if row != sample.row)
        (features,), _ = data.processor.features([data.reader.wave(partner)])
        mine = batch.prompts.clip_of_row[place]
        kept = batch.prompts.feature_mask[mine].bool()
        assert torch.equal(batch.prompts.features[mine][:, kept], features)


def test_questions_with_one_partner_share_its_recording(corpus, monkeypatch):
    """A recording that several rows hear instead of theirs is decoded once."""
    data = module(corpus, setup="test")
    decoded = []
    read = data.reader.wave
    hear = lambda row, _=None: (decoded.append(data.reader.clip(row)), read(row))[1]  # noqa: E731
    monkeypatch.setattr(data.reader, "wave", hear)
    request = data.evaluation_requests(EvaluationSpec({"split": "train"}, ["mismatched"], batch_size=60))[0]
    batch = data.builder.batch(request)
    partners = {partner_of(data, int(row)) for row in request.rows}
    assert sorted(decoded) == sorted(partners) and len(batch.prompts.features) == len(partners) < len(batch) == 54


def test_loader_processes_hear_the_same(corpus):
    conditions = ["noise", "mismatched", "silence:clip"]
    asking = EvaluationSpec({"split": ["train", "test"]}, conditions, batch_size=9)
    alone, many = (
        list(module(corpus, setup="test", evaluation=asking, num_workers=workers).test_dataloader())
        for workers in (0, 3)
    )
    assert len(alone) == len(many) == 3 * 7
    for a, b in zip(alone, many, strict=True):
        assert a.samples == b.samples
        assert all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


CONDITIONS = ["audio", "silence", "noise", "mismatched"]


@pytest.mark.parametrize("method", ["validate", "test"])
def test_accuracies_are_logged_by_condition_and_label_and_are_those_of_the_answers(
    small, tmp_path, monkeypatch, method
):
    """Two in three answers are called right, by identity and condition: the tiny model knows none."""
    answer = PolicyModule.answer

    def judged(self, batch) -> list:
        found = [(r, hash64(r["uid"], r["condition"]) % 3 > 0) for r in answer(self, batch)]
        return [r | {"correct": right, "verdict": "right" if right else "wrong"} for r, right in found]

    monkeypatch.setattr(PolicyModule, "answer", judged)
    split = where = "val" if method == "validate" else "test"
    asked = EvaluationSpec({"split": split}, CONDITIONS, batch_size=5)
    records = [r for batch in answers(small, small.index, tmp_path, evaluation=asked)[2] for r in batch]
    uids = {condition: sorted(r["uid"] for r in records if r["condition"] == condition) for condition in CONDITIONS}
    assert all(uids[condition] == uids["audio"] for condition in CONDITIONS) and len(records) == 4 * len(uids["audio"])
    other = {"validation": asked} if method == "validate" else {"evaluation": asked}
    trainer, *_ = answers(small, small.index, tmp_path, method, **other)
    expected = {}
    for condition in CONDITIONS:
        mine = [r for r in records if r["condition"] == condition]
        expected[f"{where}/accuracy/{condition}"] = sum(r["correct"] for r in mine) / len(mine)
        for label in {r["label"] for r in mine}:
            group = [r["correct"] for r in mine if r["label"] == label]
            expected[f"{where}/accuracy/{condition}/{label}"] = sum(group) / len(group)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    counts = {name: logged.pop(name) for name in list(logged) if name.startswith(f"{where}/answers/")}
    assert sum(counts.values()) == len(records) and len(counts) == 4 * len(CONDITIONS)
    if method == "validate":  # the same of all questions, and an interval around each
        for condition in CONDITIONS:
            path = f"val/accuracy/{condition}"
            assert logged.pop(f"{path}/all") == pytest.approx(expected[path])
            for name in (f"{path}/all", f"{path}/weak", f"{path}/strong"):
                middle = expected.get(name, expected[path])
                assert 0 <= logged.pop(f"{name}/low") <= middle <= logged.pop(f"{name}/high") <= 1
    assert logged == pytest.approx(expected) and len(expected) == 12 and len(set(expected.values())) > 2


def test_different_conditions_are_heard_differently(small, tmp_path):
    """A condition that is not applied would show: each question has four different sounds."""
    asked = EvaluationSpec({"split": "test"}, ["audio", "silence", "noise", "mismatched"], batch_size=8)
    data = AudioQuestions(small.index, small.tiny, small.labels, evaluation=asked)
    data.setup("test")
    batches = list(data.test_dataloader())
    heard = {}
    for batch in batches:
        for place, sample in enumerate(batch.samples):
            clip = batch.prompts.clip_of_row[place]
            kept = batch.prompts.feature_mask[clip].bool()
            heard.setdefault(sample.row, []).append(batch.prompts.features[clip][:, kept].numpy().tobytes())
    assert all(len(each) == len(set(each)) == 4 for each in heard.values())
