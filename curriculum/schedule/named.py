"""A curriculum from its mapping or from its file; what is wrong in a file is said with the file's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...configs.files import read_curriculum
from ...configs.overrides import split_name
from ...errors import InputError
from .stages import Curriculum, parse_curriculum


def curriculum_of(spec: Mapping[str, Any] | str, file: str | None = None) -> Curriculum:
    """The curriculum of a mapping, or of a file's name that overrides may follow.

    file: where the mapping was read, if from a file. Raises InputError, which begins with the file that is wrong.
    """
    if isinstance(spec, str):
        file = split_name(spec)[0]
        spec = read_curriculum(spec)
    try:
        return parse_curriculum(spec)
    except InputError as error:
        raise InputError(f"{file}: {error}" if file else str(error)) from error
