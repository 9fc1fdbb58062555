"""Kills a run of SFT and GRPO at random moments and compares its end with an undisturbed one's, bit for bit.

    python tests/kills.py [--kills 30] [--seed 1] [--out FOLDER]

Moments: while a step trains, while completions are sampled, while a checkpoint is written, between two steps of the
recipe. Ways: SIGKILL to all processes, SIGTERM, a disk that takes no checkpoint. With one process by `earwitness run`,
with two ranks by `earwitness fit` under torchrun's variables. It ends with 1 where weights or logs differ.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

RECIPE = """
name: kills
seed: 1
out: OUT
curriculum:
  seed: ${seed}
  cells: [label]
  stages:
    - {name: sft, algorithm: sft, pool: {label: weak}, batch_size: 4, budget: {steps: 10}, on_short: repeat}
    - {name: grpo, algorithm: grpo, pool: {label: strong}, batch_size: 4, budget: {steps: 8}, on_short: repeat}
trainer: &trainer
  accelerator: cpu
  devices: 1
  max_epochs: 1
  num_sanity_val_steps: 0
  log_every_n_steps: 1
  enable_model_summary: false
  val_check_interval: 4
  check_val_every_n_epoch: null
  limit_val_batches: 2
data: &data {index: "${out}/shards/index.arrow", labels: "${out}/labels.arrow"}
steps:
  corpus: {do: build_sounds, out: "${out}/corpus", train: 48, val: 8, test: 16, listening: 32, reading: 8}
  shards: {do: shard, annotations: "${out}/corpus/questions.jsonl", out: "${out}/shards"}
  tiny:
    do: build_tiny
    annotations: ${out}/corpus/questions.jsonl
    out: ${out}/tiny
    hidden: 64
    layers: 2
    audio_hidden: 32
    audio_layers: 1
  planted:
    do: earwitness.tests.commands.lab_parts.planted
    planted: ${out}/corpus/planted.jsonl
    index: ${out}/shards/index.arrow
    out: ${out}/labels.arrow
  sft:
    do: fit
    threads: 1
    trainer:
      <<: *trainer
      logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: "${out}/sft", name: log}}
      callbacks:
        - {class_path: earwitness.ExportPolicy, init_args: {folder: "${out}/sft/model"}}
        - {class_path: earwitness.Checkpoints, init_args: {folder: "${out}/sft/checkpoints", every_n_steps: 2}}
    model:
      class_path: earwitness.SFT
      init_args:
        policy: {class_path: earwitness.OmniPolicy, init_args: {checkpoint: "${out}/tiny"}}
        optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-3}}
        schedule: {warmup_steps: 2, final: 0.1}
        micro_batch_size: 2
    data:
      class_path: earwitness.AudioQuestions
      init_args:
        <<: *data
        validation: {pool: {split: val}, batch_size: 2}
        training: {curriculum: "${curriculum}", stage: sft, shuffle_options: true, record: "${out}/sft/curriculum.json"}
  grpo:
    do: fit
    threads: 1
    trainer:
      <<: *trainer
      logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: "${out}/grpo", name: log}}
      callbacks:
        - {class_path: earwitness.ExportPolicy, init_args: {folder: "${out}/grpo/model"}}
        - {class_path: earwitness.Checkpoints, init_args: {folder: "${out}/grpo/checkpoints", every_n_steps: 2}}
    model:
      class_path: earwitness.GRPO
      init_args:
        policy: {class_path: earwitness.OmniPolicy, init_args: {checkpoint: "${out}/sft/model"}}
        optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-3}}
        micro_batch_size: 2
        rollout: {group_size: 4, temperature: 1.0, max_new_tokens: 6, seed: 1}
        objective: {beta: 0.01}
        rewards: {earwitness.tests.lab_rewards.length: 1.0}
    data:
      class_path: earwitness.AudioQuestions
      init_args:
        <<: *data
        validation: {pool: {split: val}, batch_size: 2}
        training:
          curriculum: ${curriculum}
          stage: grpo
          shuffle_options: true
          record: ${out}/grpo/curriculum.json
"""
STAGES = {"sft": 10, "grpo": 8}  # with their steps
MOMENTS = {"step": "sft", "rollout": "grpo", "checkpoint": "any", "between": "sft"}
WAYS = ("SIGKILL", "SIGTERM", "full disk")
CODES = {"SIGKILL": -9, "SIGTERM": 143, "full disk": 1}


def forked(act: Callable[[], None], log: Path, environment: dict[str, str], most_bytes: int | None) -> int:
    """The number of a process, in a group of its own, that does `act` and exits as a command would."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        os.environ.update(environment)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1), os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = open(1, "w", closefd=False)  # noqa: SIM115
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        act()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def start(folder: Path, ranks: int, log: Path, most_bytes: int | None = None) -> list[int]:
    """Starts the job in a folder, or goes on with it: one process by its recipe, several by their configurations."""
    from earwitness.commands.cli import main

    if ranks == 1:
        return [forked(lambda: main(["run", str(folder / "recipe.yaml")]), log, {}, most_bytes)]

    def fits() -> None:
        for stage in STAGES:
            more = ["--trainer.devices", str(ranks), "--trainer.strategy", "ddp"]
            main(["fit", "--config", str(folder / "run" / stage / "config.yaml"), *more])

    return [forked(fits, log, place, most_bytes) for place in meeting(ranks)]


def meeting(ranks: int) -> list[dict[str, str]]:
    """The variables by which torchrun would have so many processes of one host meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
    common |= {"LOCAL_WORLD_SIZE": str(ranks), "TORCHELASTIC_RUN_ID": "kills"}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def ended(pid: int, seconds: float = 180) -> int:
    """The exit code of a process, -n after signal n; one that runs longer is killed."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"process {pid} still ran after {seconds} s")


def running(pid: int) -> bool:
    """Whether a process has not ended; it is still there to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def times(run: Path, pattern: str) -> dict[Path, int]:
    """When each file that is there was written."""
    found = {}
    for path in run.glob(pattern):
        with suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime_ns
    return found


def wait_for(moment: str, folder: Path, pid: int, draw: random.Random) -> bool:
    """Returns when the moment has come, False where the process ended before."""
    run = folder / "run"
    watched = {"checkpoint": "*/checkpoints/*.partial", "between": "grpo/checkpoints/run.json"}
    pattern = watched.get(moment, f"{MOMENTS[moment]}/curriculum.json")  # written when training starts
    seen, pause = times(run, pattern), draw.random()

    def come() -> bool:
        return any(seen.get(path) != time for path, time in times(run, pattern).items())

    while running(pid):
        if come():
            if moment in ("step", "rollout"):
                time.sleep(pause)
            return running(pid)
        time.sleep(0.0005)
    return False


def end_all(pids: list[int], way: str) -> list[int]:
    """Signals all processes of a job with all they started, and returns their exit codes."""
    number = signal.SIGTERM if way == "SIGTERM" else signal.SIGKILL
    for pid in pids:
        with suppress(ProcessLookupError):
            (os.killpg if number == signal.SIGKILL else os.kill)(pid, number)
    return [ended(pid) for pid in pids]


def differences(folder: Path, straight: Path) -> list[str]:
    """What is not as in the undisturbed run: weights, steps of the logs, versions of them."""
    from safetensors.torch import load_file

    found = []
    for stage, steps in STAGES.items():
        ours, theirs = (load_file(at / "run" / stage / "model" / "model.safetensors") for at in (folder, straight))
        worst = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
        if worst or ours.keys() != theirs.keys():
            found.append(f"{stage}: weights differ by up to {worst:.1e}")
        logs = [rows_of(at / "run" / stage / "log") for at in (folder, straight)]
        if logs[0] != logs[1]:
            found.append(f"{stage}: logs differ: {list(logs[0])} for {list(logs[1])}")
        trained = [step for step, *_ in logs[0] if step < steps]
        if sorted(set(trained)) != list(range(steps)):
            found.append(f"{stage}: steps {trained}")
    return found


def rows_of(log: Path) -> list[tuple[int, str, str]]:
    """(step, loss, validation accuracy) of every row of a log, which must be in one version."""
    (path,) = log.rglob("metrics.csv")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [(int(row["step"]), row.get("train/loss", ""), row.get("val/accuracy/audio", "")) for row in rows]


class Job:
    """One folder with a recipe that is started, ended and continued until it is done."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self.folder, self.ranks, self.log = folder, ranks, folder / "log.txt"

    def fresh(self, prepared: Path | None) -> None:
        """Empties the folder; prepared: of a job whose data, and the stages' configurations, are taken."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "run").mkdir(parents=True)
        (self.folder / "recipe.yaml").write_text(RECIPE.replace("OUT", str(self.folder / "run")))
        for stage in STAGES if prepared is not None and self.ranks > 1 else ():
            text = (prepared / "run" / stage / "config.yaml").read_text()
            config = self.folder / "run" / stage / "config.yaml"
            config.parent.mkdir(parents=True)
            moved = text.replace(f"{prepared}/run/{stage}", f"{self.folder}/run/{stage}")
            config.write_text(moved.replace(f"{prepared}/run/sft/model", f"{self.folder}/run/sft/model"))

    def finish(self) -> None:
        """Runs to the end; RuntimeError with the last lines of its log where it does not get there."""
        codes = [ended(pid) for pid in start(self.folder, self.ranks, self.log)]
        if any(codes):
            raise RuntimeError(f"codes {codes}: {self.log.read_text()[-3000:]}")


def kill_once(job: Job, moment: str, way: str, draw: random.Random) -> str | None:
    """One start and its end; None where the job was done before the moment came, else what is said of it."""
    begin = time.monotonic()
    most = 100_000 if way == "full disk" else None
    pids = start(job.folder, job.ranks, job.log, most)
    if way == "full disk":
        codes = [ended(pid) for pid in pids]
        if not any(codes):
            return None
        if "File too large" not in job.log.read_text():
            raise RuntimeError(f"no sentence about the disk: {job.log.read_text()[-3000:]}")
    else:
        if not wait_for(moment, job.folder, pids[0], draw):
            codes = [ended(pid) for pid in pids]
            if any(codes):
                raise RuntimeError(f"codes {codes}: {job.log.read_text()[-3000:]}")
            return None
        codes = end_all(pids, way)
    allowed = {CODES[way], -15} if way == "SIGTERM" else {CODES[way]}  # before training listens, SIGTERM just ends it
    if not set(codes) <= allowed | ({0} if way == "SIGTERM" else set()):
        raise RuntimeError(f"{way} at {moment}: codes {codes}: {job.log.read_text()[-3000:]}")
    return f"codes {codes}, {time.monotonic() - begin:.1f} s"


def main() -> int:
    """Runs the kills one after the other; returns the number of lives that ended otherwise than undisturbed."""
    parser = argparse.ArgumentParser(description="kill a run at random moments, compare its end bit for bit")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder to work in; it is emptied")
    given = parser.parse_args()
    out = (given.out or Path(tempfile.mkdtemp(prefix="kills-"))).resolve()
    draw, bad = random.Random(given.seed), 0
    from earwitness.commands import lightning_cli  # noqa: F401  imported once, before all forks

    straight = {ranks: Job(out / f"straight-{ranks}", ranks) for ranks in (1, 2)}
    jobs = {ranks: Job(out / f"killed-{ranks}", ranks) for ranks in (1, 2)}
    for ranks, job in straight.items():
        job.fresh(straight[1].folder)
        job.finish()
        jobs[ranks].fresh(straight[1].folder)
    done, lives, touched = 0, 0, {1: False, 2: False}

    def over(ranks: int) -> None:
        nonlocal bad, lives
        found = differences(jobs[ranks].folder, straight[ranks].folder)
        lives, bad = lives + 1, bad + bool(found)
        touched[ranks] = False
        print(f"   a life of {ranks} rank(s) ended: {'; '.join(found) or 'bitwise the undisturbed one'}", flush=True)

    while done < given.kills:
        ranks, moment = 1 + done % 2, draw.choice(list(MOMENTS))
        way = draw.choices(WAYS, (5, 3, 1))[0]
        if way == "full disk" and not any(jobs[ranks].folder.glob("run/*/checkpoints/step-*")):
            way = "SIGKILL"  # it is to meet a run that has something to lose
        said = kill_once(jobs[ranks], moment, way, draw)
        if said is None:
            over(ranks)
            jobs[ranks].fresh(straight[1].folder)
            continue
        done, touched[ranks] = done + 1, True
        print(f"{done:>3} {ranks} rank(s), {way} at {moment}: {said}", flush=True)
    for ranks in (1, 2):
        if touched[ranks]:
            jobs[ranks].finish()
            over(ranks)
    print(f"{done} kills, {lives} lives, {bad} of them ended otherwise")
    if given.out is None:
        shutil.rmtree(out)
    return bad


if __name__ == "__main__":
    sys.exit(main())
