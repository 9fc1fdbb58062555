"""Restarts give the right weights, and the launch files are shell that names options which there are."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from earwitness.commands.launch import _elastic, _parser
from earwitness.tests.commands.test_launch import same_weights, script, write_config
from earwitness.tests.places import ROOT

LAUNCH = ROOT / "configs" / "launch"
FILES = sorted(LAUNCH.glob("*.sh"))
SAVING = """[{class_path: earwitness.Checkpoints, init_args: {folder: OUT/checkpoints, every_n_steps: 1}},
  {class_path: earwitness.ExportPolicy, init_args: {folder: OUT/model}},
  {class_path: earwitness.tests.commands.test_launch_files.DiesOnce, init_args: {mark: OUT/died}}]"""


def __getattr__(name: str):
    """`DiesOnce` is made when it is asked for: only the processes of a run need Lightning."""
    if name != "DiesOnce":
        raise AttributeError(name)
    import lightning as L

    class DiesOnce(L.Callback):
        """Ends rank 1 before its second step as a crash does, or its launcher by SIGTERM, the first time.

        Writes down where each start meets.
        """

        def __init__(self, mark: str) -> None:
            self.mark = Path(mark)
            if os.environ["RANK"] == "0":
                with open(self.mark.with_name("ports"), "a") as file:
                    file.write(f"{os.environ['MASTER_PORT']}\n")

        def on_train_batch_start(self, trainer, module, batch, *_) -> None:
            if batch.step == 1 and trainer.global_rank == 1 and not self.mark.exists():
                self.mark.touch()
                if self.mark.name == "died":
                    os._exit(17)
                os.kill(os.getppid(), signal.SIGTERM)
                time.sleep(3)

    globals()["DiesOnce"] = DiesOnce
    return DiesOnce


def words_of(*words: str) -> list[str]:
    return _elastic(_parser().parse_args(words))


def test_a_job_with_a_name_meets_in_any_order() -> None:
    two = ("--devices", "8", "--num-nodes", "2", "--main-address", "a")
    named = words_of(*two, "--rdzv-id", "j", "--max-restarts", "3")
    wanted = {"--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=a:29400", "--rdzv-id=j", "--max-restarts=3"}
    assert wanted <= set(named)
    assert not any("node-rank" in word for word in named)
    numbered = words_of(*two, "--node-rank", "1")
    assert {"--node-rank=1", "--master-addr=a", "--master-port=29400", "--max-restarts=0"} <= set(numbered)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_launch_file_is_shell_and_its_options_exist(path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    text = re.sub(r"^#(?!SBATCH).*$", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    command = re.search(r"lightning run (.*?)-- +(.*)", text)
    assert command, "lightning run OPTIONS -- COMMAND"
    known = {option for action in _parser()._actions for option in action.option_strings}
    assert set(re.findall(r"(?<!\S)--[a-z-]+", command[1].replace(":+", " "))) <= known
    assert command[2].startswith("fit --trainer.strategy") and '"$@"' in command[2]
    assert os.access(path, os.X_OK)


def test_there_is_a_file_for_one_node_two_nodes_and_slurm() -> None:
    assert [path.name for path in FILES] == ["one_node.sh", "slurm.sh", "two_nodes.sh"]
    slurm = (LAUNCH / "slurm.sh").read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", slurm, re.M))
    assert {"requeue", "signal", "open-mode", "ntasks-per-node", "gpus-per-node"} <= set(options)
    assert options["ntasks-per-node"] == options["gpus-per-node"] and options["signal"].startswith("SIGUSR1@")


def environment() -> dict[str, str]:
    """With the commands that are installed beside this Python."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"OMP_NUM_THREADS": "1"}
    return env | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"}


@pytest.mark.slow
@pytest.mark.long
def test_a_rank_that_dies_once_is_started_anew_and_a_launcher_that_is_told_to_end_lets_it_save(small, tmp_path) -> None:
    script("lightning")
    runs = {}
    for name in ("whole", "died", "told", "told"):
        again = name in runs
        out = runs[name] = tmp_path / name
        config = write_config(small, out)
        text = Path(config).read_text().replace("enable_checkpointing: false", "enable_checkpointing: true")
        callbacks = SAVING.replace("OUT/died", f"{out}/{name}").replace("OUT", str(out)).replace("\n", " ")
        Path(config).write_text(re.sub(r"callbacks: \[.*\]", f"callbacks: {callbacks}", text))
        out.mkdir(exist_ok=True)
        if name == "whole":
            (out / name).touch()
        done = subprocess.run(
            ["bash", LAUNCH / "one_node.sh", "--config", config],
            env=environment() | {"DEVICES": "2", "RESTARTS": "1"},
            capture_output=True,
            text=True,
            timeout=400,
        )
        code = 143 if name == "told" and not again else 0
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
        if code:
            assert done.stderr.count("SIGTERM after step 1: saved ") == 1 and "Traceback" not in done.stderr
    ports = (runs["died"] / "ports").read_text().split()
    assert len(set(ports)) == 2, "in a store of before, ranks find the addresses of those that died, every second time"
    for name in ("died", "told"):
        same_weights(runs["whole"], runs[name])
