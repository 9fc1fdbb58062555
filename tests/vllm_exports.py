"""A real vLLM loads what is exported, and says of its own completions what the trained policy says.

Run by `make test-vllm` in vLLM's own environment.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.export import policy_weights, write_policy
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.rollout.vllm_engine import VllmEngine
from earwitness.tests.vllm_rollouts import ROLLOUT, SIZE, gap, keys, perturb, questions
from earwitness.tests.whole_omni import build_whole

pytest.importorskip("vllm", reason="no vLLM in this environment; use make test-vllm")


@pytest.fixture(scope="module")
def policy(small, tmp_path_factory) -> OmniPolicy:
    """Adapters that training moved, on a checkpoint with a talker."""
    source = tmp_path_factory.mktemp("whole") / "omni"
    build_whole(small.tiny, source)
    policy = OmniPolicy(str(source), dtype="float32", lora=Lora(rank=4, alpha=8))
    perturb(policy, 1, scale=0.1)
    return policy


def exported(policy: OmniPolicy, form: str, folder: Path) -> str:
    write_policy(policy_weights(policy, form), policy, str(folder), form)
    return str(folder)


@pytest.mark.parametrize("form", ["merged", "full-omni"])
def test_a_whole_folder_is_loaded(policy, tmp_path, form):
    engine, batch = VllmEngine(**SIZE), questions(policy)
    engine.start(OmniPolicy(exported(policy, form, tmp_path / "out")), 0, 1)
    engine.update_weights(lambda: None)  # those it read from the folder
    try:
        done = engine.complete(batch, ROLLOUT, keys(batch, ROLLOUT, 0))
        assert gap(policy, batch, done) < 1e-4
        with policy.reference() as untrained:
            assert gap(untrained, batch, done) > 0.05, "what was trained matters"
    finally:
        engine.close()


def test_adapters_are_loaded_on_the_model_they_started_from(policy, tmp_path):
    from vllm.lora.request import LoRARequest

    engine, batch = VllmEngine(**SIZE, sync="adapter"), questions(policy)
    engine.start(policy, 0, 1)
    try:
        folder = tempfile.TemporaryDirectory()  # which the engine cleans up
        shutil.copytree(exported(policy, "adapter", tmp_path / "out"), folder.name, dirs_exist_ok=True)
        request = LoRARequest("exported", 1, folder.name)
        engine.update_weights(lambda: engine._llm.llm_engine.add_lora(request))
        engine._adapter = request, folder
        done = engine.complete(batch, ROLLOUT, keys(batch, ROLLOUT, 0))
        assert gap(policy, batch, done) < 1e-4
        with policy.reference() as untrained:
            assert gap(untrained, batch, done) > 0.05, "what was trained matters"
    finally:
        engine.close()
