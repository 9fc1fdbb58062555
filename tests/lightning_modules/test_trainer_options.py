"""What Lightning's trainer offers and a step here cannot follow is refused with the key that does it."""

from __future__ import annotations

import lightning as L
import pytest

from earwitness.commands.training.trainer import check, main
from earwitness.errors import InputError
from earwitness.lightning_modules.rollout.engine import Rollout
from earwitness.tests.lightning_modules.test_training import SFT, SGD, data_of, policy_of
from earwitness.tests.places import ROOT

REFUSED = [
    ({"max_epochs": 3}, r"^trainer\.max_epochs: .* got 3; .*`budget: \{epochs: \.\.\.\}`"),
    ({"accumulate_grad_batches": 4}, r"^trainer\.accumulate_grad_batches: 4 .*micro_batch_size"),
    ({"gradient_clip_val": 0.5}, r"^trainer\.gradient_clip_val: 0\.5 .*max_grad_norm"),
    ({"min_epochs": 2}, r"^trainer\.min_epochs: 2 .*budget"),
]


def never(*_):
    raise AssertionError("the model was loaded")


@pytest.mark.parametrize(("option", "message"), REFUSED)
def test_options_are_refused_before_anything_is_loaded(small, tmp_path, option, message) -> None:
    """In code and in a file, also where a recipe is only checked."""
    with pytest.raises(InputError, match=message):
        trainer = L.Trainer(accelerator="cpu", default_root_dir=tmp_path, logger=False, **option)
        trainer.fit(SFT(never, SGD), data_of(small))
    ((name, value),) = option.items()
    words = ["fit", "--config", str(ROOT / "configs" / "sft.yaml"), f"--trainer.{name}", str(value)]
    for command in (check, main):
        with pytest.raises(InputError, match=message):
            command(words)


@pytest.mark.parametrize("options", [{}, {"max_epochs": -1}, {"max_epochs": 1, "accumulate_grad_batches": 1}])
def test_without_max_epochs_a_stage_is_trained_once(small, tmp_path, options) -> None:
    quiet = {"logger": False, "enable_checkpointing": False, "limit_val_batches": 0, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet, **options)
    data = data_of(small)
    trainer.fit(SFT(policy_of(small), SGD), data)
    assert trainer.global_step == data.num_steps == data.position == 6


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"group_size": 1}, r"rollout\.group_size: 1 leaves nothing to compare"),
        ({"temperature": 0.0}, r"rollout\.temperature: 0 is greedy"),
        ({"temperature": -1.0}, r"rollout\.temperature: a positive number, got -1\.0"),
        ({"max_new_tokens": 0}, r"rollout\.max_new_tokens: at least 1, got 0"),
    ],
)
def test_a_rollout_that_teaches_nothing_is_refused_by_its_key(option, message) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        Rollout(**option)
    ((name, value),) = option.items()
    words = ["fit", "--config", str(ROOT / "configs" / "grpo.yaml"), f"--model.init_args.rollout.{name}", str(value)]
    with pytest.raises(InputError, match=message) as caught:
        check(words)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
