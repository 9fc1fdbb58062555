"""The policy is the published model: its checkpoints, its log-probs, its parts; sharing changes nothing but the cost."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from earwitness.datamodules.batch import Prompts, Sample
from earwitness.datamodules.question import parse_question
from earwitness.errors import InputError
from earwitness.lightning_modules.policy import checkpoint as layout
from earwitness.lightning_modules.policy.checkpoint import load_thinker, save_thinker, thinker_state
from earwitness.lightning_modules.policy.omni import PARTS, PLACEHOLDERS, Lora, OmniPolicy
from earwitness.lightning_modules.policy.tiny import SPECIAL_TOKENS, build_thinker, build_tiny
from safetensors.torch import load_file

RECORDS = [
    {
        "source_dataset": "s",
        "id": str(n),
        "question": text,
        "answer": "rain",
        "choices": ["rain", "a dog's bark", "wind"],
    }
    for n, text in enumerate(("Which sound is heard?", "Hm?", "And after all of this, which sound comes last?"))
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
    """Two completions per prompt, of 1 to 5 tokens; every token but the special ones may occur."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(SPECIAL_TOKENS), len(policy.processor.tokenizer), (8, 5), generator=generator)
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


# --- checkpoints


def test_transformers_own_class_reads_the_checkpoint_with_identical_logits(checkpoint, policy, prompts):
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    loaded = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(checkpoint).eval()
    built = build_thinker(policy.processor.tokenizer, **SIZE, seed=1)
    with torch.no_grad():
        for row in range(4):
            inputs = words(policy, prompts, row, torch.tensor([20, 30]))
            logits = [model(**inputs).logits for model in (built, loaded, policy.thinker)]
            assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])


@pytest.mark.xfail(strict=True, reason="the class of the whole model wants a spk_dict.pt, even without a talker")
def test_transformers_class_of_the_whole_model_reads_the_checkpoint(checkpoint, policy):
    from transformers import Qwen2_5OmniForConditionalGeneration

    whole = Qwen2_5OmniForConditionalGeneration.from_pretrained(checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(whole.thinker.parameters(), policy.parameters(), strict=True))


def test_the_layout_is_the_published_one(checkpoint, policy):
    from transformers import AutoConfig, Qwen2_5OmniConfig

    weights = load_file(checkpoint / "model.safetensors")
    assert set(weights) == {f"thinker.{name}" for name in policy.thinker.state_dict()}
    config = AutoConfig.from_pretrained(checkpoint)
    assert isinstance(config, Qwen2_5OmniConfig)
    raw = json.loads((checkpoint / "config.json").read_text())
    assert raw["model_type"] == "qwen2_5_omni" and raw["architectures"] == ["Qwen2_5OmniModel"]
    assert {"thinker_config", "talker_config", "token2wav_config"} <= set(raw) and not raw["enable_audio_output"]
    ids = policy.processor.tokenizer.convert_tokens_to_ids
    thinker = config.thinker_config
    assert thinker.audio_token_id == ids("<|AUDIO|>") and thinker.text_config.eos_token_id == ids("<|im_end|>")


def save(policy: OmniPolicy, out: Path, source: Path | None = None) -> Path:
    save_thinker(thinker_state(policy.thinker), policy.base.config, policy.processor, out, source)
    return out


@pytest.mark.parametrize("keep_config", [True, False])
def test_saving_what_was_loaded_gives_the_same_bytes(checkpoint, policy, tmp_path, keep_config):
    save(policy, tmp_path / "a", checkpoint if keep_config else None)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {p.name for p in checkpoint.iterdir()}
    for name in ("model.safetensors", "tokenizer.json", "preprocessor_config.json", "chat_template.jinja"):
        assert (tmp_path / "a" / name).read_bytes() == (checkpoint / name).read_bytes(), name
    if keep_config:
        assert json.loads((tmp_path / "a" / "config.json").read_text()) == json.loads(
            (checkpoint / "config.json").read_text()
        )
    again = OmniPolicy(str(tmp_path / "a"))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), policy.parameters(), strict=True))


def test_several_weight_files_read_back_and_replace_the_single_one(policy, tmp_path, monkeypatch):
    save(policy, tmp_path)
    monkeypatch.setattr(layout, "_SHARD_BYTES", 100_000)
    save(policy, tmp_path)
    files = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * sum(p.numel() for p in policy.thinker.state_dict().values())
    again = load_thinker(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), policy.parameters(), strict=True))
    monkeypatch.undo()
    save(policy, tmp_path)
    assert [p.name for p in tmp_path.glob("model*")] == ["model.safetensors"]


def test_a_half_written_folder_cannot_be_loaded(policy, tmp_path, monkeypatch):
    save(policy, tmp_path)
    monkeypatch.setattr(layout, "save_file", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(policy, tmp_path)
    with pytest.raises(InputError, match=rf"^{tmp_path}: no config\.json there"):
        load_thinker(tmp_path)


QWEN2 = {"config.json": json.dumps({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]})}


@pytest.mark.parametrize("load", [load_thinker, OmniPolicy])
@pytest.mark.parametrize(
    "files", [None, {}, QWEN2, {"config.json": "{"}, {"config.json": "{}"}], ids=lambda f: f"{f!r:.20}"
)
def test_what_is_no_omni_checkpoint_is_one_line_with_its_path(tmp_path, load, files):
    path = tmp_path / "there"
    if files is not None:
        path.mkdir()
        for name, text in files.items():
            (path / name).write_text(text)
    with pytest.raises(InputError, match=f"^{path}: ") as error:
        load(str(path))
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_family_is_named(checkpoint, tmp_path):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(QWEN2["config.json"])
    with pytest.raises(InputError, match=rf"^{tmp_path}: a 'qwen2' checkpoint; earwitness trains Qwen2\.5-Omni$"):
        OmniPolicy(str(tmp_path))


@pytest.mark.xfail(strict=True, reason="the errors of transformers and safetensors pass through")
@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"x" * 99)])
def test_missing_and_damaged_weights_are_one_line_with_the_path(policy, tmp_path, damage):
    damage(save(policy, tmp_path) / "model.safetensors")
    with pytest.raises(InputError, match=f"^{tmp_path}: "):
        load_thinker(tmp_path)


# --- log-probs


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
    short = Prompts(**{**vars(prompts), "feature_mask": prompts.feature_mask.clone()})
    short.feature_mask[1, 20:] = 0
    with pytest.raises(ValueError, match=r"the prompts have \d+ audio positions, the recordings fill \d+"):
        policy(short, *group)


# --- what trains


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
        assert set(found) == trains and all(g.any() for name, g in found.items() if "k_proj.bias" not in name)


def test_unknown_parts_and_targets_are_refused(checkpoint):
    with pytest.raises(
        InputError, match=r"^policy\.train: unknown part 'vision'; the parts are audio_tower, projector"
    ):
        OmniPolicy(str(checkpoint), train=["vision"])
    with pytest.raises(InputError, match=r"^policy\.lora: no linear layer is called \['w1'\]$"):
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


def test_only_adapters_of_the_decoder_train(checkpoint, prompts, group):
    """Two layers of four projections, each with A and B."""
    policy = adapted(checkpoint)
    trains = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert len(trains) == 2 * 4 * 2 and all("lora_" in name and ".model.layers." in name for name in trains)
    found = gradients(policy, prompts, group, WEIGHTS)
    assert set(found) == trains and all(g.any() for g in found.values())


def test_saving_adapters_merges_them_into_a_copy(checkpoint, prompts, group, tmp_path):
    policy = adapted(checkpoint)
    with torch.no_grad():
        before = policy(prompts, *group).logprob
        merged = OmniPolicy(str(save(policy, tmp_path, checkpoint)))
        torch.testing.assert_close(merged(prompts, *group).logprob, before, rtol=0, atol=1e-4)
        assert torch.equal(policy(prompts, *group).logprob, before), "the policy itself is as it was"
    assert set(load_file(tmp_path / "model.safetensors")) == set(load_file(checkpoint / "model.safetensors"))


def recomputed(policy: OmniPolicy, prompts: Prompts, group) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients, and how many decoder layers ran once more in the backward pass."""
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
    make = adapted if lora else lambda path, **more: OmniPolicy(str(path), **more)
    kept, none = recomputed(make(checkpoint), prompts, group)
    saving = make(checkpoint, gradient_checkpointing=True)
    found, layers = recomputed(saving.train(), prompts, group)
    assert (none, layers) == (0, 2) and set(found) == set(kept)
    for name, gradient in kept.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-5, msg=name)


@pytest.mark.xfail(
    strict=True, reason="transformers checkpoints in training mode only; policies stay in evaluation mode"
)
def test_gradient_checkpointing_works_in_the_mode_policies_are_loaded_in(checkpoint, prompts, group):
    assert recomputed(OmniPolicy(str(checkpoint), gradient_checkpointing=True), prompts, group)[1] == 2
