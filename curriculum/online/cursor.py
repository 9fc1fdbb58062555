"""The cursor: a run's position in a plan, and for an adaptive stage what was observed and what is planned from it.

An adaptive stage is planned window by window, a window being so many steps. A window is planned when the window
`lag + 1` before it ends, so that a loader may prepare `lag` windows ahead and nothing waits. A cursor's state is whole
numbers and floats: a checkpoint holds it, and a JSON file shows it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...boundary.files import read_json, write_text
from ...errors import InputError
from ..arrays import Bools, Floats, Ints
from ..plan.compile import allocate_block
from ..plan.fingerprint import differences
from ..plan.plan import Plan
from ..plan.pools import pool_of, rehearsed
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
            self._open = np.zeros((len(SUMS), len(plan.cells)))  # sums of the window that is not over yet
            self._debt: Floats = np.zeros(len(plan.cells))
            self._closed = 0  # windows that are over
            feedback = self._adaptive.stage.feedback
            assert feedback is not None
            self._feedback = feedback
            self._state = feedback.start(plan.cells)
            self._plan_windows()

    @property
    def adapts(self) -> bool:
        """Whether the stage follows observations."""
        return self._adaptive is not None

    def live(self) -> dict[str, Floats]:
        """Observed columns [Q] as of the last window that ended; empty for a static stage."""
        return self._feedback.columns(self._state, self.plan.cells) if self.adapts else {}

    def observe(self, seen: Floats | Observations) -> None:
        """Adds observations, or their sums [8, Q] over all ranks, to the current window; nothing in a static stage.

        Raises ValueError for sums of another shape.
        """
        if self.adapts:
            sums: Floats = (
                seen.sums(len(self.plan.cells)) if isinstance(seen, Observations) else np.asarray(seen, float)
            )
            if sums.shape != self._open.shape:
                raise ValueError(f"sums must have the shape {self._open.shape}, got {sums.shape}")
            self._open = self._open + sums

    def refill(self, stage: str, wanted: Ints) -> dict[int, Ints]:
        """Cell -> rows that no stage takes, `wanted` [Q] of each or what is left; they count as used from now on.

        An adaptive stage keeps, of the cells that its weight wants now, the rows that its budget still needs, and all
        of those that it rehearses.
        """
        refill = self._refills[stage]
        if self._adaptive is None:
            return refill.take(wanted)
        stage_plan, cells = self._adaptive, self.plan.cells
        wanted = np.where(rehearsed(stage_plan.stage, cells), 0, wanted)
        left = stage_plan.left - stage_plan.rows_per_cell() - refill.taken
        now = cells.at(left, pool_of(stage_plan.stage, cells), self.live())
        planned = int(stage_plan.edges[stage_plan.planned])
        t = float(stage_plan.edges[stage_plan.planned - 1] + planned) / 2 / stage_plan.rows
        scarce = stage_plan.stage.weight.amounts(now, t, stage_plan.stage.mass_rule, may_be_empty=True) > 0
        return refill.take(wanted, scarce, int(left[scarce].sum()) - (stage_plan.rows - planned))

    def trained(self, steps: int = 1) -> None:
        """Moves on by so many trained steps; at the end of a window its sums are folded in and another is planned."""
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
        """Plans all windows up to the one `lag` after the current one."""
        stage_plan = self._adaptive
        assert stage_plan is not None
        stage, cells = stage_plan.stage, self.plan.cells
        for block in range(stage_plan.planned, min(len(stage_plan.matrix), self._closed + 1 + stage.lag)):
            start, stop = stage_plan.edges[block : block + 2].tolist()
            left = stage_plan.left - stage_plan.rows_per_cell() - self._refills[self.stage].taken
            now = cells.at(left, pool_of(stage, cells), self.live())
            t = (start + stop) / 2 / stage_plan.rows
            taken, self._debt = allocate_block(stage, now, (start, stop), t, self._debt)
            stage_plan.matrix[block, 1:] = taken[1:]
            stage_plan.matrix[block, :1] = taken[:1]  # last: loader processes see by it that the window is planned

    def used(self) -> Bools:
        """[N] bool: rows of the stages before this one, and of this one's steps so far (whole windows if it adapts)."""
        plan = self.plan
        used = np.zeros(len(plan.table), bool) if plan.used is None else plan.used.copy()
        members = self._members()
        for name, stage_plan in plan.stages.items():
            if name in members:
                break
            used[stage_plan.row_set()] = True
        for name, steps in members.items():
            stage_plan = plan.stage_plan(name)
            count = min(stage_plan.rows, steps * stage_plan.stage.batch_size)
            if stage_plan.stage.window is not None:
                count = int(stage_plan.edges[min(stage_plan.planned, -(-steps // stage_plan.stage.window))])
            used[plan.rows(name, np.arange(count))] = True
            used[self._refills[name].rows()] = True
        return used

    def _members(self) -> dict[str, int]:
        """Stage -> its trained steps so far; several where stages take turns."""
        if self.stage not in self.plan.turns:
            return {self.stage: self.step}
        turns = self.plan.turns[self.stage][: self.step]
        return {name: int((turns == place).sum()) for place, name in enumerate(self.plan.members(self.stage))}

    def state(self) -> dict[str, Any]:
        """Everything needed to continue, and what must be the same then, as plain values for JSON."""
        state: dict[str, Any] = {
            "fingerprint": self.plan.fingerprint,
            "stage": self.stage,
            "step": self.step,
            "curriculum": json.loads(json.dumps(self.plan.curriculum.spec)),
            "described": json.loads(self.plan.curriculum.canonical()),
            "table": self.plan.table_checksums,
            "fork_of": self.plan.origin,
        }
        refilled = {name: refill.taken.tolist() for name, refill in self._refills.items() if refill.taken.any()}
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
        """Continues from what `state()` returned.

        Raises InputError for the state of another stage, and names the key of the curriculum, or the table, that
        changed since.
        """
        if state.get("stage") != self.stage:
            raise InputError(f"the checkpoint is of stage {state.get('stage')!r}, this run of {self.stage!r}")
        if state["fingerprint"] != self.plan.fingerprint:
            raise InputError(f"{self._changed(state)}; start the stage anew, or fork it with `replan`")
        self.step = int(state["step"])
        for name, refill in self._refills.items():
            refill.taken[:] = state.get("refilled", {}).get(name, 0)
        if self._adaptive is not None:
            saved = state["adaptive"]
            self._closed = int(saved["closed"])
            self._debt, self._open = np.array(saved["debt"], float), np.array(saved["open"], float)
            self._state = {name: np.array(values, float) for name, values in saved["state"].items()}
            self._adaptive.matrix[:] = -1
            self._adaptive.matrix[: len(saved["matrix"])] = np.array(saved["matrix"], np.int64)

    def _changed(self, state: Mapping[str, Any]) -> str:
        """What differs between this plan and the state's, as a sentence."""
        now = json.loads(self.plan.curriculum.canonical())
        for key, old, new in differences(state["described"], now):
            old, new = ("not there" if side is None else json.dumps(side) for side in (old, new))
            return f"the curriculum changed since the checkpoint: {key} was {old}, is {new}"
        rows = self.plan.table_checksums[0]
        if state["table"][0] != rows:
            return f"the table changed since the checkpoint: {state['table'][0]:,} rows then, {rows:,} now"
        return "the table changed since the checkpoint: as many rows, but other ones, or other labels"


def fork(state: Mapping[str, Any], table: Table) -> Bools:
    """[N] bool of the rows that a run had used at `state`, over the same table: `Plan(other, table, used)` goes on.

    Raises InputError where the table is not the run's.
    """
    origin = state.get("fork_of")
    plan = Plan(parse_curriculum(state["curriculum"]), table, None if origin is None else fork(origin, table), origin)
    cursor = Cursor(plan, state["stage"])
    cursor.load(state)
    return cursor.used()


def read_state(path: str | Path) -> dict[str, Any]:
    """The state that a run left as JSON; InputError where there is none or it cannot be read."""
    try:
        state = read_json(path)
    except InputError as error:
        if not Path(path).exists():
            raise InputError(f"{path}: not found; a run writes it to the file that `training.record` names") from None
        raise InputError(f"{path}: not the state of a curriculum ({error})") from None
    if not isinstance(state, dict):
        raise InputError(f"{path}: not the state of a curriculum; it is no object")
    return state


def write_state(state: Mapping[str, Any], path: str | Path) -> None:
    """Writes a state as JSON, beside the target first, then renames."""
    write_text(path, json.dumps(state, indent=1))
