"""Two hosts, network namespaces joined by a cable: they train what one trains, also when one of them is lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from earwitness.tests.commands.test_launch import run, same_weights, script, write_config
from earwitness.tests.commands.test_launch_files import LAUNCH, environment


def namespaces() -> bool:
    """Whether this machine lets us make two hosts of one."""
    if shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "earwitness-try"], capture_output=True)
    subprocess.run(["ip", "netns", "del", "earwitness-try"], capture_output=True)
    return made.returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(not namespaces(), reason="no right to make network namespaces"),
]
CALLBACKS = """[{class_path: earwitness.Checkpoints, init_args: {folder: OUT/checkpoints, every_n_steps: 1}},
  {class_path: earwitness.ExportPolicy, init_args: {folder: OUT/model}},
  {class_path: earwitness.Watchdog, init_args: {silent_s: SILENT}},
  {class_path: earwitness.tests.commands.test_two_hosts.SleepsOnce, init_args: {mark: OUT/sleeps}}]"""
SILENT = 6  # seconds


def __getattr__(name: str):
    """`SleepsOnce` is made when it is asked for: only the processes of a run need Lightning."""
    if name != "SleepsOnce":
        raise AttributeError(name)
    import lightning as L

    class SleepsOnce(L.Callback):
        """Has one rank, named by its file, sleep before its third step, the first time; the others wait for it."""

        def __init__(self, mark: str) -> None:
            self.mark = Path(mark)

        def on_train_batch_start(self, trainer, module, batch, *_) -> None:
            if batch.step == 2 and self.mark.exists() and self.mark.read_text() == str(trainer.global_rank):
                self.mark.rename(self.mark.with_name("asleep"))
                time.sleep(600)

    globals()["SleepsOnce"] = SleepsOnce
    return SleepsOnce


class Hosts:
    """Host 0 and 1, at 10.77.0.1 and 10.77.0.2."""

    def __init__(self) -> None:
        self.names = [f"earwitness-{os.getpid()}-{number}" for number in (0, 1)]
        self.ends = [f"ew{os.getpid() % 100000}{end}" for end in "ab"]
        self.started: list[subprocess.Popen] = []

    def __enter__(self) -> Hosts:
        ip("link", "add", self.ends[0], "type", "veth", "peer", "name", self.ends[1])
        for number, (name, end) in enumerate(zip(self.names, self.ends, strict=True)):
            ip("netns", "add", name)
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", end)
            ip("-n", name, "link", "set", "lo", "up")
            self.cable(number, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for number in (0, 1):
            self.kill(number)
            ip("netns", "del", self.names[number])
        for process in self.started:
            process.wait()

    def cable(self, number: int, state: str) -> None:
        """Plugs a host's cable in ("up") or pulls it out ("down")."""
        ip("-n", self.names[number], "link", "set", self.ends[number], state)

    def kill(self, number: int) -> None:
        """Ends all processes of a host at once, as its power does."""
        for pid in subprocess.run(
            ["ip", "netns", "pids", self.names[number]], capture_output=True, text=True
        ).stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), 9)

    def start(self, number: int, log: Path, *words: str, **more: str) -> subprocess.Popen:
        """Starts a command on a host; what it says is added to a file."""
        own = {"GLOO_SOCKET_IFNAME": self.ends[number]} | more
        inside = ["ip", "netns", "exec", self.names[number], *words]
        with open(log, "a") as file:
            self.started.append(subprocess.Popen(inside, env=environment() | own, stdout=file, stderr=file))
        return self.started[-1]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def launched(number: int, config: str, strategy: str, *more: str) -> list[str]:
    """The command of a host; host 0 is where they meet."""
    meeting = ["--main-address", "10.77.0.1", "--rdzv-id", "lab", "--local-address", f"10.77.0.{number + 1}"]
    run = [script("lightning"), "run", "--devices", "1", "--num-nodes", "2", *meeting, "--silent-s", str(SILENT), *more]
    return [*run, "--", "fit", "--trainer.strategy", strategy, "--config", config]


def long_config(small, out: Path) -> str:
    """Six steps, each saved."""
    config = write_config(small, out)
    text = Path(config).read_text().replace("enable_checkpointing: false", "enable_checkpointing: true")
    text = text.replace("budget: {samples: 7}", "budget: {samples: 24}")
    callbacks = CALLBACKS.replace("OUT", str(out)).replace("SILENT", str(SILENT)).replace("\n", " ")
    Path(config).write_text(re.sub(r"callbacks: \[.*\]", f"callbacks: {callbacks}", text))
    out.mkdir()
    return config


def until(come, what: str, seconds: float = 180) -> None:
    limit = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def test_two_hosts_train_what_one_trains(small, tmp_path) -> None:
    """By the launch file; the second host is started first, and they meet."""
    config = write_config(small, tmp_path / "two")
    with Hosts() as hosts:
        for number in (1, 0):
            own = {"MAIN": "10.77.0.1", "JOB": "lab", "LOCAL": f"10.77.0.{number + 1}", "DEVICES": "1", "RESTARTS": "0"}
            hosts.start(number, tmp_path / "log", "bash", str(LAUNCH / "two_nodes.sh"), "--config", config, **own)
        for process in hosts.started:
            assert process.wait(240) == 0, (tmp_path / "log").read_text()[-3000:]
    run(script("earwitness"), "fit", "--config", write_config(small, tmp_path / "one"))
    same_weights(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(
    ("strategy", "lost"), [("ddp", 1), ("earwitness.FSDP2", 0)], ids=["ddp, second", "fsdp2, main"]
)
def test_a_host_that_is_lost_costs_nothing_but_time(small, tmp_path, strategy, lost) -> None:
    """Its power and its cable go at once, so the other one only sees silence.

    Where it was the second host, the other one waits for it; without the main host no one can meet, and both commands
    are started again. The weights are bitwise those of two ranks of one host that nothing happened to.
    """
    config, log = long_config(small, tmp_path / "two"), tmp_path / "log"
    (tmp_path / "two" / "sleeps").write_text(str(lost))
    stays = 1 - lost
    with Hosts() as hosts:
        restarts = ("--max-restarts", "1")
        both = [hosts.start(n, log, *launched(n, config, strategy, *restarts)) for n in (0, 1)]
        until((tmp_path / "two" / "asleep").exists, "a rank sleeps")
        said = len(log.read_text())
        hosts.kill(lost)
        hosts.cable(lost, "down")
        begin = time.monotonic()
        until(lambda: "error: the connection to a process" in log.read_text()[said:], "silence is noticed", 60)
        assert "10.77.0." in log.read_text()[said:]
        if lost == 0:
            assert both[stays].wait(60) != 0
            assert "error: the nodes do not meet" in log.read_text()[said:]
        print(f"noticed after {time.monotonic() - begin:.1f} s")
        assert "Traceback" not in log.read_text()[said:], log.read_text()[said:]
        hosts.cable(lost, "up")
        again = [hosts.start(n, log, *launched(n, config, strategy, *restarts)) for n in ([1] if lost else [0, 1])]
        for process in again + ([both[stays]] if lost else []):
            assert process.wait(240) == 0, log.read_text()[-4000:]
    assert "continuing from " in log.read_text()
    straight = long_config(small, tmp_path / "one")
    run(script("lightning"), "run", "--devices", "2", "--", "fit", "--trainer.strategy", strategy, "--config", straight)
    ours, theirs = (load_file(tmp_path / at / "model" / "model.safetensors") for at in ("two", "one"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
