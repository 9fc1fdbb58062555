"""Which questions are asked when: the same batches for any number of workers and ranks, from any position."""

import json
from collections import Counter
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from transformers import WhisperFeatureExtractor

from earwitness.curriculum.table import write_arrow
from earwitness.datamodules.batch import Batch
from earwitness.datamodules.batches.conditions import Condition
from earwitness.datamodules.batches.requests import Augmentation, EvaluationSpec, TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.datamodules.questions.prompts import question_text
from earwitness.datamodules.shards.packing import shard
from earwitness.datamodules.shards.reader import ShardReader, share
from earwitness.datamodules.storage.files import Reading
from earwitness.errors import InputError
from earwitness.lightning_modules.policy.tiny import train_tokenizer

CHOICES = ["rain", "wind", "a dog", "a bell"]
CLIPS = [0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 7, 8, 9, 9, 10, 11, 11, 12, 12]  # recording of each question
SPLITS = ["train"] * 12 + ["val"] * 3 + ["test"] * 5


def build(folder: Path, clips: list[int], splits: list[str], types: str = "ab", per_shard: int = 5, **texts) -> Path:
    """A question on each of these recordings, their shards and index, and the processor of a checkpoint.

    Recording c is 1,600 + 160 c samples long. texts: other fields of all questions, or functions of their numbers; and
    `fields`, how packing reads them.
    """
    folder.mkdir(exist_ok=True)
    reading = {"fields": texts.pop("fields")} if "fields" in texts else {}
    lines = []
    for clip in set(clips):
        wave = np.random.default_rng(clip).normal(0, 0.1, 1_600 + 160 * clip)
        soundfile.write(folder / f"{clip}.wav", wave, 16_000)
    for n, (clip, split) in enumerate(zip(clips, splits, strict=True)):
        record = {"source_dataset": "s", "id": f"{n:02}", "question": f"Question {n}?", "answer": CHOICES[n % 4]}
        record |= {"choices": CHOICES, "split": split, "question_type": types[n % len(types)]}
        record |= {"audio_path": f"{clip}.wav"}
        record |= {name: value(n) if callable(value) else value for name, value in texts.items()}
        lines.append(json.dumps(record))
    (folder / "q.jsonl").write_text("\n".join(lines))
    shard(str(folder / "q.jsonl"), str(folder), samples_per_shard=per_shard, **reading)
    train_tokenizer([question_text("Question 1?", CHOICES)], 320).save_pretrained(folder / "checkpoint")
    WhisperFeatureExtractor(feature_size=128, chunk_length=300).save_pretrained(folder / "checkpoint")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Twenty questions on thirteen recordings, their index, a label table, and the processor of a checkpoint."""
    folder = build(tmp_path_factory.mktemp("corpus"), CLIPS, SPLITS)
    labels = {"uid": [], "label": []}
    for row in pa.ipc.open_file(str(folder / "index.arrow")).read_all().to_pylist():
        if int(row["key"][2:]) % 3:  # every third question has no label
            labels["uid"].append(row["uid"])
            labels["label"].append("weak" if int(row["key"][2:]) % 3 == 1 else "strong")
    write_arrow(pa.table(labels, pa.schema({"uid": pa.uint64(), "label": pa.string()})), folder / "labels.arrow")
    return folder


def stages(batch_size: int, seed: int = 3) -> dict:
    """Ten of the twelve training questions, each three times; then the other two."""
    first = {"name": "first", "algorithm": "sft", "budget": {"samples": 10, "epochs": 3}, "batch_size": batch_size}
    second = {"name": "second", "algorithm": "grpo", "budget": {"samples": 2}, "batch_size": 2}
    return {"seed": seed, "cells": ["question_type"], "stages": [first, second]}


def module(corpus: Path, batch_size: int = 4, rank: int = 0, world: int = 1, setup: str = "fit", **more):
    own = ("labels", "validation", "evaluation", "num_workers", "seed", "reading")
    options = {key: more.pop(key) for key in own if key in more}
    training = TrainingSpec(**({"curriculum": stages(batch_size), "stage": "first"} | more))
    data = AudioQuestions(str(corpus / "index.arrow"), str(corpus / "checkpoint"), training=training, **options)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, fit_loop=SimpleNamespace(_combined_loader=1))
    data.setup(setup)
    return data


def tensors(batch: Batch) -> list[torch.Tensor]:
    values = [getattr(part, f.name) for part in (batch, batch.prompts) for f in fields(part)]
    return [value for value in values if isinstance(value, torch.Tensor)]


def same(a: Batch, b: Batch) -> bool:
    plain = all(getattr(a, name) == getattr(b, name) for name in ("samples", "step", "plan"))
    return plain and all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def ids(batches: Batch | list[Batch], weight: float | None = None) -> list[str]:
    batches = [batches] if isinstance(batches, Batch) else batches
    return [s.question.id for b in batches for s in b.samples if weight in (None, s.weight)]


EVERYTHING = {"conditions": ["audio", "silence:0.5"], "shuffle_options": True, "augmentation": Augmentation()}


def test_batches_do_not_depend_on_the_number_of_workers_nor_on_the_position_they_start_from(corpus):
    alone = list(module(corpus, **EVERYTHING).train_dataloader())
    assert [b.step for b in alone] == list(range(8))
    assert {s.condition for b in alone for s in b.samples} == {"audio", "silence:0.5"}
    for workers in (1, 2):
        for position in (0, 3):
            data = module(corpus, num_workers=workers, **EVERYTHING)
            data.cursor.trained(position)
            batches = list(data.train_dataloader())
            assert len(batches) == 8 - position
            assert all(same(a, b) for a, b in zip(alone[position:], batches, strict=True))


def test_each_dealt_question_is_presented_three_times_and_the_last_batch_has_what_is_left(corpus):
    data = module(corpus)
    batches = list(data.train_dataloader())
    assert len(data.train_dataloader()) == data.num_steps == 8
    assert [len(b) for b in batches] == [4] * 7 + [2] and {b.plan for b in batches} == {data.plan.fingerprint}
    seen = Counter(ids(batches, weight=1.0))
    assert len(seen) == 10 and set(seen.values()) == {3}
    assert all(int(i) < 12 for i in seen), "only the split that is trained on"
    assert batches[-1].weights.tolist() == [1, 1]
    rest = list(module(corpus, stage="second").train_dataloader())
    assert set(ids(rest)) | set(seen) == {f"{n:02}" for n in range(12)}


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("size", [12, 7])
def test_the_ranks_shares_are_the_global_batch(corpus, world, size):
    """Also where the batch does not divide over them: shares then differ by one row; the last batch has two rows."""
    ranks = [module(corpus, size, rank, world, **EVERYTHING) for rank in range(world)]
    for batches in zip(*(data.train_dataloader() for data in ranks), strict=True):
        request = ranks[0].training_data.request(batches[0].step)
        assert {b.step for b in batches} == {request.step}
        assert max(map(len, batches)) - min(map(len, batches)) <= 1
        for rank, batch in enumerate(batches):
            real = [s.row for s in batch.samples if s.weight > 0]
            assert real == share(request.rows, rank, world).tolist()
            assert len(batch) == len(real) or (not real and batch.weights.tolist() == [0])
        whole = module(corpus, size, **EVERYTHING).builder.batch(request)
        dealt = [batches[place % world].samples[place // world] for place in range(len(whole))]
        assert tuple(dealt) == whole.samples, "also options and conditions"


def test_padding_is_not_computed(corpus):
    """A batch of 100,000 over ten rows, three times each."""
    (batch,) = module(corpus, 100_000).train_dataloader()
    assert len(batch) == len(batch.prompts) == 30 and set(batch.weights.tolist()) == {1.0}


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_asks_every_question_once_per_condition(corpus, world, workers):
    """Five test questions, two at a time: the last batch is filled up with weight 0 to the same size on every rank."""
    asking = EvaluationSpec({"split": "test"}, ["audio", "silence:0.5"], batch_size=2)
    counted, sizes = Counter(), []
    for rank in range(world):
        data = module(corpus, 12, rank, world, "test", evaluation=asking, num_workers=workers)
        batches = list(data.test_dataloader())
        counted.update((s.question.id, s.condition) for b in batches for s in b.samples if s.weight == 1)
        sizes.append([len(b) for b in batches])
        assert all(b.weights.tolist() == [s.weight for s in b.samples] for b in batches)
        assert {(b.step, b.plan) for b in batches} == {(-1, "")}
        assert list(map(len, data.predict_dataloader())) == sizes[-1]
    assert counted == Counter({(f"{n}", condition): 1 for n in range(15, 20) for condition in asking.conditions})
    assert all(size == sizes[0] for size in sizes) and max(sizes[0]) == 2


def test_validation_and_test_have_their_splits_by_default(corpus):
    data = module(corpus, setup="validate", **EVERYTHING)
    assert ids(list(data.val_dataloader())) == ids_of(data, "val") and len(ids_of(data, "val")) == 3
    assert ids(list(data.test_dataloader())) == ids_of(data, "test") and len(ids_of(data, "test")) == 5
    with pytest.raises(InputError, match="no question in the pool"):
        data.evaluation_requests(EvaluationSpec({"split": ["val", "test"], "question_type": []}))


def ids_of(data: AudioQuestions, split: str) -> list[str]:
    return [data.reader.question(int(row)).id for row in data.table.where({"split": split})]


def test_a_shared_recording_is_read_once_and_every_row_hears_its_own(corpus, monkeypatch):
    data = module(corpus, setup="test")
    requests = data.evaluation_requests(EvaluationSpec({"split": ["train", "test"]}, batch_size=17))
    reads = []
    monkeypatch.setattr(
        data.reader, "wave", lambda row, _=None, read=data.reader.wave: (reads.append(row), read(row))[1]
    )
    (batch,) = map(data.builder.batch, requests)
    clips = [CLIPS[int(i)] for i in ids(batch)]
    assert len(reads) == len(batch.prompts.features) == len(set(clips)) == 11
    for row, (sample, clip) in enumerate(zip(batch.samples, clips, strict=True)):
        mine = batch.prompts.clip_of_row[row]
        (alone,) = data.processor.features([data.reader.wave(sample.row)])[0]
        kept = batch.prompts.feature_mask[mine].bool()
        assert int(kept.sum()) == 10 + clip, "each recording has a length of its own"
        assert torch.equal(batch.prompts.features[mine][:, kept], alone)


def test_a_silent_batch_reads_nothing_and_shares_one_clip(corpus, monkeypatch):
    data = module(corpus, conditions=["silence:4"])
    monkeypatch.setattr(data.reader, "wave", lambda *_: pytest.fail("a recording was read"))
    batch = next(iter(data.train_dataloader()))
    assert batch.prompts.features.shape == (1, 128, 400) and (batch.prompts.features == -1.5).all()
    assert batch.prompts.clip_of_row.tolist() == [0] * 4


def test_options_are_shuffled_by_pass_and_always_hold_the_answer(corpus):
    data, shown = module(corpus, 5, shuffle_options=True), {}
    for batch in data.train_dataloader():  # two batches are one pass
        for s in batch.samples:
            assert sorted(s.choices) == sorted(CHOICES) and s.question.answer in s.choices
            assert s.question.choices == tuple(CHOICES), "the question itself stays as it is"
            shown.setdefault(s.question.id, []).append(s.choices)
            text = data.processor.tokenizer.decode(batch.prompts.suffix_ids[batch.samples.index(s)])
            assert str(list(s.choices)) in text, "and the prompt shows them so"
    assert all(len(orders) == 3 for orders in shown.values())
    assert len({tuple(orders) for orders in shown.values()}) > 5, "by question"
    assert sum(len(set(orders)) > 1 for orders in shown.values()) > 5, "by pass"
    other = module(corpus, 5, shuffle_options=True, seed=1)
    assert any(s.choices not in shown[s.question.id] for b in other.train_dataloader() for s in b.samples)
    asked = module(corpus, shuffle_options=True).test_dataloader()
    assert all(s.choices == tuple(CHOICES) for b in asked for s in b.samples), "evaluation asks as written"


def test_the_options_of_a_pass_do_not_depend_on_the_batch_size(corpus):
    shown = []
    for size in (4, 5):  # ten questions a pass: 5 divides them, a batch of 4 crosses into the next pass
        batches = module(corpus, size, shuffle_options=True).train_dataloader()
        shown.append([(s.question.id, s.choices) for b in batches for s in b.samples][:30])
    assert shown[0] == shown[1]


def test_augmentation_changes_training_only_and_differs_by_step(corpus):
    plain, changed = module(corpus, 10), module(corpus, 10, augmentation=Augmentation())
    heard = [[b.prompts.features for b in data.train_dataloader()] for data in (plain, changed)]
    assert not any(torch.equal(a, b) for a, b in zip(*heard, strict=True))
    row = int(plain.training_data.request(0).rows[0])
    heard = [changed.builder.sound(row, Condition("audio"), changed.training_data.request(n), None) for n in (0, 1)]
    assert not np.array_equal(*heard)
    for a, b in zip(plain.test_dataloader(), changed.test_dataloader(), strict=True):
        assert same(a, b)


def test_conditions_in_sequence_have_equal_parts_of_the_stage(corpus):
    data = module(corpus, conditions=["silence:0.5", "audio"], condition_order="sequential")
    assert [data.training_data.request(n).condition for n in range(8)] == ["silence:0.5"] * 4 + ["audio"] * 4


def test_labels_reach_the_samples_and_a_missing_label_is_empty(corpus):
    data = module(corpus, setup="test", labels=str(corpus / "labels.arrow"))
    samples = [s for request in data.evaluation_requests(EvaluationSpec()) for s in data.builder.batch(request).samples]
    assert len(samples) == 20
    assert all(s.label == ("", "weak", "strong")[int(s.question.id) % 3] for s in samples)


def test_the_state_is_a_few_plain_values_and_comes_back(corpus):
    data = module(corpus)
    data.cursor.trained(5)
    state = data.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert (state["fingerprint"], state["stage"], state["step"]) == (data.plan.fingerprint, "first", 5)
    again = module(corpus)
    again.load_state_dict(state)
    assert again.position == 5 and again.trainer.fit_loop._combined_loader is None, "a loader built before is dropped"
    assert [b.step for b in again.train_dataloader()] == [5, 6, 7]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"curriculum": stages(4, seed=4)}, "since the checkpoint: seed was 3, is 4; start the stage anew"),
        ({"curriculum": stages(5)}, r"since the checkpoint: stages\[0\]\.batch_size was 4, is 5"),
        ({"pool": {"split": ["train", "test"]}}, "the table changed since the checkpoint: 12 rows then, 17 now"),
        ({"stage": "second"}, "the checkpoint is of stage 'first', this run of 'second'"),
    ],
    ids=["seed", "batch size", "rows", "stage"],
)
def test_the_state_of_another_plan_is_refused_with_what_changed(corpus, change, says):
    state = module(corpus).state_dict()
    other = module(corpus, **change)
    with pytest.raises(InputError, match=says):
        other.load_state_dict(state)
    assert other.position == 0


@pytest.mark.parametrize(
    "condition",
    [
        "noise:",
        "mismatched:3",
        "none",
        "",
        "Audio",
        "audio:3",
        "silence:x",
        "silence:0",
        "silence:-1",
        "silence:301",
        "silence:nan",
    ],
)
def test_unknown_conditions_are_refused_before_anything_is_read(condition):
    says = f"^condition '{condition}': use 'audio', 'silence'"
    asking, training = (
        EvaluationSpec(conditions=["audio", condition]),
        TrainingSpec({}, "first", conditions=[condition]),
    )
    for where in ({"validation": asking}, {"evaluation": asking}, {"training": training}):
        with pytest.raises(InputError, match=says):
            AudioQuestions("no index", "no checkpoint", **where)


def test_fit_needs_something_to_train_on(corpus):
    data = AudioQuestions(str(corpus / "index.arrow"), str(corpus / "checkpoint"))
    data.setup("test")
    with pytest.raises(InputError, match=r"^`fit` needs the data argument `training`"):
        data.setup("fit")


def copied(corpus: Path, folder: Path) -> Path:
    """The corpus in a folder of its own, to be damaged."""
    for file in [*corpus.glob("shard-*.tar"), corpus / "index.arrow"]:
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "checkpoint").symlink_to(corpus / "checkpoint")
    return folder


def test_a_missing_shard_is_known_before_training_begins(corpus, tmp_path):
    (copied(corpus, tmp_path) / "shard-000001.tar").unlink()
    with pytest.raises(InputError) as error:
        module(tmp_path)
    missing = tmp_path / "shard-000001.tar"
    assert str(error.value) == f"{missing}: the shard is missing (No such file or directory); the index names it"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_is_the_same_one_line(corpus, tmp_path, workers):
    spoil(copied(corpus, tmp_path), row := int(module(corpus).training_data.request(0).rows[0]))
    data = module(tmp_path, num_workers=workers, reading=Reading(max_bad=0))
    with pytest.raises(InputError) as error:
        list(data.train_dataloader())
    says = f"{data.reader.where(row)}: the recording changed since it was indexed (checksum); re-index the shard"
    assert str(error.value) == f"1 bad samples, more than the 0 of reading.max_bad:\n  {says}"


def spoil(folder: Path, *rows: int) -> None:
    """Changes a byte in the middle of each of the rows' recordings."""
    reader = ShardReader(folder / "index.arrow")
    for row in rows:
        where = reader.range(row, "audio")
        with open(folder / where.shard, "r+b") as file:
            file.seek(where.offset + where.size // 2)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 0xFF]))


def test_validation_on_recordings_that_are_trained_on_is_refused(tmp_path):
    """By what is heard, not by the file's name: question 4 is about a copy of recording 3."""
    wave = np.random.default_rng(3).normal(0, 0.1, 1_600 + 160 * 3)
    soundfile.write(tmp_path / "copy.wav", wave, 16_000)
    clips = [0, 1, 2, 3, 3, 1, 4]
    paths = {"audio_path": lambda n: "copy.wav" if n == 4 else f"{clips[n]}.wav"}
    folder = build(tmp_path, clips, ["train"] * 7, types="aaaabbb", **paths)
    one = {"name": "first", "algorithm": "sft", "budget": {"samples": 3}, "batch_size": 1}
    given = {"curriculum": {"stages": [one]}, "pool": {"question_type": "a"}}
    with pytest.raises(InputError) as error:
        module(folder, **given, validation=EvaluationSpec({"question_type": "b"}))
    reader = ShardReader(folder / "index.arrow")
    first = next(key for key in map(reader.key, range(7)) if key in ("s/04", "s/05"))
    says = f"2 of 3 validation questions, {first} the first, are about recordings that are trained on"
    assert str(error.value) == f"{says}; index with `holdout`, or give other pools"


@pytest.mark.parametrize("disjoint", [["uid"], ["uid", "clip"]])
def test_stages_share_no_question_and_where_asked_for_no_recording(corpus, disjoint):
    """Twelve questions on eight recordings, six for SFT and three for GRPO: by question alone they share recordings."""
    sft = {"name": "first", "algorithm": "sft", "budget": {"samples": 6}, "batch_size": 2}
    grpo = {"name": "second", "algorithm": "grpo", "budget": {"samples": 3}, "batch_size": 1}
    shared = []
    for seed in range(6):
        given = {"seed": seed, "cells": ["source"], "disjoint": disjoint, "stages": [sft, grpo]}
        asked = []
        for stage in ("first", "second"):
            batches = list(module(corpus, curriculum=given, stage=stage).train_dataloader())
            asked.append({int(s.question.id) for batch in batches for s in batch.samples})
        assert [len(each) for each in asked] == [6, 3] and not asked[0] & asked[1]
        shared += {CLIPS[n] for n in asked[0]} & {CLIPS[n] for n in asked[1]}
    assert bool(shared) == ("clip" not in disjoint)
