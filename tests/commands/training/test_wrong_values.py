"""A wrong key or value anywhere in the configuration of a trainer command ends in one line that names it."""

from __future__ import annotations

import pytest

from earwitness.commands.cli import main
from earwitness.commands.training.explain import merged
from earwitness.commands.training.trainer import check
from earwitness.errors import InputError
from earwitness.tests.places import ROOT

GRPO = str(ROOT / "configs" / "grpo.yaml")
ENGINE = "{class_path: earwitness.VllmEngine, init_args: {sync: adaptor}}"
PROBE = "{class_path: earwitness.SilentProbe, init_args: {every_n_steps: 0}}"
STAGE = "name: s, algorithm: grpo, budget: {steps: 1}"
# What is set, the exit code (2 for what is no configuration at all, 1 for what a class refuses), and what is said.
WRONG = [
    (
        "model.init_args.objective.kl=k9",
        1,
        "model.init_args.objective.kl: unknown name 'k9'; there are k1, k2, k3, k3+",
    ),
    ("model.objective.kl=k9", 1, "model.init_args.objective.kl: unknown name 'k9'"),
    ("model.init_args.objective.kll=k3", 2, "model.init_args.objective: unknown key 'kll'; did you mean 'kl'?"),
    (
        "model.init_args.objective.advantages=groop",
        1,
        "model.init_args.objective.advantages: unknown name 'groop'; did you mean 'group'",
    ),
    ("model.init_args.objective.loss=grpoo", 1, "model.init_args.objective.loss: unknown name 'grpoo'; did you mean"),
    ("model.init_args.objective.loss=my.loss", 1, "model.init_args.objective.loss: cannot import 'my.loss'"),
    ("model.init_args.objective.beta=-1", 1, "model.init_args.objective.beta: -1"),
    ("model.init_args.objective.correction.level=tokn", 1, "objective.correction: no level 'tokn'; there are token,"),
    ("model.init_args.objective.correction.lvel=token", 2, "objective.correction: unknown key 'lvel'; did you mean"),
    ("model.init_args.objective=3", 2, "model.init_args.objective must be a mapping or null, got 3"),
    ("model.init_args.rollout.temperature=0", 1, "model.init_args.rollout.temperature: 0 is greedy"),
    ("model.init_args.rollout.group_size=eight", 2, "rollout.group_size must be a whole number, got 'eight'"),
    ("model.init_args.rollout.group_size=8.0", 2, "rollout.group_size must be a whole number, got 8.0"),
    ("model.init_args.rollout.seed=true", 2, "model.init_args.rollout.seed must be a whole number, got True"),
    ("model.init_args.rollout.topk=4", 2, "model.init_args.rollout: unknown key 'topk'; did you mean 'top_k'?"),
    ("model.init_args.rewards={acuracy: 1.0}", 1, "model.init_args.rewards: unknown name 'acuracy'; did you mean 'acc"),
    ("model.init_args.rewards.accuracy=high", 2, "model.init_args.rewards.accuracy must be a number or a mapping, got"),
    ("model.init_args.rewards={my.reward: 1.0}", 1, "model.init_args.rewards: cannot import 'my.reward'"),
    (f"model.init_args.engine={ENGINE}", 2, "model.init_args.engine.init_args.sync must be 'merged' or 'adapter', got"),
    (
        "model.init_args.engine={class_path: earwitness.SFT}",
        2,
        "model.init_args.engine.class_path must name a kind of Engine, got 'earwitness.SFT'",
    ),
    ("model.init_args.num_iterations=0", 1, "model.init_args.num_iterations: at least one optimizer step per rollout"),
    (
        "model.init_args.schedule.warmup_stepz=5",
        2,
        "model.init_args.schedule: unknown key 'warmup_stepz'; did you mean",
    ),
    ("model.init_args.schedule.final=low", 2, "model.init_args.schedule.final must be a number, got 'low'"),
    ("model.init_args.optimizer.init_args.lrr=1", 2, "model.init_args.optimizer.init_args: unknown key 'lrr'; did you"),
    ("model.init_args.optimizer.class_path=torch.optim.Adan", 2, "model.init_args.optimizer.class_path: cannot import"),
    (
        "model.init_args.policy.init_args.lora.rnk=4",
        2,
        "policy.init_args.lora: unknown key 'rnk'; did you mean 'rank'?",
    ),
    ("model.init_args.policy.init_args.lora.rank=x", 2, "policy.init_args.lora.rank must be a whole number, got 'x'"),
    ("model.init_args.polcy=x", 2, "model.init_args: unknown key 'polcy'; did you mean 'policy'?"),
    ("model.class_path=earwitness.GRPOO", 2, "model.class_path: cannot import 'earwitness.GRPOO' (module 'earwitness'"),
    ("model=earwitness.SFT", 2, "model.init_args: unknown key 'rollout'; it knows policy, optimizer"),
    (
        "data.init_args.evaluation.conditions=[audi]",
        1,
        "data.init_args.evaluation.conditions[0]: condition 'audi': use",
    ),
    (
        "data.init_args.evaluation.batch=3",
        2,
        "data.init_args.evaluation: unknown key 'batch'; did you mean 'batch_size",
    ),
    ("data.init_args.training.stag=sft", 2, "data.init_args.training: unknown key 'stag'; did you mean 'stage'?"),
    (
        "data.init_args.training.stage=nosuch",
        1,
        "data.init_args.training.stage: no stage 'nosuch' in the curriculum; it",
    ),
    (
        "data.init_args.training.stage=sft",
        1,
        "training.stage: 'sft' is for the algorithm 'sft', GRPO trains grpo; name",
    ),
    ("data.init_args.training=null", 1, "data.init_args.training: `fit` needs a curriculum and one of its stages"),
    (
        "data.init_args.training.reasoning=both",
        2,
        "data.init_args.training.reasoning must be one of 'none', 'structured",
    ),
    (
        "data.init_args.training.augmentation={snr_db: [1, 2, 3]}",
        2,
        "augmentation.snr_db must be a list of 2 values, got",
    ),
    ("data.init_args.reading.in_flight=0", 1, "data.init_args.reading.in_flight must be positive, got 0"),
    ("data.init_args.num_workers=all", 2, "data.init_args.num_workers must be a whole number, got 'all'"),
    ("data.init_args.index=${paths.dta}/x", 2, "data.init_args.index: Interpolation key 'paths.dta' not found"),
    (
        "data.init_args.training.curriculum=nosuch",
        1,
        "data.init_args.training.curriculum: nosuch: no such file; shipped",
    ),
    ("data.init_args.training.curriculum.seed=x", 1, "training.curriculum.seed must be a whole number, got 'x'"),
    (
        f"data.init_args.training.curriculum={{stages: [{{{STAGE}, batch_sise: 8}}]}}",
        1,
        "data.init_args.training.curriculum.stages[0]: unknown key 'batch_sise'; did you mean 'batch_size'?",
    ),
    (
        f"data.init_args.training.curriculum={{stages: [{{{STAGE}, batch_size: 8, weight: powr}}]}}",
        1,
        "data.init_args.training.curriculum.stages[0].weight: unknown name 'powr'; did you mean 'power'?",
    ),
    ("trainer.max_epoch=3", 2, "trainer: unknown key 'max_epoch'; did you mean 'max_epochs'?"),
    ("trainer.max_epochs=many", 2, "trainer.max_epochs must be a whole number or null, got 'many'"),
    ("trainer.precision=bf17", 2, "trainer.precision must be one of 64, 32, 16, 'transformer-engine'"),
    ("trainer.logger.init_args.nam=x", 2, "trainer.logger.init_args: unknown key 'nam'; did you mean 'name'?"),
    (
        "trainer.callbacks=[{class_path: earwitness.ExportPolicy, init_args: {foldr: x}}]",
        2,
        "trainer.callbacks[0].init_args: unknown key 'foldr'; did you mean 'folder'?",
    ),
    ("trainer.callbacks=[{class_path: earwitness.ExportPolicy}]", 2, "trainer.callbacks[0].init_args: needs 'folder'"),
    (f"trainer.callbacks+={PROBE}", 1, "trainer.callbacks[4].init_args: SilentProbe: every_n_steps must be at least 1"),
    ("trainer.callbacks.every_n_steps=0", 1, "trainer.callbacks[3].init_args: SilentProbe: every_n_steps must be at"),
    (
        "trainer.callbacks=[{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {save_top_k: -5}}]",
        1,
        "trainer.callbacks[0].init_args: Invalid value for save_top_k=-5. Must be >= -1",
    ),
    ("trainer.callbacks=[3]", 2, "trainer.callbacks: Not a valid subclass of Callback"),
    (
        "trainer.logger=[{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: x}}, "
        "{class_path: earwitness.tests.lab_logger.Unreachable}]",
        1,
        "nobody answers at http://nowhere",
    ),
    ("threads=x", 2, "threads must be a whole number, got 'x'"),
    ("seed_everything=x", 2, "seed_everything must be true or false or a whole number or null, got 'x'"),
    ("paths.dat=x", 2, "paths: unknown key 'dat'; did you mean 'data'?"),
    ("modle=x", 2, "unknown key 'modle'; did you mean 'model'?"),
    ("config=nosuch.yaml", 2, "nosuch.yaml: no such file"),
]


def refused(words: list[str], capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(words)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and len(error) < 500, error
    return end.value.code, error


@pytest.mark.parametrize(("setting", "code", "said"), WRONG, ids=[setting[:60] for setting, *_ in WRONG])
def test_a_wrong_value_is_one_line_that_names_it(setting: str, code: int, said: str, capsys) -> None:
    ended, error = refused(["fit", "--config", GRPO, f"--{setting}"], capsys)
    assert ended == code and said in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit"], "model is missing; configs/sft.yaml is a whole file"),
        (["fit", "--config"], "--config needs a value"),
        (["fit", "grpo.yaml"], "unrecognized argument 'grpo.yaml'"),
        (["fit", "--config", str(ROOT / "pyproject.toml")], "pyproject.toml: not a YAML mapping"),
        (
            ["predict", "--config", str(ROOT / "configs/answer.yaml"), "--model.max_new_tokens", "x"],
            "model.init_args.max_",
        ),
    ],
)
def test_a_command_line_that_is_none_is_one_line_and_exit_code_2(words: list[str], said: str, capsys) -> None:
    code, error = refused(words, capsys)
    assert code == 2 and said in error


def test_what_the_trainer_refuses_and_a_path_that_is_not_there_are_one_line(tmp_path, capsys) -> None:
    (tmp_path / "shards").mkdir()
    words = ["fit", "--config", GRPO, "--paths.data", str(tmp_path), "--paths.model", "Qwen/Qwen2.5-Omni-7B"]
    words += ["--paths.labels", str(tmp_path / "labels.arrow")]
    assert refused(words, capsys) == (1, f"error: data.init_args.index: {tmp_path}/shards/index.arrow is not there\n")
    for name in ("shards/index.arrow", "labels.arrow"):
        (tmp_path / name).touch()
    code, error = refused([*words, "--trainer.accelerator", "gpuu"], capsys)
    assert code == 1 and error.startswith("error: trainer: ") and "accelerator='gpuu'" in error
    for key, path in (("reading.shards", "nowhere"), ("training.replan", "no.json"), ("checkpoint", "no/such/model")):
        code, error = refused([*words, f"--data.init_args.{key}", path], capsys)
        assert code == 1 and f"data.init_args.{key}: {path} is " in error
    code, error = refused([*words, "--model.init_args.policy.init_args.checkpoint", str(tmp_path / "model")], capsys)
    assert code == 1 and "model.init_args.policy.init_args.checkpoint: " in error and "hub id" in error
    code, error = refused([*words, "--ckpt_path", "runs/no.ckpt"], capsys)
    assert code == 1 and "ckpt_path: runs/no.ckpt is not there" in error


def test_the_traceback_is_there_for_who_asks(monkeypatch) -> None:
    monkeypatch.setenv("EARWITNESS_TRACEBACK", "1")
    for setting in ("--model.init_args.objective.kl=k9", "--model.init_args.objective.kll=k3"):
        with pytest.raises(InputError) as error:
            main(["fit", "--config", GRPO, setting])
        assert error.value.__cause__ is not None


def test_a_fault_of_a_class_keeps_its_traceback() -> None:
    faulty = "[{class_path: earwitness.tests.commands.lab_parts.Faulty}]"
    with pytest.raises(KeyError, match="a fault in the lab's code"):
        main(["fit", "--config", GRPO, "--trainer.callbacks", faulty])


def test_texts_that_look_like_numbers_are_not_what_is_wrong(tmp_path, capsys) -> None:
    """jsonargparse takes "8" for a whole number and a word of the command line for a text; the fault is another one."""
    (tmp_path / "more.yaml").write_text(
        'model: {init_args: {rollout: {group_size: "8", seed: "3"}, objective: {kll: k3}}}'
    )
    words = ["fit", "--config", GRPO, "--config", str(tmp_path / "more.yaml"), "--paths.out", "7", "--threads", "1"]
    code, error = refused([*words, "--data.init_args.seed", "4"], capsys)
    assert (code, error) == (2, "error: model.init_args.objective: unknown key 'kll'; did you mean 'kl'?\n")


def test_a_check_takes_what_a_run_takes(tmp_path) -> None:
    """What is read once more to explain an error must not itself refuse what is right."""
    for name in ("sft", "grpo", "answer"):
        words = ["predict" if name == "answer" else "fit", "--config", str(ROOT / "configs" / f"{name}.yaml")]
        config = check(words)
        assert config["model"]["init_args"]["policy"]["class_path"] == "earwitness.OmniPolicy"


def test_files_and_single_keys_are_merged_in_their_order(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("a: {b: 1, c: [1]}\no: {class_path: x.Y, init_args: {k: 1}}\n")
    (tmp_path / "b.yaml").write_text("a: {b: 2}\nd: ${a.b}\n")
    words = [
        "--config",
        f"{tmp_path}/a.yaml",
        "--a.c+=2",
        f"--config={tmp_path}/b.yaml",
        "--o.k",
        "3",
        "--o.init_args.l=z",
    ]
    expected = {"a": {"b": 2, "c": [1, "2"]}, "d": 2, "o": {"class_path": "x.Y", "init_args": {"k": "3", "l": "z"}}}
    assert merged(["fit", *words]) == expected
