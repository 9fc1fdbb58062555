"""What is to be learnt is kept in float32 under every precision, and a step moves it."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from earwitness.datamodules.batches.requests import TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.errors import InputError
from earwitness.lightning_modules.base import AccuracyByLabel
from earwitness.lightning_modules.grpo import GRPO
from earwitness.lightning_modules.objectives.grpo_config import GRPOConfig
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.precision import Copies, compute_in, forget_copies
from earwitness.lightning_modules.policy.weights import merged_weights
from earwitness.lightning_modules.rollout.engine import Rollout
from earwitness.lightning_modules.sft import SFT
from earwitness.lightning_modules.step.learning_rate import Schedule
from earwitness.lightning_modules.step.moved import Moved
from earwitness.lightning_modules.step.precision import PolicyPrecision, precision_of
from earwitness.tests.grpo_parts import Kept
from earwitness.tests.trainers import trainer_of

PRECISIONS = ["bf16-true", "bf16-mixed", "16-mixed", "16-true", "32-true", "64-true"]
LENGTH = {"earwitness.tests.lab_rewards.length": 1.0}


def data_of(small, algorithm: str = "sft", steps: int = 10) -> AudioQuestions:
    stage = {"name": "s", "algorithm": algorithm, "pool": {"source": "sounds"}, "batch_size": 4}
    spec = {"seed": 3, "cells": ["source"], "stages": [stage | {"budget": {"steps": steps}}]}
    return AudioQuestions(small.index, small.tiny, training=TrainingSpec(spec, "s"))


def stored(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().double() for p in module.net.parameters() if p.requires_grad])


def fitted(small, tmp_path, precision: str, lr: float, steps: int = 10, **policy):
    """A module after so many steps at a constant learning rate; its weights before; what was logged."""
    adam = partial(torch.optim.AdamW, lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    module = SFT(partial(OmniPolicy, small.tiny, **policy), adam, Schedule(final=1.0), micro_batch_size=4)
    module.configure_model()
    compute_in(module.net, torch.bfloat16)
    before, kept = stored(module), Kept()
    trainer_of(tmp_path, steps, callbacks=[kept], precision=precision).fit(module, data_of(small, steps=steps))
    return module, before, kept


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("lr", "lora"), [(1e-6, None), (1e-4, Lora(rank=4)), (1e-5, Lora(rank=4))])
def test_ten_steps_move_what_trains(small, tmp_path, precision, lr, lora) -> None:
    """At the paper's learning rate with all weights, and at the shipped ones of adapters."""
    module, before, kept = fitted(small, tmp_path, precision, lr, dtype="bfloat16", lora=lora)
    assert (stored(module) != before).double().mean() > 0.8
    assert all(p.dtype == (torch.float64 if precision == "64-true" else torch.float32) for p in trained(module))
    frozen = {p.dtype for p in module.net.parameters() if not p.requires_grad}
    precision = "bf16" if precision == "16-mixed" else precision  # what Lightning makes of it on the CPU
    assert frozen == {{"16": torch.float16, "64": torch.float64}.get(precision[:2], torch.bfloat16)}
    assert kept.logs[-1]["train/moved_share"] > 0.8


def trained(module) -> list[torch.Tensor]:
    return [p for p in module.net.parameters() if p.requires_grad]


@pytest.mark.parametrize("precision", PRECISIONS[:4])
def test_a_lower_precision_learns_what_float32_learns(small, tmp_path, precision) -> None:
    """The step of all weights together points the same way; SGD, whose step is the gradient."""
    moves = []
    for each in ("32-true", precision):
        module = SFT(partial(OmniPolicy, small.tiny), partial(torch.optim.SGD, lr=0.1), max_grad_norm=1e9)
        module.configure_model()
        start = stored(module)
        trainer_of(tmp_path, 1, precision=each).fit(module, data_of(small))
        moves.append(stored(module) - start)
    assert torch.cosine_similarity(*moves, dim=0) > 0.99
    assert moves[1].norm() == pytest.approx(float(moves[0].norm()), rel=0.02)


def test_batches_stay_as_they_are_and_so_does_the_default_type(small, tmp_path) -> None:
    seen = []

    class Watch(SFT):
        def training_step(self, batch, batch_idx):
            seen.append((batch.weights.dtype, batch.prompts.features.dtype, torch.get_default_dtype()))
            super().training_step(batch, batch_idx)

    module = Watch(partial(OmniPolicy, small.tiny), partial(torch.optim.SGD, lr=0.1))
    trainer = trainer_of(tmp_path, 1, precision="bf16-true")
    trainer.fit(module, data_of(small))
    assert seen == [(torch.float32,) * 3]
    rotary = module.net.base.model.rotary_emb.inv_freq
    assert rotary.dtype == torch.float32  # positions are angles, and the later ones large
    assert trainer.precision == "bf16-true"


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_grpo_in_bfloat16_starts_at_its_reference(small, tmp_path, lora, checkpointing) -> None:
    """The frozen copy, or the policy without its adapters, computes as the policy does."""
    module = GRPO(
        partial(OmniPolicy, small.tiny, lora=lora, gradient_checkpointing=checkpointing),
        partial(torch.optim.SGD, lr=0.5),
        rollout=Rollout(4, 1.0, 6),
        objective=GRPOConfig(beta=0.1),
        rewards=LENGTH,
    )
    kept = Kept()
    trainer_of(tmp_path, 2, callbacks=[kept], precision="bf16-true").fit(module, data_of(small, "grpo"))
    assert kept.logs[0]["train/kl"] == pytest.approx(0, abs=1e-6) and kept.logs[1]["train/kl"] > 1e-4
    for reference in module._references:
        assert reference.copy is None or {p.dtype for p in reference.copy.parameters()} == {torch.bfloat16}


def test_a_resumed_run_in_bfloat16_is_as_uncut(small, tmp_path) -> None:
    """Checkpoints hold the float32 weights: a run cut after 2 of 4 steps ends bitwise as one that was not."""

    def run(steps: int, resume: str | None = None):
        adam = partial(torch.optim.AdamW, lr=1e-4)
        module = SFT(partial(OmniPolicy, small.tiny), adam, Schedule(), micro_batch_size=2)
        keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
        trainer = trainer_of(tmp_path, steps, callbacks=[keep], enable_checkpointing=True, precision="bf16-true")
        trainer.fit(module, data_of(small, steps=4), ckpt_path=resume, weights_only=resume is not None)
        return module

    whole = run(4)
    state = torch.load(tmp_path / "step=2.ckpt", weights_only=True)["state_dict"]
    assert {state[f"policy.{n}"].dtype for n, p in whole.net.named_parameters() if p.requires_grad} == {torch.float32}
    assert torch.equal(stored(run(4, str(tmp_path / "step=2.ckpt"))), stored(whole))


def test_answers_cost_no_float32_copy_and_training_is_not_lost_by_answering(small, tmp_path) -> None:
    module = SFT(partial(OmniPolicy, small.tiny), partial(torch.optim.SGD, lr=0.1))
    trainer = trainer_of(tmp_path, 1, precision="bf16-true")
    trainer.validate(module, data_of(small), verbose=False)
    assert {p.dtype for p in module.net.parameters()} == {torch.bfloat16}
    trainer.fit(module, data_of(small))
    learnt = stored(module)
    trainer.validate(module, data_of(small), verbose=False)
    assert torch.equal(stored(module), learnt) and trained(module)[0].dtype == torch.float32


def test_exports_have_the_type_that_was_loaded(small) -> None:
    """And adapters are merged as they are stored, not as they are computed with."""
    policy = OmniPolicy(small.tiny, dtype="bfloat16", lora=Lora(rank=4))
    compute_in(policy, torch.bfloat16)
    layer = policy.base.model.layers[0].self_attn.q_proj
    torch.nn.init.normal_(layer.lora_B["default"]._parameters["weight"])
    a, b = (side["default"]._parameters["weight"] for side in (layer.lora_A, layer.lora_B))
    wanted = (layer.base_layer.weight.float() + b @ a * layer.scaling["default"]).bfloat16()
    weights = dict(merged_weights(policy))
    assert torch.equal(weights["model.layers.0.self_attn.q_proj.weight"], wanted)
    full = OmniPolicy(small.tiny, dtype="bfloat16")
    compute_in(full, torch.bfloat16)
    for name, tensor in merged_weights(full):
        assert tensor.dtype == torch.bfloat16, name


# ---- the mechanism
def small_net() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 1, bias=False))


def test_a_module_computes_with_rounded_weights_and_learns_in_full() -> None:
    net, plain = small_net(), small_net().bfloat16()
    compute_in(net, torch.bfloat16)
    x = torch.randn(4, 8).bfloat16()
    out = net(x)
    assert out.dtype == torch.bfloat16 and torch.equal(out, plain(x))
    out.sum().backward()
    plain(x).sum().backward()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        assert p.dtype == p.grad.dtype == torch.float32 and torch.equal(p.grad, q.grad.float())
    assert list(net.state_dict()) == list(plain.state_dict())
    assert type(net[0]).__name__ == "Linear" and isinstance(net[0], torch.nn.Linear)


def test_gradients_of_several_uses_are_summed_in_float32() -> None:
    """1 and a hundred times 1/512: in bfloat16 the sum would stay 1."""
    net = torch.nn.Linear(1, 1, bias=False)
    compute_in(net, torch.bfloat16)
    uses = [net(torch.tensor([[x]], dtype=torch.bfloat16)) for x in [1.0, *[1 / 512] * 100]]
    sum(use.float() for use in uses).backward()
    assert float(net._parameters["weight"].grad) == 1 + 100 / 512


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"foreach": False}])
def test_copies_follow_every_kind_of_step(options) -> None:
    net = small_net()
    compute_in(net, torch.bfloat16)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, **options)
    net(torch.ones(1, 8, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    assert torch.equal(net[0].weight, net[0]._parameters["weight"].bfloat16())
    net[0]._parameters["weight"].data.add_(1.0)  # as optimizers of other packages do, behind autograd's back
    forget_copies(net)
    assert torch.equal(net[0].weight, net[0]._parameters["weight"].bfloat16())


def test_a_copy_that_was_made_in_inference_serves_training() -> None:
    net = small_net()
    compute_in(net, torch.bfloat16)
    with torch.inference_mode():
        net(torch.ones(1, 8, dtype=torch.bfloat16))
    net(torch.ones(1, 8, dtype=torch.bfloat16)).sum().backward()
    assert net[0]._parameters["weight"].grad is not None


def test_a_module_is_as_before_where_nothing_is_rounded() -> None:
    net = small_net()
    compute_in(net, torch.bfloat16)
    twin = deepcopy(net)
    assert torch.equal(twin[0].weight, net[0].weight) and twin[0]._parameters["weight"].dtype == torch.float32
    compute_in(net, torch.float32)
    assert type(net[0]) is torch.nn.Linear and net[0].weight is net[0]._parameters["weight"]


def test_a_weight_that_is_gathered_in_the_type_of_the_computation_is_shown_itself() -> None:
    """As FSDP2 puts it in the parameter's place."""
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    assert Copies(torch.bfloat16).of("weight", weight) is weight


# ---- what goes with it
def test_moved_counts_a_sample_of_every_tensor() -> None:
    weights = [torch.zeros(10), torch.zeros(1000), torch.zeros(20, 30).T]
    moved = Moved(weights)
    assert moved.counts() == (0, 10 + 250 + 200)
    weights[0].add_(1), weights[2].add_(1)
    assert moved.counts() == (210, 460)


def test_a_float16_overflow_lowers_the_scale_and_loses_no_step(small, tmp_path) -> None:
    """A scale of 2^40 overflows at first: halved until it does not, with the step that a scale of 1 makes."""
    moves = []
    for scale in (1.0, 2.0**40):
        module = SFT(partial(OmniPolicy, small.tiny), partial(torch.optim.SGD, lr=0.1))
        module.configure_model()
        start = stored(module)
        trainer = trainer_of(tmp_path, 1, precision="16-true")
        precision_of(trainer).loss_scale = scale
        trainer.fit(module, data_of(small))
        assert precision_of(trainer).loss_scale < 2.0**40 and trainer.global_step == 1
        moves.append(stored(module) - start)
    assert torch.cosine_similarity(*moves, dim=0) > 0.99


def test_the_scale_grows_again_and_is_kept_in_checkpoints() -> None:
    precision = PolicyPrecision("16-true")
    assert precision.smaller_scale() and precision.loss_scale == 2.0**15
    for _ in range(2000):
        precision.stepped()
    other = PolicyPrecision("16-true")
    other.load_state_dict(precision.state_dict())
    assert other.loss_scale == precision.loss_scale == 2.0**16
    assert not PolicyPrecision("bf16-true").smaller_scale() and PolicyPrecision("bf16-true").state_dict() == {}


def test_counts_are_exact_whatever_a_module_is_cast_to() -> None:
    """In bfloat16 counting stops at 256."""
    metric = torch.nn.ModuleList([AccuracyByLabel()]).to(torch.bfloat16)[0]
    for _ in range(300):
        metric.update("audio", "weak", "right")
    assert float(metric.compute()["answers/audio/right"]) == 300


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_gradient_that_is_not_finite_names_its_samples(small, tmp_path, broken) -> None:
    """The file lists every sample of the step; the weights and the position stay as they were."""
    module = SFT(partial(OmniPolicy, small.tiny), partial(torch.optim.SGD, lr=0.1), micro_batch_size=2)
    module.configure_model()
    start = stored(module)
    if broken == "loss":
        with torch.no_grad():
            module.net.thinker.model.norm.weight[0] = float("inf")
    else:
        module.net.thinker.model.norm.weight.register_hook(lambda grad: grad * float("nan"))
    data = data_of(small)
    with pytest.raises(
        InputError, match=r"^step 0: .* not finite, and the weights were left as they are; .*step-0.json"
    ):
        trainer_of(tmp_path, 1).fit(module, data)
    found = json.loads((tmp_path / "not-finite-step-0.json").read_text())
    rows = data.training_data.request(0).rows.tolist()
    assert sorted(record["row"] for record in found["samples"]) == sorted(rows)
    assert (stored(module) != start).sum() == (broken == "loss") and data.position == 0
