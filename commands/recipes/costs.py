"""What a recipe would take: GPU-hours by a stated model, memory of a GPU, storage. No weights and no GPU are needed.

A recipe that has the key `costs` is counted by its dry run. Passes take their floating-point operations, counted from
the layers and the recordings' lengths, over what the GPUs can do times an assumed utilisation (`mfu`). Sampling takes
`position_s` for every position that the longest answer of a batch has, whatever its size. Where the table of questions
is not there yet, a made-up one with AudioMCQ's published counts stands in for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...configs.typed import read
from ...curriculum.arrays import Floats
from ...curriculum.plan.plan import Plan
from ...curriculum.preview.preview import stage_rows
from ...curriculum.preview.synthetic import audiomcq_table, over_a_made_up_table
from ...curriculum.schedule.named import curriculum_of
from ...curriculum.table import Table, read_table
from ...errors import InputError
from ...lightning_modules.callbacks.peaks import PEAK_TFLOPS, peak_flops
from ...lightning_modules.policy.adapters import Lora
from ...lightning_modules.policy.flops import ReadingCost, Row
from ...lightning_modules.policy.memory import counts_of, outline
from ..training.architectures import architecture_of
from ..training.memory_table import memory_needs

# Questions of the published files; of others nobody knows before they are opened.
_BENCHMARKS = {"mmau": 1_000, "mmar": 1_000, "mmsu": 5_000, "trea": 600}
_UNKNOWN, _LOOKED_AT = 2_000, 512
_TEXT, _SAID = (14, 96), 16  # positions of text before and after the sound; of an answer in its tags
_FLAC = 0.55  # of the bytes of 16-bit sound


@dataclass(frozen=True)
class Machine:
    """The GPUs that are counted with.

    Args:
        gpu: name, as the driver gives it, of one whose peak is known. gb: its memory, in 1e9 bytes.
        mfu: assumed share of the peak in passes. position_s: assumed seconds for one more position of all answers.
    """

    gpu: str = "A100"
    gb: float = 80.0
    mfu: float = 0.35
    position_s: float = 0.04

    def __post_init__(self) -> None:
        if peak_flops(self.gpu) is None:
            raise InputError(f"gpu: of {self.gpu!r} no peak is known; there are {', '.join(n for n, _ in PEAK_TFLOPS)}")
        if not 0 < self.mfu <= 1 or self.position_s < 0 or self.gb <= 0:
            raise InputError(f"mfu lies in (0, 1], position_s and gb are positive; got {self}")

    @property
    def flops_per_s(self) -> float:
        """What a GPU is assumed to do."""
        return float(peak_flops(self.gpu) or 0.0) * self.mfu


class StepCost(NamedTuple):
    """What a step takes. batches: of training, or rounds of asking. memory: bytes of a GPU, where they are counted."""

    name: str
    batches: int
    questions: int
    flops: float
    gpu_hours: float
    gpus: int
    memory: float | None = None


class Takes:
    """What a recipe takes, its steps counted one after the other.

    spec: the whole recipe, resolved, with `costs`. steps: those that take GPUs. stored: bytes, by what they are of.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.machine = read(Machine, spec["costs"], "costs: ")
        self.table, self.made_up = _table_of(spec)
        self.seconds: Floats = np.asarray(self.table.columns["duration_s"], float)
        self.architecture: Any = None
        self.stored: dict[str, float] = {}
        self.notes: list[str] = []
        self._policies: dict[str, tuple[Any, ReadingCost]] = {}
        way = "take `costs` out of the recipe, or count once its questions and labels are there"
        with over_a_made_up_table(way if self.made_up else None):
            self.steps = [cost for name, step in spec["steps"].items() for cost in self._step(name, step)]

    def lines(self) -> list[str]:
        """What is printed of it."""
        machine = self.machine
        lines = [
            f"what it takes on {machine.gpu} with {machine.gb:g} GB, if passes do {100 * machine.mfu:g} % of "
            f"{(peak_flops(machine.gpu) or 0) / 1e12:g} TFLOPs and a sampled position takes {machine.position_s:g} s:",
            f"  {'':<28}{'batches':>9}{'questions':>12}{'FLOPs':>10}{'GPUs':>6}{'GPU-hours':>11}{'hours':>8}"
            f"{'GB a GPU':>10}",
        ]
        lines += [_line(cost, machine) for cost in self.steps]
        hours = sum(cost.gpu_hours for cost in self.steps)
        lines.append(
            f"  {'in all':<28}{'':>37}{hours:>11.1f}{sum(one.gpu_hours / one.gpus for one in self.steps):>8.1f}"
        )
        lines += [f"  {note}" for note in self.notes]
        stored = ", ".join(f"{name} {size / 1e9:,.0f} GB" for name, size in self.stored.items())
        lines.append(f"  storage: {stored}; in all {sum(self.stored.values()) / 1e9:,.0f} GB")
        weak = int((self.table.text("label").codes == list(self.table.text("label").names).index("weak")).sum())
        of = "made up, with AudioMCQ's published counts" if self.made_up else "those that are there"
        lines.append(
            f"  questions: {of}; {len(self.table):,}, {weak:,} of them weak, {hours_of(self.table):,.0f} hours of sound"
        )
        return lines

    def _step(self, name: str, step: Mapping[str, Any]) -> list[StepCost]:
        if step["do"] == "shard":
            self.stored["recordings as flac"] = 3600 * 32_000 * _FLAC * hours_of(self.table)
        elif step["do"] == "fit":
            return [self._fit(name, step)]
        elif step["do"] in ("predict", "test", "validate"):
            policy = step["model"]["init_args"]["policy"]["init_args"]
            return [self._asked(name, policy, *_pool(self.table, step))]
        elif step["do"] == "ask_benchmarks":
            chosen = [files.get("benchmark") or one for one, files in step["benchmarks"].items() if files is not None]
            questions = sum(_BENCHMARKS.get(one, _UNKNOWN) for one in chosen) * _orders(step.get("rotations", 1))
            how = (step.get("conditions"), int(step.get("batch_size", 16)), int(step.get("devices", 1)))
            return [self._asked(name, {"checkpoint": step["checkpoint"]}, questions, *how)]
        elif step["do"] == "label_by_voters":
            return self._voters(name, step)
        return []

    def _fit(self, name: str, step: Mapping[str, Any]) -> StepCost:
        model, training = step["model"]["init_args"], step["data"]["init_args"]["training"]
        plan = Plan(curriculum_of(training["curriculum"]), self.table)
        stage = plan.stage_plan(training["stage"])
        gpus = int(step["trainer"].get("devices", 1)) * int(step["trainer"].get("num_nodes", 1))
        policy, cost = self._policy(model["policy"]["init_args"])
        seconds = self.seconds[stage_rows(plan, training["stage"])]
        group = model.get("rollout") or {}
        answers = (_SAID,) * int(group.get("group_size", 8)) if stage.stage.algorithm == "grpo" else (_SAID,)
        rows = _rows(seconds, answers)
        flops = cost.read(rows, backward=True)
        positions = 0
        if stage.stage.algorithm == "grpo":
            beta = float((model.get("objective") or {}).get("beta", 0.0))
            flops += cost.sampled(rows) + (cost.read(rows) if beta else 0.0)
            positions = stage.steps * int(group.get("max_new_tokens", 32))
        flops *= stage.presented / len(rows)
        hours = flops / self.machine.flops_per_s / 3600 + gpus * positions * self.machine.position_s / 3600
        strategy = "fsdp2" if "FSDP2" in str(step["trainer"].get("strategy")) else "ddp"
        longest = float(np.nanmax(self.seconds))
        needs = memory_needs(step, self.architecture, gpus, [strategy], longest).of[strategy]
        counts = counts_of(policy)
        kept = 1 + int((_keep_of(step) or {}).get("last", 2))  # one more while it is written
        self.stored[f"{name}: {kept} checkpoints"] = 12.0 * counts.trained * kept
        self.stored[f"{name}: the model"] = 2.0 * _exported(policy)
        return StepCost(name, stage.steps, stage.presented, flops, hours, gpus, needs.total)

    def _voters(self, name: str, step: Mapping[str, Any]) -> list[StepCost]:
        """Voters that are loaded here, as large as the policy; a server's hours are its own."""
        costs = []
        for voter in step["voters"]:
            questions = len(self.table) * _orders(voter.get("rotations", "all"))
            if "endpoint" in voter:
                self.notes.append(
                    f"{voter['name']}: {questions:,} questions are asked at a server, which is not counted"
                )
            if "checkpoint" in voter:
                how = (step.get("conditions"), int(voter.get("batch_size", 16)), int(voter.get("devices", 1)))
                costs.append(self._asked(f"{name}, {voter['name']}", {}, questions, *how))
        return costs

    def _asked(
        self, name: str, policy: Mapping[str, Any], count: int, conditions: Any, size: int, gpus: int
    ) -> StepCost:
        """Of so many questions under these conditions; of silence the 30 s that are heard."""
        (_, cost), flops = self._policy(policy), 0.0
        conditions = conditions or ("audio", "silence")
        for condition in conditions:
            rows = _rows(np.full(1, 30.0) if condition == "silence" else self.seconds, (_SAID,))
            flops += cost.sampled(rows) * count / len(rows)
        questions = count * len(conditions)
        rounds = -(-questions // (size * gpus))
        hours = flops / self.machine.flops_per_s / 3600 + gpus * rounds * _SAID * self.machine.position_s / 3600
        return StepCost(name, rounds, questions, flops, hours, gpus)

    def _policy(self, given: Mapping[str, Any]) -> tuple[Any, ReadingCost]:
        """The policy without its weights, and what it costs; one that a step writes is as large as the one before."""
        checkpoint = given.get("checkpoint")
        found = None if checkpoint is None else architecture_of(str(checkpoint))
        self.architecture = found or self.architecture or architecture_of("Qwen/Qwen2.5-Omni-7B")
        kept = {name: given[name] for name in ("train", "gradient_checkpointing") if given.get(name) is not None}
        if given.get("lora") is not None:
            kept["lora"] = Lora(**given["lora"])
        key = f"{id(self.architecture)} {kept}"
        if key not in self._policies:
            policy = outline(self.architecture, **kept)
            self._policies[key] = policy, ReadingCost(policy)
        return self._policies[key]


def cost_lines(spec: Mapping[str, Any]) -> list[str]:
    """What a recipe takes, as lines; none for a recipe without the key `costs`.

    spec: the whole recipe, resolved. InputError for a GPU that is not known, or a curriculum that does not fit.
    """
    return Takes(spec).lines() if spec.get("costs") else []


def _line(cost: StepCost, machine: Machine) -> str:
    memory = "" if cost.memory is None else f"{cost.memory / 1e9:.0f}"
    wrong = "   more than there is" if cost.memory is not None and cost.memory > 1e9 * machine.gb else ""
    return (
        f"  {cost.name:<28}{cost.batches:>9,}{cost.questions:>12,}{cost.flops:>10.1e}{cost.gpus:>6}"
        f"{cost.gpu_hours:>11.1f}{cost.gpu_hours / cost.gpus:>8.1f}{memory:>10}{wrong}"
    )


def _table_of(spec: Mapping[str, Any]) -> tuple[Table, bool]:
    """The training questions with their labels where both are there, else a made-up table; whether it is made up."""
    for step in spec["steps"].values():
        data = (step.get("data") or {}).get("init_args") or {}
        if step["do"] == "fit" and Path(data["index"]).is_file() and Path(str(data.get("labels"))).is_file():
            table = read_table(data["index"], data["labels"])
            return table.take(table.where({"split": "train"})), False
    return audiomcq_table(), True


def hours_of(table: Table) -> float:
    """Hours of different recordings in a table."""
    _, first = np.unique(np.asarray(table.columns["clip"]), return_index=True)
    return float(np.nansum(np.asarray(table.columns["duration_s"], float)[first])) / 3600


def _rows(seconds: Floats, answers: Sequence[int]) -> list[Row]:
    """Prompts about recordings of so many seconds [N], each answered by so many tokens; some where there are many."""
    some = seconds[~np.isnan(seconds)][:: max(1, len(seconds) // _LOOKED_AT)]
    before, after = _TEXT
    return [
        Row(place, round(100 * one), before + round(25 * one), after, tuple(answers))
        for place, one in enumerate(some.tolist())
    ]


def _pool(table: Table, step: Mapping[str, Any]) -> tuple[int, Any, int, int]:
    """(questions, conditions, batch size, GPUs) of a step that asks held-out questions."""
    data = step["data"]["init_args"].get("evaluation") or {}
    asked = len(table.where(data.get("pool") or {})) if "split" in table.columns else round(0.005 * len(table))
    return (
        asked,
        data.get("conditions") or ["audio"],
        int(data.get("batch_size", 16)),
        int(step["trainer"].get("devices", 1)),
    )


def _orders(rotations: Any) -> int:
    return 4 if rotations == "all" else int(rotations)


def _keep_of(step: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for callback in step["trainer"].get("callbacks") or ():
        if str(callback["class_path"]).endswith(".Checkpoints"):
            return dict(callback["init_args"].get("keep") or {})
    return None


def _exported(policy: Any) -> int:
    """Weights of the thinker that is written: without adapters, which are merged."""
    return sum(p.numel() for name, p in policy.base.named_parameters() if ".lora_" not in name)
