"""Allocation: how many rows a block takes of each cell. Weights become mass, mass becomes whole rows, debts are kept.

Blocks have exactly the rows they should, no cell gives more than it has, and what any number of blocks has taken of a
cell stays within two rows of its target.
"""

from __future__ import annotations

import numpy as np

from ..arrays import Bools, Floats, Ints

MASSES = ("remaining", "size", "share")


def masses(weight: Floats, mass: str, left: Ints, size: Ints) -> Floats:
    """[Q] mass of the cells, to which their part of a block is proportional.

    mass: what the weight [Q] counts per: "remaining", a row that is left; "size", a row of the table; "share", a cell.
    `remaining` with equal weights keeps the mix of what is left, as a plain shuffle does on average.
    """
    if mass == "remaining":
        return weight * left
    return np.where(left > 0, weight * size if mass == "size" else weight, 0.0)


def water_fill(rows: float, mass: Floats, left: Ints | Floats) -> Floats:
    """[Q] targets: `rows` shared out in proportion to mass, at most `left` [Q] each, the excess again in proportion.

    They sum to less than `rows` where the cells with mass hold less.
    """
    filled = np.zeros(len(left))
    open_ = (mass > 0) & (left > 0)
    while rows > 1e-9 and open_.any():
        portion = np.where(open_, rows * (mass / mass[open_].sum()), 0.0)
        portion = np.minimum(portion, left - filled)
        filled += portion
        rows -= float(portion.sum())
        open_ &= left - filled > 1e-9
    return filled


def round_block(target: Floats, open_: Bools, left: Ints, rows: int) -> Ints:
    """[Q] whole numbers that sum to `rows`: floors, then ones to the largest remainders, ties by the cell's number.

    target: [Q] with the debt of earlier blocks. open_: [Q] the cells that may give a row beyond their floor, which
    must hold enough.
    """
    taken: Ints = np.clip(np.floor(target), 0, left).astype(np.int64)
    while (missing := rows - int(taken.sum())) != 0:
        step = 1 if missing > 0 else -1
        movable = (open_ & (taken < left)) if step > 0 else taken > 0
        rest = np.where(movable, (target - taken) * step, -np.inf)
        count = min(abs(missing), int(movable.sum()))
        assert count, "the caller asks for no more rows than the open cells hold"
        taken[np.argsort(-rest, kind="stable")[:count]] += step
    return taken


def apportion(shares: Floats) -> Ints:
    """[K] which of M members has each of K turns: the one that is owed most is next, ties by its number.

    shares: [K, M], each row summing to 1. Every prefix has the wanted shares within 1/2 + ... + 1/M turns.
    """
    debt, turns = np.zeros(shares.shape[1]), np.empty(len(shares), np.int64)
    for k, row in enumerate(shares):
        debt += row
        turns[k] = int(np.argmax(np.where(row > 0, debt, -np.inf)))
        debt[turns[k]] -= 1
    return turns
