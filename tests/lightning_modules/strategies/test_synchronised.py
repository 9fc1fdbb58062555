"""Strategies under which gradients would not be exchanged are refused by name."""

from __future__ import annotations

from functools import partial

import pytest
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    ParallelStrategy,
    SingleDeviceStrategy,
)

from earwitness.errors import InputError
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.sft import SFT
from earwitness.lightning_modules.strategies.fsdp2 import FSDP2
from earwitness.lightning_modules.strategies.synchronised import check_strategy
from earwitness.tests.sharded_runs import data_of
from earwitness.tests.trainers import trainer_of


class Gossip(DDPStrategy):
    """A strategy of somebody's own that builds on one that exchanges gradients."""


class Alone(ParallelStrategy):
    """A strategy of somebody's own, that has what a strategy must have."""


@pytest.mark.parametrize("kind", [ModelParallelStrategy, FSDPStrategy, Alone])
def test_strategies_that_exchange_nothing_are_refused(kind, monkeypatch):
    monkeypatch.setattr(kind, "__abstractmethods__", frozenset())
    strategy = kind.__new__(kind)
    with pytest.raises(InputError, match=f"under {kind.__name__} gradients .* use ddp, or earwitness.FSDP2"):
        check_strategy(strategy)


@pytest.mark.parametrize("kind", [DDPStrategy, SingleDeviceStrategy, FSDP2, Gossip])
def test_strategies_that_exchange_gradients_pass(kind):
    check_strategy(kind.__new__(kind))


def test_a_run_is_refused_before_the_policy_is_loaded(small, tmp_path):
    module = SFT(partial(OmniPolicy, "nowhere"))
    strategy = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)
    with pytest.raises(InputError, match=r"trainer.strategy: under ModelParallelStrategy gradients of this model"):
        trainer_of(tmp_path, strategy=strategy, devices=1).fit(module, data_of(small, "sft", pool={"label": "weak"}))
