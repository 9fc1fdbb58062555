"""How fast a run is and when it will be done: rates of the wall clock over all ranks, utilisation, memory, shares."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from typing import Any, cast

import lightning as L
import numpy as np

from ...curriculum.plan.remaining import step_costs
from ...errors import InputError
from ..step.work import Work
from .clock import Clock, Validating
from .peaks import device_peak

_PAUSES = ("validation", "checkpoint")  # what no rate is about


class Throughput(L.Callback):
    """Logs how fast every step was, and shows means of the last 20 steps and the time left with the progress.

    Logged per step: `speed/samples_per_s`, `speed/tokens_per_s`, `speed/audio_hours_per_s` (sound presented per second
    of wall clock, over all ranks, without validation and checkpoints), `speed/mfu` (model FLOPs over what the devices
    can do), `memory/peak_gb` (of 1e9 bytes; the fullest rank's), `time/{part}` (share of the step's wall clock:
    rollout, update, data_wait, validation, checkpoint, ...), and `time/left_s`. Every run has one; name it among the
    callbacks to give it another peak.

    Args:
        peak_tflops: what one device can do, in 1e12 FLOPs a second; by default what its data sheet says of dense bf16.
            On a CPU or a device that is not in the table nothing is logged about utilisation unless it is given.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        if peak_tflops is not None and not peak_tflops > 0:
            raise InputError(f"Throughput: peak_tflops must be positive, got {peak_tflops}")
        self.peak_tflops = peak_tflops
        self.shown: dict[str, str] = {}  # what a progress bar says
        self.clock = Clock()
        self._recent: deque[tuple[float, Work]] = deque(maxlen=20)

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Listens to the trainer's clock, and goes before the other callbacks, which may show or log what it says."""
        if stage == "fit":
            self.clock.listen(trainer.profiler)  # type: ignore[attr-defined]
            kept = [one for one in cast(Any, trainer).callbacks if one is not self and not isinstance(one, Validating)]
            trainer.callbacks = [Validating(self.clock), self, *kept]  # type: ignore[attr-defined]

    def teardown(self, *_: Any, **__: Any) -> None:
        """Lets go of the trainer's clock."""
        self.clock.leave()

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Begins to count; what was before the first batch belongs to no step."""
        given = None if self.peak_tflops is None else self.peak_tflops * 1e12
        self.peak = device_peak(pl_module.device) if given is None else given
        self.left = TimeLeft(pl_module)
        self._recent.clear()
        self.clock.lap()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """The step begins; its phases are those of this batch."""
        self._began = time.perf_counter()
        if phases := getattr(pl_module, "phases", None):
            phases.begin()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs the step that ended."""
        stepped = time.perf_counter() - self._began
        whole, parts = self.clock.lap()
        phases = pl_module.phases.seconds() if hasattr(pl_module, "phases") else {}
        phases = {name[len("time/") : -len("_s")]: seconds for name, seconds in phases.items()} or {"update": stepped}
        parts |= phases
        work, seconds = pl_module.work, max(whole - sum(parts.get(name, 0.0) for name in _PAUSES), 1e-9)
        if work is None:
            return
        self._recent.append((seconds, work))
        logged = self._rates(seconds, [work], trainer.world_size)
        logged |= {f"time/{name}": parts.get(name, 0.0) / whole for name in ("data_wait", *_PAUSES, *phases)}
        logged["memory/peak_gb"] = work.peak_bytes / 1e9
        left = self.left.after(batch.step, whole)
        if left is not None:
            logged["time/left_s"] = left
        pl_module.log_dict(logged)
        self._show(trainer.world_size, logged)

    def _rates(self, seconds: float, works: list[Work], ranks: int) -> dict[str, float]:
        samples, tokens, audio_s, flops = (
            sum(getattr(work, name) for work in works) / seconds for name in ("samples", "tokens", "audio_s", "flops")
        )
        rates = {
            "speed/samples_per_s": samples,
            "speed/tokens_per_s": tokens,
            "speed/audio_hours_per_s": audio_s / 3600,
        }
        if self.peak is not None:
            rates["speed/mfu"] = flops / (self.peak * ranks)
        return rates

    def _show(self, ranks: int, logged: dict[str, float]) -> None:
        """Prepares the words for a progress bar."""
        recent = self._rates(sum(s for s, _ in self._recent), [work for _, work in self._recent], ranks)
        self.shown = {
            "samples/s": f"{recent['speed/samples_per_s']:.2f}",
            "tokens/s": f"{recent['speed/tokens_per_s']:,.0f}",
            "audio_h/s": f"{recent['speed/audio_hours_per_s']:.4f}",
        }
        if "speed/mfu" in recent:
            self.shown["MFU"] = f"{100 * recent['speed/mfu']:.1f}%"
        self.shown["memory"] = f"{logged['memory/peak_gb']:.1f}GB"
        if "time/left_s" in logged:
            self.shown["left"] = clock_time(logged["time/left_s"])


class TimeLeft:
    """How long the rest of a stage takes: its cost in the curriculum's FLOPs, at the pace of the steps so far.

    A stage that alternates has a pace for each of its algorithms; those that had no turn yet go at the others' pace.
    """

    def __init__(self, module: Any) -> None:
        self.module, self.steps = module, module.total_steps()
        self._paces: dict[str, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=50))
        self._look()

    def _look(self) -> None:
        data = self.module.data
        costs, self.turns = step_costs(data.plan, data.spec.stage)
        self.unknown = np.isnan(costs)
        mean = costs[~self.unknown].mean() if not self.unknown.all() else 1.0
        self.costs = np.where(self.unknown, mean, costs)
        self.costs[self.steps :] = 0.0
        turns = np.array(self.turns)
        own = {name: np.where(turns == name, self.costs, 0.0) for name in set(self.turns)}
        self._later = {name: costs.sum() - costs.cumsum() for name, costs in own.items()}  # [S] what follows each step

    def after(self, step: int, seconds: float) -> float | None:
        """Seconds from the end of this step, which took so many, to the stage's; None where the plan has no such step.

        seconds: of wall clock, validation and checkpoints included, as these will come again.
        """
        if not 0 <= step < len(self.costs):
            return None
        if self.unknown[step]:
            self._look()
        self._paces[self.turns[step]].append((seconds, float(self.costs[step])))
        common = _pace([each for pace in self._paces.values() for each in pace])
        paces = {name: _pace(self._paces[name]) if self._paces.get(name) else common for name in self._later}
        return float(sum(max(later[step], 0.0) * paces[name] for name, later in self._later.items()))


def _pace(steps: Any) -> float:
    """Seconds per FLOP."""
    return float(sum(seconds for seconds, _ in steps) / max(sum(cost for _, cost in steps), 1e-9))


def clock_time(seconds: float) -> str:
    """Hours, minutes and seconds: `1:05:09`, `3 d 02:00:00`."""
    days, rest = divmod(round(seconds), 86400)
    hours, minutes, left = rest // 3600, rest % 3600 // 60, rest % 60
    return f"{days} d {hours:02}:{minutes:02}:{left:02}" if days else f"{hours}:{minutes:02}:{left:02}"


def measured(trainer: L.Trainer | None) -> list[L.Callback]:
    """A Throughput, where the trainer has none of its own."""
    callbacks = [] if trainer is None else cast(Any, trainer).callbacks
    return [] if any(isinstance(each, Throughput) for each in callbacks) else [Throughput()]


def shown(trainer: L.Trainer) -> dict[str, str]:
    """What the trainer's Throughput has to say, for a progress bar."""
    found = [each.shown for each in cast(Any, trainer).callbacks if isinstance(each, Throughput)]
    return found[0] if found else {}
