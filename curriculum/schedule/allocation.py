"""Knows how many cards each block deals from each deck: weights become mass, mass becomes whole cards, debts are kept.

Row sums are exact, no deck gives more than it has, and every prefix stays within two cards of its target.
"""

from __future__ import annotations

import numpy as np

MASSES = ("remaining", "size", "share")


def masses(weight: np.ndarray, mass: str, left: np.ndarray, size: np.ndarray) -> np.ndarray:
    """[Q] mass of the cells: their weight per sample left, per sample of the table, or per cell.

    `remaining` with equal weights keeps the mix of what is left, as a plain shuffle does on average.
    """
    if mass == "remaining":
        return weight * left
    return np.where(left > 0, weight * size if mass == "size" else weight, 0.0)


def water_fill(cards: float, mass: np.ndarray, left: np.ndarray) -> np.ndarray:
    """[Q] targets: `cards` shared out in proportion to mass, at most `left` each, the excess again in proportion.

    They sum to less than `cards` where the decks with mass hold less.
    """
    filled = np.zeros(len(left))
    open_ = (mass > 0) & (left > 0)
    while cards > 1e-9 and open_.any():
        portion = np.where(open_, cards * (mass / mass[open_].sum()), 0.0)
        portion = np.minimum(portion, left - filled)
        filled += portion
        cards -= float(portion.sum())
        open_ &= left - filled > 1e-9
    return filled


def round_block(target: np.ndarray, open_: np.ndarray, left: np.ndarray, cards: int) -> np.ndarray:
    """[Q] whole cards that sum to `cards`: floors, then ones to the largest remainders, ties by the cell's number.

    target: [Q] with the debt of earlier blocks. open_: the cells that may give a card beyond their floor.
    """
    dealt = np.clip(np.floor(target), 0, left).astype(np.int64)
    while (missing := cards - int(dealt.sum())) != 0:
        step = 1 if missing > 0 else -1
        movable = (open_ & (dealt < left)) if step > 0 else dealt > 0
        rest = np.where(movable, (target - dealt) * step, -np.inf)
        count = min(abs(missing), int(movable.sum()))
        assert count, "the caller asks for no more cards than the open decks hold"
        dealt[np.argsort(-rest, kind="stable")[:count]] += step
    return dealt


def apportion(shares: np.ndarray) -> np.ndarray:
    """[K] which of M members has each of K turns: the one with the largest debt is next, ties by its number.

    shares: [K, M], each row summing to 1. Every prefix has the wanted shares within 1/2 + ... + 1/M turns.
    """
    debt, turns = np.zeros(shares.shape[1]), np.empty(len(shares), np.int64)
    for k, row in enumerate(shares):
        debt += row
        turns[k] = int(np.argmax(np.where(row > 0, debt, -np.inf)))
        debt[turns[k]] -= 1
    return turns
