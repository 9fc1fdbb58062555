"""A policy whose weights are divided over processes computes what it computes whole."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from earwitness.errors import InputError
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.sharding import clip_gradients, shard, whole

# Ranks add their passes' gradients in another order than one process: two roundings of the largest, where that is
# more than 1e-6 (adapters' gradients are up to 4.8). In float64, where such sums do not round, the same to 1e-12.
ROUNDINGS = 2 * float(torch.finfo(torch.float32).eps)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.long)])
def test_gradients_are_those_of_one_process(small, tmp_path, world):
    """Ranks with other recordings, a shared one on one rank alone, a pass that counts for nothing, two updates.

    Two processes share one copy; of four, pairs hold a copy each.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world)]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "earwitness.tests.sharded_gradients"]
    done = subprocess.run(
        [*command, small.tiny, str(tmp_path / "out")], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-6000:]
    found = json.loads((tmp_path / "out").read_text())
    for once in (False, True):
        half = found.pop(f"half, once={once}")
        print(half)
        assert half["spare"] < 1.5, "one part after the other is converted"
        assert half["float32"] and not half["lost"] and half["loss"] < 1e-2
    assert len(found) == (14 if world == 2 else 10)
    for name, case in found.items():
        assert case["size"] > 1e-3, "there is something to compare"
        if name.startswith("float64"):
            assert max(case[what] for what in ("gradients", "norm", "clipped", "weights")) < 1e-12, (name, case)
        assert case["gradients"] < max(1e-6, ROUNDINGS * case["size"]), (name, case)
        for what in ("norm", "clipped", "weights"):
            assert case[what] < 1e-6, (name, case)
        assert case["logprob"] < 1e-4, (name, case)  # a sum of 40
    print(json.dumps(found, indent=1), half)


def test_a_unit_that_is_not_there_is_named(small):
    with pytest.raises(InputError, match=r"trainer.strategy.units: the policy has no module of the class 'Qwen3Layer'"):
        shard(OmniPolicy(small.tiny), None, ["Qwen2_5OmniDecoderLayer", "Qwen3Layer"])  # type: ignore[arg-type]


def test_a_whole_policy_stays_as_it_is(small):
    policy = OmniPolicy(small.tiny)
    with whole(policy, for_backward=True):
        assert not policy.gathered and not policy.sharded


def test_clipping_without_shards_is_torchs():
    one, two = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
    one.grad, two.grad = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 4.0])
    assert float(clip_gradients([one, two], 1.0)) == 5.0
    torch.testing.assert_close(torch.cat([one.grad, two.grad]), torch.tensor([0.6, 0.0, 0.0, 0.0, 0.8]))
