"""A recipe: named steps in order, all of them checked before the first starts, each done once.

A recipe is a YAML file: free keys to interpolate (`name`, `seed`, `out`, `curriculum`, ...) and `steps`, a mapping from
a step's name to `do: VERB` and the verb's arguments. For fit, validate, test and predict the arguments are a complete
LightningCLI configuration; for the other verbs, one of FUNCTIONS or an import path like `my_lab.steps.clean`, those of
the function. A finished step is recorded with a fingerprint of its arguments and of the steps before it, and is not run
again unless one of them changes.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import __version__
from ..boundary.environment import hidden_in
from ..boundary.files import alone_in, is_file, read_json, write_text
from ..boundary.words import is_name, say
from ..configs.files import read_extended
from ..configs.plugins import function_named, nearest
from ..configs.typed import arguments, mapping
from ..errors import InputError
from .checks import Written, checked_curriculum, function_reads, missing_path, trainer_reads
from .forwarding import forwarded

SHIPPED = Path(__file__).parents[1] / "configs" / "recipes"
TRAINER_VERBS = ("fit", "validate", "test", "predict")
FUNCTIONS = {
    "build_sounds": "earwitness.datamodules.corpora.sounds",
    "build_spoken_digits": "earwitness.datamodules.corpora.spoken_digits",
    "shard": "earwitness.datamodules.shards.packing",
    "build_index": "earwitness.datamodules.shards.index",
    "build_tiny": "earwitness.lightning_modules.policy.tiny",
    "label": "earwitness.curriculum.contribution.labels",
    "published_labels": "earwitness.curriculum.contribution.labels",
    "label_by_voters": "earwitness.commands.recipe_jobs",
    "ask_benchmarks": "earwitness.commands.recipe_jobs",
    "score_table": "earwitness.commands.score_table",
    "evaluate": "earwitness.curriculum.evaluation.evaluate",
    "build_report": "earwitness.reports.run_page",
}


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """The resolved recipe and where it came from; a name without a path is one of the shipped recipes."""
    path = Path(recipe)
    if not is_file(path) and "/" not in recipe:
        path = SHIPPED / f"{path.stem}.yaml"
    if not is_file(path):
        raise InputError(
            f"{recipe}: no such recipe; shipped are {', '.join(sorted(p.stem for p in SHIPPED.glob('*.yaml')))}"
        )
    spec = read_extended(path)
    if not isinstance(spec.get("steps"), DictConfig):
        raise InputError(f"{path}: a recipe is a mapping with `steps`")
    for override in overrides:
        key, mark, _ = override.partition("=")
        if not mark or not key:
            raise InputError(f"override {override!r} is not of the form key=value")
        _known_override(spec, key, path)
    try:
        spec.merge_with_dotlist(list(overrides))
        return OmegaConf.to_container(spec, resolve=True, throw_on_missing=True), str(path)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: {reason}; set it on the command line, e.g. data.source=FILE") from None


def _known_override(spec: DictConfig, key: str, path: Path) -> None:
    """Free keys and steps must exist; what lies inside a step is checked against its verb's arguments later."""
    node: Any = spec
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, DictConfig) or (parts[0] == "steps" and depth >= 2):
            return
        if part not in list(node.keys()):  # OmegaConf's `in` denies a key whose value is still missing
            raise InputError(f"{path}: no key {key!r} to override; {nearest(part, map(str, node), 'there are')}")
        node = None if OmegaConf.is_missing(node, part) or OmegaConf.is_interpolation(node, part) else node[part]


def run_recipe(recipe: str, overrides: Sequence[str] = (), dry_run: bool = False) -> None:
    """Checks all steps, then runs those that are not done; prints one line per step and what it found.

    recipe: a YAML file or a shipped name. overrides: words like `steps.grpo.threads=1`. dry_run: only lists the steps.
    Raises InputError before the first step starts where any step has a wrong key or value, or reads a path that is not
    there and that no step before it writes.
    """
    spec, origin = load_recipe(recipe, overrides)
    if not spec.get("out"):
        raise InputError(f"{origin}: a recipe names its folder, `out`")
    steps = {name: Step(name, step, Path(spec["out"]), origin) for name, step in spec["steps"].items()}
    chain, written = hashlib.blake2b(__version__.encode(), digest_size=8), Written()
    for name, step in steps.items():
        chain.update(json.dumps([name, spec["steps"][name]], sort_keys=True).encode())
        step.fingerprint = chain.hexdigest()
        if not step.done:  # what a step that is done read may be gone by now
            step.check_paths(written)
    say(f"{spec.get('name', origin)}: {len(steps)} steps into {spec['out']}/", flush=True)
    if dry_run:
        say("\n".join(f"  {name}: {step.verb}" for name, step in steps.items()))
        return
    started = time.monotonic()
    with alone_in(spec["out"], "running"):
        for number, step in enumerate(steps.values(), 1):
            step.run(f"[{number:>2}/{len(steps)}] {step.name:<18}")
    say(f"finished in {time.monotonic() - started:.0f} s", flush=True)
    for step in steps.values():
        if step.verb == "build_report":
            from ..reports.run_page import show

            show(step.given["results"], step.given.get("out"))


class Step:
    """One step of a recipe; its verb and all its arguments are known to be right.

    verb: of `do`. given: its arguments; for a trainer verb the whole configuration, defaults included. fingerprint: of
    its text and that of all steps before it.
    """

    def __init__(self, name: str, spec: Any, out: Path, origin: str) -> None:
        spec = mapping(spec, f"{origin}: step {name!r}")
        if not is_name(name) or name.startswith("."):
            raise InputError(f"{origin}: a step's name is letters, digits, - _ and ., got {name!r:.80}")
        self.name, self.where, self.folder = name, f"{origin}: step {name!r}: ", out / name
        self.record, self.fingerprint = out / ".steps" / f"{name}.json", ""
        self.verb, self.spec = spec.pop("do", None), spec
        self.trains = self.verb in TRAINER_VERBS
        self.given = self._checked_trainer() if self.trains else self._checked_function()

    def _checked_function(self) -> dict[str, Any]:
        if not isinstance(self.verb, str):
            raise InputError(f"{self.where}`do` must name a verb, got {self.verb!r}")
        found = function_named(self.verb, FUNCTIONS | dict.fromkeys(TRAINER_VERBS, ""), f"{self.where}do")
        self.function: Callable[..., Any] = found if callable(found) else getattr(import_module(found), self.verb)
        given = arguments(self.function, _present_spelling(self.verb, self.spec), self.where)
        if self.verb == "evaluate" and given.get("curriculum") is not None:
            checked_curriculum(given["curriculum"], f"{self.where}curriculum")
        return given

    def _checked_trainer(self) -> dict[str, Any]:
        from .trainer import check

        with tempfile.TemporaryDirectory() as scratch:
            config = Path(scratch) / "config.yaml"
            write_text(config, OmegaConf.to_yaml(OmegaConf.create(hidden_in(self.spec))), private=True)
            try:
                return check([self.verb, "--config", str(config)])
            except InputError as error:
                raise type(error)(self.where + str(error)) from error

    def check_paths(self, written: Written) -> None:
        """Raises InputError for a path that is not there and not `written` before; adds what this step writes."""
        ours = self.verb in FUNCTIONS
        reads = trainer_reads(self.verb, self.given) if self.trains else function_reads(self.given if ours else {})
        if missing := missing_path(reads, written):
            raise InputError(self.where + missing)
        if self.trains:
            written.add_trainer(self.given)
        else:
            written.add_function(self.verb, self.given, ours)

    @property
    def done(self) -> bool:
        """Whether it ran to its end before, with the same arguments after the same steps."""
        return bool(self.fingerprint) and self._recorded().get("fingerprint") == self.fingerprint

    def _recorded(self) -> dict[str, Any]:
        record = read_json(self.record) if self.record.is_file() else {}
        return record if isinstance(record, dict) else {}

    def run(self, head: str) -> None:
        """Runs the step unless it is done, and records that it is; head: how its printed lines begin."""
        before = self._recorded()
        if self.done:
            say(f"{head} done before    {_shown(before['result'])}", flush=True)
            return
        say(f"{head} {self.verb} ...", flush=True)
        begin = time.monotonic()
        if before.get("started") != self.fingerprint:
            self._move_aside()
        _write(self.record, {"started": self.fingerprint})
        result: Any = None
        if self.trains:
            self._train()
        else:
            result = self.function(**self.given)
        seconds = time.monotonic() - begin
        _write(self.record, {"fingerprint": self.fingerprint, "seconds": round(seconds, 1), "result": result})
        say(f"{head} {seconds:6.1f} s       {_shown(result)}", flush=True)

    def _move_aside(self) -> None:
        """Checkpoints of other arguments are not continued. Done before this start is recorded: no kill mixes them."""
        if self.verb != "fit":
            return
        from ..lightning_modules.checkpoints.folders import moved_aside
        from .continuing import checkpoints_folder

        folder = checkpoints_folder(self.spec)
        aside = None if folder is None else moved_aside(folder)
        if aside is not None:
            say(f"  {folder} is of another configuration of this step, and now {aside}", flush=True)

    def _train(self) -> None:
        """Runs a trainer verb: in this process for one device, in one of its own for more, as launchers fork it.

        A run that a signal ended ends the recipe with the same code, 143 after SIGTERM.
        """
        config = self.folder / "config.yaml"
        spec = OmegaConf.create({"paths": {"out": str(self.folder)}} | hidden_in(self.spec))
        write_text(config, OmegaConf.to_yaml(spec), private=True)
        words = [self.verb, "--config", str(config)]
        if self.spec.get("trainer", {}).get("devices", 1) in (1, "1"):
            from .trainer import main

            main(words)
            return
        code = forwarded([sys.executable, "-m", "earwitness", *words])
        if code > 128:
            raise SystemExit(code)
        if code:
            raise InputError(f"{config}: {self.verb} ended with code {code}; its messages are above")


def _present_spelling(verb: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a step with `column_map` and `layout` of earlier recipes where they are now, in `fields`."""
    if verb != "shard":
        return dict(spec)
    older = {"column_map": "columns", "layout": "layout"}
    fields = {older[name]: value for name, value in spec.items() if name in older and value is not None}
    given = {name: value for name, value in spec.items() if name not in older}
    return given | {"fields": (given.get("fields") or {}) | fields} if fields else given


def _shown(result: Any) -> str:
    """What a step returned, for a printed line."""
    if isinstance(result, dict):
        return ", ".join(f"{key} {value}" for key, value in result.items())
    return str(result or "")


def _write(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON whole or not at all, so that a record is never half there."""
    plain = json.loads(json.dumps(content, default=str))  # a lab's function may return anything
    write_text(path, json.dumps(hidden_in(plain), indent=1), private=True)
