"""Every way to start two processes starts two ranks of one run, and they train what one process trains."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from earwitness.tests.places import ROOT

pytestmark = pytest.mark.slow

CONFIG = """
paths: {{data: {root}, model: {tiny}, out: {out}}}
threads: 1
trainer:
  accelerator: cpu
  devices: ${{oc.decode:${{oc.env:LOCAL_WORLD_SIZE,${{oc.env:SLURM_NTASKS_PER_NODE,1}}}}}}
  num_nodes: ${{oc.decode:${{oc.env:GROUP_WORLD_SIZE,${{oc.env:SLURM_NNODES,1}}}}}}
  max_epochs: 1
  logger: {{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {{save_dir: "${{paths.out}}", name: log}}}}
  log_every_n_steps: 1
  num_sanity_val_steps: 0
  enable_checkpointing: false
  callbacks: [{{class_path: earwitness.ExportPolicy, init_args: {{folder: "${{paths.out}}/model"}}}}]
model:
  class_path: earwitness.{module}
  init_args:
    policy: {{class_path: earwitness.OmniPolicy, init_args: {{checkpoint: "${{paths.model}}"}}}}
    optimizer: {{class_path: torch.optim.SGD, init_args: {{lr: 0.05}}}}
    micro_batch_size: 1
    {more}
data:
  class_path: earwitness.AudioQuestions
  init_args:
    index: ${{paths.data}}/shards/index.arrow
    labels: ${{paths.data}}/labels.arrow
    checkpoint: ${{paths.model}}
    validation: {{pool: {{split: val}}, batch_size: 3}}
    evaluation: {{pool: {{split: test}}, conditions: [audio, silence], batch_size: 3}}
    training:
      stage: {stage}
      curriculum:
        cells: [label]
        stages: [{{name: {stage}, objective: {stage}, pool: {{label: strong}}, batch_size: 4, budget: {{samples: 7}}}}]
"""
GROUP = "rollout: {group_size: 4, max_new_tokens: 6}\n    objective: {beta: 0.05}"


REWARDS = {"GRPO": "lab_rewards.length", "refill": "grpo_parts.half"}


def write_config(small, out: Path, module: str = "SFT") -> str:
    """`refill`: GRPO whose groups without an advantage get a successor, advantages scaled over the batch."""
    more = f"{GROUP}\n    rewards: {{earwitness.tests.{REWARDS[module]}: 1.0}}" if module != "SFT" else ""
    refills = module == "refill"
    if refills:
        more, module = more.replace("beta: 0.05", "beta: 0.05, advantages: batch"), "GRPO"
    text = CONFIG.format(root=small.root, tiny=small.tiny, out=out, module=module, stage=module.lower(), more=more)
    if refills:
        text = text.replace("batch_size: 4, budget", "batch_size: 4, on_zero_advantage: refill_same_cell, budget")
    path = out.with_suffix(".yaml")
    path.write_text(text)
    return str(path)


def run(*words: str, **environment: str) -> str:
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def script(name: str) -> str:
    path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert path, f"the command {name} is not installed beside {sys.executable}"
    return path


def same_weights(a: Path, b: Path) -> None:
    """The exported weights agree to 1e-6: SGD neither hides nor amplifies a difference in the gradient."""
    one, two = (load_file(path / "model" / "model.safetensors") for path in (a, b))
    assert one.keys() == two.keys()
    worst = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert worst <= 1e-6, worst


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory) -> dict[str, Path]:
    """SFT and GRPO by one process; the weights have moved away from the start."""
    folder = tmp_path_factory.mktemp("alone")
    for module in ("SFT", "GRPO", "refill"):
        run(sys.executable, "-m", "earwitness", "fit", "--config", write_config(small, folder / module, module))
        trained = load_file(folder / module / "model" / "model.safetensors")
        start = load_file(Path(small.tiny) / "model.safetensors")
        assert max(float((trained[name] - start[name]).abs().max()) for name in start) > 1e-4
    return {module: folder / module for module in ("SFT", "GRPO", "refill")}


LAUNCHERS = {
    "trainer": lambda config: [script("earwitness"), "fit", "--config", config, "--trainer.devices", "2"],
    "lightning": lambda config: [script("lightning"), "run", "--devices", "2", "--", "fit", "--config", config],
    "lightning, old": lambda config: [script("lightning"), "run", "model", "--devices", "2", "fit", "--config", config],
    "torchrun": lambda config: [
        *(script("torchrun"), "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
        *("-m", "earwitness", "fit", "--config", config),
    ],
    "fabric": lambda config: [
        *(script("fabric"), "run", "--accelerator", "cpu", "--devices", "2", "--main-port", "29517"),
        *(str(ROOT / "__main__.py"), "fit", "--config", config),
    ],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_what_one_trains(launcher, small, alone, tmp_path) -> None:
    out = tmp_path / "two"
    run(*LAUNCHERS[launcher](write_config(small, out)), *("--trainer.strategy", "ddp"))
    same_weights(alone["SFT"], out)


@pytest.mark.parametrize("module", ["GRPO", "refill"])
def test_two_processes_roll_out_what_one_rolls_out(small, alone, tmp_path, module) -> None:
    """With refills too: which question a rank gets in place of another does not matter, only which ones there are."""
    out = tmp_path / "two"
    config = write_config(small, out, module)
    run(script("lightning"), "run", "--devices", "2", "--", "fit", "--config", config, "--trainer.strategy", "ddp")
    same_weights(alone[module], out)


def test_rates_are_of_all_ranks(small, alone, tmp_path) -> None:
    """Two processes log the samples, tokens and sound that one logs, in whatever time it took them."""
    out = tmp_path / "two"
    run(*LAUNCHERS["lightning"](write_config(small, out)), *("--trainer.strategy", "ddp"))
    ratios = []
    for folder in (alone["SFT"], out):
        (log,) = folder.glob("log/version_*/metrics.csv")
        rows = [row for row in csv.DictReader(log.open()) if row.get("speed/samples_per_s")]
        names = ("speed/tokens_per_s", "speed/audio_hours_per_s")
        ratios.append([[float(row[name]) / float(row["speed/samples_per_s"]) for name in names] for row in rows])
    assert len(ratios[0]) == 2
    assert ratios[1] == [pytest.approx(row, rel=1e-4) for row in ratios[0]]


def test_a_slurm_step_joins_by_its_environment(small, alone, tmp_path) -> None:
    """Two tasks as srun would start them: no launcher, only variables."""
    out = tmp_path / "two"
    config, port = write_config(small, out), "29531"
    slurm = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODELIST": "localhost"}
    slurm |= {"SLURM_JOB_ID": "29531", "SLURM_JOB_NAME": "train", "SLURM_NODEID": "0"}
    slurm |= {"MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    words = [script("lightning"), "run", "--devices", "2", "--", "fit", "--config", config, "--trainer.strategy", "ddp"]
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | slurm
    tasks = [
        subprocess.Popen(words, env=env | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}, stderr=subprocess.PIPE)
        for rank in ("0", "1")
    ]
    for task in tasks:
        _, error = task.communicate(timeout=240)
        assert task.returncode == 0, error.decode()[-3000:]
    same_weights(alone["SFT"], out)


def test_two_processes_answer_every_question_once(small, tmp_path) -> None:
    """16 questions, 2 conditions, ranks of 3: the padding leaves no trace, the answers are those of one process."""
    from earwitness.curriculum.table import read_arrow

    tables = []
    for name, devices in (("one", "1"), ("two", "2")):
        out = tmp_path / name
        config = write_config(small, out)
        table = f'[{{"class_path": "earwitness.AnswerTable", "init_args": {{"file": "{out}/answers.arrow"}}}}]'
        words = ["predict", "--config", config, "--trainer.callbacks", table, "--trainer.strategy", "auto"]
        run(script("lightning"), "run", "--devices", devices, "--", *words)
        tables.append(read_arrow(out / "answers.arrow"))
    assert len(tables[0]) == 32
    assert tables[0].equals(tables[1])


def test_lightning_without_run_says_what_it_can(small) -> None:
    done = subprocess.run([script("lightning"), "login"], capture_output=True, text=True)
    assert done.returncode == 1 and "lightning run" in done.stderr
