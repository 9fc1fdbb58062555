"""The reader of YAML files: safe YAML as mappings, and curricula in files of their own or in a recipe."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers.oc import env
from yaml import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent, YAMLError, parse

from ..boundary.environment import remember
from ..boundary.files import is_file, read_text
from ..errors import InputError
from .extending import changed
from .overrides import overridden, split_name
from .plugins import nearest

SHIPPED = Path(__file__).parent / "curricula"
_MOST_NODES, _MOST_DEPTH = 200_000, 100
_KEYS = ("curriculum", "data.init_args.training.curriculum")


def find_file(name: str) -> Path:
    """The file of a curriculum: a path, or the name of a shipped one such as `weak_to_strong`.

    InputError where there is neither; it lists the shipped ones.
    """
    path = Path(name)
    if is_file(path):
        return path
    shipped = SHIPPED / f"{name.removesuffix('.yaml')}.yaml"
    if "/" not in name and is_file(shipped):
        return shipped
    known = sorted(p.stem for p in SHIPPED.glob("*.yaml"))
    raise InputError(f"{name}: no such file; {nearest(name, known, 'shipped curricula are')}")


def shipped_files(kind: str = "*") -> dict[str, Path]:
    """Name -> file of everything that is shipped: `sft`, `curricula/weak_to_strong`, `recipes/demo`, `launch/slurm`.

    kind: a folder below `configs/`, "" for the files of trainer commands and jobs, all by default.
    """
    here = Path(__file__).parent
    found = {str(path.relative_to(here).with_suffix("")): path for path in sorted(here.rglob("*.*"))}
    suffixes = {".yaml", ".sh", ".txt", ".md"}
    wanted = {name: path for name, path in found.items() if path.suffix in suffixes}
    return {name: path for name, path in wanted.items() if kind in ("*", name.rpartition("/")[0])}


def shipped_file(name: str, kind: str = "*") -> Path:
    """The path that is given where it is a file, else the shipped file of that name, its folder included or not.

    InputError where there is none; it names a near one, or all.
    """
    if Path(name).is_file():
        return Path(name)
    files = shipped_files(kind)
    short = {known.rpartition("/")[2]: path for known, path in reversed(files.items())}
    found = files.get(name.removesuffix(".yaml")) or short.get(name.removesuffix(".yaml"))
    if found is None and name.endswith((".yaml", ".yml")):
        raise InputError(f"{name}: no such file")
    if found is None:
        raise InputError(f"{name}: no such file; {nearest(name, files, 'shipped are')}")
    return found


def read_yaml(path: Path) -> DictConfig:
    """The mapping in a YAML file, its interpolations still open; InputError where it holds none."""
    text = read_text(path)
    try:
        _check_aliases(text)
        spec = OmegaConf.load(io.StringIO(text))
    except (YAMLError, OmegaConfBaseException, OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not a YAML mapping ({' '.join(str(error).split())[:300]})") from None
    if not isinstance(spec, DictConfig):
        raise InputError(f"{path}: not a YAML mapping")
    return spec


def read_extended(path: Path) -> DictConfig:
    """The mapping in a YAML file, laid over that of the file that its `extends` names, which may extend another one.

    `extends` names a file beside it, or a shipped recipe. For what a change does see `changed`. InputError where a file
    is not there or extends itself.
    """
    layers = _layers(path)
    whole = layers.pop()[1]
    for layer, content in reversed(layers):
        whole = changed(whole, content, layer)
    return OmegaConf.create(whole)  # type: ignore[no-any-return]


def _layers(path: Path) -> list[tuple[Path, Any]]:
    """(file, what stands in it) of a file, of that which it extends, and so on."""
    layers: list[tuple[Path, Any]] = []
    while True:
        if any(path.resolve() == known.resolve() for known, _ in layers):
            raise InputError(f"{path}: extends itself, by way of {layers[-1][0]}")
        content: Any = OmegaConf.to_container(read_yaml(path), resolve=False)
        base = content.pop("extends", None)
        layers.append((path, content))
        if base is None:
            return layers
        if not isinstance(base, str):
            raise InputError(f"{path}: extends must be the name of one file, got {base!r:.80}")
        near = path.parent / (base if base.endswith((".yaml", ".yml")) else f"{base}.yaml")
        try:
            path = near if is_file(near) else shipped_file(base, "recipes")
        except InputError as error:
            raise InputError(f"{path}: extends: {error}") from None


def _check_aliases(text: str) -> None:
    """Raises ValueError where aliases repeat what they name until there are more than _MOST_NODES nodes."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    count = 0
    for event in parse(text):
        if isinstance(event, AliasEvent):
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            count += 1
        elif isinstance(event, CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = count - before
        elif isinstance(event, ScalarEvent):
            count += 1
        if count > _MOST_NODES or len(open_nodes) > _MOST_DEPTH:
            raise ValueError(f"it holds more than {_MOST_NODES:,} values, or {_MOST_DEPTH} within each other")


def _environment(name: str, *default: Any) -> Any:
    """OmegaConf's `oc.env`, whose values are remembered, so that they are hidden wherever they are stored or shown."""
    value = env(name, *default)
    return remember(name, value) if isinstance(value, str) and name in os.environ else value


_register = getattr(OmegaConf, "register_resolver", None) or OmegaConf.register_new_resolver  # the name in 2.4
_register("oc.env", _environment, replace=True)


def resolved(node: Any, path: Path) -> dict[str, Any]:
    """A part of a file as plain mappings and lists, interpolated; InputError for a value in it that is missing.

    path: of the file, for messages. What is missing elsewhere in the file does not matter.
    """
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from None


def read_beside(path: Path, name: str) -> dict[str, Any]:
    """A curriculum that the file at `path` names: one beside it, or a path or a shipped name as on the command line."""
    near = path.parent / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    return read_curriculum(str(near) if near.is_file() else name)


def read_curriculum(name: str) -> dict[str, Any]:
    """The mapping of a curriculum, by a path or a shipped name.

    It stands under `curriculum`, in a trainer's configuration under `data.init_args.training`, or is the whole file.
    Overrides may follow the name: "weak_to_strong stages.grpo.budget.steps=50 seed=3"; see `overridden`.
    InputError where there is no such file or mapping, or an override leads nowhere.
    """
    words: list[str] = []
    for path, chosen, nearer in _chosen(name):
        words = nearer + words
        if isinstance(chosen, DictConfig):
            return overridden(resolved(chosen, path), words)
    raise InputError(f"{path}: `curriculum` must be a mapping")


def curriculum_files(name: str) -> list[Path]:
    """The files that `read_curriculum` reads for this name, those that they extend included. InputError as it."""
    return [layer for path, *_ in _chosen(name) for layer, _ in _layers(path)]


def is_resolved_anew(path: Path) -> bool:
    """Whether values in a YAML file depend on more than the file: on the environment, as `${oc.env:NAME}` does."""
    return re.search(r"\$\{\s*[\w.]+\s*:", read_text(path)) is not None


def _chosen(name: str) -> Iterator[tuple[Path, Any, list[str]]]:
    """(file, what it has for a curriculum, overrides) of a name; a trainer's or a recipe's file may name another."""
    for _ in range(2):
        name, nearer = split_name(name)
        path = find_file(name)
        spec = read_extended(path)
        chosen = next((found for key in _KEYS if (found := _at(spec, key, path)) is not None), spec)
        yield path, chosen, nearer
        if not isinstance(chosen, str):
            return
        name = chosen


def _at(spec: DictConfig, key: str, path: Path) -> Any:
    """What stands under a key, None where nothing does; InputError where its value is missing."""
    try:
        return OmegaConf.select(spec, key)
    except OmegaConfBaseException as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from None
