"""Weights: how much a curriculum wants each cell. `(cells, t, ...) -> [Q]`, not negative, t the stage's progress.

A weight counts per sample of a cell unless its `mass` says otherwise. Users add their own as a function named by its
import path. Arguments annotated `Paced` are numbers or paces. All raise InputError for an argument out of range.

Sources: competence Platanios et al. 2019; gaussian around a moving target AdaRFT 2025; learnable VCRL 2025,
chance-corrected here; useful DAPO 2025 (dynamic sampling, as a share); bandit DUMP 2025 (upper confidence bound); kimi
Kimi k1.5 2025; floor DoReMi 2023. `matched` and `cap` are our own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np

from ...configs.plugins import function_named, raised_by
from ...errors import InputError
from ..arrays import Floats, Ints
from .allocation import masses, water_fill
from .cells import Cells
from .components import Component, Paced, bind, split
from .paces import parse_pace


def uniform(cells: Cells, t: float) -> Floats:
    """1 for every cell: the mix of what is left, as in a plain shuffle."""
    return np.ones(len(cells))


def threshold(cells: Cells, t: float, by: str, at: Paced, keep: str = "above") -> Floats:
    """1 where the column is at least `at` (keep: above) or at most (keep: below), else 0."""
    if keep not in ("above", "below"):
        raise InputError(f"weight 'threshold' keeps what is 'above' or 'below', got {keep!r}")
    column = cells.column(by)
    return (column >= at if keep == "above" else column <= at).astype(float)


def competence(cells: Cells, t: float, by: str, pace: Paced) -> Floats:
    """The part of a cell's rank interval that lies below the competence `pace`: low values first, then more."""
    low, high = cells.rank(by)
    return np.clip((pace - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)


def power(cells: Cells, t: float, by: str, gamma: Paced = 1.0) -> Floats:
    """max(x, 0) ^ gamma of the column x."""
    return np.maximum(cells.column(by), 0.0) ** gamma


def softmax(cells: Cells, t: float, by: str, temperature: Paced) -> Floats:
    """exp(x / temperature) of the column x, the largest scaled to 1; a negative temperature favours low values."""
    if temperature == 0:
        raise InputError("weight 'softmax': the temperature must not be 0")
    return _exponential(cells.column(by) / temperature, cells)


def gaussian(cells: Cells, t: float, by: str, mean: Paced, sd: Paced = 0.1, rank: bool = False) -> Floats:
    """exp(-(x - mean)^2 / 2 sd^2), x the column or, with `rank`, the middle of the cell's rank interval."""
    if sd <= 0:
        raise InputError(f"weight 'gaussian': sd must be positive, got {sd}")
    x = sum(cells.rank(by)) / 2 if rank else cells.column(by)
    return np.exp(-((x - mean) ** 2) / (2 * sd**2))


def focal(cells: Cells, t: float, by: str = "live.p", gamma: Paced = 2.0) -> Floats:
    """(1 - p) ^ gamma, p an accuracy: questions that are answered wrongly."""
    return np.clip(1 - cells.column(by), 0.0, 1.0) ** gamma


def kimi(cells: Cells, t: float, by: str = "live.p") -> Floats:
    """1 - p, p an accuracy: proportional to how often questions are answered wrongly."""
    return np.clip(1 - cells.column(by), 0.0, 1.0)


def self_paced(cells: Cells, t: float, by: str, limit: Paced) -> Floats:
    """max(0, 1 - loss / limit), the loss from the column `by`: questions that already have a low loss first."""
    if limit <= 0:
        raise InputError(f"weight 'self_paced': the limit must be positive, got {limit}")
    weight: Floats = np.maximum(0.0, 1 - cells.column(by) / limit)
    return weight


def learnable(cells: Cells, t: float, by: str = "live.p", num_choices: float = 4.0) -> Floats:
    """4 q (1 - q), q = (p - 1/K) / (1 - 1/K) clipped to [0, 1]: variance that guessing alone does not have."""
    guess = 1 / num_choices
    q: Floats = np.clip((cells.column(by) - guess) / (1 - guess), 0.0, 1.0)
    return 4 * q * (1 - q)


def useful(cells: Cells, t: float, by: str = "live.useful") -> Floats:
    """The share of a cell's groups in which completions got different rewards, so that there is an advantage."""
    return np.maximum(cells.column(by), 0.0)


def bandit(cells: Cells, t: float, temperature: Paced = 0.1, exploration: Paced = 0.1) -> Floats:
    """exp((mean |advantage| + c sqrt(2 ln n / (n_q + 1))) / temperature), n_q the prompts seen of the cell, n of all.

    c: `exploration`. The largest of the pool is scaled to 1. Counts per cell: see `Weight.mass`.
    """
    if temperature <= 0:
        raise InputError(f"weight 'bandit': the temperature must be positive, got {temperature}")
    seen = cells.column("live.prompts")
    bonus = np.sqrt(2 * np.log(max(1.0, float(seen.sum()))) / (seen + 1))
    return _exponential((cells.column("live.gain") + exploration * bonus) / temperature, cells)


def _exponential(score: Floats, cells: Cells) -> Floats:
    """[Q] exp(score), scaled so that the largest of the pool is 1 and nothing there overflows."""
    largest = score[cells.pool].max(initial=-np.inf) if cells.pool.any() else 0.0
    weight: Floats = np.exp(score - largest)
    return weight


def shares(cells: Cells, t: float, amount: Floats, /, **table: Paced) -> Floats:
    """[Q] amounts with these shares of the values of one axis, e.g. {weak: 0.3, strong: 0.7}; others get none."""
    for axis, names in cells.axes.items():
        if set(table) <= set(names):
            return _mixed(cells, amount, axis, np.array([table.get(name, 0.0) for name in names]))
    known = "; ".join(f"{axis}: {', '.join(names)}" for axis, names in cells.axes.items())
    raise InputError(f"weight 'shares': {', '.join(table)} are not values of one axis; there are {known or 'no axes'}")


def matched(cells: Cells, t: float, amount: Floats, by: str) -> Floats:
    """[Q] amounts in which the values of an axis have the whole table's mix, whatever the weight prefers otherwise."""
    group = cells.group(by)
    return _mixed(cells, amount, by, np.bincount(group, weights=cells.size, minlength=len(cells.axes[by])))


def cap(cells: Cells, t: float, amount: Floats, ratio: Paced) -> Floats:
    """[Q] amounts of at most `ratio` times what the mix of what is left gives a cell; the others have the rest."""
    if ratio < 1:
        raise InputError(f"weight 'cap' is at least 1 times the plain mix, got {ratio}")
    left = np.where(cells.pool, cells.left, 0)
    total = float(amount.sum())
    capped = water_fill(total, amount, ratio * total * left / max(left.sum(), 1))
    return capped * (total / capped.sum()) if capped.sum() > 0 else capped


def floor(cells: Cells, t: float, amount: Floats, share: Paced) -> Floats:
    """[Q] amounts: 1 - `share` of the weight's mix and `share` of the mix of what is left (DoReMi, E2H)."""
    if not 0 <= share <= 1:
        raise InputError(f"weight 'floor' is a share between 0 and 1, got {share}")
    left = np.where(cells.pool, cells.left, 0)
    plain: Floats = share * (float(amount.sum()) or 1.0) * left / max(left.sum(), 1)
    return (1 - share) * amount + plain


def revisit(cells: Cells, t: float, amount: Floats, share: Paced, by: str = "live.fallen") -> Floats:
    """[Q] amounts: `share` of them for the cells by the column times what is left; all as they are where that is 0."""
    if not 0 <= share <= 1:
        raise InputError(f"weight 'revisit' has a share between 0 and 1, got {share}")
    again = np.where(cells.pool, np.maximum(cells.column(by), 0.0) * cells.left, 0.0)
    total = float(amount.sum()) or 1.0
    return (1 - share) * amount + share * total * again / again.sum() if again.sum() > 0 else amount


def _mixed(cells: Cells, amount: Floats, axis: str, wanted: Floats | Ints) -> Floats:
    """[Q] amounts with the mix `wanted` of an axis's values, and the same sum."""
    group = cells.group(axis)
    total = np.bincount(group, weights=amount, minlength=len(wanted))
    mixed: Floats = amount * np.where(total > 0, wanted / np.where(total > 0, total, 1.0), 0.0)[group]
    return mixed * (amount.sum() / mixed.sum()) if mixed.sum() > 0 else mixed


WEIGHTS: dict[str, Callable[..., Floats]] = {
    function.__name__: function
    for function in (
        *(uniform, threshold, competence, power, softmax, gaussian, focal, kimi, self_paced, learnable, useful),
        *(bandit, shares, matched, cap, floor, revisit),
    )
}
# These change the mass [Q] that the product of the other weights gives, in this order.
MODIFIERS: tuple[Callable[..., Floats], ...] = (shares, matched, cap, floor, revisit)


@dataclass(frozen=True)
class Weight:
    """A product of components times the cells' mass, then modifiers: shares, matched, cap, floor, revisit.

    What the functions return is checked. where: place in the file, for messages. spec: what the file says, for the
    fingerprint.
    """

    factors: tuple[Component, ...]
    modifiers: tuple[Component, ...]
    where: str
    spec: Any = "uniform"

    @property
    def mass(self) -> str:
        """What the weight counts per (see `masses`) unless the stage says otherwise."""
        return "share" if any(part.function is bandit for part in self.factors) else "remaining"

    @property
    def moves(self) -> bool:
        """Whether the weight may change over a stage; a user's own function is assumed to."""
        parts = (*self.factors, *self.modifiers)
        built_in = WEIGHTS.values()
        return self.adapts or any(
            part.function not in built_in or any(pace.moves for pace in part.paces.values()) for part in parts
        )

    @property
    def adapts(self) -> bool:
        """Whether the weight reads what was observed; a user's own function may, which is not known here."""
        parts = (*self.factors, *self.modifiers)
        return any(
            part.function is bandit
            or str(part.arguments.get("by", _default_by(part.function))).startswith("live.")
            or any(pace.name == "live" for pace in part.paces.values())
            for part in parts
        )

    def __call__(self, cells: Cells, t: float) -> Floats:
        """[Q] product of the components at progress t in [0, 1]."""
        weight = np.ones(len(cells))
        for part in self.factors:
            weight = weight * _called(part, cells, t)
        return weight

    def amounts(self, cells: Cells, t: float, mass: str = "remaining", may_be_empty: bool = False) -> Floats:
        """[Q] amounts to which the cells' parts of a block at progress t are proportional; 0 outside the pool.

        Raises InputError where no cell with rows left has any, unless `may_be_empty`.
        """
        amount = masses(self(cells, t), mass, cells.left, cells.size)
        for part in self.modifiers:
            amount = _called(part, cells, t, amount)
        if not may_be_empty and not amount.sum() > 0 and cells.left[cells.pool].sum() > 0:
            raise InputError(f"{self.where}: no cell of the pool with rows left has a positive weight at {t:.1%}")
        return amount


def _default_by(function: Callable[..., Any]) -> Any:
    """The default of the function's argument `by`, "" where it has none."""
    parameter = signature(function).parameters.get("by")
    return parameter.default if parameter is not None else ""


def _called(part: Component, cells: Cells, t: float, *amount: Floats) -> Floats:
    """[Q] what the function returns for the pool's cells, 0 elsewhere; an InputError names it where that is wrong."""
    try:
        value = part.function(cells, t, *amount, **part.bound(t, cells.live))
        weight = np.asarray(value, float) if isinstance(value, (np.ndarray, Sequence)) else None
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{part.where}: {str(error).removeprefix(f'weight {part.name!r}: ')}") from None
        raise InputError(f"{part.where}: {raised_by(part.function, error)}, at {t:.1%} of the stage") from None
    if weight is None or weight.shape != (len(cells),):
        shape = type(value).__name__ if weight is None else weight.shape
        raise InputError(f"{part.where}: must return one number per cell, [{len(cells)}], got {shape}")
    bad = np.flatnonzero(cells.pool & (~np.isfinite(weight) | (weight < 0)))
    if len(bad):
        cell = cells.name(int(bad[0]))
        raise InputError(
            f"{part.where}: {weight[bad[0]]} for the cell {cell} at {t:.1%}; weights are finite, not negative"
        )
    return np.where(cells.pool, weight, 0.0)


def parse_weight(spec: Any, where: str) -> Weight:
    """A weight from a name, a mapping of a name to its arguments, or `product` of several, with modifiers beside it.

    {product: [{softmax: {by: ac, temperature: 0.3}}, {matched: {by: source}}], floor: 0.05}

    Raises InputError for unknown names and arguments. where: the place in the file, for messages.
    """
    factors: list[Component] = []
    modifiers: list[Component] = []
    if isinstance(spec, Mapping) and len(spec) > 1:
        names = {m.__name__ for m in MODIFIERS}
        parts = [{name: given} for name, given in spec.items()]
        if sum(next(iter(part)) not in names for part in parts) > 1:
            raise InputError(f"{where}: {', '.join(map(str, spec))} side by side; join them with `product: [...]`")
    else:
        parts = [spec]
    for part in parts:
        name, given = split(part, where)
        if name == "product":
            if not isinstance(given, Sequence) or isinstance(given, str) or not given:
                raise InputError(f"{where}.product: a list of weights is needed, got {given!r}")
            for number, one in enumerate(given):
                inner = parse_weight(one, f"{where}.product[{number}]")
                factors += inner.factors
                modifiers += inner.modifiers
            continue
        function = function_named(name, WEIGHTS, where)
        modifies = function in MODIFIERS
        arguments, paces = bind(function, given, 3 if modifies else 2, f"{where}.{name}", parse_pace)
        (modifiers if modifies else factors).append(Component(name, f"{where}.{name}", function, arguments, paces))
    modifiers.sort(key=lambda part: MODIFIERS.index(part.function))
    return Weight(tuple(factors), tuple(modifiers), where, spec)


UNIFORM = parse_weight("uniform", "weight")
