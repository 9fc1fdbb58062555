"""The part of a curriculum that decides what one of its stages takes: the stages that claim their rows before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .rehearsal import NO_COLUMNS


def decided_by(curriculum: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The mapping of a curriculum without the stages that take their rows after a stage, which deals it the same rows.

    Pools of stages that are left out still make cells. The whole of it where stages take turns or go back to each
    other's questions, where a pool that would be left out has bounds, or where there is no such stage.
    """
    stages = [dict(one) for one in curriculum.get("stages") or ()]
    places = {
        one.get("name"): (one.get("window") is not None, _claim(one), number) for number, one in enumerate(stages)
    }
    if stage not in places or any("interleave" in one for one in stages):
        return dict(curriculum)
    left_out = [one for one in stages if places[one.get("name")] > places[stage]]
    if any(one.get("rehearse") for one in stages if one not in left_out):
        return dict(curriculum)
    pools = [one.get("pool") or {} for one in left_out]
    again = [one["rehearse"] for one in left_out if isinstance(one.get("rehearse"), Mapping)]
    pools += [{key: value for key, value in pool.items() if key not in NO_COLUMNS} for pool in again]
    if any(isinstance(wanted, Mapping) for pool in pools for wanted in pool.values()):
        return dict(curriculum)
    cells = curriculum.get("cells", ["label"])
    columns = dict.fromkeys(column for pool in pools for column in pool)
    if isinstance(cells, Mapping):
        cells = dict(cells) | {column: column for column in columns if column not in cells}
    else:
        cells = list(dict.fromkeys([*cells, *columns]))
    kept = [one for one in stages if one not in left_out]
    return dict(curriculum) | {"cells": cells, "stages": kept}


def _claim(stage: Mapping[str, Any]) -> int:
    claim = stage.get("claim", 0)
    return -1 if claim == "first" else int(claim)
