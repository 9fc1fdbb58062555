"""What a run shows of its completions, and how it watches the silence: each completion once, and of its own step."""

from __future__ import annotations

from functools import partial

import lightning as L
import pyarrow.parquet as pq
import pytest
import torch

from earwitness.datamodules.batches.requests import EvaluationSpec, TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.errors import InputError
from earwitness.lightning_modules.callbacks.completions import CompletionTable, completions_page
from earwitness.lightning_modules.callbacks.silent_probe import SilentProbe
from earwitness.lightning_modules.grpo import GRPO
from earwitness.lightning_modules.objectives.grpo_config import GRPOConfig
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.rollout.engine import Rollout
from earwitness.lightning_modules.sft import SFT
from earwitness.tests.grpo_parts import Kept, flat
from earwitness.tests.trainers import trainer_of

SGD = partial(torch.optim.SGD, lr=0.05)


def data_of(small, steps: int = 3, objective: str = "grpo", **stage) -> AudioQuestions:
    given = {
        "name": "s",
        "objective": objective,
        "pool": {"source": "sounds"},
        "batch_size": 4,
        "budget": {"steps": steps},
    }
    curriculum = {"seed": 3, "cells": ["label"], "stages": [given | stage]}
    return AudioQuestions(
        small.index, small.tiny, small.labels, TrainingSpec(curriculum, "s"), EvaluationSpec({"split": "val"})
    )


def module_of(small, **options) -> GRPO:
    rewards = {"earwitness.tests.grpo_parts.half": 1.0, "format": 0.5}
    given = {"rollout": Rollout(3, 1.0, 5), "objective": GRPOConfig(beta=0.0), "rewards": rewards}
    return GRPO(partial(OmniPolicy, small.tiny), SGD, **(given | options))


def test_the_table_holds_every_completion_of_its_step(small, tmp_path):
    """Steps 0 and 2 of three; rewards, advantages and texts are those that were trained on."""
    kept, table = Kept(), CompletionTable(str(tmp_path / "table"), every_n_steps=2)
    data = data_of(small, on_zero_advantage="drop")
    trainer_of(tmp_path, callbacks=[kept, table]).fit(module_of(small), data)
    assert sorted(p.name for p in (tmp_path / "table").iterdir()) == [
        "latest.html", "step-000000.parquet", "step-000002.parquet",
    ]  # fmt: skip
    rows = pq.read_table(tmp_path / "table" / "step-000002.parquet").to_pylist()
    each = kept.experiences[2][0]
    assert len(rows) == 12 and {row["step"] for row in rows} == {2}
    for place, row in enumerate(rows):
        sample = each.batch.samples[place // 3]
        assert (row["key"], row["label"], row["answer"]) == (sample.question.key, sample.label, sample.question.answer)
        assert row["completion"] == each.texts[place] and row["choices"] == list(sample.choices)
        assert (
            dict(row["parts"])["format"] == 0.0
            and row["reward"] == dict(row["parts"])["earwitness.tests.grpo_parts.half"]
        )
        assert row["advantage"] == float(each.advantages[place]) and row["silence"] is None
        assert row["kept"] == (not flat(row["key"]))
        assert row["num_tokens"] == int(each.completions.mask[place].sum())
        assert row["finished"] == bool(each.completions.finished[place])


def test_sft_steps_have_no_table(small, tmp_path):
    table = CompletionTable(str(tmp_path / "table"), every_n_steps=1)
    module = SFT(partial(OmniPolicy, small.tiny), SGD)
    trainer_of(tmp_path, callbacks=[table]).fit(module, data_of(small, 1, "sft"))
    assert not (tmp_path / "table").exists()


def row(**more) -> dict:
    given = {"step": 7, "uid": 1, "key": "s/1", "label": "strong", "question": "What <b>?", "choices": ["a", "b & c"]}
    given |= {"answer": "b & c", "completion": "<answer>a</answer>", "reward": 0.5, "parts": [("accuracy", 0.0)]}
    return given | {"advantage": 0.0, "num_tokens": 6, "finished": True, "kept": True, "silence": None} | more


def test_the_page_puts_what_taught_first_and_says_everything_once():
    taught = [
        row(uid=2, key="s/2", completion="<answer>b & c</answer>", reward=2.5, advantage=1.2),
        row(uid=2, key="s/2", advantage=-1.2, completion="x", reward=None, silence=0.25),
    ]
    page = completions_page([row(), row(), row(finished=False), *taught], prompts=2)
    assert page.index("s/2") < page.index("s/1")
    assert page.count("&lt;answer&gt;a&lt;/answer&gt;") == 2 and "&times; 2" in page and page.count("(cut)") == 1
    assert "What &lt;b&gt;?" in page and '<b class="good">b &amp; c</b>' in page and "What <b>" not in page
    assert page.index('class="up"') < page.index('class="down"') < page.index('class="flat"')
    assert "2 of 2 questions" in page and "1 of 2 questions" in completions_page([row(), *taught], prompts=1)


def test_texts_of_a_completion_stay_texts():
    """Also a label, which is a column of somebody's file."""
    bad = "<img src=x onerror=alert(1)>\u202e"
    page = completions_page([row(label=bad, key=bad, question=bad, completion=bad, parts=[(bad, 0.0)])], prompts=1)
    assert "<img" not in page and page.count("⟨U+202E⟩") == 5


def test_the_silence_is_probed_before_the_step_and_by_label(small, tmp_path):
    """Every second step: the mean over the batch of what the policy then does without the audio."""
    found, expected = [], []

    class See(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, number):
            expected.append((module.silent_accuracy(batch), [s.label for s in batch.samples]))

        def on_train_batch_end(self, trainer, *_):
            found.append(dict(trainer.callback_metrics))

    module = SFT(partial(OmniPolicy, small.tiny), SGD, micro_batch_size=3)
    trainer_of(tmp_path, callbacks=[See(), SilentProbe(2)]).fit(module, data_of(small, 3, "sft"))
    for step in (0, 2):
        accuracy, labels = expected[step]
        assert float(found[step]["silent/all"]) == pytest.approx(float(accuracy.mean()), abs=1e-6)
        for label in set(labels):
            mine = torch.tensor([one == label for one in labels])
            assert float(found[step][f"silent/{label}"]) == pytest.approx(float(accuracy[mine].mean()), abs=1e-6)
    assert float(found[1]["silent/all"]) == float(found[0]["silent/all"]) != float(found[2]["silent/all"])


def test_a_probe_by_rollout_samples_as_training_does(small, tmp_path):
    kept = Kept()
    trainer_of(tmp_path, 1, callbacks=[kept, SilentProbe(1, "rollout")]).fit(module_of(small), data_of(small))
    assert kept.logs[0]["silent/all"] == 0.0, "a random model says no answer"
    with pytest.raises(InputError, match="every_n_steps must be at least 1"):
        SilentProbe(0)


def test_rewards_may_ask_how_the_policy_does_in_silence(small, tmp_path):
    """`contribution` is accuracy minus that: for answers that are all wrong, minus the silent probability."""
    kept = Kept()
    module = module_of(small, rewards={"contribution": 1.0})
    trainer_of(tmp_path, 1, callbacks=[kept]).fit(module, data_of(small))
    each = kept.experiences[0][0]
    start = module_of(small)
    start.configure_model()
    silence = start.silent_accuracy(each.batch)
    torch.testing.assert_close(each.silence, silence)
    torch.testing.assert_close(
        each.grouped(each.scored.total), -silence[:, None].expand(-1, 3).double(), rtol=0, atol=1e-6
    )
    assert 0.05 < float(silence.mean()) < 0.95 and kept.logs[0]["zero_adv/all"] == 1.0
