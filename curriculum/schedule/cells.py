"""Cells: the finest groups of rows of a table that a curriculum can tell apart, and what the rows of each share.

A cell is one combination of values of the axes, e.g. label x contribution bin x source. Text columns split by value,
number columns into bins. Cells are numbered by the names of their values, so that the order of a file never matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ..arrays import Bools, Floats, Ints
from ..table import Categorical, Table, made_by
from .components import Live

Bounds = tuple[Sequence[float], Sequence[float]]  # where pools begin (min) and end (max)
MAX_CELLS = 65_536
_GRID = 65_536


@dataclass(frozen=True)
class Axis:
    """How one column splits the table.

    A text column by value. A number column into `bins` of equal counts (by: quantile) or equal widths (by: width), or
    at `edges`; a value on an edge belongs to the bin above. With fewer different values than bins each has its own.
    Raises InputError for bins, edges or a rule that cannot be.
    """

    name: str
    column: str
    bins: int = 32
    by: str = "quantile"
    edges: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.by not in ("quantile", "width"):
            raise InputError(f"cells.{self.name}: bins are made `by: quantile` or `by: width`, got {self.by!r}")
        if isinstance(self.bins, bool) or not isinstance(self.bins, int) or not 1 <= self.bins <= 4_096:
            raise InputError(f"cells.{self.name}: bins must be a whole number from 1 to 4096, got {self.bins!r}")
        if self.edges is not None and list(self.edges) != sorted(set(self.edges)):
            raise InputError(f"cells.{self.name}: edges must ascend, got {list(self.edges)}")


class Cells:
    """Q cells and their columns, as a weight sees them at one moment of one stage. All arrays are [Q].

    size: rows of the table. left: rows that no stage has taken yet. pool: whether the stage may take rows of the cell.
    live: observed columns of an adaptive stage, empty otherwise.
    """

    def __init__(self, split: Sequence[Split], codes: Ints, number: Ints, table: Table) -> None:
        self.axes = {s.axis.name: s.names for s in split}
        self.edges = {s.axis.name: s.edges for s in split if s.edges is not None}  # of the axes with bins
        self.codes = codes  # [Q, axes] places in the names of the axes' values
        self._column_of = {s.axis.name: s.axis.column for s in split}
        self.size: Ints = np.bincount(number[number >= 0], minlength=len(codes))
        self.left: Ints = self.size
        self.pool: Bools = np.ones(len(codes), bool)
        self.live: Live = {}
        self._number, self._table = number, table  # [N] cells of the table's rows
        self._means: dict[str, Floats] = {}

    def __len__(self) -> int:
        return len(self.codes)

    def at(self, left: Ints, pool: Bools, live: Live) -> Cells:
        """The same cells at another moment; they share everything but these three, the means of columns included."""
        other = object.__new__(Cells)
        other.__dict__ = self.__dict__ | {"left": left, "pool": pool, "live": live}
        return other

    def name(self, cell: int) -> str:
        """The cell in words, e.g. "label=weak, ac=[0.25, 0.5)"."""
        values = zip(self.axes.items(), self.codes[cell].tolist(), strict=True)
        return ", ".join(f"{axis}={names[code]}" for (axis, names), code in values) or "all rows"

    def values(self, axis: str) -> npt.NDArray[np.object_]:
        """[Q] names of the cells' values on an axis, as Python strings."""
        return np.array(self.axes[axis], object)[self.group(axis)]

    def group(self, axis: str) -> Ints:
        """[Q] place of each cell's value among the axis's values; an InputError names the axes there are."""
        if axis not in self.axes:
            raise InputError(f"no cell axis {axis!r}; add it to `cells`, there are {', '.join(self.axes) or 'none'}")
        return self.codes[:, list(self.axes).index(axis)]

    def column(self, by: str) -> Floats:
        """[Q] numbers: `live.NAME` as observed, or the mean over each cell of a number column or of its axis.

        Raises InputError for an unknown column, and where a cell of the pool has no value.
        """
        if by.startswith("live."):
            if by[5:] not in self.live:
                known = ", ".join(f"live.{name}" for name in self.live) or "none; give the stage a window and feedback"
                raise InputError(f"no observed column {by!r}; there are {known}")
            return np.asarray(self.live[by[5:]], float)
        if by not in self._means:
            self._means[by] = self._mean(by)
        empty = np.flatnonzero(np.isnan(self._means[by]) & self.pool)
        if len(empty):
            cell = self.name(int(empty[0]))
            raise InputError(f"column {by!r} has no value in the cell {cell}; leave that cell out of the pool")
        return self._means[by]

    def _mean(self, by: str) -> Floats:
        """[Q] means of a number column over the rows of each cell, NaN where none has a value."""
        values = self._table.columns.get(self._column_of.get(by, by))
        if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
            numbers = [n for n, v in self._table.columns.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
            known = f"{', '.join(sorted(numbers)) or 'none'}{'' if by in self._table.columns else made_by(by)}"
            raise InputError(f"{by!r} is no number column of the table; there are {known}")
        inside = (self._number >= 0) & ~np.isnan(values)
        count = np.bincount(self._number[inside], minlength=len(self))
        total = np.bincount(self._number[inside], weights=values[inside], minlength=len(self))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def rank(self, by: str) -> tuple[Floats, Floats]:
        """Two [Q] bounds in [0, 1]: the share of the pool's rows that come before each cell, and that share with it.

        Rows come in ascending order of the column. Cells in the same bin of an axis have the bin's bounds; on any
        other column cells are ordered by their mean.
        """
        size = np.where(self.pool, self.size, 0)
        order = self.group(by) if by in self.edges else np.unique(self.column(by), return_inverse=True)[1]
        edges = np.concatenate([[0.0], np.cumsum(np.bincount(order, weights=size))])
        edges /= max(edges[-1], 1.0)
        return edges[order], edges[order + 1]


def parse_axes(spec: Any) -> tuple[Axis, ...]:
    """Axes from a list of columns, or from a mapping of names to columns or to {column, bins, by, edges}.

    Raises InputError for anything else, an unknown key, and a name given twice.
    """
    if isinstance(spec, Mapping):
        items = list(spec.items())
    elif isinstance(spec, Sequence) and not isinstance(spec, str):
        items = [(name, name) for name in spec]
    else:
        raise InputError("curriculum: `cells` must be a list of columns, or a mapping of names to columns")
    axes = []
    if len({str(name) for name, _ in items}) < len(items):
        raise InputError(f"cells: {', '.join(str(name) for name, _ in items)} names an axis twice")
    for name, what in items:
        if not isinstance(name, str) or not isinstance(what, (str, Mapping)):
            raise InputError(f"cells: {name!r}: a column or a mapping with `column` is needed, got {what!r}")
        what = {"column": what} if isinstance(what, str) else {"column": name, **what}
        unknown = set(what) - {"column", "bins", "by", "edges"}
        if unknown:
            raise InputError(f"cells.{name}: unknown key {sorted(unknown)[0]!r}; it knows column, bins, by, edges")
        if (edges := what.get("edges")) is not None:
            numbers = isinstance(edges, Sequence) and all(isinstance(e, (int, float)) for e in edges)
            if not numbers or isinstance(edges, str):
                raise InputError(f"cells.{name}: edges must be a list of numbers, got {edges!r}")
            what = what | {"edges": tuple(float(e) for e in edges)}
        axes.append(Axis(name, **what))
    return tuple(sorted(axes, key=lambda axis: axis.name))  # the order of a mapping's keys says nothing


@dataclass(frozen=True)
class Split:
    """An axis over one table: the names of its values, which value each row [N] has (-1: none), and edges of bins."""

    axis: Axis
    names: tuple[str, ...]
    codes: Ints
    edges: Floats | None = None


def partition(table: Table, axes: Sequence[Axis], bounds: Mapping[str, Bounds]) -> tuple[Cells, Ints]:
    """The cells that hold rows, and [N] cell numbers; rows with a missing value on an axis are in no cell (-1).

    bounds: where pools begin and end, per axis; they become edges, so that a pool never splits a cell.
    Raises InputError for an axis without a column or values, and for more than MAX_CELLS cells.
    """
    split = [_split(table, axis, bounds.get(axis.name, ((), ()))) for axis in axes]
    shape = [max(1, len(s.names)) for s in split]
    total = prod(shape)
    if total > 1 << 40:
        raise InputError(f"cells: {len(axes)} axes make more than {MAX_CELLS} cells; use fewer bins or columns")
    number: Ints = np.zeros(len(table), np.int64 if total >= 1 << 31 else np.int32)
    for s, count in zip(split, shape, strict=True):
        number *= count
        number += s.codes
    for s in split:
        if len(s.codes) and s.codes.min() < 0:
            number[s.codes < 0] = -1
    occupied, number = _occupied(number, total)
    if len(occupied) > MAX_CELLS:
        raise InputError(f"cells: {len(occupied)} cells are more than {MAX_CELLS}; use fewer bins or columns")
    codes = np.stack(np.unravel_index(occupied, shape), 1) if axes else np.zeros((len(occupied), 0), int)
    return Cells(split, codes, number, table), number


def _occupied(number: Ints, total: int) -> tuple[Ints, Ints]:
    """The numbers that occur, ascending, and each row's place [N] among them; -1 stays -1. `total`: one past them."""
    if total > 1 << 22:
        occupied = np.unique(number[number >= 0])
        return occupied, np.where(number < 0, -1, np.searchsorted(occupied, number)).astype(np.int32)
    occupied = np.flatnonzero(np.bincount(number[number >= 0] if (number < 0).any() else number, minlength=total))
    place = np.full(total + 1, -1, np.int32)  # the last entry is that of -1
    place[occupied] = np.arange(len(occupied))
    return occupied, place[number]


def axis_column(table: Table, axis: Axis) -> Categorical | Floats:
    """The column that an axis splits, texts or numbers [N]; InputError where the table has none."""
    values = table.columns.get(axis.column)
    if values is None:
        there = f"{', '.join(sorted(table.columns)) or 'none'}{made_by(axis.column)}"
        raise InputError(f"cells: no column {axis.column!r} in the table; there are {there}")
    if not isinstance(values, Categorical) and values.dtype.kind != "f":
        raise InputError(f"cells: column {axis.column!r} is an identity; cells are made of texts and numbers")
    return values


def _split(table: Table, axis: Axis, bounds: Bounds) -> Split:
    """An axis over the table, with the bounds of pools among its edges."""
    values = axis_column(table, axis)
    if isinstance(values, Categorical):
        order = sorted(range(len(values.names)), key=lambda i: values.names[i])
        place = np.full(len(order) + 1, -1, np.int32)
        place[order] = np.arange(len(order))
        return Split(axis, tuple(values.names[i] for i in order), place[values.codes])
    known = values if not np.isnan(values).any() else values[~np.isnan(values)]
    if not len(known):
        raise InputError(f"cells.{axis.name}: column {axis.column!r} has no value at all")
    lows, highs = (np.asarray(side, values.dtype) for side in bounds)
    edges = np.unique(np.concatenate([_edges(known, axis).astype(values.dtype), lows, np.nextafter(highs, np.inf)]))
    ends = _shown([known.min(), *edges, known.max()])
    names = tuple(f"[{low}, {high})" for low, high in pairwise(ends[:-1]))
    codes = _bins(values, edges)
    if len(known) < len(values):
        codes = np.where(np.isnan(values), -1, codes)
    return Split(axis, (*names, f"[{ends[-2]}, {ends[-1]}]"), codes, edges)


def _shown(numbers: Sequence[float]) -> list[str]:
    """The numbers as text, with as few digits as tell different ones apart, at least four."""
    for digits in (4, 6, 9, 17):
        texts = [f"{number + 0.0:.{digits}g}" for number in numbers]
        if len(set(texts)) == len(set(numbers)):
            break
    return texts


def _grid(values: Floats, low: float, high: float) -> Ints:
    """[N] steps 0 to 65,535, ascending with the values between low and high; NaN becomes an arbitrary step."""
    scale = (_GRID - 1) / (high - low) if high > low else 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        steps: Ints = np.clip((values - low) * scale, 0, _GRID - 1).astype(np.uint16)
    return steps


def _edges(known: Floats, axis: Axis) -> Floats:
    """Lower bounds of all bins but the first, ascending. known: the values without NaN."""
    if axis.edges is not None:
        return np.asarray(axis.edges, float)
    low, high = float(known.min()), float(known.max())
    if axis.by == "width":
        return np.linspace(low, high, axis.bins + 1)[1:-1]
    step = _grid(known, low, high)
    filled = np.bincount(step, minlength=_GRID)
    if np.count_nonzero(filled) <= axis.bins:
        distinct = np.unique(known)
        if len(distinct) <= axis.bins:
            return distinct[1:].astype(float)
    # Order statistics: only the values in the grid steps that hold one are sorted.
    wanted = np.arange(1, axis.bins) * len(known) // axis.bins
    before = np.concatenate([[0], np.cumsum(filled)])
    place = np.searchsorted(before, wanted, side="right") - 1
    holds = np.zeros(_GRID, bool)
    holds[place] = True
    few = np.sort(known[holds[step]])
    offset = np.concatenate([[0], np.cumsum(np.where(holds, filled, 0))])
    return np.unique(few[offset[place] + wanted - before[place]]).astype(float)


def _bins(values: Floats, edges: Floats) -> Ints:
    """[N] number of edges at or below each value; rows in a grid step with an edge are compared one by one."""
    if not len(edges):
        return np.zeros(len(values), np.int32)
    low, high = float(edges[0]), float(edges[-1])
    step, of_edge = _grid(values, low, high), _grid(edges, low, high)
    table = np.searchsorted(of_edge, np.arange(_GRID), side="left").astype(np.int32)
    codes = table[step]
    unsure = np.zeros(_GRID, bool)
    unsure[of_edge] = True
    unsure[[0, -1]] = True  # every value outside the edges falls into the first or the last step
    rows = np.flatnonzero(unsure[step])
    codes[rows] = np.searchsorted(edges, values[rows], side="right")
    return codes
