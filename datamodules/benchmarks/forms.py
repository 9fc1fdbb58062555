"""Forms of prediction files: what the published scorers and submission pages read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from ..questions.layouts import layout_named
from .benchmark import Predicted, Writer


def json_list(name: str, *keys: str) -> Writer:
    """A writer of the file's records as one JSON list, with the answer under each of the keys; "" where none came."""

    def write(predicted: Sequence[Predicted]) -> dict[str, str]:
        records = [{**one.record, **dict.fromkeys(keys, one.said)} for one in predicted]
        return {name: json.dumps(records, indent=1, ensure_ascii=False, default=str) + "\n"}

    return write


def json_lines(name: str, key: str, nothing: str) -> Writer:
    """A writer of the file's records as lines of JSON, with the answer under the key.

    nothing: what stands there where no answer came, or "None", or nothing but white space.
    """

    def write(predicted: Sequence[Predicted]) -> dict[str, str]:
        said = [nothing if one.said.strip() in ("", "None") else one.said for one in predicted]
        records = [{**one.record, key: answer} for one, answer in zip(predicted, said, strict=True)]
        return {name: "".join(json.dumps(each, ensure_ascii=False, default=str) + "\n" for each in records)}

    return write


def question_and_answer(name: str, layout: str, *columns: str) -> Writer:
    """A writer of a table `question,answer`: the question's id and the picked option as the file writes it.

    columns: where the options stand in the file, of which the first that is there is taken.
    """

    def write(predicted: Sequence[Predicted]) -> dict[str, str]:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["question", "answer"])
        for one in predicted:
            options: Any = next((one.record[column] for column in columns if column in one.record), [])
            identity = layout_named(layout)(one.record).get("id") or PurePosixPath(one.key).name
            picked = options[one.option] if one.option is not None and one.option < len(options) else ""
            table.writerow([identity, picked])
        return {name: text.getvalue()}

    return write
