"""Which columns of a file may be ours under other names: a guess to show, never one to follow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Our field -> other names for it, the likeliest first; compared without case and punctuation.
_NAMES = {
    "id": "id uid key nr no number idx index qid question_id sample_id item_id",
    "source_dataset": "source dataset corpus origin",
    "question": "question text prompt query instruction question_text",
    "choices": "choices options candidates multi_choice answers_list",
    "answer": "answer gold label correct truth target solution correct_answer answer_gt gold_answer",
    "audio_path": "audio file path filename file_name audio_file wav clip sound recording audio_name audio_id",
}
_OPTION = re.compile(r"(?:choice|option|opt|answer)?_*([a-z]|\d{1,2})")


def flags_for(missing: Sequence[str], columns: Iterable[str]) -> str:
    """The flags that would read the missing fields from such columns; where none looks like one, THEIRS or NAME.

    `--column id=nr choices=A,B,C,D audio_path=file --constant source_dataset=NAME`
    """
    listed = [name for name in columns if isinstance(name, str)]
    pairs, constant = [], ""
    for field in missing:
        theirs = _guess(field, listed)
        if theirs is None and field == "source_dataset":
            constant = "--constant source_dataset=NAME"
        else:
            pairs.append(f"{field}={theirs or 'THEIRS'}")
    return " ".join(filter(None, [f"--column {' '.join(pairs)}" if pairs else "", constant]))


def _guess(field: str, columns: Sequence[str]) -> str | None:
    plain = {_plain(name): name for name in reversed(columns) if not re.search(r"[\s,=]", name)}
    known = next((plain[_plain(name)] for name in _NAMES.get(field, "").split() if _plain(name) in plain), None)
    if known is None and field == "choices":
        options = sorted((found[1], name) for name in plain.values() if (found := _OPTION.fullmatch(name.lower())))
        if len(options) >= 2 and options[0][0] in ("a", "0", "1"):
            return ",".join(name for _, name in options)
    return known


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()
