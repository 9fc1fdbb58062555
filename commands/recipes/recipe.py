"""A recipe: named steps that depend on each other by their files, all of them checked before the first starts.

A recipe is a YAML file: free keys to interpolate (`name`, `seed`, `out`, `curriculum`, ...) and `steps`, a mapping from
a step's name to `do: VERB` and the verb's arguments. For fit, validate, test and predict the arguments are a complete
LightningCLI configuration; for the other verbs, one of FUNCTIONS or an import path like `my_lab.steps.clean`, those of
the function. Of itself a step may say `after`, `inputs`, `outputs` and `devices`. `graph.py` says which steps run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...boundary.files import is_file
from ...boundary.words import say
from ...configs.files import read_extended
from ...configs.plugins import nearest
from ...errors import InputError
from .graph import Graph
from .verbs import FUNCTIONS, TRAINER_VERBS

__all__ = ["FUNCTIONS", "TRAINER_VERBS", "Graph", "load_recipe", "run_recipe"]
SHIPPED = Path(__file__).parents[2] / "configs" / "recipes"


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


def run_recipe(
    recipe: str, overrides: Sequence[str] = (), dry_run: bool = False, jobs: int = 1, synthetic: bool = False
) -> None:
    """Checks all steps, then runs those that are not done; prints one line per step and what it found.

    recipe: a YAML file or a shipped name. overrides: words like `steps.grpo.threads=1`. dry_run: only says of each step
    whether it would run, and why, and of a recipe with `costs` what it takes. jobs: how many steps may run at a time.
    synthetic: in a dry run, files from elsewhere that are not there are listed instead of refused.
    Raises InputError before the first step starts where any step has a wrong key or value, or reads a path that is not
    there and that no step before it writes.
    """
    spec, origin = load_recipe(recipe, overrides)
    if not isinstance(spec.get("out"), str) or not spec["out"]:
        raise InputError(f"{origin}: a recipe names its folder, `out`; got {spec.get('out')!r:.80}")
    if jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {jobs}")
    if synthetic and not dry_run:
        raise InputError("--synthetic is for a --dry-run: without its files nothing of a recipe can run")
    graph = Graph(spec["steps"], spec["out"], origin)
    head = f"{spec.get('name', origin)}: {len(graph.steps)} steps into {spec['out']}/"
    if dry_run:
        from .costs import cost_lines

        lacking: dict[str, str] = {}
        say("\n".join([head, *told(graph.explain(lacking if synthetic else None), graph)]))
        for path, reader in lacking.items():
            say(f"  not there yet: {path} ({reader})")
        if lines := cost_lines(spec):
            say("\n".join(["", *lines]))
        return
    graph.explain()
    say(head, flush=True)
    started = time.monotonic()
    graph.run(jobs)
    say(f"finished in {time.monotonic() - started:.0f} s", flush=True)
    for step in graph.steps.values():
        if step.verb == "build_report":
            from ...reports.run_page import show

            show(step.spec["results"], step.spec.get("out"))


def told(found: Sequence[tuple[str, str, str]], graph: Graph) -> list[str]:
    """The lines of a dry run: each step with its verb, whether it would run and why, and their sum."""
    names = [f"{name}: {graph.steps[name].verb}" for name, *_ in found]
    width = max(map(len, names), default=0)
    lines = [
        f"  {name:<{width}}  {what}{f': {why}' if why else ''}"
        for name, (_, what, why) in zip(names, found, strict=True)
    ]
    runs = sum(what == "runs" for _, what, _ in found)
    follow = any(why.startswith("because ") for *_, why in found)
    fewer = "; what stands behind one that leaves the same bytes as before will not" if follow else ""
    return [*lines, f"{runs} of {len(found)} steps would run{fewer}"]
