"""Rehearsal: a fixed share of a stage that goes back to other questions, so that they are not forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any

from ...configs.typed import placed, value_of
from ...errors import InputError
from .weights import UNIFORM, Weight, parse_weight

NO_COLUMNS = ("share", "seen", "weight")  # the keys of a rehearsal beside the columns of its pool


@dataclass(frozen=True)
class Rehearsal:
    """`share` of what a stage takes comes from the cells of `pool`, which are none of the stage's own.

    seen: whether these are questions that the stages before it had, those dealt first coming first, each once; else
    they are questions that no stage takes. weight: of the pool's cells, in the weights' grammar; where those that it
    wants have too few rows, the mix of what is left. spec: what the file says, for the fingerprint.
    Raises InputError for a share outside (0, 1) and an empty pool.
    """

    pool: Mapping[str, Any]
    share: float
    seen: bool = True
    weight: Weight = UNIFORM
    spec: Any = None

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"rehearse: share is more than 0 and less than 1, as 0.2; got {self.share}")
        if not self.pool:
            raise InputError("rehearse: says no questions; name them as a pool does, e.g. {label: weak, share: 0.2}")

    @property
    def _share(self) -> Fraction:
        return Fraction(str(self.share))

    def rows(self, total: int) -> int:
        """How many of the first `total` rows of a stage are rehearsed: the share, rounded down."""
        return floor(self._share * total)

    def most(self, own: int, rehearsed: int) -> int:
        """The longest stage that so many rows of its own and so many to rehearse are enough for."""
        return min(floor(own / (1 - self._share)), ceil((rehearsed + 1) / self._share) - 1)

    def beside(self, own: int) -> int:
        """How many rehearsed rows go with so many of the stage's own, where those run out before the budget."""
        return floor(own * self._share / (1 - self._share))


def parse_rehearsal(spec: Any, where: str, stage: str) -> Rehearsal:
    """A rehearsal from {column: value, ..., share: 0.2} with `seen` and `weight` where they are given.

    Raises InputError for anything else. where: the place in the file; stage: the name of its stage, for messages.
    """
    if not isinstance(spec, Mapping) or "share" not in spec:
        raise InputError(f"{where}: a pool and a share are needed, e.g. {{label: weak, share: 0.2}}; got {spec!r:.80}")
    pool = {str(column): wanted for column, wanted in spec.items() if column not in NO_COLUMNS}
    share = value_of(spec["share"], float, f"{where}.share")
    seen = value_of(spec.get("seen", True), bool, f"{where}.seen")
    weight = parse_weight(spec["weight"], f"{where}.weight") if "weight" in spec else UNIFORM
    try:
        return Rehearsal(pool, share, seen, weight, dict(spec))
    except InputError as error:
        raise InputError(placed(f"stage {stage!r}: {error}", where.removesuffix(".rehearse"))) from error
