"""Checkpoints in the published layout: others read them, they come back bit for bit, and what is none is refused."""

import copy
import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from earwitness.datamodules.audio.signals import silence
from earwitness.datamodules.processors.omni import AUDIO
from earwitness.errors import InputError
from earwitness.lightning_modules.policy import files as layout
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


def test_transformers_class_of_the_whole_model_reads_the_checkpoint(checkpoint, policy):
    from transformers import Qwen2_5OmniForConditionalGeneration

    whole = Qwen2_5OmniForConditionalGeneration.from_pretrained(checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(whole.thinker.parameters(), policy.parameters(), strict=True))


def test_the_layout_is_the_published_one(checkpoint, policy):
    from transformers import AutoConfig, Qwen2_5OmniConfig

    weights = load_file(checkpoint / "model.safetensors")
    assert set(weights) == {f"thinker.{name}" for name in thinker_state(policy.thinker)}
    flat = {"audio_tower.proj.weight", "visual.merger.ln_q.weight", "model.layers.0.mlp.up_proj.weight"}
    assert {f"thinker.{name}" for name in flat} < set(weights), "in every version of transformers"
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


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def full_disk():
    """Files of this process may have 100 kB: the model's weights do not go into one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("where", ["weights", "fsync", "rename"])
def test_a_model_that_cannot_be_written_leaves_the_one_before_as_it_was(policy, tmp_path, monkeypatch, where):
    out = save(policy, tmp_path / "model")
    (out / "notes.txt").write_text("mine")
    before, limits = content(out), resource.getrlimit(resource.RLIMIT_FSIZE)
    rename = Path.rename

    def refuse(path, target):
        if path.name == ".model.partial":
            raise OSError("No space left on device")
        return rename(path, target)

    if where == "weights":
        full_disk()
    elif where == "fsync":
        monkeypatch.setattr(layout.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("No space left on device")))
    else:
        monkeypatch.setattr(Path, "rename", refuse)
    try:
        with pytest.raises(
            InputError, match=rf"^{out}: the model cannot be written \(.*\); what was there is as it was$"
        ):
            save(perturbed(policy), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content(out) == before and [p.name for p in tmp_path.iterdir()] == ["model"]
    monkeypatch.undo()
    save(perturbed(policy), out)
    after = content(out)
    assert after["notes.txt"] == b"mine" and after["model.safetensors"] != before["model.safetensors"]
    assert after.keys() == before.keys() and [p.name for p in tmp_path.iterdir()] == ["model"]


def perturbed(policy: OmniPolicy) -> OmniPolicy:
    other = copy.deepcopy(policy)
    with torch.no_grad():
        other.head.add_(1.0)
    return other


def test_a_killed_replacement_is_ended_by_the_next(policy, tmp_path):
    """Killed between the two renames: the old model lies beside; killed after them: its other files do."""
    out, beside = save(policy, tmp_path / "model"), tmp_path / ".model.before"
    (out / "notes.txt").write_text("mine")
    out.rename(beside)
    save(policy, out)
    assert (out / "notes.txt").read_text() == "mine" and not beside.exists()
    beside.mkdir()
    (out / "notes.txt").rename(beside / "notes.txt")
    (tmp_path / ".model.partial").mkdir()
    save(policy, out)
    assert (out / "notes.txt").read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["model"]


def test_the_model_that_training_started_from_is_never_replaced(checkpoint, policy, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    before = content(source)
    (tmp_path / "link").symlink_to(source)
    for out in (source, tmp_path / "link", tmp_path / "x" / ".." / "source"):
        with pytest.raises(InputError, match=f"^{out}: the model that training started from is here; name another"):
            save(policy, out, source)
    assert content(source) == before


def test_places_that_are_no_folder_of_a_model_are_refused(policy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=f"^{tmp_path}/file: a file; a model is a folder$"):
        save(policy, tmp_path / "file")
    monkeypatch.chdir(tmp_path)
    for out in (".", "..", "/"):
        with pytest.raises(InputError, match=r"cannot be replaced as a whole; name a folder inside it$"):
            save(policy, Path(out))
    assert (tmp_path / "file").read_text() == "mine"


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
    with pytest.raises(InputError, match=f"^{path}(/config.json)?: ") as error:
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


def rewritten(policy: OmniPolicy, folder: Path, change) -> Path:
    """A checkpoint whose tensors `change` altered, a dict by name."""
    save(policy, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def without_layer(tensors: dict) -> None:
    for name in [name for name in tensors if ".model.layers.1." in name]:
        del tensors[name]


def test_tensors_that_are_missing_unknown_or_of_another_shape_are_named(policy, tmp_path, monkeypatch):
    """A second layer has q, k, v with biases, o, three of the MLP and two norms: 12 tensors."""
    from transformers import PreTrainedModel

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("the weights were read"))
    cases = {
        r"12 tensors of the thinker are missing \(model\.layers\.1\.input_lay.*, .*, \.\.\.\)": without_layer,
        r"1 tensors .* are unknown to its config\.json \(model\.layers\.2\.q\)": lambda tensors: tensors.update(
            {"thinker.model.layers.2.q": torch.zeros(1)}
        ),
        r"1 tensors .* of another shape than its config\.json says \(lm_head\.weight \[3, 64\] for \[384, 64\]\)": (
            lambda tensors: tensors.update({"thinker.lm_head.weight": torch.zeros(3, 64)})
        ),
    }
    for number, (sentence, change) in enumerate(cases.items()):
        folder = rewritten(policy, tmp_path / str(number), change)
        with pytest.raises(InputError, match=f"^{folder}: {sentence}; copy it again$"):
            load_thinker(folder)


def test_a_missing_or_damaged_part_of_several_weight_files_is_named(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "_SHARD_BYTES", 100_000)
    save(policy, tmp_path)
    file = sorted(tmp_path.glob("*.safetensors"))[1]
    whole = file.read_bytes()
    for damage in (file.unlink, lambda: file.write_bytes(whole[:-1])):
        damage()
        with pytest.raises(InputError, match=rf"^{tmp_path}: its weights cannot be read \({file.name}"):
            load_thinker(tmp_path)
    file.write_bytes(whole)
    load_thinker(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(InputError, match="not an index of weight files"):
        load_thinker(tmp_path)


def test_a_checkpoint_of_a_thinker_alone_is_read(checkpoint, policy, tmp_path):
    """As transformers saved its own class up to 5.20: without `thinker.`."""
    config = json.loads((checkpoint / "config.json").read_text())["thinker_config"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "qwen2_5_omni_thinker"}))
    save_file(thinker_state(policy.thinker), tmp_path / "model.safetensors", {"format": "pt"})
    loaded = load_thinker(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), policy.parameters(), strict=True))
