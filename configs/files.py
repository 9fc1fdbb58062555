"""The reader of YAML files: safe YAML as mappings, and curricula in files of their own or in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..errors import InputError

SHIPPED = Path(__file__).parent / "curricula"


def find_file(name: str) -> Path:
    """The file of a curriculum: a path, or the name of a shipped one such as `weak_to_strong`.

    InputError where there is neither; it lists the shipped ones.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = SHIPPED / f"{name.removesuffix('.yaml')}.yaml"
    if "/" not in name and shipped.is_file():
        return shipped
    known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
    raise InputError(f"{name}: no such file; shipped curricula are {known}")


def read_yaml(path: Path) -> DictConfig:
    """The mapping in a YAML file, its interpolations still open; InputError where it holds none."""
    try:
        spec = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise InputError(f"{path}: not a YAML mapping ({' '.join(str(error).split())})") from None
    if not isinstance(spec, DictConfig):
        raise InputError(f"{path}: not a YAML mapping")
    return spec


def resolved(node: Any, path: Path) -> dict[str, Any]:
    """A part of a file as plain mappings and lists, interpolated; InputError for a value in it that is missing.

    path: of the file, for messages. What is missing elsewhere in the file does not matter.
    """
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from None


def read_curriculum(name: str) -> dict[str, Any]:
    """The mapping of a curriculum, by a path or a shipped name: under the key `curriculum`, or the whole file.

    InputError where there is no such file or mapping.
    """
    path = find_file(name)
    spec = read_yaml(path)
    chosen = OmegaConf.select(spec, "curriculum", default=spec)
    if not isinstance(chosen, DictConfig):
        raise InputError(f"{path}: `curriculum` must be a mapping")
    return resolved(chosen, path)
