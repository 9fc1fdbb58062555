"""A sample that cannot be read at run time never changes the size of a batch, the mix of labels, or an answer."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

import lightning as L
import numpy as np
import pyarrow as pa
import pytest
import torch

from earwitness.curriculum.contribution.verdicts import VERDICTS
from earwitness.curriculum.plan.stand_ins import stand_ins
from earwitness.datamodules.batch import Replaced
from earwitness.datamodules.batches.quarantine import Quarantine, read_quarantine
from earwitness.datamodules.batches.requests import EvaluationSpec
from earwitness.datamodules.batches.watchdog import Watchdog
from earwitness.datamodules.module import AudioQuestions
from earwitness.datamodules.processors.omni import OmniProcessor
from earwitness.datamodules.shards.index import read_index, write_index
from earwitness.datamodules.shards.partners import Partners
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.storage.files import Reading
from earwitness.datamodules.training import TrainingData
from earwitness.errors import InputError
from earwitness.lightning_modules.base import PolicyModule
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.sft import SFT
from earwitness.tests.datamodules.shards.test_reader_pipeline import Server, steps_of
from earwitness.tests.datamodules.test_datamodule import build, copied, module, spoil
from earwitness.tests.lightning_modules.test_resume import ADAPTIVE, ended, forked
from earwitness.tests.trainers import trainer_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CLIPS = [n // 4 for n in range(96)] + [30 + n for n in range(8)]  # four questions on each, two of each type
SPLITS = ["train"] * 96 + ["val"] * 2 + ["test"] * 6


def two(seed: int = 3, **first) -> dict:
    """Forty questions twice, in batches of 24; and another stage, which deals thirty others."""
    one = {"name": "first", "algorithm": "sft", "batch_size": 24, "budget": {"samples": 40, "epochs": 2}} | first
    other = {"name": "second", "algorithm": "sft", "batch_size": 24, "budget": {"samples": 30}}
    return {"seed": seed, "cells": ["question_type"], "stages": [one, other]}


PLAN = {"curriculum": two(), "shuffle_options": True}


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("bad") / "clean", CLIPS, SPLITS, per_shard=4)


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """The tokenizer is read once."""
    monkeypatch.setattr(OmniProcessor, "from_pretrained", lru_cache(OmniProcessor.from_pretrained))


@pytest.fixture
def brief_ends(monkeypatch) -> Iterator[None]:
    """Loaders that an error leaves behind do not have 5 s each to end."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    yield
    gc.collect()


@pytest.fixture
def folder(clean, tmp_path) -> Path:
    """A copy to be damaged."""
    (tmp_path / "corpus").mkdir()
    return copied(clean, tmp_path / "corpus")


def asked(folder: Path, step: int = 0, number: int = 0) -> int:
    """A row of a step of the plan, of those that share their recording with another question of the stage."""
    data = module(folder, **PLAN)
    dealt = dealt_by(data, "first")
    rows = [int(row) for row in data.training_data.request(step).rows if len(hearers(data, int(row)) & dealt) > 1]
    return rows[number]


def hearers(data: AudioQuestions, *rows: int) -> set[int]:
    """All rows with the recordings of these."""
    clips = data.reader.numbers["clip"]
    return set(np.flatnonzero(np.isin(clips, clips[list(rows)])).tolist())


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 3), (2, 1), (3, 2), (4, 0), (6, 1), (8, 0)])
def test_every_question_on_a_bad_recording_is_replaced_in_its_place(clean, folder, world, workers):
    """Ranks and loader processes agree on who stands in, the other places stay bit for bit, no batch is smaller."""
    plain = module(clean, **PLAN)
    bad = asked(folder)
    spoil(folder, bad)
    ranks = [module(folder, rank=r, world=world, num_workers=workers, **PLAN) for r in range(world)]
    steps = steps_of([data.train_dataloader() for data in ranks])
    straight, gone = steps_of([plain.train_dataloader()]), hearers(plain, bad)
    dealt = {
        int(r) for name in ("first", "second") for r in plain.training_data.rows[plain.plan.stage_plan(name).row_set()]
    }
    types, replaced = plain.reader.codes("question_type"), Counter()
    assert [len(step) for step in steps] == [len(step) for step in straight] == [24, 24, 24, 8]
    for step, expected in zip(steps, straight, strict=True):
        for (sample, weight, digest), (was, its_weight, its_digest) in zip(step, expected, strict=True):
            assert weight == its_weight
            if was.row not in gone:
                assert (sample, digest) == (was, its_digest)
                continue
            replaced[was.row] += weight
            assert sample.row not in gone | dealt and types[sample.row] == types[was.row]
            assert sample.row == next_card(plain, was.row), "the same one each time"
    assert set(replaced.values()) == {2.0} and len(replaced) == len(gone & dealt_by(plain, "first")) >= 2


def dealt_by(data: AudioQuestions, stage: str) -> set[int]:
    return set(data.training_data.rows[data.plan.stage_plan(stage).row_set()].tolist())


def next_card(data: AudioQuestions, row: int, number: int = 0) -> int:
    local = int(np.searchsorted(data.training_data.rows, row))
    return int(data.training_data.rows[list(stand_ins(data.plan, "first", local))[number]])


def test_a_resumed_run_replaces_by_the_same_questions(folder):
    spoil(folder, asked(folder), asked(folder, 1, 4))
    straight = steps_of([module(folder, **PLAN).train_dataloader()])
    data = module(folder, **PLAN)
    for batch in list(data.train_dataloader())[:2]:
        data.trained(batch)
    again = module(folder, num_workers=2, **PLAN)
    again.load_state_dict(data.state_dict())
    assert steps_of([again.train_dataloader()]) == straight[2:]


TURNS = {"name": "both", "interleave": {"steps": 6, "share": {"y": 0.5}}}
TURNS["stages"] = [{"name": name, "algorithm": "sft", "batch_size": 12} for name in "xy"]


@pytest.mark.parametrize(("stage", "entry"), [("both", TURNS), ("first", ADAPTIVE)], ids=["interleave", "adaptive"])
@pytest.mark.parametrize("workers", [0, 2])
def test_stages_that_take_turns_or_adapt_replace_alike_also_after_a_restart(folder, stage, entry, workers):
    """The stand-in is one of the stage whose turn it is; what an adaptive stage has planned does not matter."""
    options = {"curriculum": {"seed": 3, "cells": ["question_type"], "stages": [entry]}, "stage": stage}
    bad = [batch.samples[5] for batch in trained_through(module(folder, **options))[0]][2]
    spoil(folder, bad.row)
    batches, states = trained_through(module(folder, num_workers=workers, **options))
    data = module(folder, **options)
    told = [one for batch in batches for one in batch.replaced if one.uid == bad.question.uid]
    assert told
    for one in told:
        member, _ = data.plan.member(stage, one.step)
        local = int(np.searchsorted(data.training_data.rows, bad.row))
        first = next(iter(stand_ins(data.plan, member, local)))
        assert (one.stage, one.served) == (member, data.reader.key(int(data.training_data.rows[first])))
    for start in (1, 2):
        again = module(folder, num_workers=workers, **options)
        again.load_state_dict(states[start])
        rest, _ = trained_through(again)
        assert [(b.samples, b.replaced) for b in rest] == [(b.samples, b.replaced) for b in batches[start:]]


def trained_through(data: AudioQuestions) -> tuple[list, list]:
    """All batches to the end, and the state before each of them."""
    batches, states = [], []
    for batch in data.train_dataloader():
        states.append(data.state_dict())
        batches.append(batch)
        data.trained(batch)
    assert data.position == data.num_steps
    return batches, states


def cut(folder: Path, row: int) -> str:
    reader = ShardReader(folder / "index.arrow")
    where = reader.range(row, "audio")
    os.truncate(folder / where.shard, where.offset + 100)
    size = reader.files.shards[where.shard].size
    opened_later = f"{reader.place}/{where.shard}: has {where.offset + 100} bytes, {size} when it was indexed"
    says = f"{reader.where(row)}: 100 of {where.size} bytes there; the shard was cut off"
    return f"{says}|{opened_later}; re-index the shard"


def wrong_bytes(folder: Path, row: int) -> str:
    spoil(folder, row)
    place = ShardReader(folder / "index.arrow").where(row)
    return f"{place}: the recording changed since it was indexed (checksum); re-index the shard"


def in_text(folder: Path, row: int, old: bytes, new: bytes) -> ShardReader:
    """Changes as many bytes of the row's text, within its question."""
    reader = ShardReader(folder / "index.arrow")
    where = reader.range(row, "json")
    with open(folder / where.shard, "r+b") as file:
        file.seek(where.offset)
        text = file.read(where.size)
        assert text.count(old) == 1 and len(old) == len(new), text
        file.seek(where.offset)
        file.write(text.replace(old, new))
    return reader


def another_question(folder: Path, row: int) -> str:
    number = ShardReader(folder / "index.arrow").key(row)[2:]
    reader = in_text(folder, row, f'"id": "{number}"'.encode(), b'"id": "XX"')
    held = [f"s/{int(number) // 4 * 4 + n:02}" for n in range(4)]
    held[held.index(f"s/{number}")] = "s/XX"
    return f"{reader.where(row)}: holds {', '.join(held)}; the index expects s/{number}; re-index the shard"


def another_text(folder: Path, row: int) -> str:
    key = ShardReader(folder / "index.arrow").key(row)
    reader = in_text(folder, row, f"Question {int(key[2:])}?".encode(), f"Question {int(key[2:])}!".encode())
    return f"{reader.where(row)}: the text of {key} changed since it was indexed; re-index the shard"


def not_json(folder: Path, row: int) -> str:
    reader = ShardReader(folder / "index.arrow")
    where = reader.range(row, "json")
    with open(folder / where.shard, "r+b") as file:
        file.seek(where.offset)
        file.write(b"x")
    return f"{reader.where(row)}.json: not JSON: Expecting value"


def wrong_length(folder: Path, row: int) -> str:
    """The index promises 10 ms more than the file decodes to."""
    reader = ShardReader(folder / "index.arrow")
    table, root, shards = read_index(folder / "index.arrow")
    lengths = reader.numbers["num_samples"].copy()
    lengths[list(hearers_of(reader, row))] += 160
    column = table.schema.get_field_index("num_samples")
    table = table.set_column(column, table.schema.field(column), pa.array(lengths, table.schema.field(column).type))
    about = {"root": root, "shards": {name: [shard.size, shard.etag] for name, shard in shards.items()}}
    write_index(table, about, folder / "index.arrow")
    length = int(lengths[row])
    return f"{reader.where(row)}: decodes to {length - 160} samples, the index says {length}; re-index the shard"


def hearers_of(reader: ShardReader, row: int) -> list[int]:
    return np.flatnonzero(reader.numbers["clip"] == reader.numbers["clip"][row]).tolist()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "damage", [cut, wrong_bytes, another_question, another_text, not_json, wrong_length], ids=lambda d: d.__name__
)
def test_whatever_is_wrong_with_a_sample_it_is_told_and_replaced(folder, damage, workers):
    """The shard is damaged after the check at the start; loader processes open it after that."""
    row = asked(folder, 1, 3)
    if damage is wrong_length:  # this one lies in the index, which is read at the start
        says = damage(folder, row)
    data = module(folder, num_workers=workers, **PLAN)
    if damage is not wrong_length:
        says = damage(folder, row)
    batches = list(data.train_dataloader())
    assert [len(batch) for batch in batches] == [24, 24, 24, 8]
    told = [bad for batch in batches for bad in batch.replaced if bad.key == data.reader.key(row)]
    assert [bad.step for bad in told] == [1, *(b.step for b in told[1:])] and len(told) == 2, "in both epochs"
    for bad in told:
        assert bad.reason == says.split("|")[-1 if workers else 0]
        assert (bad.uid, bad.stage) == (data.reader.uid(row), "first")
        assert bad.served == data.reader.key(next_card(data, row))
    shown = {s.row for batch in batches for s in batch.samples}
    assert row not in shown
    alone = damage in (another_question, another_text)
    others = (hearers(data, row) - {row}) & dealt_by(data, "first")
    assert shown & others == (others if alone else set()), "other questions on the recording are asked if they can be"


def test_a_stand_in_that_is_bad_itself_is_passed_over(folder):
    """Both are told: the first as replaced by nobody, the row by the second."""
    plain = module(folder, **PLAN)
    row = int(plain.training_data.request(0).rows[0])
    first, second = (next_card(plain, row, number) for number in (0, 1))
    assert plain.reader.clip(first) != plain.reader.clip(second)
    spoil(folder, row, first)
    batch = next(iter(module(folder, **PLAN).train_dataloader()))
    assert batch.samples[0].row == second
    told = [(bad.key, bad.served) for bad in batch.replaced]
    assert told[:2] == [(plain.reader.key(first), ""), (plain.reader.key(row), plain.reader.key(second))]


def test_a_row_that_nobody_can_stand_in_for_ends_the_run_and_is_named(tmp_path):
    """The only question of its type."""
    folder = build(tmp_path / "corpus", [0, 1, 2, 3, 4], ["train"] * 4 + ["val"], types="abbb")
    alone = {"name": "first", "algorithm": "sft", "batch_size": 4, "budget": {"samples": 4}}
    data = module(folder, curriculum={"seed": 3, "cells": ["question_type"], "stages": [alone]})
    row = next(r for r in range(5) if data.reader.key(r) == "s/00")
    spoil(folder, row)
    says = wrong_bytes_of(data.reader, row)
    with pytest.raises(InputError) as error:
        list(data.train_dataloader())
    assert str(error.value) == f"{says}; no other question of its group can replace it"


def wrong_bytes_of(reader: ShardReader, row: int) -> str:
    return f"{reader.where(row)}: the recording changed since it was indexed (checksum); re-index the shard"


def test_a_partner_that_cannot_be_read_counts_as_a_bad_sample(folder):
    """Mismatched: whose recording is bad is not who is replaced."""
    options = PLAN | {"conditions": ["mismatched"]}
    data = module(folder, **options)
    row = int(data.training_data.request(0).rows[0])
    partner = Partners(data.reader, 0).partner(row)
    spoil(folder, partner)
    batch = next(iter(module(folder, **options).train_dataloader()))
    told = {bad.key: bad for bad in batch.replaced if bad.served}
    assert told[data.reader.key(row)].reason == wrong_bytes_of(data.reader, partner)
    assert batch.samples[0].row != row and batch.samples[0].condition == "mismatched"


@pytest.mark.parametrize("lookahead", [1, 3])
def test_from_a_server_the_same_questions_stand_in(folder, lookahead):
    spoil(folder, asked(folder), asked(folder, 2, 2))
    straight = steps_of([module(folder, **PLAN).train_dataloader()])
    data = module(folder, **PLAN, reading=Reading(lookahead=lookahead))
    data.reader.files = Server(data.reader.files)
    assert steps_of([data.train_dataloader()]) == straight


def test_the_quarantine_tells_each_sample_of_each_step_once_over_ranks_workers_and_restarts(folder, tmp_path):
    spoil(folder, asked(folder), asked(folder, 2, 5))
    straight = [bad for batch in module(folder, **PLAN).train_dataloader() for bad in batch.replaced]
    assert len({(bad.uid, bad.step) for bad in straight}) == len(straight) > 6
    reading = Reading(quarantine=str(tmp_path / "told"))
    for world, workers in ((2, 1), (3, 0), (2, 2)):  # the run is started three times
        for rank in range(world):
            data = module(folder, rank=rank, world=world, num_workers=workers, reading=reading, **PLAN)
            list(data.train_dataloader())
    files = sorted(path.name for path in (tmp_path / "told").iterdir())
    assert files == [f"quarantine-rank{rank}.jsonl" for rank in range(3)]
    lines = [json.loads(line) for path in (tmp_path / "told").iterdir() for line in path.read_text().splitlines()]
    assert len(lines) == 3 * len(straight)
    found = read_quarantine(tmp_path / "told")
    assert sorted(found, key=repr) == sorted(straight, key=repr)


def test_the_quarantine_file_holds_any_text_and_says_which_line_is_none(tmp_path):
    """Line ends of Unicode inside a name, and a path that is not UTF-8."""
    odd = Replaced("s/a\u2028b\x85c\x1dd", 5, "caf\udce9.tar: bad", "", "first", 3)
    quarantine = Quarantine(str(tmp_path), 0, 5)
    quarantine.add(odd)
    quarantine.add(plain := Replaced("s/é", 6, "b", "s/2", "first", 3))
    assert read_quarantine(tmp_path) == [odd, plain]
    with open(quarantine.path, "a") as file:
        file.write('{"key": "half')
    with pytest.raises(InputError, match=rf"^{quarantine.path}:3: not a line of a quarantine file$"):
        read_quarantine(tmp_path)
    assert read_quarantine(tmp_path / "none") == []


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 3), (2, 2)])
def test_too_many_bad_samples_stop_each_rank_with_the_list(folder, world, workers, brief_ends):
    """Counted over all loader processes of a rank, none of which has met too many by itself; one fewer is no error."""
    spoil(folder, asked(folder), asked(folder, 1, 4), asked(folder, 2, 5))
    for rank in range(world):
        batches = list(module(folder, rank=rank, world=world, **PLAN).train_dataloader())
        told = {bad.uid: bad.reason for batch in batches for bad in batch.replaced}
        most = len(told)
        assert most >= 4
        trained = module(folder, rank=rank, world=world, num_workers=workers, reading=Reading(max_bad=most), **PLAN)
        for batch in trained.train_dataloader():
            trained.trained(batch)
        stopped = module(folder, rank=rank, world=world, num_workers=workers, reading=Reading(max_bad=most - 1), **PLAN)
        with pytest.raises(InputError) as error:
            for batch in stopped.train_dataloader():
                stopped.trained(batch)
        head, *listed = str(error.value).split("\n  ")
        assert head == f"{most} bad samples, more than the {most - 1} of reading.max_bad:"
        assert Counter(listed) == Counter(told.values())


def test_the_list_is_cut_at_twenty_and_says_where_the_rest_is(tmp_path):
    quarantine = Quarantine(str(tmp_path), 3, 24)
    for n in range(24):
        quarantine.add(Replaced(f"s/{n}", n, f"reason {n}", "", "first", n))
        quarantine.add(Replaced(f"s/{n}", n, f"reason {n}", "", "first", n + 1))  # again, in another step
    with pytest.raises(InputError) as error:
        quarantine.add(Replaced("s/24", 24, "reason 24", "", "first", 24))
    lines = str(error.value).split("\n")
    told = f"all are in {tmp_path}/quarantine-rank3.jsonl:"
    assert lines[0] == f"25 bad samples, more than the 24 of reading.max_bad; {told}"
    assert lines[1:] == [*(f"  reason {n}" for n in range(20)), "  and 5 more"]
    assert len(read_quarantine(tmp_path)) == 49


def evaluated(folder: Path, **options) -> AudioQuestions:
    options = {"evaluation": EvaluationSpec({"split": "test"}, batch_size=4)} | options
    return module(folder, 24, setup="test", **options)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_in_an_evaluation_the_place_of_a_bad_sample_weighs_nothing(folder, world, workers):
    """Nobody stands in: another question's answer must not count twice. The batches keep their sizes on all ranks."""
    plain = evaluated(folder)
    rows = plain.table.where({"split": "test"}).tolist()
    spoil(folder, rows[1], rows[4])
    counted, sizes = Counter(), []
    for rank in range(world):
        data = evaluated(folder, rank=rank, world=world, num_workers=workers)
        batches = list(data.test_dataloader())
        sizes.append([len(batch) for batch in batches])
        assert all(batch.weights.tolist() == [s.weight for s in batch.samples] for batch in batches)
        counted.update(s.row for batch in batches for s in batch.samples if s.weight)
        for bad in (bad for batch in batches for bad in batch.replaced):
            assert (bad.served, bad.stage, bad.step) == ("", "", -1)
    assert counted == Counter(set(rows) - {rows[1], rows[4]})
    assert sizes == [[4, 2]] if world == 1 else [[3], [3]]


def test_a_batch_with_nothing_to_read_is_an_error_with_the_list(folder):
    data = evaluated(folder, evaluation=EvaluationSpec({"split": "test"}, batch_size=2))
    rows = data.table.where({"split": "test"}).tolist()
    spoil(folder, *rows[2:4])
    with pytest.raises(InputError) as error:
        list(data.test_dataloader())
    says = [wrong_bytes_of(data.reader, row) for row in rows[2:4]]
    assert str(error.value).split("\n  ") == ["no sample of a batch can be read:", *says]


@pytest.fixture(scope="module")
def damaged(small, tmp_path_factory) -> dict:
    """The shards of the small corpus, with two bad recordings in `test` and two in `val`, far apart in both."""
    folder = tmp_path_factory.mktemp("damaged")
    for path in Path(small.index).parent.iterdir():
        shutil.copy(path, folder / path.name)
    reader = ShardReader(folder / "index.arrow")
    chosen = {}
    for split in ("test", "val"):
        rows = [row for row in range(len(reader)) if reader.text("split", row) == split]
        bad = [rows[1], rows[-2]]
        assert reader.clip(rows[1]) != reader.clip(rows[-2])
        spoil(folder, *bad)
        chosen[split] = ({reader.key(row) for row in rows}, {reader.key(r) for b in bad for r in hearers_of(reader, b)})
    return {"index": str(folder / "index.arrow"), "folder": folder, "splits": chosen}


def answers(small, index: str, tmp_path: Path, method: str = "predict", **options):
    val, test = (EvaluationSpec({"split": split}, batch_size=3) for split in ("val", "test"))
    data = AudioQuestions(index, small.tiny, small.labels, **({"validation": val, "evaluation": test} | options))
    module = PolicyModule(partial(OmniPolicy, small.tiny), max_new_tokens=4)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    found = getattr(trainer, method)(module, datamodule=data)
    return trainer, module, found


@pytest.mark.parametrize("workers", [0, 2])
def test_a_question_that_cannot_be_heard_is_missing_from_the_answers_and_never_wrong(small, damaged, tmp_path, workers):
    everything, bad = damaged["splits"]["test"]
    clean = [record for batch in answers(small, small.index, tmp_path)[2] for record in batch]
    assert {record["key"] for record in clean} == everything and bad
    found = answers(small, damaged["index"], tmp_path, num_workers=workers)[2]
    assert [r for batch in found for r in batch] == [record for record in clean if record["key"] not in bad]


def test_accuracy_is_that_of_the_questions_that_were_heard(small, damaged, tmp_path):
    everything, bad = damaged["splits"]["test"]
    clean = [r for part in answers(small, small.index, tmp_path)[2] for r in part if r["key"] not in bad]
    seen = []
    real = PolicyModule.on_test_epoch_end
    PolicyModule.on_test_epoch_end = lambda self: (seen.append(self.test_accuracy.counts.sum()), real(self))[1]
    try:
        trainer, *_ = answers(small, damaged["index"], tmp_path, "test")
    finally:
        PolicyModule.on_test_epoch_end = real
    assert [int(n) for n in seen] == [len(everything) - len(bad)]
    share = sum(record["correct"] for record in clean) / len(clean)
    assert float(trainer.callback_metrics["test/accuracy/audio"]) == pytest.approx(share)
    for verdict in VERDICTS:
        count = sum(record["verdict"] == verdict for record in clean)
        assert float(trainer.callback_metrics[f"test/answers/audio/{verdict}"]) == count


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
def test_an_evaluation_counts_bad_samples_over_its_loader_processes(small, damaged, tmp_path, method, brief_ends):
    """Two loaders, neither of which met too many: the run stops all the same, and one fewer is no error."""
    bad = damaged["splits"]["val" if method == "validate" else "test"][1]
    options = {"num_workers": 3, "reading": Reading(max_bad=len(bad))}
    answers(small, damaged["index"], tmp_path, method, **options)
    options["reading"] = Reading(max_bad=len(bad) - 1)
    with pytest.raises(InputError, match=f"^{len(bad)} bad samples, more than the {len(bad) - 1} of reading.max_bad"):
        answers(small, damaged["index"], tmp_path, method, **options)


def fit_options(small, damaged, tmp_path: Path, **options):
    """A run of SFT over the plan of the other training tests."""
    from earwitness.tests.lightning_modules.test_training import data_of

    data = data_of(small, **options)
    data.index = damaged["index"]
    return SFT(partial(OmniPolicy, small.tiny), partial(torch.optim.SGD, lr=0.05), micro_batch_size=4), data


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_over_a_bad_recording_logs_it_and_stops_beyond_the_limit(small, tmp_path, workers, brief_ends):
    folder = tmp_path / "shards"
    shutil.copytree(Path(small.index).parent, folder)
    module, data = fit_options(small, {"index": str(folder / "index.arrow")}, tmp_path)
    trainer_of(tmp_path, 1).fit(module, data)
    spoil(folder, *data.training_data.request(1).rows[:2].tolist())
    logged = []

    class Facts(L.Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            logged.append(int(trainer.callback_metrics["data/replaced"]))

    index = {"index": str(folder / "index.arrow")}
    module, data = fit_options(small, index, tmp_path, num_workers=workers)
    trainer_of(tmp_path, callbacks=[Facts()]).fit(module, data)
    assert logged[0] == 0 and logged[1] >= 2 and logged == sorted(logged) and len(logged) == 6
    count = len(data.quarantine.reasons)
    module, data = fit_options(small, index, tmp_path, num_workers=workers, reading=Reading(max_bad=count - 1))
    with pytest.raises(InputError, match=f"^{count} bad samples, more than the {count - 1} of reading.max_bad"):
        trainer_of(tmp_path).fit(module, data)


def fit_and_lose_a_loader(small, tmp_path: Path, pipe: int) -> None:
    class KillsALoader(L.Callback):
        def on_train_batch_end(self, trainer, fitted, outputs, batch, batch_idx) -> None:
            if batch.step == 0:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    module, data = fit_options(small, {"index": small.index}, tmp_path, num_workers=2)
    real = TrainingData.request
    TrainingData.request = lambda self, step: (time.sleep(0.5 * (step > 1)), real(self, step))[1]
    trainer_of(tmp_path, callbacks=[KillsALoader()]).fit(module, data)


def test_a_loader_process_that_the_system_kills_ends_the_run_in_seconds(small, tmp_path):
    with forked(partial(fit_and_lose_a_loader, small, tmp_path), tmp_path / "log") as (pid, _):
        assert ended(pid, 60) == 1
    assert "is killed by signal: Killed" in (tmp_path / "log").read_text()


def hear_for_ever(folder: Path, workers: int, slow: str, pipe: int) -> None:
    data = module(folder, num_workers=workers, reading=Reading(stall_s=1.0), **PLAN)
    row, real = int(data.training_data.request(1).rows[3]), data.reader.wave
    if slow == "wave":
        data.reader.wave = lambda r, fetched=None: time.sleep(600) if r == row else real(r, fetched)
    else:
        data.reader.files = Server(data.reader.files)
        fetch = data.reader.files.files.fetch
        held = data.reader.range(row, "audio")
        data.reader.files.files.fetch = lambda wanted: time.sleep(600) if held in wanted else fetch(wanted)
    for batch in data.train_dataloader():
        os.write(pipe, b".")
        data.trained(batch)


@pytest.mark.parametrize(("workers", "slow"), [(0, "wave"), (2, "wave"), (0, "server"), (1, "server")])
def test_a_decoder_or_a_server_that_hangs_ends_the_run_and_names_the_samples(clean, tmp_path, workers, slow):
    """`reading.stall_s` is 1 s. Without loader processes the run itself ends, with one it hears that they ended."""
    with forked(partial(hear_for_ever, clean, workers, slow), tmp_path / "log") as (pid, _):
        assert ended(pid, 30) == (1 if workers else 70)
    log = (tmp_path / "log").read_text()
    data = module(clean, **PLAN)
    steps = [1] if slow == "wave" else [0, 1]  # two requests are read together
    keys = [data.reader.key(int(row)) for step in steps for row in data.training_data.request(step).rows]
    doing = "preparing" if slow == "wave" else "reading"
    assert f"error: {doing} {', '.join(keys)} took longer than 1 s\n" in log
    assert "Current thread" in log or "Thread 0x" in log, "and where it hangs"
    assert ("exited unexpectedly" in log) == (workers > 0)


def rest_between_batches(pipe: int) -> None:
    """Blocks that end in time, in a process and in a process it forks, and long pauses after them."""
    watchdog = Watchdog(0.5)
    for _ in range(4):
        with watchdog.over(lambda: "working"):
            time.sleep(0.15)
    time.sleep(0.7)
    child = multiprocessing.get_context("fork").Process(target=hang_watched, args=(watchdog,))
    child.start()
    child.join()
    assert child.exitcode == 70
    with suppress(ZeroDivisionError), watchdog.over(lambda: "failing"):
        _ = 1 / 0
    time.sleep(0.7)


def hang_watched(watchdog: Watchdog) -> None:
    with watchdog.over(lambda: "hanging in the child"):
        time.sleep(600)


def test_only_what_takes_too_long_by_itself_ends_a_process(tmp_path):
    """Neither many batches together, nor the time between them, nor what another process does."""
    with forked(rest_between_batches, tmp_path / "log") as (pid, _):
        assert ended(pid, 30) == 0, (tmp_path / "log").read_text()
    log = (tmp_path / "log").read_text()
    assert [line for line in log.splitlines() if line.startswith("error")] == [
        "error: hanging in the child took longer than 0.5 s"
    ]
