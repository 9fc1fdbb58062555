"""Whether a table has the columns that a curriculum decides by; it needs no rows, so it need not be made yet."""

from __future__ import annotations

from ...errors import InputError
from ..schedule.cells import axis_column
from ..schedule.columns import changed
from ..schedule.stages import Curriculum
from ..table import Table, made_by
from .pools import pool_axes


def check_columns(curriculum: Curriculum, table: Table) -> None:
    """Raises InputError for a column of its changes, cells, pools or weights that the table does not have."""
    table = changed(table, curriculum.columns, curriculum.seed)
    axes, _ = pool_axes(curriculum, table)
    for axis in axes:
        axis_column(table, axis)
    known = {axis.name for axis in axes} | set(table.columns)
    for stage in curriculum.stages:
        rehearsed = None if stage.rehearse is None else stage.rehearse.weight
        for weight in (stage.weight, stage.loss_weight, rehearsed):
            for part in () if weight is None else (*weight.factors, *weight.modifiers):
                by = part.arguments.get("by")
                if isinstance(by, str) and not by.startswith("live.") and by not in known:
                    there = ", ".join(sorted(known))
                    raise InputError(f"{part.where}: no column {by!r} in the table; there are {there}{made_by(by)}")
