"""Knows where a run stands: a step, and for an adaptive stage what was observed and the windows planned from it.

A window is planned when the window `lag + 1` before it closes, so that a loader may prepare `lag` windows ahead and
nothing waits. All of it is whole numbers and floats: a checkpoint holds it, and a JSON file shows it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ..plan.compile import deal_block, pool_of
from ..plan.fingerprint import differences
from ..plan.plan import Plan
from ..schedule.feedback import SUMS, Observations
from ..schedule.stages import parse_curriculum
from ..table import Table
from .refill import Refill


class Cursor:
    """One run's position in one stage (or interleave) of a plan. `step` counts trained steps, never prepared ones.

    For an adaptive stage, create one cursor per plan: it fills in the plan's matrix, window by window.
    """

    def __init__(self, plan: Plan, stage: str) -> None:
        self.plan, self.stage, self.step = plan, stage, 0
        self._refills = {name: Refill(plan, name) for name in plan.members(stage)}
        self._adaptive = None if stage in plan.turns else plan.stage_plan(stage)
        if self._adaptive is not None and self._adaptive.stage.window is None:
            self._adaptive = None
        if self._adaptive is not None:
            self._open = np.zeros((len(SUMS), len(plan.cells)))
            self._debt = np.zeros(len(plan.cells))
            self._closed = 0
            feedback = self._adaptive.stage.feedback
            assert feedback is not None
            self._feedback = feedback
            self._state = feedback.start(plan.cells)
            self._plan_windows()

    @property
    def adapts(self) -> bool:
        """Whether the stage follows observations."""
        return self._adaptive is not None

    def live(self) -> dict[str, np.ndarray]:
        """[Q] columns as of the last closed window; empty for a static stage."""
        return self._feedback.columns(self._state, self.plan.cells) if self.adapts else {}

    def observe(self, seen: np.ndarray | Observations) -> None:
        """Adds observations, or their sums [8, Q] over all ranks, to the open window; nothing in a static stage."""
        if self.adapts:
            sums = seen.sums(len(self.plan.cells)) if isinstance(seen, Observations) else np.asarray(seen, float)
            if sums.shape != self._open.shape:
                raise ValueError(f"sums must have the shape {self._open.shape}, got {sums.shape}")
            self._open = self._open + sums

    def refill(self, stage: str, wanted: np.ndarray) -> dict[int, np.ndarray]:
        """Cell -> rows that nobody deals, `wanted` [Q] of each or what is left; they count as used from now on.

        An adaptive stage keeps, of the cells that its weight wants now, the cards that its budget still needs.
        """
        refill = self._refills[stage]
        if self._adaptive is None:
            return refill.take(wanted)
        dealt, cells = self._adaptive, self.plan.cells
        left = dealt.left - dealt.cards_per_cell() - refill.taken
        here = cells.at(left, pool_of(dealt.stage, cells), self.live())
        t = float(dealt.edges[dealt.planned - 1] + dealt.edges[dealt.planned]) / 2 / dealt.rows
        scarce = dealt.stage.weight.amounts(here, t, dealt.stage.mass_rule, may_be_empty=True) > 0
        return refill.take(wanted, scarce, int(left[scarce].sum()) - dealt.rows + int(dealt.edges[dealt.planned]))

    def trained(self, steps: int = 1) -> None:
        """Moves on by trained steps; the end of a window folds its sums in and plans another window."""
        for _ in range(steps):
            self.step += 1
            if self._adaptive is not None:
                window = self._adaptive.stage.window
                assert window is not None
                if self.step % window == 0 or self.step == self._adaptive.steps:
                    self._state = self._feedback.close(self._state, self._open)
                    self._open = np.zeros_like(self._open)
                    self._closed += 1
                    self._plan_windows()

    def _plan_windows(self) -> None:
        """Plans the windows up to `lag` behind the open one."""
        dealt = self._adaptive
        assert dealt is not None
        for block in range(dealt.planned, min(len(dealt.matrix), self._closed + 1 + dealt.stage.lag)):
            start, stop = dealt.edges[block : block + 2].tolist()
            row, self._debt = self._next_row(dealt.cards_per_cell(), stop - start, (start + stop) / 2 / dealt.rows)
            dealt.matrix[block, 1:] = row[1:]
            dealt.matrix[block, :1] = row[:1]  # last: loader processes look at it to see whether the window is there

    def _next_row(self, before: np.ndarray, cards: int, t: float) -> tuple[np.ndarray, np.ndarray]:
        assert self._adaptive is not None
        stage, cells = self._adaptive.stage, self.plan.cells
        left = self._adaptive.left - before - self._refills[self.stage].taken
        here = cells.at(left, pool_of(stage, cells), self.live())
        return deal_block(stage, here, cards, t, self._debt)

    def used(self) -> np.ndarray:
        """[N] bool: rows of the stages before this one, and of this one's steps so far (whole windows if it adapts)."""
        plan = self.plan
        used = np.zeros(len(plan.table), bool) if plan.used is None else plan.used.copy()
        members = self._members()
        for name, dealt in plan.stages.items():
            if name in members:
                break
            used[dealt.row_set()] = True
        for name, steps in members.items():
            dealt = plan.stage_plan(name)
            count = min(dealt.rows, steps * dealt.stage.batch_size)
            if dealt.stage.window is not None:  # windows are dealt whole
                count = int(dealt.edges[min(dealt.planned, -(-steps // dealt.stage.window))])
            used[plan.rows(name, np.arange(count))] = True
            used[self._refills[name].rows()] = True
        return used

    def _members(self) -> dict[str, int]:
        """Stage -> its steps so far; several where stages take turns."""
        if self.stage not in self.plan.turns:
            return {self.stage: self.step}
        turns = self.plan.turns[self.stage][: self.step]
        return {name: int((turns == place).sum()) for place, name in enumerate(self.plan.members(self.stage))}

    def state(self) -> dict[str, Any]:
        """Everything needed to continue, and what must be the same then: strings, numbers and lists alone."""
        state: dict[str, Any] = {
            "fingerprint": self.plan.fingerprint,
            "stage": self.stage,
            "step": self.step,
            "curriculum": json.loads(json.dumps(self.plan.curriculum.spec)),
            "described": json.loads(self.plan.curriculum.canonical()),
            "table": self.plan.table_checksums,
            "fork_of": self.plan.origin,
        }
        refilled = {name: each.taken.tolist() for name, each in self._refills.items() if each.taken.any()}
        if refilled:
            state["refilled"] = refilled
        if self._adaptive is not None:
            state["adaptive"] = {
                "closed": self._closed,
                "matrix": self._adaptive.matrix[: self._adaptive.planned].tolist(),
                "debt": self._debt.tolist(),
                "open": self._open.tolist(),
                "state": {name: values.tolist() for name, values in self._state.items()},
            }
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Continues from `state()`; an InputError names the key of the curriculum, or the table, that changed."""
        if state.get("stage") != self.stage:
            raise InputError(f"the checkpoint is of stage {state.get('stage')!r}, this run of {self.stage!r}")
        if state["fingerprint"] != self.plan.fingerprint:
            raise InputError(f"{self._changed(state)}; start the stage anew, or fork it with `replan`")
        self.step = int(state["step"])
        for name, refill in self._refills.items():
            refill.taken[:] = state.get("refilled", {}).get(name, 0)
        if self._adaptive is not None:
            kept = state["adaptive"]
            self._closed = int(kept["closed"])
            self._debt, self._open = np.array(kept["debt"], float), np.array(kept["open"], float)
            self._state = {name: np.array(values, float) for name, values in kept["state"].items()}
            self._adaptive.matrix[:] = -1
            self._adaptive.matrix[: len(kept["matrix"])] = np.array(kept["matrix"], np.int64)

    def _changed(self, state: Mapping[str, Any]) -> str:
        now = json.loads(self.plan.curriculum.canonical())
        for key, old, new in differences(state["described"], now):
            old, new = ("not there" if side is None else json.dumps(side) for side in (old, new))
            return f"the curriculum changed since the checkpoint: {key} was {old}, is {new}"
        rows = self.plan.table_checksums[0]
        if state["table"][0] != rows:
            return f"the table changed since the checkpoint: {state['table'][0]:,} rows then, {rows:,} now"
        return "the table changed since the checkpoint: as many rows, but other ones, or other labels"


def fork(state: Mapping[str, Any], table: Table) -> np.ndarray:
    """[N] bool of the rows that a run had used at `state`, over the same table: `Plan(other, table, used)` goes on."""
    origin = state.get("fork_of")
    plan = Plan(parse_curriculum(state["curriculum"]), table, None if origin is None else fork(origin, table), origin)
    cursor = Cursor(plan, state["stage"])
    cursor.load(state)
    return cursor.used()


def read_state(path: str | Path) -> dict[str, Any]:
    """The state that a run left as JSON."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such state of a curriculum; a run writes it where `record` says") from None
    except ValueError as error:
        raise InputError(f"{path}: not the state of a curriculum ({error})") from None


def write_state(state: Mapping[str, Any], path: str | Path) -> None:
    """Writes a state as JSON, beside the target first, then renames."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".partial")
    scratch.write_text(json.dumps(state, indent=1))
    scratch.replace(path)
