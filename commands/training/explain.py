"""Why a configuration of a trainer command is refused, in one sentence that names the key.

jsonargparse, which reads these files, lists every type that a value does not fit, over dozens of lines, and an
InputError of a class that it makes is lost among them. What it refuses is read once more here, by `configs/typed.py`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...configs.files import read_yaml, shipped_file
from ...configs.overrides import value_in
from ...configs.typed import OBJECT, Loose, arguments, known_keys, placed, value_of
from ...errors import InputError

_ONLY_CHECKED = ("logger", "strategy", "plugins", "profiler", "accelerator")  # making them may touch disk or devices


_FLAGS = ("fresh",)  # options without a value


class UsageError(InputError):
    """A key or value that a trainer command does not take; the command line ends with 2, as for a wrong option."""

    exit_code = 2


def reason(error: BaseException, config: Callable[[], dict[str, Any]], top: Mapping[str, Any]) -> str | None:
    """One sentence about what is wrong with a configuration, None where nothing in it explains the error.

    What a class raises that is no refusal of a value, like a KeyError of a lab's code, is raised again.

    error: what reading the configuration, or making its objects, raised. config: gives it, merged and resolved.
    top: the keys that there are at its top, with their types.
    """
    try:
        _read(config(), top)
    except InputError as refused:
        return _line(str(refused))
    except OmegaConfBaseException as refused:
        return _line(f"{refused.full_key or 'configuration'}: {str(refused).splitlines()[0]}")
    except (ValueError, MisconfigurationException) as refused:
        if notes := getattr(refused, "__notes__", []):  # where the class stands that raised it
            return _line(placed(str(refused), notes[0]))
    except Exception as fault:
        if getattr(fault, "__notes__", []):  # of a class: its traceback is what helps
            raise
    for cause in _chain(error):
        if isinstance(cause, InputError):
            return _line(str(cause))
    text = str(error)
    return _shortened(text) if "Parser key" in text or "Does not validate" in text or _is_parsing(error) else None


def merged(words: Sequence[str]) -> dict[str, Any]:
    """The configuration that the words of a command line give: files and single keys, later ones over earlier ones."""
    config: dict[str, Any] = {}
    rest = iter(words[1:])
    for word in rest:
        key, mark, given = word.lstrip("-").partition("=")
        value = "true" if key in _FLAGS and not mark else given if mark else next(rest, None)
        if not word.startswith("-") or value is None:
            raise InputError(f"{word} needs a value" if word.startswith("-") else f"unrecognized argument {word!r}")
        if key in ("config", "c"):
            if not value.startswith("{") and not Path(value).is_file():
                raise InputError(f"{value}: no such file")
            both = OmegaConf.merge(config, json.loads(value) if value.startswith("{") else read_yaml(Path(value)))
            config = OmegaConf.to_container(both)  # type: ignore[assignment]
        else:
            parsed = value_in(value)
            _set(config, key.split("."), parsed if isinstance(parsed, (dict, list)) else value)
    return _loose(OmegaConf.to_container(OmegaConf.create(config), resolve=True))  # type: ignore[no-any-return]


def readable(words: Sequence[str]) -> list[str]:
    """The words of a command line as jsonargparse understands them.

    The name of a shipped file behind `--config` becomes its path: `--config sft`. A value `null` becomes a file of its
    own, for `--model.init_args.policy.lora null` would be taken for the name of a class. UsageError where there is
    neither a file nor a shipped one of that name.
    """
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        key, mark, given = word.partition("=")
        if not key.startswith("-") or (not mark and key.lstrip("-") in _FLAGS):
            found.append(word)
            continue
        value = given if mark else next(rest, None)
        if value is None:
            found.append(word)
        elif key in ("--config", "-c") and not value.startswith("{"):
            try:
                found += [key, str(shipped_file(value, ""))]
            except InputError as error:
                raise UsageError(f"{key}: {error}") from None
        elif value == "null" and "." in key:
            found += ["--config", _file_of_null(found, key.lstrip("-").split("."))]
        else:
            found += [word] if mark else [word, value]
    return found


def _file_of_null(words: Sequence[str], parts: list[str]) -> str:
    """JSON of a configuration with null at the end of a path; what the words before make an object gets init_args."""
    node: Any = merged(words)
    whole: list[str] = []
    for part in parts:
        if isinstance(node, dict) and "class_path" in node and part not in OBJECT:
            whole.append("init_args")
            node = node.get("init_args")
        whole.append(part)
        node = node.get(part) if isinstance(node, dict) else None
    text = "null"
    for part in reversed(whole):
        text = f"{{{json.dumps(part)}: {text}}}"
    return text


def _loose(value: Any) -> Any:
    """The value with every text that looks like something else marked so; jsonargparse takes it for either."""
    if isinstance(value, dict):
        return {key: _loose(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_loose(one) for one in value]
    if not isinstance(value, str) or isinstance(parsed := value_in(value), str):
        return value
    return Loose.of(value, parsed)


def _set(node: Any, parts: Sequence[str], value: Any) -> None:
    """Sets `a.b.c` as jsonargparse does: the names of arguments may follow an object's key without `init_args`."""
    for depth, part in enumerate(parts):
        if isinstance(node, list):
            node = node[-1]
        if not isinstance(node, dict):
            return
        if "class_path" in node and part not in OBJECT:
            node = node.setdefault("init_args", {})
        if depth + 1 < len(parts):
            node = node.setdefault(part, {})
        elif part.endswith("+"):
            node.setdefault(part[:-1], []).append(value)
        elif isinstance(value, str) and isinstance(node.get(part), dict) and "class_path" in node[part]:
            node[part]["class_path"] = value
        else:
            node[part] = value


def _read(config: dict[str, Any], top: Mapping[str, Any]) -> None:
    """Reads everything by its annotations; an InputError is about the first thing that is wrong."""
    known_keys(config, list(top), "")
    for name in sorted(config.keys() - {"trainer", "model", "data"}):
        value_of(config[name], top[name], name)
    trainer = known_keys(config.get("trainer") or {}, list(inspect.signature(L.Trainer).parameters), "trainer")
    for name in _ONLY_CHECKED:
        given = trainer.pop(name, None)
        for number, one in enumerate(given if isinstance(given, list) else [given]):
            where = f"trainer.{name}[{number}]" if isinstance(given, list) else f"trainer.{name}"
            value_of(one, Callable[[], Any], where)
    arguments(L.Trainer, trainer, "trainer")
    for name, kind in (("model", L.LightningModule), ("data", L.LightningDataModule)):
        if not config.get(name):
            raise InputError(f"{name} is missing; configs/sft.yaml is a whole file")
        value_of(config[name], kind, name)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it came from, the first cause first."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    return chain[::-1]


def _is_parsing(error: BaseException) -> bool:
    """Whether reading the configuration was refused, and not making its objects."""
    from jsonargparse import ArgumentError

    return isinstance(error, (ArgumentError, OmegaConfBaseException))


def _shortened(text: str) -> str:
    """jsonargparse's message: the keys on the way, and the sentence below the last of them."""
    keys = re.findall(r'Parser key "(.*?)"', text)
    said = re.sub(r'.*Parser key ".*?":', "", text, flags=re.DOTALL)
    lines = [line.strip(" -") for line in said.splitlines()]
    noise = re.compile("Subtypes:|Errors:|Given value|Does not validate|Expected a path|Problem with given class_path")
    told = [line for line in lines if line and not noise.match(line)]
    if text.startswith("Does not validate"):  # one bullet for each type; a class that refused says more than the rest
        bullets = re.findall(r"^  - (.*)$", text, re.MULTILINE)
        told = [line for line in bullets if not line.startswith(("Not a valid subclass of", "Expected a"))] + told
    return _line(": ".join([".".join(keys), told[0] if told else said.strip()] if keys else told[:1]) or text)


def _line(text: str) -> str:
    """The text on one line, cut where it would fill a screen."""
    line = " ".join(text.split())
    return line if len(line) <= 400 else f"{line[:400]} ..."
