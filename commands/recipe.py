"""Knows how a recipe runs: named steps in order, checked before the first starts, each done once.

A recipe is a YAML file: free keys to interpolate (`name`, `seed`, `out`, `curriculum`, ...) and `steps`, a mapping from
a step's name to `do: VERB` and the verb's arguments. For fit, validate, test and predict the arguments are a complete
LightningCLI configuration; for the other verbs those of a function. A finished step is recorded with a fingerprint of
its arguments and of the steps before it, and is not run again unless one of them changes.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import __version__
from ..errors import InputError

TRAINER_VERBS = ("fit", "validate", "test", "predict")
FUNCTIONS = {
    "build_sounds": "earwitness.datamodules.corpora.sounds",
    "build_spoken_digits": "earwitness.datamodules.corpora.spoken_digits",
    "shard": "earwitness.datamodules.shards.packing",
    "build_index": "earwitness.datamodules.shards.index",
    "build_tiny": "earwitness.lightning_modules.policy.tiny",
    "label": "earwitness.curriculum.contribution.labels",
    "evaluate": "earwitness.curriculum.evaluation.evaluate",
    "build_report": "earwitness.reports.run_page",
}


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """The resolved recipe and where it came from; a name without a path is one of the shipped recipes."""
    path = Path(recipe)
    if not path.is_file() and "/" not in recipe:
        path = Path(__file__).parents[1] / "configs" / "recipes" / f"{path.stem}.yaml"
    if not path.is_file():
        shipped = sorted(p.stem for p in (Path(__file__).parents[1] / "configs" / "recipes").glob("*.yaml"))
        raise InputError(f"{recipe}: no such recipe; shipped are {', '.join(shipped)}")
    try:
        spec = OmegaConf.load(path)
    except Exception as error:  # every YAML library error is about this file
        raise InputError(f"{path}: not a YAML mapping ({' '.join(str(error).split())})") from None
    if not isinstance(spec, DictConfig) or not isinstance(spec.get("steps"), DictConfig):
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
            near = get_close_matches(part, [str(k) for k in node], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(str, node))}"
            raise InputError(f"{path}: no key {key!r} to override; {hint}")
        node = None if OmegaConf.is_missing(node, part) or OmegaConf.is_interpolation(node, part) else node[part]


def run_recipe(recipe: str, overrides: Sequence[str] = (), dry_run: bool = False) -> None:
    """Checks all steps, then runs those that are not done; prints one line per step and what it found."""
    spec, origin = load_recipe(recipe, overrides)
    if not spec.get("out"):
        raise InputError(f"{origin}: a recipe names its folder, `out`")
    out = Path(spec["out"])
    steps: dict[str, dict[str, Any]] = spec["steps"]
    jobs = {name: _checked(name, dict(step), out, origin) for name, step in steps.items()}
    print(f"{spec.get('name', origin)}: {len(jobs)} steps into {out}/", flush=True)
    if dry_run:
        print("\n".join(f"  {name}: {steps[name]['do']}" for name in jobs))
        return
    chain, started = hashlib.blake2b(__version__.encode(), digest_size=8), time.monotonic()
    for number, (name, job) in enumerate(jobs.items(), 1):
        chain.update(json.dumps([name, steps[name]], sort_keys=True).encode())
        record = out / ".steps" / f"{name}.json"
        head = f"[{number:>2}/{len(jobs)}] {name:<18}"
        done = json.loads(record.read_text()) if record.is_file() else {}
        if done.get("fingerprint") == chain.hexdigest():
            print(f"{head} done before    {_shown(done['result'])}", flush=True)
            continue
        print(f"{head} {steps[name]['do']} ...", flush=True)
        begin = time.monotonic()
        started_before = done.get("started") == chain.hexdigest()
        _write(record, {"started": chain.hexdigest()})
        result = job(resume=started_before) if steps[name]["do"] == "fit" else job()
        seconds = time.monotonic() - begin
        _write(record, {"fingerprint": chain.hexdigest(), "seconds": round(seconds, 1), "result": result})
        print(f"{head} {seconds:6.1f} s       {_shown(result)}", flush=True)
    print(f"finished in {time.monotonic() - started:.0f} s", flush=True)
    for step in steps.values():
        if step["do"] == "build_report":
            from ..reports.run_page import show

            show(step["results"], step.get("out"))


def _shown(result: Any) -> str:
    if isinstance(result, dict):
        return ", ".join(f"{key} {value}" for key, value in result.items())
    return str(result or "")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(content, indent=1))
    scratch.replace(path)


def _checked(name: str, step: dict[str, Any], out: Path, origin: str) -> Callable[..., Any]:
    """The step as a call, once its verb and all its arguments are known to be right."""
    verb = step.pop("do", None)
    if verb in FUNCTIONS:
        function = getattr(import_module(FUNCTIONS[verb]), verb)
        known = inspect.signature(function).parameters
        for key in step:
            if key not in known:
                near = get_close_matches(key, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
                raise InputError(f"{origin}: step {name!r}: {verb} has no argument {key!r}; {hint}")
        for key, parameter in known.items():
            if parameter.default is inspect.Parameter.empty and key not in step:
                raise InputError(f"{origin}: step {name!r}: {verb} needs the argument {key!r}")
        return lambda: function(**step)
    if verb not in TRAINER_VERBS:
        verbs = [*FUNCTIONS, *TRAINER_VERBS]
        near = get_close_matches(str(verb), verbs, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"the verbs are {', '.join(verbs)}"
        raise InputError(f"{origin}: step {name!r}: unknown verb `do: {verb}`; {hint}")
    from .trainer import check

    folder = out / name
    config = folder / "config.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(step), config)
    check([verb, "--config", str(config)])
    return lambda resume=False: _train(verb, config, step, resume)


def _train(verb: str, config: Path, step: dict[str, Any], resume: bool) -> Any:
    """Runs a trainer verb: here with one device, in a process of its own with more, as launchers fork the command."""
    arguments = [verb, "--config", str(config)]
    last = config.parent / "checkpoints" / "last.ckpt"
    if resume and last.is_file():
        arguments += ["--ckpt_path", str(last)]
    if step.get("trainer", {}).get("devices", 1) in (1, "1"):
        from .trainer import main

        main(arguments)
        return None
    finished = subprocess.run([sys.executable, "-m", "earwitness", *arguments], check=False)
    if finished.returncode:
        raise InputError(f"{config}: {verb} ended with code {finished.returncode}; its messages are above")
    return None
