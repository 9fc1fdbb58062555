"""The layers, the sizes and the package list are themselves tested."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["kernels", "curriculum", "datamodules", "lightning_modules"]  # each may import itself and those before it
FORBIDDEN = {
    "curriculum": {"torch", "lightning", "transformers", "soundfile", "webdataset"},
    "datamodules": {"peft", "vllm", "triton"},
    "lightning_modules": {"triton", "soundfile", "webdataset"},
    "kernels": {"lightning", "transformers", "peft"},
}
MAX_LINES, MAX_FUNCTION, MAX_ARGUMENTS = 300, 60, 10


def source_files() -> list[Path]:
    files = [p for layer in LAYERS for p in sorted((ROOT / layer).rglob("*.py"))]
    return files + sorted(ROOT.glob("*.py"))


def imported(path: Path) -> set[str]:
    """Absolute module names; relative imports are resolved against the package `earwitness`."""
    package = ("earwitness", *path.relative_to(ROOT).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                names.add(node.module or "")
                continue
            base = package[: len(package) - node.level + 1]
            stem = ".".join([*base, node.module] if node.module else base)
            names |= {stem} | ({f"{stem}.{alias.name}" for alias in node.names} if not node.module else set())
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_downward(layer: str) -> None:
    allowed = LAYERS[: LAYERS.index(layer) + 1] + ["errors", "progress"]
    if layer == "curriculum":
        allowed.remove("kernels")
    for path in sorted((ROOT / layer).rglob("*.py")):
        for name in imported(path):
            if name.startswith("earwitness."):
                # The launcher hands over to the command line: the one import upward.
                upward = name == "earwitness.commands.cli" and path.name == "cli.py"
                assert name.split(".")[1] in allowed or upward, f"{path.relative_to(ROOT)} imports {name}"
            assert name.split(".")[0] not in FORBIDDEN[layer], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MAX_FUNCTION, f"{node.name} has {lines} lines"
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([a for a in arguments if a.arg not in ("self", "cls")])
            if "kernels" not in path.parts:
                assert count <= MAX_ARGUMENTS, f"{node.name} has {count} arguments"


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_and_public_function_says_what_it_does(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


def test_the_package_list_is_whole() -> None:
    """Every folder with Python files is listed; a forgotten one would be missing from the wheel without an error."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {p.parent.relative_to(ROOT) for top in [*LAYERS, "configs"] for p in (ROOT / top).rglob("*.py")}
    expected = {".".join(["earwitness", *folder.parts]) for folder in folders} | {"earwitness"}
    assert listed == expected
    assert not (ROOT / "kernels" / "__init__.py").exists(), "it would shadow Hugging Face's `kernels`"
