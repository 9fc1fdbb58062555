"""Whatever a run dies of, and with however many processes it goes on: every batch of the plan is trained once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path

import lightning as L
import numpy as np
import pyarrow as pa
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy

from earwitness.curriculum.table import read_arrow, write_arrow
from earwitness.datamodules.batches.requests import Augmentation
from earwitness.datamodules.module import AudioQuestions
from earwitness.datamodules.processors.omni import OmniProcessor
from earwitness.datamodules.storage.files import Reading
from earwitness.errors import InputError
from earwitness.lightning_modules.checkpoints import whole_file
from earwitness.lightning_modules.grpo import GRPO, Rollout
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.sft import SFT
from earwitness.lightning_modules.step.learning_rate import Schedule
from earwitness.tests.datamodules.test_datamodule import EVERYTHING, build, module, same
from earwitness.tests.lightning_modules.test_training import data_of
from earwitness.tests.trainers import trainer_of

WORLDS = (1, 2, 3, 4, 6, 8)
CLIPS_OF = [n // 2 for n in range(72)] + [40, 41, 42, 43]  # recording of each question
SPLITS_OF = ["train"] * 72 + ["val"] * 4
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@contextmanager
def forked(act: Callable[[int], None], log: Path) -> Iterator[tuple[int, int]]:
    """A child process that does `act(pipe)`, in a group with all it starts: its number, and where its pipe ends.

    What it prints goes to `log`. At the end the whole group is killed, whatever happened.
    """
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:  # nothing of pytest may run in the child
        code = 1
        try:
            os.setpgid(0, 0)
            os.close(here)
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1), os.dup2(descriptor, 2)
            sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = open(1, "w", closefd=False)  # noqa: SIM115
            act(there)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    with suppress(OSError):
        os.setpgid(pid, pid)  # by both, so that the group is there whoever comes first
    os.close(there)
    try:
        yield pid, here
    finally:
        kill(pid)
        os.close(here)


def kill(pid: int) -> None:
    """SIGKILL to the child and all it started, and the child's end awaited."""
    for send in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            send(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def ended(pid: int, seconds: float = 60) -> int:
    """The exit status of a child that ends by itself; -9 for one killed by signal 9."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    raise TimeoutError(f"process {pid} still runs")


def curriculum(samples: int, epochs: int, cells: str = "question_type", seed: int = 3) -> dict:
    stage = {"name": "first", "algorithm": "sft", "budget": {"samples": samples, "epochs": epochs}, "batch_size": 24}
    return {"seed": seed, "cells": [cells], "stages": [stage]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Seventy-two questions to train on, two on each of 36 recordings, and four to validate on."""
    return build(tmp_path_factory.mktemp("resume") / "corpus", CLIPS_OF, SPLITS_OF, per_shard=7)


@pytest.fixture
def quick(monkeypatch) -> None:
    """The tokenizer is read once for all ranks and restarts."""
    monkeypatch.setattr(OmniProcessor, "from_pretrained", lru_cache(OmniProcessor.from_pretrained))


def shown(batches: list) -> list:
    """What a step trains, in the plan's order: who is asked, under which condition, where the answer stands."""
    rows = zip(*(batch.samples for batch in batches), strict=True)
    samples = [sample for row in rows for sample in row]
    return [[s.question.id, s.condition, s.weight, s.choices.index(s.question.answer)] for s in samples]


def train_world(folder: Path, saved: Path, world: int, workers: int, plan: dict, pipe: int) -> None:
    """All ranks of a world in step, from what was saved last; saves every third step as a run would, tells each."""
    kept = json.loads(saved.read_text()) if saved.exists() else {"state": None, "history": []}
    options = EVERYTHING | {"curriculum": plan, "num_workers": workers}
    ranks = [module(folder, rank=rank, world=world, **options) for rank in range(world)]
    for data in ranks if kept["state"] else ():
        data.load_state_dict(kept["state"])
    for batches in zip(*(data.train_dataloader() for data in ranks), strict=True):
        (step,) = {batch.step for batch in batches}
        kept["history"].append([step, shown(batches)])
        for data, batch in zip(ranks, batches, strict=True):
            data.trained(batch)
        if step % 3 == 2 or step + 1 == ranks[0].num_steps:
            kept["state"] = ranks[0].state_dict()
            assert all(data.state_dict() == kept["state"] for data in ranks)
            with open(saved.with_suffix(".partial"), "w") as file:
                json.dump(kept, file)
                file.flush()
                os.fsync(file.fileno())
            saved.with_suffix(".partial").replace(saved)
        os.write(pipe, b".")


@pytest.mark.slow
def test_twenty_kills_in_worlds_of_other_sizes_lose_and_repeat_nothing(corpus, tmp_path, quick):
    """SIGKILL to ranks and loaders at once, 20 times; the last run reaches the end undisturbed."""
    plan, saved, draw = curriculum(70, 48), tmp_path / "saved.json", random.Random(20)
    drawn = []
    for run in range(21):
        world, workers, steps, pause = draw.choice(WORLDS), draw.randrange(4), draw.randrange(9), draw.random() / 20
        drawn.append((world, workers))
        act = partial(train_world, corpus, saved, world, workers, plan)
        with forked(act, tmp_path / "log") as (pid, pipe):
            if run == 20:
                while os.read(pipe, 1):
                    pass
                assert ended(pid) == 0, (tmp_path / "log").read_text()
                continue
            for _ in range(steps):
                assert os.read(pipe, 1), (tmp_path / "log").read_text()
            time.sleep(pause)
            os.killpg(pid, signal.SIGKILL)
            assert ended(pid) == -9, (tmp_path / "log").read_text()
        if saved.exists():
            history = json.loads(saved.read_text())["history"]
            assert len(history) < 140, "the plan is long enough for all kills"
    assert {world for world, _ in drawn} == set(WORLDS) and {workers for _, workers in drawn} == {0, 1, 2, 3}
    history = json.loads(saved.read_text())["history"]
    straight = module(corpus, **EVERYTHING, curriculum=plan)
    assert [step for step, _ in history] == list(range(140)) == list(range(straight.num_steps))
    assert [each for _, each in history] == [shown([batch]) for batch in straight.train_dataloader()]
    counted = Counter(who for _, samples in history for who, _, weight, _ in samples if weight)
    assert len(counted) == 70 and set(counted.values()) == {48}


def weights(fitted) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in fitted.net.parameters()])


def sft_of(small, kind: type = SFT) -> SFT:
    """Adam, warm-up and all: a resumed run needs the optimizer's state and the right step too."""
    adam = partial(torch.optim.AdamW, lr=1e-3)
    return kind(partial(OmniPolicy, small.tiny), adam, Schedule(2, 0.1), micro_batch_size=4)


class Watch(L.Callback):
    """Notes what is trained."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, list]] = []

    def on_train_batch_start(self, trainer, fitted, batch, batch_idx) -> None:
        self.seen.append((batch.step, shown([batch])))


@pytest.fixture(scope="module")
def straight(small, tmp_path_factory) -> tuple[list, torch.Tensor, Path]:
    """What the uninterrupted run trains in its six steps, the weights at its end, and its checkpoints on the way."""
    watch, fitted, folder = Watch(), sft_of(small), tmp_path_factory.mktemp("straight")
    callbacks = [watch, keep(folder, save_top_k=-1)]
    trainer_of(folder, callbacks=callbacks, enable_checkpointing=True).fit(fitted, data_of(small))
    assert [step for step, _ in watch.seen] == list(range(6))
    return watch.seen, weights(fitted), folder


def keep(folder: Path, **options) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_last=True, **options)


def fit_saving(small, folder: Path, slow: Callable[[int], None], pipe: int) -> None:
    slow(pipe)
    trainer_of(folder, callbacks=[keep(folder)], enable_checkpointing=True).fit(sft_of(small), data_of(small))


def hang(pipe: int) -> None:
    os.write(pipe, b".")
    time.sleep(600)


def half_of_the_bytes(pipe: int) -> None:
    """The sixth write (steps 1 to 3 have two files each) stops in the middle."""
    save, calls = torch.save, []

    def slow(content, file) -> None:
        calls.append(file)
        save(content, file)
        if len(calls) == 6:
            file.truncate(file.tell() // 2)
            hang(pipe)

    whole_file.torch.save = slow


def not_on_the_disk_yet(pipe: int) -> None:
    sync, calls = os.fsync, []

    def slow(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 11:  # a file and its folder each time
            hang(pipe)
        sync(descriptor)

    whole_file.os.fsync = slow


def just_renamed(pipe: int) -> None:
    sync, calls = os.fsync, []

    def slow(descriptor: int) -> None:
        calls.append(descriptor)
        sync(descriptor)
        if len(calls) == 12:
            hang(pipe)

    whole_file.os.fsync = slow


@pytest.mark.parametrize(
    ("moment", "steps"),
    [(half_of_the_bytes, 2), (not_on_the_disk_yet, 2), (just_renamed, 3)],
    ids=["half of the bytes", "not on the disk yet", "just renamed"],
)
def test_a_run_killed_while_it_writes_last_ckpt_continues_from_a_whole_one(small, straight, tmp_path, moment, steps):
    """Position, weights and optimizer come from one file; the run goes on to the very same weights."""
    with forked(partial(fit_saving, small, tmp_path, moment), tmp_path / "log") as (pid, pipe):
        assert os.read(pipe, 1), (tmp_path / "log").read_text()
        os.killpg(pid, signal.SIGKILL)
        assert ended(pid) == -9
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["AudioQuestions"]["step"] == saved["global_step"] == steps
    assert saved["callbacks"]["PlanPosition"]["optimizer_steps"] == steps
    assert {float(state["step"]) for state in saved["optimizer_states"][0]["state"].values()} == {steps}
    watch, fitted = Watch(), sft_of(small)
    trainer = trainer_of(tmp_path, callbacks=[watch, keep(tmp_path)], enable_checkpointing=True)
    trainer.fit(fitted, data_of(small), ckpt_path="last", weights_only=True)
    assert watch.seen == straight[0][steps:]
    assert torch.equal(weights(fitted), straight[1])
    assert not list(tmp_path.glob(".*")), "what was half written is gone"


def test_checkpoints_are_written_beside_their_place_and_never_through_another_folder(small, tmp_path, monkeypatch):
    """A move from the folder for temporary files may be a copy, which a kill leaves half done."""
    monkeypatch.setattr(shutil, "move", lambda *_, **__: pytest.fail("moved from another folder"))
    done = []
    for owner, name in ((os, "fsync"), (Path, "replace")):
        act = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, act=act, name=name: (done.append((name, a[-1])), act(*a))[1])
    trainer = trainer_of(tmp_path, 1)
    trainer.fit(sft_of(small), data_of(small))
    trainer.save_checkpoint(tmp_path / "deep" / "a.ckpt")
    assert [name for name, _ in done] == ["fsync", "replace", "fsync"]
    assert done[1][1] == tmp_path / "deep" / "a.ckpt"
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    before = (tmp_path / "deep" / "a.ckpt").read_bytes()
    with pytest.raises(
        InputError, match=r"a\.ckpt could not be written \(disk full\); what was saved before it is whole"
    ):
        trainer.save_checkpoint(tmp_path / "deep" / "a.ckpt")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.ckpt"]
    assert (tmp_path / "deep" / "a.ckpt").read_bytes() == before


class Late(SingleDeviceStrategy):
    """Restores as FSDP, DeepSpeed and ModelParallel do: after the loaders may have been built."""

    restore_checkpoint_after_setup = True


class AsksInOptimizers(SFT):
    """A cosine schedule written the usual way."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches > 0
        return super().configure_optimizers()


class Asks(L.Callback):
    """Asks in one of the trainer's hooks how many steps there will be, which builds the loader."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, lambda trainer, *_, **__: trainer.estimated_stepping_batches)


ASKS = ("never", "configure_optimizers", "setup", "on_fit_start")
MATRIX = [(strategy, asks, 0) for strategy in ("normal", "late") for asks in ASKS]


@pytest.mark.parametrize(("strategy", "asks", "workers"), [*MATRIX, ("late", "configure_optimizers", 2)])
def test_a_resumed_run_trains_exactly_the_missing_batches(small, straight, tmp_path, strategy, asks, workers):
    """Lightning drops or ignores a loader's position where somebody asks for its length before the restore."""
    watch, fitted = Watch(), sft_of(small, AsksInOptimizers if asks[0] == "c" else SFT)
    how = Late(device=torch.device("cpu")) if strategy == "late" else "auto"
    trainer = trainer_of(tmp_path, callbacks=[watch, *([Asks(asks)] if asks[0] in "so" else [])], strategy=how)
    trainer.fit(fitted, data_of(small, num_workers=workers), ckpt_path=str(straight[2] / "step=2.ckpt"))
    assert watch.seen == straight[0][2:]
    assert torch.equal(weights(fitted), straight[1])


def test_validation_in_the_middle_of_the_plan_moves_nothing(small, straight, tmp_path):
    """Cut right after a validation inside the epoch and resumed: the same batches, the same weights."""
    seen = []
    for steps, path in ((4, None), (-1, "step=4.ckpt")):
        watch, fitted = Watch(), sft_of(small)
        trainer = trainer_of(
            tmp_path, steps, callbacks=[watch, keep(tmp_path, save_top_k=-1)], enable_checkpointing=True
        )
        trainer.limit_val_batches, trainer.val_check_interval = 1, 2
        fitted.total_steps = lambda: 6
        trainer.fit(fitted, data_of(small), ckpt_path=path and str(tmp_path / path))
        assert "val/accuracy/audio" in trainer.callback_metrics
        seen += watch.seen
    assert seen == straight[0]
    assert torch.equal(weights(fitted), straight[1])


class SavesWhenABatchEnds(L.Callback):
    """As people write it: listed before anything else, it saves in `on_train_batch_end`."""

    def on_train_batch_end(self, trainer, fitted, outputs, batch, batch_idx) -> None:
        if batch.step == 2:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "own.ckpt")


def test_what_any_callback_saves_at_the_end_of_a_batch_holds_the_batch(small, straight, tmp_path):
    fitted = sft_of(small)
    trainer_of(tmp_path, callbacks=[SavesWhenABatchEnds()]).fit(fitted, data_of(small))
    saved = torch.load(tmp_path / "own.ckpt", weights_only=True)
    assert saved["AudioQuestions"]["step"] == saved["global_step"] == 3
    watch, fitted = Watch(), sft_of(small)
    trainer_of(tmp_path, callbacks=[watch]).fit(fitted, data_of(small), ckpt_path=str(tmp_path / "own.ckpt"))
    assert watch.seen == straight[0][3:]
    assert torch.equal(weights(fitted), straight[1])


@pytest.mark.parametrize("step", [0, 2])
def test_a_checkpoint_out_of_the_middle_of_a_step_is_refused(small, tmp_path, step):
    """A signal or an error between the optimizer's step and the end of the batch: trained, but not counted."""

    class SavesInside(SFT):
        def training_step(self, batch, batch_idx) -> None:
            super().training_step(batch, batch_idx)
            if batch.step == step:
                self.trainer.save_checkpoint(tmp_path / "inside.ckpt")

    trainer_of(tmp_path, 3).fit(sft_of(small, SavesInside), data_of(small))
    with pytest.raises(InputError) as error:
        trainer_of(tmp_path).fit(sft_of(small), data_of(small), ckpt_path=str(tmp_path / "inside.ckpt"))
    says = f"in the middle of batch {step}: after optimizer step {step + 1}, {step} when the last batch ended"
    assert str(error.value) == f"the checkpoint was written {says}; resume from the one before it"


def test_two_optimizer_steps_on_every_batch_are_one_step_of_the_plan(small, tmp_path):
    """GRPO with two iterations: after one batch of three the trainer counts two steps, the plan one."""

    def grpo() -> GRPO:
        rewards, rollout = {"earwitness.tests.lab_rewards.length": 1.0}, Rollout(2, 1.0, 4)
        sgd = partial(torch.optim.SGD, lr=0.05)
        policy = partial(OmniPolicy, small.tiny)
        return GRPO(policy, sgd, rollout=rollout, rewards=rewards, num_iterations=2, micro_batch_size=4)

    one, watch, two = grpo(), Watch(), grpo()
    callbacks = [keep(tmp_path, save_top_k=-1)]
    trainer_of(tmp_path, callbacks=callbacks, enable_checkpointing=True).fit(one, data_of(small, "grpo"))
    saved = torch.load(tmp_path / "step=2.ckpt", weights_only=True)
    assert (saved["global_step"], saved["AudioQuestions"]["step"]) == (2, 1)
    path = str(tmp_path / "step=2.ckpt")
    trainer_of(tmp_path, callbacks=[watch]).fit(two, data_of(small, "grpo"), ckpt_path=path)
    assert [step for step, _ in watch.seen] == [1, 2]
    assert torch.equal(weights(one), weights(two))


@pytest.mark.slow
def test_a_run_of_two_ranks_is_continued_by_one(small, tmp_path):
    """Two real processes train the first of two steps and save; one process trains the other: as one alone does."""
    from earwitness.commands.cli import main
    from earwitness.tests.commands.test_launch import run, same_weights, script, write_config

    saving = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}
    saving["init_args"] = {"dirpath": str(tmp_path), "every_n_train_steps": 1, "save_last": True}
    outs = {name: tmp_path / name for name in ("alone", "cut", "resumed")}
    configs = {name: write_config(small, out) for name, out in outs.items()}
    more = ["--trainer.enable_checkpointing", "true", "--trainer.callbacks+", json.dumps(saving)]
    more += ["--trainer.strategy", "ddp", "--trainer.max_steps", "1"]
    run(script("lightning"), "run", "--devices", "2", "--", "fit", "--config", configs["cut"], *more)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["AudioQuestions"]["step"] == 1
    os.environ["LOCAL_WORLD_SIZE"] = "1"  # what the configuration takes the number of devices from
    try:
        for name, options in (("alone", []), ("resumed", ["--ckpt_path", str(tmp_path / "last.ckpt")])):
            assert main(["fit", "--config", configs[name], *options]) in (None, 0)
    finally:
        del os.environ["LOCAL_WORLD_SIZE"]
    same_weights(outs["alone"], outs["resumed"])


FEW = {"curriculum": curriculum(70, 2), **EVERYTHING}


def half_way(folder: Path, **more) -> dict:
    data = module(folder, **(FEW | more))
    data.cursor.trained(3)
    return data.state_dict()


def test_shards_may_be_repacked_and_moved_under_a_resumed_run(corpus, tmp_path, quick):
    """Other shards, other order of the questions, another folder: the same content, the same batches, bit for bit."""
    other = build(tmp_path / "a", CLIPS_OF, SPLITS_OF, per_shard=11)
    lines = (other / "q.jsonl").read_text().splitlines()
    (other / "q.jsonl").write_text("\n".join(lines[::-1]))
    for tar in other.glob("*.tar"):
        tar.unlink()
    from earwitness.datamodules.shards.packing import shard

    shard(str(other / "q.jsonl"), str(other), samples_per_shard=13)
    moved = (tmp_path / "elsewhere").absolute()
    moved.mkdir()
    for tar in other.glob("*.tar"):
        tar.rename(moved / tar.name)
    data = module(other, **FEW, reading=Reading(shards=str(moved)))
    data.load_state_dict(half_way(corpus))
    rest = list(data.train_dataloader())
    rows = [s.row for b in rest for s in b.samples]
    straight = list(module(corpus, **FEW).train_dataloader())[3:]
    assert [shown([b]) for b in rest] == [shown([b]) for b in straight] and len(rest) == 3
    assert rows != [s.row for b in straight for s in b.samples], "it is another index"
    for a, b in zip(rest, straight, strict=True):
        assert torch.equal(a.prompts.features, b.prompts.features)
        assert torch.equal(a.prompts.suffix_ids, b.prompts.suffix_ids) and torch.equal(a.target_ids, b.target_ids)


@pytest.mark.parametrize(
    "change",
    [
        {"clips": [n + 50 for n in CLIPS_OF]},
        {"question": lambda n: f"Question {n}, please?"},
        {"choices": ["rain", "x"]},
    ],
    ids=["recordings", "questions", "choices"],
)
def test_other_recordings_or_texts_under_the_same_identities_are_refused(corpus, tmp_path, quick, change):
    texts = {name: value for name, value in change.items() if name != "clips"}
    texts |= {"answer": "rain"} if "choices" in change else {}
    other = build(tmp_path / "other", change.get("clips", CLIPS_OF), SPLITS_OF, **texts)
    data = module(other, **FEW)
    with pytest.raises(InputError) as error:
        data.load_state_dict(half_way(corpus))
    says = "other recordings or texts than when the checkpoint was written, under the same identities"
    assert str(error.value) == f"{other}/index.arrow: {says}; start the stage anew"
    assert data.position == 0


def test_an_index_of_other_questions_is_refused_as_another_table(corpus, tmp_path, quick):
    """Not as one with other recordings under the same identities."""
    other = build(tmp_path / "other", [*CLIPS_OF, 44], [*SPLITS_OF, "train"])
    with pytest.raises(InputError, match="^the table changed since the checkpoint: 72 rows then, 73 now; start"):
        module(other, **FEW).load_state_dict(half_way(corpus))


def test_labels_that_the_curriculum_reads_must_be_the_same(corpus, tmp_path, quick):
    index = read_arrow(corpus / "index.arrow")
    splits = index.column("split").to_pylist()
    before = [["weak", "strong"][n % 2] for n in range(len(index))]
    for name, row in (("one", None), ("two", splits.index("val")), ("three", splits.index("train"))):
        label = ["weak" if (text == "strong") == (n == row) else "strong" for n, text in enumerate(before)]
        write_arrow(pa.table({"uid": index.column("uid"), "label": label}), tmp_path / f"{name}.arrow")
    given = {"curriculum": curriculum(60, 2, cells="label")}
    state = half_way(corpus, **given, labels=str(tmp_path / "one.arrow"))
    validation_only = module(corpus, **(FEW | given), labels=str(tmp_path / "two.arrow"))
    validation_only.load_state_dict(state)
    assert validation_only.position == 3, "the row is not trained on"
    with pytest.raises(InputError, match="^the table changed since the checkpoint: as many rows, but other ones, or"):
        module(corpus, **(FEW | given), labels=str(tmp_path / "three.arrow")).load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 1}, "'seed' changed since the checkpoint: it was 0, is 1"),
        ({"conditions": ["audio", "noise"]}, r"'conditions\[1\]' changed .*: it was silence:0.5, is noise"),
        ({"conditions": ["audio"]}, r"'conditions' changed .*: it was \['audio', 'silence:0.5'\], is \['audio'\]"),
        ({"condition_order": "sequential"}, "'condition_order' changed .*: it was mixed, is sequential"),
        ({"shuffle_options": False}, "'shuffle_options' changed .*: it was True, is False"),
        ({"augmentation": Augmentation(gain_db=3)}, r"'augmentation\.gain_db' changed .*: it was 6.0, is 3"),
        ({"augmentation": None}, "'augmentation' changed .*, is None"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_questions_shown_or_heard_in_another_way_are_refused_with_what_changed(corpus, quick, change, says):
    """The plan is the same, its batches would not be."""
    data = module(corpus, **(FEW | change))
    with pytest.raises(InputError, match=f"^the data argument {says}; set it as it was, or start the stage anew$"):
        data.load_state_dict(half_way(corpus))
    assert data.position == 0


def test_what_does_not_change_the_batches_may_change_at_a_restart(corpus, quick):
    data = module(corpus, **FEW, num_workers=3, sort_by_length=True, reading=Reading(max_bad=3, lookahead=5))
    data.load_state_dict(half_way(corpus))
    assert data.position == 3


ADAPTIVE = {
    "name": "first",
    "algorithm": "grpo",
    "batch_size": 24,
    "budget": {"steps": 3},
    "window": 1,
    "feedback": {"contribution": {"audio": 0.3, "strength": 4, "group_size": 2}},
    "weight": {"product": [{"power": {"by": "live.p"}}, {"useful": {}}], "floor": 0.2},
}


@pytest.mark.parametrize("adapts", [False, True])
def test_the_state_passes_a_file_that_can_hold_no_code(corpus, tmp_path, quick, adapts):
    """torch.save and torch.load(weights_only=True) give back an equal state, and it continues."""
    adaptive = {"curriculum": {"seed": 3, "cells": ["question_type"], "stages": [ADAPTIVE]}}
    data = module(corpus, **(FEW | (adaptive if adapts else {})))
    if adapts:
        data.cursor.observe(np.full((8, 2), 1 / 3))
    data.cursor.trained(2)
    torch.save(data.state_dict(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    assert state == data.state_dict() == json.loads(json.dumps(data.state_dict()))
    assert ("adaptive" in state) == adapts
    again = module(corpus, **(FEW | (adaptive if adapts else {})))
    again.load_state_dict(state)
    assert again.position == 2 and again.state_dict() == state
    request, expected = (each.training_data.request(2) for each in (again, data))
    assert request.rows.tolist() == expected.rows.tolist()


def test_a_state_may_come_before_the_plan_is_made(corpus, quick):
    """Lightning restores the data module before `setup` in some of its entry points."""
    training = module(corpus, **FEW).training
    data = AudioQuestions(str(corpus / "index.arrow"), str(corpus / "checkpoint"), training=training)
    data.load_state_dict(half_way(corpus))
    data.setup("fit")
    assert data.position == 3 and [b.step for b in data.train_dataloader()] == list(range(3, data.num_steps))
    rest = list(module(corpus, **FEW).train_dataloader())[3:]
    assert all(same(a, b) for a, b in zip(data.train_dataloader(), rest, strict=True))
