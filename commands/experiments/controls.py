"""Controls of an experiment: arms that break one thing of another arm, to show what its result is due to.

label_permuted       labels change places within each source: is it the label?
random_split         labels change places among all labelled questions: stages of the same sizes, dealt at random
source_matched       both stages have the table's mix of sources: is it the source?
jury_leave_one_out   one arm per voter, whose vote is left out: is it the jury?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from ...configs.plugins import nearest
from ...configs.typed import known_keys, value_of
from ...errors import InputError

CONTROLS = {
    "label_permuted": ("within",),
    "random_split": (),
    "source_matched": ("by",),
    "jury_leave_one_out": ("voters",),
}


class Control(NamedTuple):
    """An arm that is made: its name, the arm that it is of, its curriculum, and what it is meant to differ in."""

    name: str
    of: str
    curriculum: dict[str, Any]
    declared: tuple[str, ...]


def controls_of(
    given: Sequence[str] | Mapping[str, Any],
    recipe: Mapping[str, Any],
    curriculum: Mapping[str, Any],
    of: str,
    where: str,
) -> list[Control]:
    """The controls that a file asks for, as a list of names or name -> arguments; of: the arm that they change.

    recipe, curriculum: that arm's. where: the file, for messages. InputError for an unknown control or argument.
    """
    wanted = dict.fromkeys(given) if not isinstance(given, Mapping) else dict(given)
    found: list[Control] = []
    for name, arguments in wanted.items():
        if name not in CONTROLS:
            raise InputError(f"{where}: no control {name!r}; {nearest(str(name), CONTROLS, 'there are')}")
        more = known_keys(arguments or {}, CONTROLS[name], f"{where}: controls.{name}")
        if name == "source_matched":
            found.append(Control(name, of, _matched(curriculum, str(more.get("by", "source"))), _WEIGHTED))
        elif name == "jury_leave_one_out":
            for vote in range(_voters(more.get("voters"), recipe, where)):
                changed = _relabelled(curriculum, {"votes": {"drop": [f"vote_{vote}"]}})
                found.append(Control(f"without_voter_{vote}", of, changed, _COLUMNS))
        else:
            within = {"within": str(more.get("within", "source"))} if name == "label_permuted" else {}
            found.append(Control(name, of, _relabelled(curriculum, {"permute": within | {"among": "known"}}), _COLUMNS))
    return found


_COLUMNS = ("curriculum.columns",)
_WEIGHTED = ("curriculum.cells", "curriculum.stages.*.weight")


def _relabelled(curriculum: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """The curriculum over another column `label`; models are still judged by the labels of the table."""
    return dict(curriculum) | {"columns": dict(curriculum.get("columns") or {}) | {"label": dict(change)}}


def _matched(curriculum: Mapping[str, Any], by: str) -> dict[str, Any]:
    """The curriculum whose stages have the table's mix of a column, which becomes an axis of its cells."""
    changed = deepcopy(dict(curriculum))
    cells = changed.get("cells", ["label"])
    changed["cells"] = dict(cells) | {by: by} if isinstance(cells, Mapping) else [*dict.fromkeys([*cells, by])]
    for stage in changed["stages"]:
        for one in stage.get("stages") or [stage]:
            weight = one.get("weight", "uniform")
            one["weight"] = (dict(weight) if isinstance(weight, Mapping) else {weight: {}}) | {"matched": {"by": by}}
    return changed


def _voters(given: Any, recipe: Mapping[str, Any], where: str) -> int:
    """How many voters the recipe's labels are from, by the file itself or by the recipe."""
    if given is not None:
        count: int = value_of(given, int, f"{where}: controls.jury_leave_one_out.voters")
        if count < 2:
            raise InputError(f"{where}: controls.jury_leave_one_out: of {count} voters none can be left out")
        return count
    for step in (recipe.get("steps") or {}).values():
        if isinstance(step, Mapping):
            given = step.get("votes") or step.get("voters")
            if isinstance(given, list) and len(given) > 1:
                return len(given)
    raise InputError(
        f"{where}: controls.jury_leave_one_out: no step of the recipe says how many voters there are; "
        "write jury_leave_one_out: {voters: 3}"
    )
