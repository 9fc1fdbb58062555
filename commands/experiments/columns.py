"""The columns that arms decide by, looked up before the tables that hold them are made: labels may take hours."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ...curriculum.contribution.columns import PUBLISHED, label_schema
from ...curriculum.plan.columns import check_columns
from ...curriculum.schedule.stages import parse_curriculum
from ...curriculum.table import empty_table, read_arrow
from ...datamodules.shards.index import LEVEL_SCHEMA, SCHEMA
from ...errors import InputError
from ..checks.paths import Written
from ..recipes.verbs import FUNCTIONS


def check_arm(curriculum: Mapping[str, Any], data: Mapping[str, Any], steps: Mapping[str, Any], where: str) -> None:
    """Raises InputError, which begins with `where`, for a column that the arm's table will not have.

    data: what the data of its trained step are given. steps: those of the arm, which make the tables. Nothing is said
    where one of them is made by a function whose columns are not known here, or where a column that is kept of the
    questions is asked for, whose kind shows with the index alone.
    """
    labels = data.get("labels")
    paths = [data.get("index"), *([labels] if isinstance(labels, str) else labels or [])]
    if not all(isinstance(path, str) for path in paths):
        return
    schemas = [_schema(path, steps) for path in paths]
    known = [schema for schema in schemas if schema is not None]
    kept = _kept(paths[0], steps)
    if len(known) < len(paths) or any(f'"{name}"' in json.dumps(curriculum, default=str) for name in kept):
        return
    try:
        check_columns(parse_curriculum(curriculum), empty_table(known))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _schema(path: str, steps: Mapping[str, Any]) -> pa.Schema | None:
    """The columns of a table that is there, or that a step will write; None where they are not known."""
    if os.path.isfile(path):
        return read_arrow(path).schema
    step = _maker(path, steps)
    if step is None or "." in str((step.get("fields") or {}).get("layout", step.get("layout", ""))):
        return None
    votes = step.get("voters") or step.get("votes")
    if step["do"] == "shard":
        return pa.unify_schemas([SCHEMA, LEVEL_SCHEMA])
    if step["do"] == "published_labels":
        return PUBLISHED
    return label_schema(len(votes)) if step["do"] in ("label", "label_by_voters") and votes else None


def _kept(index: str, steps: Mapping[str, Any]) -> list[str]:
    """The names of the columns that the index will keep of the questions."""
    step = None if os.path.isfile(index) else _maker(index, steps)
    return list(((step or {}).get("fields") or {}).get("keep") or ())


def _maker(path: str, steps: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The step of a verb of ours that writes a table, the last of several; None where there is none."""
    found = None
    for step in steps.values():
        given = {key: step[key] for key in ("out", "shards") if isinstance(step.get(key), str)}
        written = Written()
        if step.get("do") in FUNCTIONS and given:
            written.add_function(step["do"], given, ours=True)
        if os.path.abspath(path) in written.exact:
            found = step
    return found
