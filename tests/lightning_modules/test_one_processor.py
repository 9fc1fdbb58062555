"""Data and policy read by one processor: what is tokenised is what the policy was trained on."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from earwitness.datamodules.batches.requests import TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.errors import InputError
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.sft import SFT
from earwitness.tests.lightning_modules.test_training import CURRICULUM, SGD, weights
from earwitness.tests.trainers import trainer_of


def data_of(small, checkpoint: str | None) -> AudioQuestions:
    training = TrainingSpec(CURRICULUM, "sft")
    return AudioQuestions(small.index, checkpoint, small.labels, training)


def changed(small, tmp_path: Path, name: str, change) -> str:
    """A copy of the tiny checkpoint in which one JSON file is changed."""
    folder = tmp_path / "other"
    shutil.copytree(small.tiny, folder)
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    return str(folder)


def permuted(tokenizer: dict) -> None:
    """Two words of the vocabulary change places."""
    vocabulary = tokenizer["model"]["vocab"]
    one, two = sorted(vocabulary, key=vocabulary.get)[5:7]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]


def coarser(features: dict) -> None:
    features["hop_length"] = 320


def test_without_a_checkpoint_the_data_are_read_by_the_policys_own_processor(small, tmp_path) -> None:
    results = []
    for checkpoint in (small.tiny, None):
        module, data = SFT(partial(OmniPolicy, small.tiny), SGD), data_of(small, checkpoint)
        trainer_of(tmp_path, 2).fit(module, data)
        assert data.processor is module.net.processor
        results.append(weights(module))
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("tokenizer.json", permuted, "vocabularies"),
        ("preprocessor_config.json", coarser, "audio features"),
    ],
)
def test_another_processor_than_the_policys_is_refused(small, tmp_path, name, change, what) -> None:
    """Training would run to its end on tokens that mean something else to the policy."""
    other = changed(small, tmp_path, name, change)
    module = SFT(partial(OmniPolicy, small.tiny), SGD)
    with pytest.raises(InputError, match=f"{other}, the policy is {small.tiny}: their {what} differ; leave"):
        trainer_of(tmp_path, 1).fit(module, data_of(small, other))


def test_another_chat_template_is_refused(small, tmp_path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(small.tiny, folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "helper"))
    with pytest.raises(InputError, match="their chat templates differ"):
        trainer_of(tmp_path, 1).fit(SFT(partial(OmniPolicy, small.tiny), SGD), data_of(small, str(folder)))


def test_data_alone_need_a_checkpoint(small) -> None:
    data = data_of(small, None)
    data.setup("fit")
    with pytest.raises(InputError, match="`checkpoint` is needed where no policy brings a processor"):
        data.train_dataloader()
