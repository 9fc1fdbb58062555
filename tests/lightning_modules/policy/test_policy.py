"""The policy is the published model: its log-probs, its parts; sharing a prefix changes nothing but the cost."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.utils._pytree as pytree
from safetensors.torch import load_file
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from earwitness.datamodules.batch import Prompts, Sample
from earwitness.datamodules.questions.question import parse_question
from earwitness.errors import InputError
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.checkpoint import save_thinker, thinker_state
from earwitness.lightning_modules.policy.omni import PARTS, PLACEHOLDERS, OmniPolicy
from earwitness.lightning_modules.policy.parts import part_of
from earwitness.lightning_modules.policy.tiny import build_tiny

QUESTIONS = ("Which sound is heard?", "Hm?", "And after all of this, which sound comes last?")
RECORDS = [
    {"source_dataset": "s", "id": str(n), "question": text, "answer": "rain", "choices": ["rain", "a dog's bark"]}
    for n, text in enumerate(QUESTIONS)
]
SIZE = {"hidden": 64, "layers": 2, "audio_hidden": 32, "audio_layers": 1}
CLIPS, CLIP_OF_ROW = (4_000, 9_123, 1_000), [1, 0, 1, 2]  # rows 0 and 2 ask about one recording


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "q.jsonl").write_text("\n".join(json.dumps(r | {"audio_path": "x.wav"}) for r in RECORDS))
    build_tiny(str(folder / "q.jsonl"), str(folder / "checkpoint"), seed=1, **SIZE)
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def policy(checkpoint) -> OmniPolicy:
    """For tests that only read it."""
    return OmniPolicy(str(checkpoint))


@pytest.fixture(scope="module")
def prompts(policy) -> Prompts:
    questions = [parse_question(r, "test") for r in (*RECORDS, RECORDS[0])]
    clips = [np.random.default_rng(n).normal(0, 0.1, n).astype(np.float32) for n in CLIPS]
    return policy.processor.batch([Sample(q, q.choices) for q in questions], clips, ["a"] * 4, CLIP_OF_ROW).prompts


@pytest.fixture(scope="module")
def group(policy) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two completions per prompt, of 1 to 5 tokens; every token but the placeholders may occur."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(int(policy.suppressed.min()), (8, 5), generator=generator)
    mask = (torch.arange(5) < torch.tensor([5, 1, 3, 4, 2, 5, 5, 3])[:, None]).long()
    return ids, mask, torch.arange(4).repeat_interleave(2)


def gradients(policy: OmniPolicy, prompts: Prompts, group, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the mean log-prob under random weights, for all parameters that got one."""
    ids, mask, rows = group
    policy.zero_grad()
    ((policy(prompts, ids, mask, rows).logprob * weights).sum() / mask.sum()).backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


WEIGHTS = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))


def words(policy: OmniPolicy, prompts: Prompts, row: int, completion: torch.Tensor) -> dict[str, torch.Tensor]:
    """One row without any padding, as transformers' thinker takes it."""
    clip = prompts.clip_of_row[row]
    prefix, suffix = prompts.prefix_ids[clip], prompts.suffix_ids[row]
    ids = [prefix[prompts.prefix_mask[clip].bool()], suffix[prompts.suffix_mask[row].bool()], completion]
    kept = int(prompts.feature_mask[clip].sum())
    return {
        "input_ids": torch.cat(ids)[None],
        "input_features": prompts.features[clip][None, :, :kept],
        "feature_attention_mask": prompts.feature_mask[clip][None, :kept],
        "attention_mask": torch.ones(1, sum(map(len, ids)), dtype=torch.long),
    }


def test_sharing_a_prefix_changes_neither_log_probs_nor_gradients(checkpoint, prompts, group):
    policy = OmniPolicy(str(checkpoint))
    out = []
    for policy.share in (True, False):
        with torch.no_grad():
            logprob = policy(prompts, *group).logprob
        out.append((logprob, gradients(policy, prompts, group, WEIGHTS)))
    (shared, shared_grads), (plain, plain_grads) = out
    torch.testing.assert_close(shared, plain, rtol=0, atol=1e-5)
    assert set(shared_grads) == set(plain_grads) == {n for n, p in policy.named_parameters() if p.requires_grad}
    for name, gradient in plain_grads.items():
        torch.testing.assert_close(shared_grads[name], gradient, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_the_softmax_of_transformers_logits_without_the_placeholders(policy, prompts, group, temperature):
    """Row by row, unpadded; the token at position i is predicted by the logits one before it."""
    ids, mask, rows = group
    with torch.no_grad():
        out = policy(prompts, ids, mask, rows, temperature, entropy=True)
    placeholders = policy.processor.tokenizer.convert_tokens_to_ids(list(PLACEHOLDERS))
    assert sorted(placeholders) == policy.suppressed.tolist() and len(set(placeholders)) == 8
    for n, (row, length) in enumerate(zip(rows.tolist(), mask.sum(1).tolist(), strict=True)):
        with torch.no_grad():
            logits = policy.thinker(**words(policy, prompts, row, ids[n, :length])).logits[0, -length - 1 : -1]
        logits[:, placeholders] = -torch.inf
        naive = (logits / temperature).log_softmax(-1)
        wanted = naive.gather(1, ids[n, :length, None])[:, 0]
        torch.testing.assert_close(out.logprob[n, :length], wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(out.entropy[n, :length], torch.distributions.Categorical(logits=naive).entropy())
        assert not out.logprob[n, length:].any() and not out.entropy[n, length:].any()


def test_without_rows_each_prompt_has_one_completion(policy, prompts, group):
    ids, mask, _ = group
    with torch.no_grad():
        alone = policy(prompts, ids[:4], mask[:4]).logprob
        assert torch.equal(alone, policy(prompts, ids[:4], mask[:4], torch.arange(4)).logprob)


def test_a_completion_cannot_hold_a_placeholder(policy, prompts, group):
    ids, mask, rows = group
    with pytest.raises(ValueError, match="among the excluded token ids"):
        policy(prompts, ids.index_fill(1, torch.tensor([0]), policy.audio_id), mask, rows)


def test_prompts_whose_recordings_do_not_fill_them_are_refused(policy, prompts, group):
    short = replace(prompts, feature_mask=prompts.feature_mask.clone())
    short.feature_mask[1, 20:] = 0
    with pytest.raises(ValueError, match=r"the prompts have \d+ audio positions, the recordings fill \d+"):
        policy(short, *group)


@pytest.mark.parametrize("parts", [None, *([part] for part in PARTS), ["projector", "language_model"], []])
def test_only_the_named_parts_train_and_all_of_what_trains_gets_a_gradient(checkpoint, prompts, group, parts):
    policy = OmniPolicy(str(checkpoint), train=parts)
    trains = {name for name, p in policy.named_parameters() if p.requires_grad}

    def part_of(name: str) -> str | None:
        if "visual" in name or "audio_bos_eos_token" in name:
            return None
        if "audio_tower" in name:
            return "projector" if "audio_tower.proj" in name else "audio_tower"
        return "language_model"

    wanted = PARTS if parts is None else parts
    assert trains == {name for name, _ in policy.named_parameters() if part_of(name) in wanted}
    if parts != []:
        found = gradients(policy, prompts, group, WEIGHTS)
        assert set(found) == trains and all(g.any() for g in found.values())


def test_unknown_parts_and_targets_are_refused(checkpoint):
    with pytest.raises(
        InputError, match=r"^policy\.train: unknown part 'vision'; the parts are audio_tower, projector"
    ):
        OmniPolicy(str(checkpoint), train=["vision"])
    with pytest.raises(InputError, match=r"^policy\.lora: no linear layer of the decoder is called \['w1'\]$"):
        OmniPolicy(str(checkpoint), lora=Lora(targets=["w1"]))


def adapted(checkpoint: Path, **more) -> OmniPolicy:
    """A LoRA policy whose adapters are no longer zero, as after some training."""
    torch.manual_seed(0)
    policy = OmniPolicy(str(checkpoint), lora=Lora(rank=4), **more)
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    return policy


def test_a_lora_policy_starts_as_and_contains_its_reference(checkpoint, policy, prompts, group):
    with torch.no_grad():
        untouched = policy(prompts, *group).logprob
        assert torch.equal(OmniPolicy(str(checkpoint), lora=Lora()).forward(prompts, *group).logprob, untouched)
        trained = adapted(checkpoint)
        changed = trained(prompts, *group).logprob
        assert (changed - untouched).abs().max() > 0.1
        with trained.reference() as reference:
            assert torch.equal(reference(prompts, *group).logprob, untouched)
        assert torch.equal(trained(prompts, *group).logprob, changed), "and the adapters are on again"
    with pytest.raises(ValueError, match="only a LoRA policy contains its reference"), policy.reference():
        pass


def test_adapters_begin_by_the_seed_whatever_was_drawn_before(checkpoint):
    def begun(seed: int, draws: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        torch.rand(draws)
        policy, left = OmniPolicy(str(checkpoint), lora=Lora(rank=4)), torch.rand(1)
        torch.manual_seed(seed)
        torch.rand(draws)
        assert torch.equal(left, torch.rand(1)), "loading a policy draws nothing"
        return {name: w.detach() for name, w in policy.named_parameters() if "lora_A" in name}

    one, two, other = begun(1, 0), begun(1, 5), begun(2, 0)
    assert all(torch.equal(one[name], two[name]) and not torch.equal(one[name], other[name]) for name in one)
    bound, drawn = 1 / 64**0.5, torch.cat([weight.flatten() for weight in one.values() if weight.shape[1] == 64])
    assert len({weight.flatten()[0].item() for weight in one.values()}) == len(one), "every layer has its own"
    assert drawn.abs().max() <= bound and drawn.std() == pytest.approx(bound / 3**0.5, rel=0.05), "peft's distribution"


def plain(name: str) -> str:
    """The thinker's own name of a policy's parameter."""
    return name.removeprefix("thinker.base_model.model.")


def test_only_adapters_of_the_decoder_train(checkpoint, prompts, group):
    """Two layers of four projections, each with A and B."""
    policy = adapted(checkpoint)
    trains = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert len(trains) == 2 * 4 * 2 and all(
        "lora_" in name and part_of(plain(name)) == "language_model" for name in trains
    )
    found = gradients(policy, prompts, group, WEIGHTS)
    assert set(found) == trains and all(g.any() for g in found.values())


def test_saving_adapters_merges_them_into_a_copy(checkpoint, prompts, group, tmp_path):
    policy = adapted(checkpoint)
    with torch.no_grad():
        before = policy(prompts, *group).logprob
        save_thinker(thinker_state(policy.thinker), policy.base.config, policy.processor, tmp_path, checkpoint)
        merged = OmniPolicy(str(tmp_path))
        torch.testing.assert_close(merged(prompts, *group).logprob, before, rtol=0, atol=1e-4)
        assert torch.equal(policy(prompts, *group).logprob, before), "the policy itself is as it was"
    assert set(load_file(tmp_path / "model.safetensors")) == set(load_file(checkpoint / "model.safetensors"))


def recomputed(policy: OmniPolicy, prompts: Prompts, group) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients, and how many readings of a decoder layer ran once more in the backward pass."""
    counts = []
    layers = [m for m in policy.modules() if type(m).__name__ == "Qwen2_5OmniDecoderLayer"]
    hooks = [layer.self_attn.register_forward_hook(lambda *_: counts.append(1)) for layer in layers]
    with torch.no_grad():
        policy(prompts, *group)
    forward = len(counts)
    found = gradients(policy, prompts, group, WEIGHTS)
    for hook in hooks:
        hook.remove()
    return found, len(counts) - 2 * forward


@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients(checkpoint, prompts, group, lora):
    """Two layers read prefixes, questions and completions, each once more in the backward pass; but of prefixes the
    last layer only makes keys and values."""
    make = adapted if lora else lambda path, **more: OmniPolicy(str(path), **more)
    kept, none = recomputed(make(checkpoint), prompts, group)
    saving = make(checkpoint, gradient_checkpointing=True)
    found, readings = recomputed(saving.train(), prompts, group)
    assert (none, readings) == (0, 2 * 3 - 1) and set(found) == set(kept)
    for name, gradient in kept.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-6, msg=name)


def test_gradient_checkpointing_works_in_the_mode_policies_are_loaded_in(checkpoint, prompts, group):
    assert recomputed(OmniPolicy(str(checkpoint), gradient_checkpointing=True), prompts, group)[1] == 5


CASES = {"shared": slice(None), "each its own": slice(1, 4), "one": slice(0, 1)}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("rows", CASES.values(), ids=CASES)
@pytest.mark.parametrize("width", [5, 1])
def test_reading_layer_by_layer_is_reading_with_a_cache(checkpoint, prompts, group, recompute, rows, width):
    """Log-probs to the bit; gradients to the order of their sums."""
    ids, mask, _ = group
    part, count = prompts.select(rows), len(range(4)[rows])
    few = ids[: 2 * count, :width], mask[: 2 * count, :width], torch.arange(count).repeat_interleave(2)
    policy, weights = OmniPolicy(str(checkpoint)), WEIGHTS[: 2 * count, :width]
    wanted, one = gradients(policy, part, few, weights), policy(part, *few).logprob
    if recompute:
        policy.recompute_layers()
    policy.by_layers = True
    assert torch.equal(policy(part, *few).logprob, one)
    found = gradients(policy, part, few, weights)
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-6, msg=name)


def test_dropout_drops_the_same_when_a_layer_is_computed_again(checkpoint, prompts, group):
    """The backward pass comes when dropout is off again."""
    policy = adapted(checkpoint, gradient_checkpointing=True)
    for module in policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    found = []
    for policy.recompute in (False, True):
        torch.manual_seed(3)
        policy.zero_grad()
        with policy.dropout():
            logprob = policy(prompts, *group).logprob
        (logprob * WEIGHTS).sum().backward()
        found.append({name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-5, msg=name)


class Storages(TorchDispatchMode):
    """Remembers every storage that an operation returned, without keeping it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.seen[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return out

    def alive(self) -> int:
        """Bytes of those that still exist."""
        return sum(size for storage, size in self.seen.values() if not storage.expired())


def test_recomputing_keeps_less_than_sharing_and_than_not_sharing(checkpoint, prompts, group):
    """What is alive between the forward and the backward pass: with and without sharing, then with both savings."""
    alive = {}
    for share, recompute in ((True, False), (False, False), (True, True)):
        policy = OmniPolicy(str(checkpoint), gradient_checkpointing=recompute)
        policy.share = share
        with Storages() as storages:
            logprob = policy(prompts, *group).logprob
        alive[share, recompute] = storages.alive()
        del logprob
    print(alive)
    assert alive[True, True] < 0.5 * alive[True, False] < 0.5 * alive[False, False]
