"""The same `fit` command continues where it stopped; a used folder is not mixed; `--fresh` starts anew."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import stat
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from earwitness.commands.cli import main
from earwitness.commands.recipes.recipe import run_recipe
from earwitness.lightning_modules.checkpoints import folders, whole_file

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CONFIG = """
paths: {{data: {root}, model: {tiny}, out: {out}}}
threads: 1
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: {{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {{save_dir: "${{paths.out}}", name: log}}}}
  log_every_n_steps: 1
  num_sanity_val_steps: 0
  val_check_interval: 2
  check_val_every_n_epoch: null
  enable_model_summary: false
  callbacks:
    - {{class_path: earwitness.ExportPolicy, init_args: {{folder: "${{paths.out}}/model"}}}}
    - {{class_path: earwitness.Checkpoints, init_args: {{folder: "${{paths.out}}/checkpoints", every_n_steps: 2}}}}
model:
  class_path: earwitness.SFT
  init_args:
    policy: {{class_path: earwitness.OmniPolicy, init_args: {{checkpoint: "${{paths.model}}"}}}}
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.001}}}}
    schedule: {{warmup_steps: 2, final: 0.1}}
    micro_batch_size: 2
data:
  class_path: earwitness.AudioQuestions
  init_args:
    index: ${{paths.data}}/shards/index.arrow
    labels: ${{paths.data}}/labels.arrow
    validation: {{pool: {{split: val}}, batch_size: 3}}
    training:
      stage: sft
      shuffle_options: true
      curriculum:
        stages: [{{name: sft, algorithm: sft, pool: {{label: strong}}, batch_size: 4, budget: {{samples: 24}}}}]
"""


@pytest.fixture
def config(small, tmp_path, monkeypatch) -> str:
    """A run of six steps that saves every second; the working directory is an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return written(small, tmp_path / "run")


def written(small, out: Path) -> str:
    path = out.with_suffix(".yaml")
    path.write_text(CONFIG.format(root=small.root, tiny=small.tiny, out=out))
    return str(path)


@pytest.fixture(scope="module")
def straight(small, tmp_path_factory) -> Path:
    """The folder of the undisturbed run."""
    out = tmp_path_factory.mktemp("straight") / "run"
    fit(written(small, out))
    return out


def fit(config: str, *more: str) -> int | None:
    """The exit code of the command, None where it just returns."""
    try:
        main(["fit", "--config", config, *more])
    except SystemExit as end:
        return end.code  # type: ignore[return-value]
    return None


def same(out: Path, straight: Path) -> None:
    """Weights bit for bit, and the same log: one version, every step once."""
    ours, theirs = (load_file(at / "model" / "model.safetensors") for at in (out, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert rows(out) == rows(straight)


def rows(out: Path) -> list[tuple[str, str, str]]:
    (path,) = (out / "log").rglob("metrics.csv")
    with open(path, newline="") as file:
        found = [(row["step"], row["train/loss"], row["val/accuracy/audio"]) for row in csv.DictReader(file)]
    assert [int(step) for step, loss, _ in found if loss] == list(range(len([1 for _, loss, _ in found if loss])))
    return found


def stop_in(monkeypatch, step: int, how) -> None:
    """Has something happen inside a training step, once."""
    from earwitness.lightning_modules.sft import SFT

    inside = SFT.training_step

    def stopping(self, batch, batch_idx) -> None:
        inside(self, batch, batch_idx)
        if batch.step == step:
            monkeypatch.setattr(SFT, "training_step", inside)
            how()

    monkeypatch.setattr(SFT, "training_step", stopping)


def names(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def test_a_run_leaves_two_folders_and_a_name_and_nothing_in_the_working_directory(config, straight):
    assert names(straight) == ["last", "run.json", "step-00000004", "step-00000006"]
    assert (straight / "checkpoints" / "last").read_text() == "step-00000006\n"
    saved = torch.load(straight / "checkpoints" / "step-00000006" / "trainer.ckpt", weights_only=True)
    assert saved["AudioQuestions"]["step"] == 6
    assert fit(config, "--trainer.logger", "true", "--trainer.max_steps", "2") is None
    assert list(Path().iterdir()) == []


def test_sigterm_saves_ends_with_143_and_the_same_command_continues(config, straight, tmp_path, monkeypatch, capsys):
    stop_in(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert fit(config) == 143
    assert "SIGTERM after step 3: saved " in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists(), "a half-trained model is not exported"
    assert names(tmp_path / "run") == ["last", "run.json", "step-00000002", "step-00000003"]
    assert fit(config) is None
    assert "continuing from " in capsys.readouterr().out
    same(tmp_path / "run", straight)
    assert list(Path().iterdir()) == []


def test_sigterm_in_the_middle_of_a_validation_does_it_again(config, straight, tmp_path, monkeypatch):
    from earwitness.lightning_modules.sft import SFT

    inside, calls = SFT.validation_step, []

    def stopping(self, batch, batch_idx) -> None:
        calls.append(batch_idx)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        inside(self, batch, batch_idx)

    monkeypatch.setattr(SFT, "validation_step", stopping)
    assert fit(config) == 143
    assert len(calls) == 4
    assert fit(config) is None
    same(tmp_path / "run", straight)


def test_sigterm_in_a_rollout_ends_it_at_the_next_token(small, tmp_path, monkeypatch, capsys):
    from earwitness.lightning_modules.grpo import GRPO
    from earwitness.lightning_modules.rollout import sampling

    group = "rollout: {group_size: 2, max_new_tokens: 6}\n    rewards: {earwitness.tests.lab_rewards.length: 1.0}"
    configs = [Path(written(small, tmp_path / name)) for name in ("grpo", "grpo-straight")]
    for path in configs:
        text = (
            path.read_text().replace("earwitness.SFT", "earwitness.GRPO").replace("algorithm: sft", "algorithm: grpo")
        )
        path.write_text(text.replace("    micro_batch_size: 2", f"    micro_batch_size: 2\n    {group}"))
    assert fit(str(configs[1])) is None
    inside, draw, steps, after = GRPO.training_step, sampling.draw, [], []

    def counted(self, batch, batch_idx) -> None:
        steps.append(batch.step)
        inside(self, batch, batch_idx)

    def stopping(*given):
        if steps[-1:] == [3]:
            after.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(*given)

    with monkeypatch.context() as patch:
        patch.setattr(GRPO, "training_step", counted)
        patch.setattr(sampling, "draw", stopping)
        assert fit(str(configs[0])) == 143
    assert len(after) == 1 and "SIGTERM after step 3: saved " in capsys.readouterr().err
    assert names(tmp_path / "grpo") == ["last", "run.json", "step-00000002", "step-00000003"]
    assert fit(str(configs[0])) is None
    same(tmp_path / "grpo", tmp_path / "grpo-straight")


def test_slurms_signal_saves_in_the_runs_folder_and_queues_the_job_again(
    config, straight, tmp_path, monkeypatch, capsys
):
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/told\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    slurm = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "77", "SLURM_NODEID": "0"}
    slurm |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NNODES": "1", "SLURM_NODELIST": "localhost"}
    slurm |= {"PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    Path("hpc_ckpt_1.ckpt").write_text("of another run")  # as Lightning would leave, and find, it
    stop_in(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    assert fit(config) == 138
    said = capsys.readouterr().err
    assert "SIGUSR1 after step 3: saved " in said and "SLURM job 77 is queued again" in said
    assert (tmp_path / "told").read_text() == "requeue 77\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert fit(config, "--fresh") is None, "the job's command may hold --fresh, which was for its first start"
    same(tmp_path / "run", straight)
    assert [path.name for path in Path().iterdir()] == ["hpc_ckpt_1.ckpt"]


def test_after_a_run_signals_do_what_they_did_before(config, monkeypatch):
    """The next step of a recipe, in the same process, must not swallow SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    assert fit(config, "--trainer.limit_train_batches", "2") is None
    assert signal.getsignal(signal.SIGTERM) == before
    stop_in(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert fit(config) == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_while_the_model_is_exported_ends_at_once_and_it_is_exported_later(
    config, straight, tmp_path, monkeypatch, capsys
):
    from earwitness.lightning_modules.callbacks.outputs import ExportPolicy

    export = ExportPolicy.on_train_end

    def interrupted(self, trainer, module) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        export(self, trainer, module)

    monkeypatch.setattr(ExportPolicy, "on_train_end", interrupted)
    assert fit(config) == 143
    assert not (tmp_path / "run" / "model").exists()
    assert "SIGTERM after step 6: training was over; the same command does what is left" in capsys.readouterr().err
    monkeypatch.setattr(ExportPolicy, "on_train_end", export)
    assert fit(config) is None
    same(tmp_path / "run", straight)


def test_lightnings_own_checkpoints_are_saved_and_continued_alike(config, straight, tmp_path, monkeypatch):
    made = "{dirpath: OUT/checkpoints, save_top_k: 0, save_last: true, every_n_train_steps: 2}"
    made = f"{{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {made}}}"
    words = "[{class_path: earwitness.ExportPolicy, init_args: {folder: OUT/model}}, MADE]".replace("MADE", made)
    more = ["--trainer.callbacks", words.replace("OUT", str(tmp_path / "run"))]
    stop_in(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert fit(config, *more) == 143
    assert names(tmp_path / "run") == ["last.ckpt", "run.json"]
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    assert fit(config, *more) is None
    same(tmp_path / "run", straight)
    assert names(tmp_path / "run") == ["last.ckpt", "run.json"]


def test_an_error_in_a_step_leaves_what_was_saved_before_and_the_run_continues(config, straight, tmp_path, monkeypatch):
    def fail() -> None:
        raise RuntimeError("out of memory")

    stop_in(monkeypatch, 4, fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(config)
    assert names(tmp_path / "run")[-1] == "step-00000004"
    assert fit(config) is None
    same(tmp_path / "run", straight)


def test_fewer_batches_than_planned_are_continued(config, straight, tmp_path):
    """`limit_train_batches` ends Lightning's epoch; the plan is not over."""
    assert fit(config, "--trainer.limit_train_batches", "4") is None
    assert names(tmp_path / "run")[-1] == "step-00000004"
    assert fit(config) is None
    assert names(tmp_path / "run")[-1] == "step-00000006"
    same(tmp_path / "run", straight)


def test_the_same_limit_again_trains_nothing_more(config, tmp_path):
    for _ in range(2):
        assert fit(config, "--trainer.limit_train_batches", "4") is None
        assert names(tmp_path / "run")[-1] == "step-00000004"


class Stops(L.Callback):
    """Ends training at a validation, as EarlyStopping does."""

    def on_validation_end(self, trainer, module) -> None:
        trainer.should_stop = trainer.should_stop or trainer.datamodule.position == 4


def test_a_run_that_stopped_early_is_exported_and_not_trained_on(config, tmp_path, monkeypatch):
    """Killed in the export, it exports what it had when it stopped."""
    from earwitness.lightning_modules.callbacks.outputs import ExportPolicy

    more = ["--trainer.callbacks+", "earwitness.tests.commands.training.test_continuing.Stops"]
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(ExportPolicy, "on_train_end", lambda *_: 1 / 0)
        fit(config, *more)
    assert names(tmp_path / "run")[-1] == "step-00000004" and not (tmp_path / "run" / "model").exists()
    assert fit(config, *more) is None
    assert names(tmp_path / "run")[-1] == "step-00000004" and (tmp_path / "run" / "model").is_dir()
    assert [int(step) for step, loss, _ in rows(tmp_path / "run") if loss] == [0, 1, 2, 3]


def test_a_finished_run_trains_nothing_and_exports_again(config, straight, tmp_path):
    assert fit(config) is None
    before = torch.load(tmp_path / "run/checkpoints/step-00000006/trainer.ckpt", weights_only=True)
    shutil.rmtree(tmp_path / "run" / "model")
    assert fit(config) is None
    after = torch.load(tmp_path / "run/checkpoints/step-00000006/trainer.ckpt", weights_only=True)
    assert before["global_step"] == after["global_step"] == 6
    same(tmp_path / "run", straight)


def test_another_learning_rate_is_named_and_fresh_moves_the_old_run_aside(config, tmp_path, capsys):
    lr = ("--model.init_args.optimizer.init_args.lr", "0.002")
    assert fit(config, "--trainer.limit_train_batches", "2") is None
    for more in ([], ["--ckpt_path", "last"], ["--ckpt_path", str(tmp_path / "run")]):
        assert fit(config, *lr, *more) == 1
        error = capsys.readouterr().err.strip()
        assert error.endswith(
            "holds a run of another configuration: model.init_args.optimizer.init_args.lr was 0.001, is 0.002; set it "
            "back to continue, or start anew with --fresh, which moves the old checkpoints aside"
        )
    elsewhere = tmp_path / "copy.ckpt"
    shutil.copy(tmp_path / "run/checkpoints/step-00000002/trainer.ckpt", elsewhere)
    assert fit(config, *lr, "--paths.out", str(tmp_path / "other"), "--ckpt_path", str(elsewhere)) == 1
    assert "the optimizer's learning rate is 0.002, in the checkpoint it is 0.001" in capsys.readouterr().err
    assert fit(config, *lr, "--fresh", "--trainer.limit_train_batches", "4") is None
    assert f"the old checkpoints are now in {tmp_path}/run/checkpoints.1" in capsys.readouterr().out
    assert (tmp_path / "run/checkpoints.1/step-00000002/trainer.ckpt").is_file()
    assert names(tmp_path / "run")[-1] == "step-00000004"
    assert sorted(path.name for path in (tmp_path / "run" / "log").iterdir()) == ["version_0", "version_1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data.init_args.training.shuffle_options", "false"), "the data argument 'shuffle_options' changed"),
        (("--model.init_args.schedule.final", "0.5"), "model.init_args.schedule.final was 0.1, is 0.5"),
        (("--trainer.precision", "bf16-mixed"), "trainer.precision was null, is bf16-mixed"),
        (("--model.init_args.policy.init_args.lora", "{rank: 2}"), "policy.init_args.lora was null, is "),
    ],
)
def test_whatever_trains_other_weights_is_named(config, straight, tmp_path, capsys, words, said):
    shutil.copytree(straight, tmp_path / "run")
    assert fit(config, *words) == 1
    assert said in capsys.readouterr().err


def test_another_model_under_the_same_name_is_named(config, small, tmp_path, capsys):
    """An adapter's checkpoint holds no base weights: those would silently be the new ones."""
    model = tmp_path / "tiny"
    shutil.copytree(small.tiny, model)
    assert fit(config, "--paths.model", str(model), "--trainer.limit_train_batches", "2") is None
    weights = bytearray((model / "model.safetensors").read_bytes())
    for place in range(len(weights) // 2, len(weights), 4):
        weights[place] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert fit(config, "--paths.model", str(model)) == 1
    assert "policy.init_args.checkpoint was " in capsys.readouterr().err
    moved = shutil.copytree(small.tiny, tmp_path / "moved")
    assert fit(config, "--paths.model", str(moved)) is None, "the same model elsewhere is the same model"


def test_what_changes_no_weight_may_change(config, straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run", ignore=shutil.ignore_patterns("step-00000006", "last"))
    more = ["--model.init_args.micro_batch_size", "1", "--trainer.log_every_n_steps", "2", "--trainer.num_nodes", "1"]
    assert fit(config, *more, "--data.init_args.num_workers", "1") is None
    assert names(tmp_path / "run")[-1] == "step-00000006"


def test_a_checkpoint_whose_configuration_is_not_known_is_continued_only_when_named(config, straight, tmp_path, capsys):
    shutil.copytree(straight, tmp_path / "run", ignore=shutil.ignore_patterns("run.json", "step-00000006", "last"))
    assert fit(config) == 1
    assert "of a run whose configuration is not known; continue it with --ckpt_path" in capsys.readouterr().err
    assert fit(config, "--ckpt_path", str(tmp_path / "run")) is None
    assert names(tmp_path / "run")[-1] == "step-00000006"


BROKEN = {
    "half.ckpt": ("is half written, or no checkpoint", lambda path, whole: path.write_bytes(whole[: len(whole) // 2])),
    "torn.ckpt": ("is no whole checkpoint", lambda path, whole: path.write_bytes(torn(whole))),
    "empty.ckpt": ("is empty, its run ended before it was written", lambda path, whole: path.touch()),
    "missing.ckpt": ("is not there", lambda path, whole: None),
    "folder": ("holds no checkpoint", lambda path, whole: path.mkdir()),
    "step-00000002.partial": ("was still being written when its run ended", lambda path, whole: path.mkdir()),
}


def torn(whole: bytes) -> bytes:
    """A whole archive with other bytes in its middle."""
    start = whole.index(b"data.pkl") + 100
    return whole[:start] + b"\xff" * 400 + whole[start + 400 :]


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_a_checkpoint_that_is_none_ends_in_one_sentence(config, straight, tmp_path, capsys, name, verb):
    said, make = BROKEN[name]
    make(tmp_path / name, (straight / "checkpoints/step-00000006/trainer.ckpt").read_bytes())
    with pytest.raises(SystemExit) as end:
        main([verb, "--config", config, "--ckpt_path", str(tmp_path / name)])
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert end.value.code == 1 and len(error) == 1
    assert str(tmp_path / name) in error[0] and said in error[0]


def test_the_whole_checkpoints_beside_a_broken_one_are_named(config, straight, tmp_path, capsys):
    copied = shutil.copytree(straight / "checkpoints", tmp_path / "copied")
    broken = copied / "step-00000006" / "trainer.ckpt"
    broken.write_bytes(broken.read_bytes()[:1000])
    assert fit(config, "--ckpt_path", str(broken)) == 1
    assert "; whole ones beside it: step-00000004" in capsys.readouterr().err


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_leaves_the_one_before_and_says_so(config, straight, tmp_path, capsys, monkeypatch, asynchronous):
    save, calls = torch.save, []

    def full(content, file) -> None:
        calls.append(file)
        save(content, file)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file.torch, "save", full)
    given = "{folder: OUT/checkpoints, every_n_steps: 2, asynchronous: ASY}"
    keep = f"{{class_path: earwitness.Checkpoints, init_args: {given}}}"
    export = "{class_path: earwitness.ExportPolicy, init_args: {folder: OUT/model}}"
    words = f"[{export}, {keep}]".replace("OUT", str(tmp_path / "run")).replace("ASY", str(asynchronous).lower())
    more = ["--trainer.callbacks", words]
    assert fit(config, *more) == 1
    assert (
        f"{tmp_path}/run/checkpoints/step-00000004 could not be written (No space left on device); what was saved "
        "before it is whole: make room, and the same command continues from there"
    ) in capsys.readouterr().err
    assert (tmp_path / "run/checkpoints/last").read_text() == "step-00000002\n"
    assert names(tmp_path / "run") == ["last", "run.json", "step-00000002"], "no half of it fills the disk"
    assert fit(config, *more) is None
    same(tmp_path / "run", straight)


def test_which_checkpoints_stay():
    keep = folders.Keep(last=2, every=100)
    assert keep.stays([50, 100, 150, 200, 250, 300, 350]) == {100, 200, 300, 350}
    assert folders.Keep(1).stays([7, 3, 5]) == {7}


@pytest.mark.parametrize("moment", ["begun", "written", "named", "pointed"])
def test_whenever_a_save_is_cut_off_the_last_checkpoint_is_whole(tmp_path, moment):
    """A folder half written, one without its name, one that `last` does not name yet."""

    def save(step: int) -> None:
        partial = folders.begun(tmp_path, step)
        (partial / "trainer.ckpt").write_text(str(step))
        folders.finished(partial, folders.Keep())

    save(2)
    if moment == "begun":
        (folders.begun(tmp_path, 4) / "trainer.ckpt").touch()
    elif moment == "written":
        (folders.begun(tmp_path, 4) / "trainer.ckpt").write_text("4")
    elif moment == "named":
        (folders.begun(tmp_path, 4) / "trainer.ckpt").write_text("4")
        (tmp_path / "step-00000004.partial").rename(tmp_path / "step-00000004")
    else:
        save(4)
    assert folders.last_of(tmp_path).read_text() == ("4" if moment == "pointed" else "2")
    save(4)
    assert folders.last_of(tmp_path).read_text() == "4" and not list(tmp_path.glob("*.partial"))


def test_a_recipe_never_continues_the_checkpoint_of_other_arguments(small, straight, tmp_path, monkeypatch):
    """Finished at one learning rate, changed, killed, started again: the weights are those of the second rate."""
    text = CONFIG.format(root=small.root, tiny=small.tiny, out=tmp_path / "out" / "sft").replace("\n", "\n    ")
    recipe = tmp_path / "recipe.yaml"
    spec = "    do: fit" + text.replace("${paths.", "${steps.sft.paths.")
    recipe.write_text(f"out: {tmp_path}/out\nsteps:\n  sft:\n{spec}\n")
    run_recipe(str(recipe))
    same(tmp_path / "out" / "sft", straight)
    other = ["steps.sft.model.init_args.optimizer.init_args.lr=0.002"]
    stop_in(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as end:
        run_recipe(str(recipe), other)
    assert end.value.code == 143
    record = json.loads((tmp_path / "out/.steps/sft.json").read_text())
    assert list(record) == ["started"], "the step is not done"
    run_recipe(str(recipe), other)
    expected = tmp_path / "expected"
    assert fit(written(small, expected), "--model.init_args.optimizer.init_args.lr", "0.002") is None
    ours, theirs = (load_file(at / "model" / "model.safetensors") for at in (tmp_path / "out" / "sft", expected))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (tmp_path / "out/sft/checkpoints.1/step-00000006").is_dir(), "the first run's checkpoints are kept"
