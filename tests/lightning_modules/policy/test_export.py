"""What a run trained, as others load it: the thinker, the whole model, the adapters; nothing lost, nothing invented."""

import copy
import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from earwitness.commands.cli import main
from earwitness.datamodules.batch import Prompts, Sample
from earwitness.datamodules.questions.question import parse_question
from earwitness.errors import InputError
from earwitness.lightning_modules.policy.adapters import Lora
from earwitness.lightning_modules.policy.export import FORMS, export_run, policy_weights, write_policy
from earwitness.lightning_modules.policy.omni import OmniPolicy
from earwitness.tests.whole_omni import build_whole

LORA = {"rank": 2, "alpha": 6, "targets": ["q_proj", "v_proj", "up_proj"]}


@pytest.fixture(scope="module")
def source(small, tmp_path_factory) -> SimpleNamespace:
    """A whole Omni, and the tensors of its talker and token2wav."""
    folder = tmp_path_factory.mktemp("whole") / "omni"
    return SimpleNamespace(folder=folder, speech=build_whole(small.tiny, folder))


@torch.no_grad()
def trained(source: Path, lora: dict | None, seed: int = 3) -> OmniPolicy:
    """A policy that training moved."""
    policy = OmniPolicy(str(source), lora=None if lora is None else Lora(**lora))
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return policy


def run_of(policy: OmniPolicy, folder: Path, lora: dict | None, layout: str = "last.ckpt") -> Path:
    """A run's folder as `fit` leaves it: its configuration, its last checkpoint."""
    policy_keys = {"checkpoint": policy.checkpoint, "lora": lora}
    config = {"model": {"init_args": {"policy": {"class_path": "earwitness.OmniPolicy", "init_args": policy_keys}}}}
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    file = checkpoints / layout
    if layout == "last.ckpt":
        (folder / "config.yaml").write_text(json.dumps(config))
    else:
        file.parent.mkdir()
        (checkpoints / "last").write_text(file.parent.name + "\n")
        (checkpoints / "run.json").write_text(json.dumps({"configuration": config}))
    state = {f"policy.{name}": tensor for name, tensor in policy.state_dict().items()}
    torch.save({"state_dict": state, "global_step": 7, "AudioQuestions": {"step": 5}}, file)
    return folder


@pytest.mark.parametrize("layout", ["last.ckpt", "step-00000005/trainer.ckpt"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("form", FORMS)
def test_a_run_is_exported_as_the_callback_exports_the_policy(source, tmp_path, form, lora, layout):
    policy = trained(source.folder, lora)
    run = run_of(policy, tmp_path / "run", lora, layout)
    if form == "adapter" and lora is None:
        with pytest.raises(InputError, match=r"last\.ckpt|trainer\.ckpt: has no adapters, all weights were trained"):
            export_run(str(run), str(tmp_path / "out"), form)
        return
    counts = export_run(str(run), str(tmp_path / "out"), form)
    write_policy(policy_weights(policy, form), policy, str(tmp_path / "own"), form)
    found, expected = ({p.relative_to(f): p for p in f.rglob("*.*")} for f in (tmp_path / "out", tmp_path / "own"))
    assert found.keys() == expected.keys() and counts["step"] == 5
    for name, path in found.items():
        if name.suffix == ".safetensors":
            one, other = load_file(path), load_file(expected[name])
            assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), name
        else:
            assert path.read_bytes() == expected[name].read_bytes(), name


@pytest.mark.parametrize("form", ["merged", "full-omni"])
def test_what_is_not_trained_comes_through_bit_for_bit_and_the_config_says_what_is_there(source, tmp_path, form):
    policy = trained(source.folder, LORA)
    write_policy(policy_weights(policy, form), policy, str(tmp_path / "out"), form)
    found, before = load_file(tmp_path / "out" / "model.safetensors"), load_file(source.folder / "model.safetensors")
    speech = {name for name in found if not name.startswith("thinker.")}
    assert speech == (set(source.speech) if form == "full-omni" else set())
    assert len([n for n in source.speech if n.startswith("talker.")]) > 20 and len(source.speech) > 100
    moved = {name for name in found if not same_bits(found[name], before[name])}
    assert len(moved) == 2 * 3 and {name.split(".")[-2] for name in moved} == {"q_proj", "v_proj", "up_proj"}
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", source.folder)]
    assert configs[0].pop("enable_audio_output") == (form == "full-omni") and configs[1].pop("enable_audio_output")
    configs[1]["dtype"] = "float32"
    assert configs[0] == configs[1] and configs[0]["my_lab"] == {"note": "kept"}
    assert configs[0]["thinker_config"]["dtype"] == "float32"
    for name in ("spk_dict.pt", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source.folder / name).read_bytes()


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.view(torch.uint8).equal(other.view(torch.uint8))


@pytest.mark.parametrize("form", ["merged", "full-omni"])
def test_the_class_of_the_whole_model_loads_all_of_it(source, tmp_path, form):
    from transformers import Qwen2_5OmniForConditionalGeneration

    policy = trained(source.folder, None)
    write_policy(policy_weights(policy, form), policy, str(tmp_path), form)
    whole = Qwen2_5OmniForConditionalGeneration.from_pretrained(tmp_path, dtype="auto")
    assert all(torch.equal(a, b) for a, b in zip(whole.thinker.parameters(), policy.parameters(), strict=True))
    assert whole.has_talker == (form == "full-omni") and list(whole.speaker_map) == ["Chelsie"]
    state = whole.state_dict()
    loaded = {name: state[name].float() for name in source.speech if name in state}
    assert len(loaded) == (len(source.speech) if form == "full-omni" else 0)
    assert all(torch.equal(tensor, source.speech[name].float()) for name, tensor in loaded.items())


def places() -> list[tuple[str, str | None]]:
    """A class of transformers, and the part of an exported folder that is for it."""
    import transformers

    nested = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 21)
    whole = ("Qwen2_5OmniForConditionalGeneration", "nested" if nested else None)
    return [whole, ("Qwen2_5OmniThinkerForConditionalGeneration", "thinker")]


@pytest.mark.parametrize(("name", "part"), places(), ids=["whole", "thinker"])
def test_plain_peft_loads_every_adapter_into_both_classes_and_none_into_the_talker(source, tmp_path, name, part):
    import transformers
    from peft import PeftModel

    policy = trained(source.folder, LORA)
    write_policy(policy_weights(policy, "adapter"), policy, str(tmp_path / "out"), "adapter")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Mm]issing.*")
        plain = getattr(transformers, name).from_pretrained(source.folder)
        loaded = PeftModel.from_pretrained(plain, tmp_path / "out", **({} if part is None else {"subfolder": part}))
    own = {name.rpartition("layers.")[2]: p for name, p in policy.named_parameters() if "lora_" in name}
    found = {name: p for name, p in loaded.named_parameters() if "lora_" in name}
    assert len(found) == len(own) == 2 * 3 * 2 and not any("talker" in name for name in found)
    assert all(torch.equal(p, own[name.rpartition("layers.")[2]]) for name, p in found.items())


def test_adapters_loaded_at_the_wrong_place_fail_instead_of_doing_nothing(source, tmp_path):
    from peft import PeftModel
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    policy = trained(source.folder, LORA)
    write_policy(policy_weights(policy, "adapter"), policy, str(tmp_path / "out"), "adapter")
    plain = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(source.folder)
    with pytest.raises(ValueError, match="not found in the base model"):
        PeftModel.from_pretrained(plain, tmp_path / "out")


@pytest.fixture(scope="module")
def asked(small) -> SimpleNamespace:
    """Four prompts over three recordings, eight completions of 1 to 5 tokens."""
    policy = OmniPolicy(small.tiny)
    texts = ("Which sound is heard?", "Hm?", "And after all of this, which sound comes last?", "What?")
    record = {"source_dataset": "s", "answer": "rain", "choices": ["rain", "dog"]}
    questions = [parse_question(record | {"id": str(n), "question": t}, "test") for n, t in enumerate(texts)]
    clips = [np.random.default_rng(n).normal(0, 0.1, n).astype(np.float32) for n in (4_000, 9_123, 1_000)]
    samples = [Sample(q, q.choices) for q in questions]
    prompts = policy.processor.batch(samples, clips, ["a"] * 4, [1, 0, 1, 2]).prompts
    ids = torch.randint(int(policy.suppressed.min()), (8, 5), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(5) < torch.tensor([5, 1, 3, 4, 2, 5, 5, 3])[:, None]).long()
    rows = torch.arange(4).repeat_interleave(2)
    return SimpleNamespace(prompts=prompts, ids=ids, mask=mask, rows=rows, suppressed=policy.suppressed)


@torch.no_grad()
def plain_logprobs(model, asked: SimpleNamespace) -> torch.Tensor:
    """[8, 5] log-probs of the completions by a plain forward pass of transformers' class, row by row, unpadded."""
    prompts: Prompts = asked.prompts
    found = torch.zeros(8, 5, dtype=torch.float64)
    dtype = next(model.parameters()).dtype
    for row, of in enumerate(asked.rows):
        clip, completion = prompts.clip_of_row[of], asked.ids[row][asked.mask[row].bool()]
        prefix, suffix = prompts.prefix_ids[clip], prompts.suffix_ids[of]
        ids = [prefix[prompts.prefix_mask[clip].bool()], suffix[prompts.suffix_mask[of].bool()], completion]
        kept = int(prompts.feature_mask[clip].sum())
        logits = model(
            input_ids=torch.cat(ids)[None],
            attention_mask=torch.ones(1, sum(map(len, ids)), dtype=torch.long),
            input_features=prompts.features[clip][None, :, :kept].to(dtype),
            feature_attention_mask=prompts.feature_mask[clip][None, :kept],
        ).logits[0, -len(completion) - 1 : -1]
        logits[:, asked.suppressed] = -torch.inf
        found[row, : len(completion)] = logits.log_softmax(-1).gather(1, completion[:, None])[:, 0]
    return found


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_exported_logprobs_are_those_of_the_policy(source, tmp_path, asked, lora):
    """In float64, where only the export is between them: none with full fine-tuning, the rounding of W + s B A
    to float32 with adapters. In float32 two orders of summation differ by more: plain transformers by 3e-6 from its
    own float64, and the policy from plain transformers by as much.
    """
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    policy = trained(source.folder, lora)
    write_policy(policy_weights(policy, "merged"), policy, str(tmp_path), "merged")
    loaded = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    if lora is None:
        assert torch.equal(plain_logprobs(loaded, asked), plain_logprobs(policy.thinker, asked))
    exact = plain_logprobs(copy.deepcopy(loaded).double(), asked)
    expected = plain_logprobs(copy.deepcopy(policy.thinker).double(), asked)
    torch.testing.assert_close(exact, expected, rtol=0, atol=0 if lora is None else 1e-6)
    with torch.no_grad():
        own = policy(asked.prompts, asked.ids, asked.mask, asked.rows).logprob.double()
    torch.testing.assert_close(own, exact, rtol=0, atol=2e-5)


def test_what_is_no_run_is_one_sentence(source, tmp_path, small, capsys):
    policy = trained(source.folder, LORA)
    run = run_of(policy, tmp_path / "run", LORA)
    last, config = run / "checkpoints" / "last.ckpt", run / "config.yaml"
    out = tmp_path / "out"

    capsys.readouterr()

    def says(sentence: str, *words: str) -> None:
        with pytest.raises(SystemExit) as end:
            main(["export", *words, "--to", str(out)])
        printed = capsys.readouterr().err
        assert end.value.code == 1 and printed.count("\n") == 1 and sentence in printed, printed
        assert not out.exists() and not list(tmp_path.glob(".*"))

    says("no such run or checkpoint", str(tmp_path / "nowhere"))
    says("no last checkpoint there", str(source.folder))
    says(f"{small.tiny}: has no talker or token2wav", str(run), "--full-omni", "--source", small.tiny)
    says("no Qwen2.5-Omni processor there", str(run), "--source", "no/such-model")
    says("in it; name the run's own file with --config", str(run), "--config", str(small.root / "tiny" / "config.json"))
    text = config.read_text()
    config.unlink()
    says("name its file with --config", str(run))
    config.write_text(text.replace('"lora": {', '"lora": null, "x": {'))
    says("its adapters have rank 2, not as the configuration says; name --config", str(run))
    config.write_text(text.replace('"rank": 2', '"rank": 4'))
    says("its adapters have rank 2, not as the configuration says; name --config", str(run))
    config.write_text(text)
    held = torch.load(last, weights_only=True)
    name = next(key for key in held["state_dict"] if key.endswith("lm_head.weight"))
    for change, sentence in (
        ({name: torch.zeros(3, 64)}, "lm_head.weight is [3, 64]"),
        ({"policy.thinker.base_model.model.model.nothing": torch.zeros(1)}, "has no model.nothing"),
    ):
        torch.save(held | {"state_dict": held["state_dict"] | change}, last)
        says(sentence, str(run))
    last.write_bytes(last.read_bytes()[:-100])
    says("not a training checkpoint that can be read safely", str(run))
    torch.save({"state_dict": {}}, last)
    says("holds no weights of a policy", str(run))


class Harmful:
    """Its unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_never_run(source, tmp_path):
    run = run_of(trained(source.folder, LORA), tmp_path / "run", LORA)
    torch.save({"state_dict": {}, "x": Harmful(tmp_path / "harmed")}, run / "checkpoints" / "last.ckpt")
    with pytest.raises(InputError, match="not a training checkpoint that can be read safely"):
        export_run(str(run), str(tmp_path / "out"))
    whole = tmp_path / "omni"
    shutil.copytree(source.folder, whole)
    torch.save({"x": Harmful(tmp_path / "harmed")}, whole / "spk_dict.pt")
    policy = trained(whole, None)
    write_policy(policy_weights(policy, "full-omni"), policy, str(tmp_path / "out"), "full-omni")
    assert (tmp_path / "out" / "spk_dict.pt").exists() and not (tmp_path / "harmed").exists()


def test_exports_replace_each_other_and_leave_nothing_of_the_one_before(source, tmp_path):
    """A folder of adapters among the files of a merged model would be loaded with it."""
    run = str(run_of(trained(source.folder, LORA), tmp_path / "run", LORA))
    out = tmp_path / "out"
    export_run(run, str(out), "adapter")
    (out / "notes.txt").write_text("mine")
    export_run(run, str(out), "full-omni")
    assert not list(out.glob("**/adapter*")) and (out / "notes.txt").read_text() == "mine"
    export_run(run, str(out), "adapter")
    assert {p.name for p in out.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "nested", "thinker", "notes.txt")
    }
    with pytest.raises(InputError, match="the model that training started from is here"):
        export_run(run, str(source.folder))


def test_a_large_model_is_copied_with_one_file_in_memory(source, tmp_path, monkeypatch):
    """The tensors alive at a time are those of one file: about 50 kB, or the largest tensor, of a model of 880 kB."""
    from earwitness.lightning_modules.policy import files

    monkeypatch.setattr(files, "_SHARD_BYTES", 50_000)
    written, most = files.save_file, []
    monkeypatch.setattr(
        files,
        "save_file",
        lambda part, *a, **k: (most.append(sum(t.nbytes for t in part.values())), written(part, *a, **k)),
    )
    run = run_of(trained(source.folder, LORA), tmp_path / "run", LORA)
    export_run(str(run), str(tmp_path / "out"), "full-omni")
    assert sum(most) > 500_000 and max(most) <= 131_072, "the largest tensor alone, 512 x 64"
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) == len(most) > 5
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(load_file(source.folder / "model.safetensors"))
