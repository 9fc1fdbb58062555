"""Checkpoints in the published layout: others read them, they come back bit for bit, and what is none is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from earwitness.datamodules.audio.signals import silence
from earwitness.datamodules.processors.omni import AUDIO
from earwitness.errors import InputError
from earwitness.lightning_modules.policy import checkpoint as layout
from earwitness.lightning_modules.policy.checkpoint import load_thinker, save_thinker, thinker_state
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.lightning_modules.policy.tiny import build_thinker, build_tiny

RECORD = {"source_dataset": "s", "id": "1", "question": "What?", "answer": "rain", "choices": ["rain", "wind"]}
SIZE = {"hidden": 64, "layers": 2, "audio_hidden": 32, "audio_layers": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "q.json").write_text(json.dumps([RECORD | {"audio_path": "x.wav"}]))
    build_tiny(str(folder / "q.json"), str(folder / "checkpoint"), seed=1, **SIZE)
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def policy(checkpoint) -> OmniPolicy:
    """For tests that only read it."""
    return OmniPolicy(str(checkpoint))


def test_transformers_own_class_reads_the_checkpoint_with_identical_logits(checkpoint, policy):
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    loaded = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(checkpoint).eval()
    built = build_thinker(policy.processor.tokenizer, **SIZE, seed=1)
    processor = policy.processor
    features, mask = processor.features([silence(1.0)])
    text = processor.prefix.replace(AUDIO, AUDIO * 25) + "What?" + processor.tail + "<answer>rain"
    inputs = processor.tokenizer(text, return_tensors="pt") | {"input_features": features}
    with torch.no_grad():
        logits = [m(**inputs, feature_attention_mask=mask).logits for m in (built, loaded, policy.thinker)]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])


@pytest.mark.xfail(strict=True, raises=OSError, reason="it wants a spk_dict.pt, even without a talker")
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
        configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "a", checkpoint)]
        assert configs[0] == configs[1]
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


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"x" * 99)], ids=["missing", "damaged"])
def test_missing_and_damaged_weights_are_one_line_with_the_path(policy, tmp_path, damage):
    damage(save(policy, tmp_path) / "model.safetensors")
    with pytest.raises(InputError, match=f"^{tmp_path}: "):
        load_thinker(tmp_path)
