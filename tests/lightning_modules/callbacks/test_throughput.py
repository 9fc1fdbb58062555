"""Rates, shares of the clock, utilisation and the time left are of what a run did; watching costs no transfer."""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils._python_dispatch import TorchDispatchMode

from earwitness.errors import InputError
from earwitness.lightning_modules.base import PolicyModule
from earwitness.lightning_modules.callbacks.peaks import peak_flops
from earwitness.lightning_modules.callbacks.throughput import Throughput, TimeLeft, clock_time
from earwitness.lightning_modules.policy.flops import ReadingCost
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.sft import SFT
from earwitness.lightning_modules.step.work import Lengths
from earwitness.tests.grpo_parts import Kept
from earwitness.tests.lightning_modules import test_grpo as grpo
from earwitness.tests.lightning_modules.test_training import SGD, data_of
from earwitness.tests.trainers import trainer_of

PAUSE = 1.0


class Slow(L.Callback):
    """Keeps the batches, takes its time to save, and to validate."""

    def __init__(self) -> None:
        self.batches: list = []

    def on_train_batch_start(self, trainer, module, batch, *_) -> None:
        self.batches.append(batch)

    def on_save_checkpoint(self, *_) -> None:
        time.sleep(PAUSE)

    def on_validation_epoch_end(self, *_) -> None:
        time.sleep(PAUSE)


def fit(small, tmp_path, module=None, data=None, steps=4, **options) -> tuple[Kept, Slow, L.Trainer]:
    kept, slow = Kept(), Slow()
    module = module or SFT(partial(OmniPolicy, small.tiny), SGD, micro_batch_size=2)
    trainer = trainer_of(tmp_path, steps, **options | {"callbacks": [*options.get("callbacks", ()), slow, kept]})
    trainer.fit(module, data or data_of(small))
    return kept, slow, trainer


def test_rates_are_of_the_batch_and_the_clock(small, tmp_path) -> None:
    kept, slow, _ = fit(small, tmp_path, callbacks=[Throughput(peak_tflops=1e-3)])
    cost = ReadingCost(OmniPolicy(small.tiny))
    for log, batch in zip(kept.logs, slow.batches, strict=True):
        prompts = batch.prompts
        seconds = 4 / log["speed/samples_per_s"]
        tokens = float(prompts.prefix_mask.sum(1)[prompts.clip_of_row].sum() + prompts.suffix_mask.sum())
        tokens += float(batch.target_mask.sum())
        assert log["speed/tokens_per_s"] * seconds == pytest.approx(tokens, rel=1e-4)
        heard = float(prompts.feature_mask.sum(1)[prompts.clip_of_row].sum()) / 100
        assert log["speed/audio_hours_per_s"] * seconds * 3600 == pytest.approx(heard, rel=1e-4)
        rows = Lengths.of(batch).rows()
        flops = cost.read(rows[:2], backward=True) + cost.read(rows[2:], backward=True)
        assert log["speed/mfu"] * seconds * 1e9 == pytest.approx(flops, rel=1e-4)
        assert 0 < seconds < 5 and 0.3 < log["time/update"] <= 1 and log["memory/peak_gb"] > 0.1
    assert kept.logs[-1]["time/left_s"] == 0.0 and kept.logs[0]["time/left_s"] > 0


def test_a_cpu_has_no_utilisation_unless_its_peak_is_given(small, tmp_path) -> None:
    kept, *_ = fit(small, tmp_path, steps=1)
    assert "speed/mfu" not in kept.logs[0] and "speed/tokens_per_s" in kept.logs[0]


def test_checkpoints_validation_and_waiting_are_told_apart(small, tmp_path, monkeypatch) -> None:
    """A pause of a second each: no rate sees those of checkpoint and validation, the wait for data slows the rates."""
    data = data_of(small)
    request = type(data).train_dataloader

    def slow_loader(self):
        loader = request(self)
        original = loader.dataset.pipeline[-1]

        def late(source):
            for batch in original(source):
                if batch.step == 3:
                    time.sleep(PAUSE)
                yield batch

        loader.dataset.pipeline[-1] = late
        return loader

    monkeypatch.setattr(type(data), "train_dataloader", slow_loader)
    options = {"limit_val_batches": 1, "val_check_interval": 2, "enable_checkpointing": True}
    saving = ModelCheckpoint(tmp_path, save_top_k=0, save_last=True, every_n_train_steps=2)
    kept, *_ = fit(small, tmp_path, data=data, steps=5, callbacks=[saving], **options)
    walls = [PAUSE / log["time/checkpoint"] if log["time/checkpoint"] else None for log in kept.logs]
    assert walls[0] is None and walls[1] is None and walls[2] is not None, "written after the second step"
    third, fourth = kept.logs[2], kept.logs[3]
    whole = 4 / third["speed/samples_per_s"] / (1 - third["time/checkpoint"] - third["time/validation"])
    for part in ("checkpoint", "validation"):
        assert PAUSE <= third[f"time/{part}"] * whole < PAUSE + 0.6, part
    assert 4 / third["speed/samples_per_s"] < PAUSE < 4 / fourth["speed/samples_per_s"]
    assert fourth["time/data_wait"] > 0.4
    for log in kept.logs:
        assert sum(log[f"time/{part}"] for part in ("data_wait", "checkpoint", "validation", "update")) <= 1.001


def test_a_rollout_has_its_share_and_its_tokens(small, tmp_path) -> None:
    """Four prompts of four completions: prompts are read once, every sampled token counts."""
    kept, slow, _ = fit(small, tmp_path, grpo.module_of(small), grpo.data_of(small), 2)
    for log, batch, (experience,) in zip(kept.logs, slow.batches, kept.experiences, strict=True):
        prompts = batch.prompts
        tokens = prompts.prefix_mask.sum(1)[prompts.clip_of_row].sum() + prompts.suffix_mask.sum()
        tokens = float(tokens + experience.completions.mask.sum())
        assert log["speed/tokens_per_s"] / log["speed/samples_per_s"] * 4 == pytest.approx(tokens, rel=1e-4)
        parts = [log[f"time/{part}"] for part in ("rollout", "reward", "logprob", "probe", "update", "data_wait")]
        assert log["time/rollout"] / log["time/update"] == pytest.approx(log["time/rollout_s"] / log["time/update_s"])
        assert min(log["time/rollout"], log["time/update"]) > 0 and 0.2 < sum(parts) <= 1.001


def test_a_users_profiler_goes_on_and_is_left_as_it_was(small, tmp_path) -> None:
    profiler = SimpleProfiler()
    fit(small, tmp_path, steps=2, profiler=profiler)
    assert len(profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]) == 2
    assert "start" not in vars(profiler)


class Reads(TorchDispatchMode):
    """Counts what makes a GPU wait: values read on the host, tensors fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def reads_of(small, tmp_path, monkeypatch, watched: bool) -> int:
    """Reads of two steps of SFT and two of GRPO."""
    with Reads() as reads, monkeypatch.context() as patch:
        patch.setattr(PolicyModule, "log", lambda self, *_, **__: None)  # its numbers never were on the device
        if not watched:
            patch.setattr("earwitness.lightning_modules.base.measured", lambda trainer: [])
        for name in ("cpu", "tolist", "numpy"):
            original = getattr(torch.Tensor, name)

            def counted(self, *args, _original=original, **kwargs):
                reads.count += 1
                return _original(self, *args, **kwargs)

            patch.setattr(torch.Tensor, name, counted)
        fit(small, tmp_path, steps=2)
        fit(small, tmp_path, grpo.module_of(small), grpo.data_of(small), 2)
    return reads.count


def test_watching_reads_nothing_from_the_device(small, tmp_path, monkeypatch) -> None:
    watched = reads_of(small, tmp_path, monkeypatch, True)
    assert watched == reads_of(small, tmp_path, monkeypatch, False) > 50


def test_a_logged_number_stays_on_the_cpu_in_full_precision(small, monkeypatch) -> None:
    """Lightning would put it on the module's device in the default type, and wait to read it back."""
    logged = {}
    monkeypatch.setattr(L.LightningModule, "log", lambda self, name, value, **_: logged.update({name: value}))
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        SFT(partial(OmniPolicy, small.tiny)).to("meta").log_dict({"speed": 0.1234567, "steps": 3})
    finally:
        torch.set_default_dtype(default)
    assert [value.device.type for value in logged.values()] == ["cpu", "cpu"]
    assert float(logged["speed"]) == pytest.approx(0.1234567, abs=1e-8) and float(logged["steps"]) == 3.0


def test_the_time_left_follows_the_work_that_is_left(small) -> None:
    """Steps 2 and 3 cost three times as much as 0 and 1: after two steps of 10 s there are 60 s left, not 20."""
    plan = fake_plan([1.0, 1.0, 3.0, 3.0])
    module = SimpleNamespace(data=plan, total_steps=lambda: 4)
    left = TimeLeft(module)
    assert left.after(0, 10.0) == pytest.approx(70.0) and left.after(1, 10.0) == pytest.approx(60.0)
    assert left.after(3, 30.0) == 0.0
    shorter = TimeLeft(SimpleNamespace(data=plan, total_steps=lambda: 3))
    assert shorter.after(1, 10.0) == pytest.approx(30.0)


def test_algorithms_that_alternate_have_paces_of_their_own() -> None:
    """A GRPO step takes 40 s, one of SFT 10 s, for the same FLOPs: of each two are left."""
    data = fake_plan([1.0] * 6, ["sft", "grpo"] * 3)
    left = TimeLeft(SimpleNamespace(data=data, total_steps=lambda: 6))
    assert left.after(0, 10.0) == pytest.approx(50.0)  # the other has had no turn
    assert left.after(1, 40.0) == pytest.approx(2 * 10 + 2 * 40)


def fake_plan(seconds: list[float], turns: list[str] | None = None):
    """One row per step, whose recording is as long as that; a prompt is nothing beside it."""
    from earwitness.curriculum.schedule.budget import Cost

    cost = Cost(prompt_tokens=0, answer_tokens=0, completion_tokens=0, parameters=1.0, group_size=1)
    members = turns or ["sft"] * len(seconds)
    plan = SimpleNamespace(
        table=SimpleNamespace(columns={"duration_s": np.array(seconds)}),
        curriculum=SimpleNamespace(cost=cost),
        num_steps=lambda stage: len(seconds),
        member=lambda stage, step: (members[step], step),
        ready=lambda stage, step: True,
        batch=lambda stage, step: (np.array([step]), np.ones(1)),
        stage_plan=lambda name: SimpleNamespace(stage=SimpleNamespace(algorithm="sft")),
    )
    return SimpleNamespace(plan=plan, spec=SimpleNamespace(stage="all"))


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA A100-SXM4-80GB", 311.9),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA GB200", 2500.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Some Accelerator 9", None),
    ],
)
def test_the_peak_of_a_device_is_known_by_its_name(name, tflops) -> None:
    found = peak_flops(name)
    assert found == (None if tflops is None else pytest.approx(tflops * 1e12))


def test_times_and_peaks_are_read_as_people_write_them() -> None:
    assert [clock_time(s) for s in (9.4, 3909, 266400)] == ["0:00:09", "1:05:09", "3 d 02:00:00"]
    with pytest.raises(InputError, match="peak_tflops must be positive, got 0"):
        Throughput(0)
