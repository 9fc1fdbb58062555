"""The floors of the package: who may import whom, and a list of whoever does otherwise.

`python tests/architecture.py` prints every circle of imports and every import upward; imports inside functions and
under TYPE_CHECKING count like any other. It ends with 1 where there are any.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

Module = tuple[str, ...]  # the parts of its name after `earwitness`
ROOT = Path(__file__).parents[1]
FOLDERS = ("commands", "reports", "lightning_modules", "datamodules", "curriculum", "configs", "kernels", "boundary")
# From the top. What stands on one line may import what stands below it and itself, but not its neighbours on the line.
FLOORS = """
__main__
commands
__init__
lightning_modules
reports
datamodules
curriculum
configs
kernels
progress
boundary
errors
"""
ROOMS = {
    "commands": """
        launch
        cli
        build compare evaluate export init inspect label plan report run serve shard show tiny
        index
        experiments
        recipes
        building evaluation inspection labelling
        training
        checks
        processes
    """,
    "lightning_modules": """
        interleaved
        grpo sft
        base
        callbacks
        step
        voters
        rollout
        strategies
        policy
        checkpoints
        objectives ranks connections
    """,
    "datamodules": """
        module
        training voting building
        batches
        benchmarks corpora processors
        shards
        batch
        asking sources
        questions storage
        audio
    """,
    "curriculum": """
        evaluation
        preview
        online
        plan
        schedule
        contribution
        statistics table
        identity
        arrays
    """,
}


def floors(text: str) -> dict[str, int]:
    """Name -> its floor; 0 is the highest."""
    lines = [line.split() for line in text.strip().splitlines()]
    return {name: number for number, names in enumerate(lines) for name in names}


def source_files(root: Path = ROOT) -> list[Path]:
    """All files of the package, without its tests and benchmarks."""
    return sorted(root.glob("*.py")) + [p for top in FOLDERS for p in sorted((root / top).rglob("*.py"))]


def module_of(path: Path, root: Path = ROOT) -> Module:
    """The parts of a file's module name, without `earwitness`; a package is its `__init__`."""
    return path.relative_to(root).with_suffix("").parts


def imported(path: Path, root: Path = ROOT) -> set[str]:
    """The dotted names that a file imports, wherever in it; relative ones are resolved against `earwitness`."""
    package = ("earwitness", *module_of(path, root)[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (base, node.module) if part)
            names |= {f"{stem}.{alias.name}" for alias in node.names}
    return names


def imported_modules(path: Path, root: Path = ROOT) -> set[Module]:
    """The modules of this package that a file imports."""
    own = [name.split(".")[1:] for name in imported(path, root) if name.split(".")[0] == "earwitness"]
    return {_file_of(parts, root) for parts in own} - {module_of(path, root)}


def _file_of(parts: list[str], root: Path) -> Module:
    """The module that a dotted name lies in: itself, or the one that a function or class is part of."""
    for end in range(len(parts), 0, -1):
        path = root.joinpath(*parts[:end])
        if path.with_suffix(".py").is_file():
            return tuple(parts[:end])
        if (path / "__init__.py").is_file():
            return (*parts[:end], "__init__")
    return ("__init__",)


def graph(root: Path = ROOT) -> dict[Module, set[Module]]:
    """Module -> the modules that it imports."""
    return {module_of(path, root): imported_modules(path, root) for path in source_files(root)}


def upward(edges: dict[Module, set[Module]]) -> list[str]:
    """The imports that do not point to a lower floor, nor stay in their own folder or room; modules without a floor."""
    found = [f"{'.'.join(module)} stands on no floor" for module in sorted(edges) if not _has_floor(module)]
    for module, targets in sorted(edges.items()):
        for target in sorted(targets):
            if _has_floor(module) and _has_floor(target) and not _may_import(module, target):
                found.append(f"{'.'.join(module)} imports {'.'.join(target)}")
    return found


def _has_floor(module: Module) -> bool:
    rooms = ROOMS.get(module[0])
    return module[0] in floors(FLOORS) and (rooms is None or module[1] in ("__init__", *floors(rooms)))


def _may_import(module: Module, target: Module) -> bool:
    if module[0] != target[0]:
        tops = floors(FLOORS)
        return tops[module[0]] < tops[target[0]]
    if module[0] not in ROOMS or module[1] == target[1] or "__init__" in (module[1], target[1]):
        return True
    rooms = floors(ROOMS[module[0]])
    return rooms[module[1]] < rooms[target[1]]


def circles(edges: dict[Module, set[Module]]) -> list[str]:
    """Groups of modules that import each other in a circle (Tarjan's strongly connected components)."""
    index: dict[Module, int] = {}
    low: dict[Module, int] = {}
    stack: list[Module] = []
    found: list[str] = []

    def visit(module: Module) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in edges.get(module, ()):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            group = []
            while not group or group[-1] != module:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(" <-> ".join(sorted(".".join(each) for each in group)))

    for module in edges:
        if module not in index:
            visit(module)
    return found


def main() -> int:
    """Prints what breaks the rules and returns the exit status, 1 where anything does."""
    edges = graph()
    faults = [f"circle: {each}" for each in circles(edges)] + [f"upward: {each}" for each in upward(edges)]
    print("\n".join(faults) or f"{len(edges)} modules, no circle, nothing upward")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
