"""A step that no reward function could score teaches nothing, however many steps follow: it is refused."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import InputError
from ..ranks import Ranks
from .experience import Experience


def refuse_unscored(experiences: Sequence[Experience], step: int, ranks: Ranks) -> None:
    """Raises InputError, naming the functions, where no completion of the step has a reward on any rank."""
    real = [experience.real[experience.group] for experience in experiences]
    totals = [experience.scored.total[rows] for experience, rows in zip(experiences, real, strict=True)]
    count, scored = ranks.sums(
        float(sum(len(total) for total in totals)), float(sum(int((~total.isnan()).sum()) for total in totals))
    )
    if count and not scored:
        names = list(experiences[0].scored.parts)
        functions = f"reward {names[0]!r}" if len(names) == 1 else f"rewards {' and '.join(map(repr, names))}"
        example = experiences[0].texts[0] if experiences[0].texts else ""
        raise InputError(
            f"step {step}: {functions} returned None for all {count:.0f} completions, so there is nothing to learn "
            f"from; one of them is {example[:80]!r}"
        )
