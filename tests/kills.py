"""Kills a run of SFT and GRPO at random moments and compares its end with an undisturbed one's, bit for bit.

    python tests/kills.py [--kills 30] [--seed 1] [--worlds 1,2-ddp,4-fsdp2] [--ways ...] [--moments ...] [--out FOLDER]

Moments: while a step trains or validates, while completions are sampled, while a checkpoint or the model is written,
between two steps of the recipe, in `earwitness export`. Ways: SIGKILL and SIGTERM, to all processes or to one, SLURM's
SIGUSR1, a disk that is full. One process runs the recipe `kills.yaml` (`earwitness run`), several run its two
configurations (`earwitness fit`) under the variables of torchrun or SLURM. It ends with 1 where weights or logs differ.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from earwitness.tests.forks import ended, fake_scontrol, forked, meeting, running, slurm_meeting
from earwitness.tests.places import TESTS

STAGES = {"sft": 10, "grpo": 8}  # with their steps
WORLDS = ("1", "2-ddp", "2-fsdp2", "4-ddp", "4-fsdp2")
STRATEGIES = {"ddp": "ddp", "fsdp2": "earwitness.FSDP2"}
WATCHED = {"checkpoint": "*/checkpoints/*.partial", "between": "grpo/checkpoints/run.json"}
WATCHED |= {"model": "*/.model.partial", "command": "exported/.*.partial"}
MOMENTS = ("step", "rollout", *WATCHED)
WAYS = {
    "SIGKILL": 4,
    "one SIGKILL": 2,
    "SIGTERM": 3,
    "one SIGTERM": 1,
    "SIGUSR1": 2,
    "full disk": 3,
}  # how often, in turn
CODES = {"SIGTERM": 143, "one SIGTERM": 143, "SIGUSR1": 138}
DISK = 256 << 20


class Job:
    """One folder with a recipe that is started, ended and continued until it is done.

    straight: the undisturbed job in the same world, None for that itself. disk: whether the run's folder is a file
    system of its own, of which all but a little can be taken away.
    """

    def __init__(self, folder: Path, world: str, prepared: Path | None, straight: Job | None, disk: bool) -> None:
        self.folder, self.world, self.prepared, self.straight = folder, world, prepared, straight
        ranks, _, strategy = world.partition("-")
        self.ranks, self.strategy = int(ranks), strategy
        self.run, self.log = folder / "run", folder / "log.txt"
        self.told, self.disk, self.kills = fake_scontrol(folder / "bin"), disk, 0
        self.log.touch()
        if disk:
            self.run.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", self.run], check=True)
        self.fresh()

    def fresh(self) -> None:
        """Empties the folder of the run, but for the stages' configurations where there are several ranks."""
        self.kills = 0
        self.run.mkdir(exist_ok=True)
        for path in self.run.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (self.folder / "recipe.yaml").write_text((TESTS / "kills.yaml").read_text().replace("OUT", str(self.run)))
        for stage in STAGES if self.prepared and self.ranks > 1 else ():
            text = (self.prepared / stage / "config.yaml").read_text()
            (self.run / stage).mkdir()
            for own in STAGES:  # the corpus and its tiny model stay where they are
                text = text.replace(f"{self.prepared}/{own}", f"{self.run}/{own}")
            (self.run / stage / "config.yaml").write_text(text)

    def start(self, slurm: bool = False, most_bytes: int | None = None) -> list[int]:
        """Starts it, or goes on with it; returns the process of each rank."""
        from earwitness.commands.cli import main

        def act() -> None:
            if self.ranks == 1:
                return main(["run", str(self.folder / "recipe.yaml")])
            for stage in STAGES:
                words = ["--trainer.devices", str(self.ranks), "--trainer.strategy", STRATEGIES[self.strategy]]
                main(["fit", "--config", str(self.run / stage / "config.yaml"), *words])
            return None

        places = slurm_meeting(self.ranks, self.told.parent) if slurm else meeting(self.ranks)
        return [forked(act, self.log, place if self.ranks > 1 or slurm else {}, most_bytes) for place in places]

    def finish(self) -> None:
        """Runs to the end; RuntimeError with the last lines of its log where it does not get there."""
        codes = [ended(pid) for pid in self.start()]
        if any(codes):
            raise RuntimeError(f"codes {codes}: {self.log.read_text()[-3000:]}")

    def export(self, stage: str) -> int:
        """Starts `earwitness export` of what a stage has saved."""
        from earwitness.commands.cli import main

        words = ["export", str(self.run / stage), "--to", str(self.run / "exported" / stage)]
        return forked(lambda: main(words), self.log, {})

    def size_disk(self, left: int | None) -> None:
        """Has the disk have so many bytes left, None for enough."""
        place = os.statvfs(self.run)
        size = DISK if left is None else (place.f_blocks - place.f_bfree) * place.f_frsize + left
        subprocess.run(["mount", "-o", f"remount,size={size}", self.run], check=True)

    def seconds(self, stage: str) -> float:
        """How long the stage takes from its first step to its model."""
        begin, end = (self.run / stage / name for name in ("curriculum.json", "model"))
        return max(end.stat().st_mtime - begin.stat().st_mtime, 1.0)


def times(run: Path, pattern: str) -> dict[Path, int]:
    """When each file that is there was written."""
    found = {}
    for path in run.glob(pattern):
        with suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime_ns
    return found


def wait_for(job: Job, moment: str, pid: int, draw: random.Random) -> bool:
    """Returns when the moment has come, False where the process ended before."""
    stage = {"step": "sft", "rollout": "grpo"}.get(moment)
    pattern = WATCHED.get(moment, f"{stage}/curriculum.json")  # written when training starts
    seen, pause = times(job.run, pattern), draw.random()
    while running(pid):
        if any(seen.get(path) != time for path, time in times(job.run, pattern).items()):
            time.sleep(pause * (job.straight.seconds(stage) if stage and job.straight else 0.01))
            return running(pid)
        time.sleep(0.0005)
    return False


def end_all(pids: list[int], way: str, draw: random.Random) -> list[int]:
    """Signals all processes of a job with all they started, or one, and returns their exit codes."""
    for pid in [draw.choice(pids)] if way.startswith("one ") else pids:
        with suppress(ProcessLookupError):
            (os.killpg if way.endswith("SIGKILL") else os.kill)(pid, signal.Signals[way.removeprefix("one ")])
    return [ended(pid) for pid in pids]


def kill_once(job: Job, moment: str, way: str, draw: random.Random) -> str | None:
    """One start and its end; None where the job was done before the moment came, else what is said of it."""
    begin, before, told = time.monotonic(), len(job.log.read_text()), len(job.told.read_text())
    if way == "full disk" and job.disk:
        job.size_disk(int(draw.random() * 1.5e6))
    if moment == "command":
        pids = [job.export("sft")]
    else:
        pids = job.start(way == "SIGUSR1", 100_000 if way == "full disk" and not job.disk else None)
    came = way == "full disk" or wait_for(job, moment, pids[0], draw)
    codes = end_all(pids, way, draw) if came and way != "full disk" else [ended(pid) for pid in pids]
    if job.disk:
        job.size_disk(None)
    if not any(codes):
        return None
    said = job.log.read_text()[before:]
    fault = fault_of(way, codes, said, job.told.read_text()[told:]) if came else "by itself"
    job.kills += 1
    return f"codes {codes}, {time.monotonic() - begin:.1f} s" + (f" FAULT: {fault}: {said[-3000:]}" if fault else "")


def fault_of(way: str, codes: list[int], said: str, queued: str) -> str | None:
    """What is wrong with the end that a way gave, None where nothing is: codes, words, how often it saved or queued."""
    expected = {"SIGKILL": {-9}, "one SIGKILL": {-9, 1}, "full disk": {1}}
    if way in CODES:  # before training listens a signal just ends a process, which others then miss
        early = -signal.Signals[way.removeprefix("one ")]
        expected[way] = {CODES[way], early, 0} | ({1} if early in codes else set())
    if not set(codes) <= expected[way]:
        return "other codes"
    if way == "full disk" and not re.search(r"^error: .*(No space left on device|File too large)", said, re.M):
        return "no word of the disk"
    if said.count(": saved ") > 1:
        return "saved more than once"
    if way == "SIGUSR1" and queued != ("requeue 77\n" if CODES[way] in codes else ""):
        return f"scontrol was told {queued!r}"
    return "a traceback" if "Traceback" in said and way != "SIGKILL" else None


def differences(job: Job, straight: Job) -> list[str]:
    """What is not as in the undisturbed run: weights, their export by the command, steps of the logs, versions."""
    from safetensors.torch import load_file

    found = []
    for stage, steps in STAGES.items():
        if code := ended(job.export(stage)):
            found.append(f"{stage}: export ended with {code}")
        theirs = load_file(straight.run / stage / "model" / "model.safetensors")
        for place in (job.run / stage / "model", job.run / "exported" / stage):
            ours = load_file(place / "model.safetensors")
            worst = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
            if worst or ours.keys() != theirs.keys():
                found.append(f"{place}: weights differ by up to {worst:.1e}")
        logs = [rows_of(at.run / stage / "log") for at in (job, straight)]
        if logs[0] != logs[1]:
            found.append(f"{stage}: logs differ: {logs[0]} for {logs[1]}")
        trained = [step for step, loss, _ in logs[0] if loss]
        if trained != list(range(steps)):
            found.append(f"{stage}: steps {trained}")
    return found


def rows_of(log: Path) -> list[tuple[int, str, str]]:
    """(step, loss, validation accuracy) of every row of a log, which must be in one version."""
    (path,) = log.rglob("metrics.csv")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [(int(row["step"]), row.get("train/loss", ""), row.get("val/accuracy/audio", "")) for row in rows]


def can_mount(folder: Path) -> bool:
    """Whether this process may make a file system of its own, whose size it decides."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False)
    if not done.returncode:
        subprocess.run(["umount", folder], check=True)
    return not done.returncode


def kill_all(jobs: list[Job], kills: int, ways: list[str], moments: list[str], draw: random.Random) -> int:
    """Makes so many kills, one job after the other, and prints each; returns how many faults there were."""
    done, lives, bad, counts = 0, 0, 0, Counter()

    def over(job: Job) -> None:
        nonlocal lives, bad
        found = differences(job, job.straight or job)
        lives, bad = lives + 1, bad + bool(found)
        print(f"   a life of {job.world} after {job.kills} kills: {'; '.join(found) or 'bitwise equal'}", flush=True)
        job.fresh()

    while done < kills:
        job = jobs[done % len(jobs)]
        way = draw.choices(ways, [WAYS[name] for name in ways])[0]
        moment = draw.choice(moments)
        saved = any(job.run.glob("sft/checkpoints/step-*[0-9]"))
        if way == "full disk" and not saved:
            way = "SIGKILL"  # it is to meet a run that has something to lose
        way = way.removeprefix("one ") if job.ranks == 1 or moment == "command" else way
        if moment == "command" and (way not in ("SIGKILL", "SIGTERM") or not saved):
            moment = "checkpoint"
        if (said := kill_once(job, moment, way, draw)) is None:
            if moment != "command":
                over(job)
            continue
        done, bad = done + 1, bad + ("FAULT" in said)
        counts[job.world, way, moment if way != "full disk" else "any"] += 1
        print(f"{done:>3} {job.world}, {way} at {moment}: {said}", flush=True)
    for job in jobs:
        if job.kills:
            job.finish()
            over(job)
    for what, number in sorted(counts.items()):
        print(f"   {number} x {', '.join(what)}")
    print(f"{done} kills, {lives} lives, {bad} faults")
    return bad


def main() -> int:
    """Runs the kills one after the other; returns how many of them, and of lives, ended otherwise."""
    parser = argparse.ArgumentParser(description="kill a run at random moments, compare its end bit for bit")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    for name, known in (("worlds", WORLDS), ("ways", WAYS), ("moments", MOMENTS)):
        parser.add_argument(f"--{name}", type=lambda text: text.split(","), default=list(known), help=",".join(known))
    parser.add_argument("--out", type=Path, help="folder to work in; it is emptied")
    given = parser.parse_args()
    out = (given.out or Path(tempfile.mkdtemp(prefix="kills-"))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    from earwitness.commands.training import lightning_cli  # noqa: F401  imported once, before all forks

    if not (disk := can_mount(out)):
        print("no right to mount a small disk: files are limited to 100 kB instead", flush=True)
    jobs: list[Job] = []
    try:
        first = Job(out / "straight-1", "1", None, None, False)
        first.finish()
        for world in given.worlds:
            straight = first if world == "1" else Job(out / f"straight-{world}", world, first.run, None, False)
            if straight is not first:
                straight.finish()
            jobs.append(Job(out / f"killed-{world}", world, first.run, straight, disk))
        return kill_all(jobs, given.kills, given.ways, given.moments, random.Random(given.seed))
    finally:
        for job in jobs if disk else ():
            subprocess.run(["umount", job.run], check=False)
        if given.out is None:
            shutil.rmtree(out)


if __name__ == "__main__":
    sys.exit(main())
