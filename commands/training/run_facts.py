"""What a run is, kept with its logs: resolved configuration, curriculum, versions; secrets are left out."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from omegaconf import OmegaConf

from ... import __version__
from ...boundary.environment import hidden_in
from ...boundary.files import TEXT_BYTES, read_bytes, write_text
from ...lightning_modules.checkpoints.logs import tell

_PACKAGES = ("torch", "lightning", "transformers", "peft", "numpy", "triton", "vllm", "webdataset")
_SECRET = {"key", "apikey", "token", "secret", "password", "passwd", "pwd", "credential", "credentials", "auth"}
_FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:\s*['\"]?(\w+)")
_MASK = "***"


def secrets_of(texts: Iterable[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Values of environment variables that the texts interpolate and whose names are like a secret's.

    texts: of configuration files and command lines. HF_TOKEN, WANDB_API_KEY and DB_PASSWORD are such names.
    """
    names = {name for text in texts for name in _FROM_ENVIRONMENT.findall(text)}
    values = {environment.get(name, "") for name in names if _SECRET & set(name.lower().split("_"))}
    return sorted((value for value in values if value), key=len, reverse=True)


def masked(node: Any, secrets: Sequence[str]) -> Any:
    """A configuration as plain values, with *** for the secrets and for what stands under a key like api_key.

    node: mappings, lists and plain values; anything else becomes its text. Whatever text holds a secret has *** there.
    """
    if isinstance(node, Mapping):
        hides = {name: isinstance(value, str) and _names_secret(str(name)) for name, value in node.items()}
        return {_hidden(str(n), secrets): _MASK if hides[n] else masked(value, secrets) for n, value in node.items()}
    if isinstance(node, list | tuple):
        return [masked(each, secrets) for each in node]
    if node is None or isinstance(node, bool):
        return node
    text = _hidden(str(node), secrets)
    return node if isinstance(node, int | float) and text == str(node) else text


def _names_secret(name: str) -> bool:
    words = name.lower().split("_")
    return words[-1] in _SECRET - {"key"} or (len(words) > 1 and words[-2:] in (["api", "key"], ["access", "key"]))


def _hidden(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, _MASK)
    return text


def versions() -> dict[str, str]:
    """The versions of Python, of this package and of those that numbers depend on."""
    found = {"python": platform.python_version(), "earwitness": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class RunFacts(L.Callback):
    """Writes `run.yaml` beside the log when training starts, readable by its owner alone, and tells the loggers.

    Args:
        configuration: the resolved one. texts: of its files and command line, in which secrets are interpolated.
        folder: where it goes when nothing is logged.
    """

    def __init__(self, configuration: Mapping[str, Any], texts: Sequence[str], folder: str) -> None:
        self.secrets = secrets_of(texts)
        self.configuration, self.folder = masked(configuration, self.secrets), folder

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Writes them on rank 0."""
        if not trainer.is_global_zero:
            return
        curriculum = masked(json.loads(pl_module.data.plan.curriculum.canonical()), self.secrets)
        facts = {"configuration": self.configuration, "curriculum": curriculum, "versions": versions()}
        facts["command"] = " ".join(masked(sys.argv, self.secrets))
        facts = hidden_in(facts)
        for logger in trainer.loggers:
            tell(logger, facts)
        # not the trainer's `log_dir`, which all ranks must ask for together
        folder = Path(next((str(one.log_dir) for one in trainer.loggers if getattr(one, "log_dir", None)), self.folder))
        write_text(folder / "run.yaml", OmegaConf.to_yaml(OmegaConf.create(_literal(facts))), private=True)


def _literal(node: Any) -> Any:
    """With every ${ escaped: what is written was resolved before."""
    if isinstance(node, Mapping):
        return {name: _literal(value) for name, value in node.items()}
    if isinstance(node, list):
        return [_literal(each) for each in node]
    return node.replace("${", "\\${") if isinstance(node, str) else node


class BesideCsv(TensorBoardLogger):
    """TensorBoard's events in the folder of a CSVLogger, whichever version that writes to."""

    def __init__(self, csv: CSVLogger) -> None:
        super().__init__(csv.save_dir, csv.name)
        self.csv = csv

    @property
    def version(self) -> int | str:
        """That of the CSVLogger."""
        return self.csv.version


def with_tensorboard(trainer: L.Trainer) -> None:
    """Adds TensorBoard beside a CSVLogger that is alone; a list of loggers is taken as it is."""
    if len(trainer.loggers) == 1 and type(trainer.loggers[0]) is CSVLogger and find_spec("tensorboard"):
        trainer.loggers = [trainer.loggers[0], BesideCsv(trainer.loggers[0])]


def texts_of(words: Sequence[str]) -> list[str]:
    """The words of a command line, and the texts of the YAML files among them."""
    named = [word.partition("=")[2] or word for word in words]
    files = [name for name in named if name.endswith((".yaml", ".yml")) and _is_file(name)]
    return [*words, *(read_bytes(name, TEXT_BYTES).decode("utf-8", "replace") for name in files)]


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False
