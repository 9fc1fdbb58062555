"""Pools: which cells a stage takes rows from, which it rehearses, and the axes that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...configs.plugins import nearest
from ...errors import InputError
from ..arrays import Bools
from ..schedule.cells import Axis, Bounds, Cells
from ..schedule.stages import Curriculum, Stage
from ..table import Table, made_by


def pool_axes(curriculum: Curriculum, table: Table) -> tuple[tuple[Axis, ...], dict[str, Bounds]]:
    """The axes of the cells, those that only a pool mentions included, and where pools begin and end on each.

    Raises InputError for a pool over an unknown column or with a bound that is not a number.
    """
    axes = {axis.name: axis for axis in curriculum.cells}
    bounds: dict[str, tuple[list[float], list[float]]] = {}
    for stage in curriculum.stages:
        again = {} if stage.rehearse is None else stage.rehearse.pool
        for column, wanted in (*stage.pool.items(), *again.items()):
            if column not in axes and column not in table.columns:
                raise InputError(
                    f"stage {stage.name!r}: pool column {column!r} is neither a cell axis nor a column of the table; "
                    + (nearest(column, sorted({*axes, *table.columns}), "there are") + made_by(column))
                )
            if isinstance(wanted, Mapping):
                axes.setdefault(column, Axis(column, column, bins=1))
                lows, highs = bounds.setdefault(column, ([], []))
                for key, value in wanted.items():
                    where = f"stage {stage.name!r}: pool {column}"
                    if key not in ("min", "max"):
                        raise InputError(f"{where} takes min and max, got {key}: {value!r}")
                    if isinstance(value, bool) or not isinstance(value, (int, float)):
                        raise InputError(f"{where}: {key} must be a number, got {value!r}")
                    (lows if key == "min" else highs).append(float(value))
            else:
                axes.setdefault(column, Axis(column, column))
    ordered = tuple(sorted(axes.values(), key=lambda axis: axis.name))
    return ordered, {name: (low, high) for name, (low, high) in bounds.items()}


def pool_of(stage: Stage, cells: Cells) -> Bools:
    """[Q] bool: the cells that the stage may take rows from.

    Raises InputError where the pool names a value that its axis does not have, or is of the wrong kind.
    """
    return _cells_in(stage.pool, stage, cells)


def rehearsed(stage: Stage, cells: Cells) -> Bools:
    """[Q] bool: the cells that the stage rehearses, none where it does not.

    Raises InputError as `pool_of` does, and where they are among the stage's own.
    """
    if stage.rehearse is None:
        return np.zeros(len(cells), bool)
    pool = _cells_in(stage.rehearse.pool, stage, cells)
    twice = np.flatnonzero(pool & pool_of(stage, cells) & (cells.size > 0))
    if len(twice):
        raise InputError(
            f"stage {stage.name!r}: it rehearses {cells.name(int(twice[0]))}, which its own pool has too; leave it out "
            "of one of them"
        )
    return pool


def _cells_in(wanted_of: Mapping[str, Any], stage: Stage, cells: Cells) -> Bools:
    pool = np.ones(len(cells), bool)
    for column, wanted in wanted_of.items():
        group = cells.group(column)
        if isinstance(wanted, Mapping):
            if column not in cells.edges:
                raise InputError(f"stage {stage.name!r}: pool {column} is text; give a value or a list of values")
            edges = cells.edges[column]
            low = np.concatenate([[-np.inf], edges])[group]
            high = np.concatenate([edges, [np.inf]])[group]
            if "min" in wanted:
                pool &= low >= edges.dtype.type(wanted["min"])
            if "max" in wanted:
                pool &= high <= np.nextafter(edges.dtype.type(wanted["max"]), np.inf)
            continue
        if column in cells.edges:
            raise InputError(f"stage {stage.name!r}: pool {column} is a number; give {{min: ..., max: ...}}")
        values = [wanted] if not isinstance(wanted, Sequence) or isinstance(wanted, str) else list(wanted)
        if not values:
            raise InputError(f"stage {stage.name!r}: pool {column} is an empty list; name a value")
        names = cells.axes[column]
        unknown = [value for value in values if value not in names]
        if unknown:
            raise InputError(f"stage {stage.name!r}: {column} is never {unknown[0]!r}; it is one of {sorted(names)}")
        pool &= np.isin(group, [names.index(value) for value in values])
    return pool


def describe_pool(pool: Mapping[str, Any]) -> str:
    """A pool in words, e.g. "label weak", for messages."""
    parts = []
    for column, wanted in pool.items():
        if isinstance(wanted, Mapping):
            wanted = " and ".join(f"{key} {value}" for key, value in wanted.items())
        several = isinstance(wanted, Sequence) and not isinstance(wanted, str)
        parts.append(f"{column} {' or '.join(map(str, wanted)) if several else wanted}")
    return ", ".join(parts) or "all rows"
