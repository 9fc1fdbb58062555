"""What README, CONTRIBUTING, the configurations and the Makefile name is there: modules, classes, files, folders."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import pytest

import earwitness
from earwitness.tests.architecture import FOLDERS
from earwitness.tests.places import ROOT

PAGES = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
TEXTS = ["README.md", *PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", ".ci/run", "pyproject.toml"]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
OTHERS = ("GRPOTrainer",)  # classes of other projects
DOTTED = re.compile(r"\bearwitness(?:\.[A-Za-z_]\w*)+(?::\w+)?")
CLASS_PATH = re.compile(r"\bclass_path: *[\"']?([\w.]+)")
TOPS = "|".join([*FOLDERS, "tests", "benchmarks"])
OWN_FILE = re.compile(rf"(?<![\w./-])(?:(?:{TOPS})(?:/[\w.]+)+|\.ci/run)(?![\w*])")


def loaded(name: str) -> Any:
    """What a dotted name is: a module, or an attribute of the module before it."""
    parts = name.replace(":", ".").split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            assert error.name is not None and ".".join(parts).startswith(error.name), f"{name}: {error}"
            continue
        for part in parts[end:]:
            value = getattr(value, part)
        return value
    raise AssertionError(f"{name} cannot be imported")


def names_in(text: str) -> set[str]:
    """Dotted names of this package, and the classes that a YAML file names, comments included."""
    return set(DOTTED.findall(text)) | set(CLASS_PATH.findall(text))


@pytest.mark.parametrize("file", TEXTS + CONFIGS)
def test_every_dotted_name_is_loaded(file):
    for name in sorted(names_in((ROOT / file).read_text())):
        try:
            loaded(name)
        except AttributeError as error:
            raise AssertionError(f"{file} names {name}: {error}") from None


def test_names_are_found_and_missing_ones_are_seen():
    text = "# engine: {class_path: earwitness.VllmEngin} `earwitness.curriculum.plan.no` class_path: torch.optim.AdamX"
    names = names_in(text + ' main = "earwitness.commands.cli:main"')
    missing = {"earwitness.VllmEngin", "earwitness.curriculum.plan.no", "torch.optim.AdamX"}
    assert names == missing | {"earwitness.commands.cli:main"}
    for name in missing:
        with pytest.raises(AttributeError):
            loaded(name)
    with pytest.raises(AssertionError, match="no_such_package"):
        loaded("no_such_package.thing")
    assert loaded("earwitness.commands.cli:main").__name__ == "main"


def test_the_python_of_the_texts_imports_what_there_is():
    text = "".join((ROOT / name).read_text() for name in ["README.md", *PAGES])
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block))]
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        for alias in node.names:
            loaded(f"{node.module}.{alias.name}")


def test_classes_of_ours_that_texts_name_without_a_path_are_public():
    """In code of a sentence or a table: `VllmEngine`; blocks of code are run, imports and all."""
    code = " ".join(re.findall(r"`([^`\n]+)`", "".join((ROOT / name).read_text() for name in ["README.md", *PAGES])))
    named = set(re.findall(r"(?<![\w.])[A-Z][a-z]+(?:[A-Z][a-z]+)+(?![\w.])", code))
    assert {"VllmEngine", "SilentProbe", "CompletionTable"} <= named
    assert named <= {*dir(earwitness), *OTHERS}


@pytest.mark.parametrize("file", TEXTS + CONFIGS)
def test_every_file_of_ours_that_is_named_exists(file):
    named = {name.rstrip(".") for name in OWN_FILE.findall((ROOT / file).read_text())}
    named -= {"curriculum/progress", "curriculum/PACE"}  # names in a log
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_the_tables_to_add_to_are_where_contributing_says():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    tables = re.findall(r"`([A-Z_]+)` in `([\w/]+)\.py`", text)
    assert len(tables) >= 7
    for name, file in tables:
        assert isinstance(loaded(f"earwitness.{file.replace('/', '.')}.{name}"), Mapping)
    rows = {line.split("|")[1].strip(): line.split("|")[2] for line in text.splitlines() if line.startswith("| a")}
    wanted = ["backbone", "loss", "reward", "curriculum weight", "benchmark", "dataset source", "command", "page"]
    wanted += ["KL estimator", "prompt style", "judging rule", "recipe verb"]
    assert {f"a {what}" for what in wanted} | {"an advantage"} <= set(rows)
    for what, place in rows.items():
        path = re.findall(r"`([\w/.]+)`", place)[-1]
        assert (ROOT / path).exists(), f"{what}: {path}"


def tree_of(text: str) -> dict[str, str]:
    """Folder -> its line, of the block that shows the tree; two blanks more are one folder deeper."""
    block = text.split("## The tree", 1)[1].split("```")[1]
    folders: dict[str, str] = {}
    above: list[str] = []
    for line in block.strip("\n").splitlines():
        found = re.fullmatch(r"((?:  )*)(\w+)/ {2,}(\S.*)", line)
        assert found, f"not a folder and what it is for: {line!r}"
        above = [*above[: len(found[1]) // 2], found[2]]
        folders["/".join(above)] = found[3]
    return folders


def test_the_tree_in_contributing_is_the_tree_on_disk():
    """Every folder with Python files has its line, and no line is without a folder."""
    shown = tree_of((ROOT / "CONTRIBUTING.md").read_text())
    folders = {path.parent for top in FOLDERS for path in (ROOT / top).rglob("*.py")} | {
        ROOT / "benchmarks",
        ROOT / "tests",
    }
    there = {str(folder.relative_to(ROOT)) for folder in folders}
    assert sorted(there - set(shown)) == [], "without a line"
    assert [name for name in shown if not (ROOT / name).is_dir()] == [], "lines without a folder"
    empty = [name for name in set(shown) - there if not any(path.is_file() for path in (ROOT / name).iterdir())]
    assert empty == []


def test_a_tree_is_read_by_its_indentation():
    text = "## The tree\n```\na/      one\n  b/    two\n    c/  three\n  d/    four\ne/      five\n```\n"
    assert list(tree_of(text)) == ["a", "a/b", "a/b/c", "a/d", "e"]
    with pytest.raises(AssertionError, match="not a folder"):
        tree_of("## The tree\n```\na/ one\n```\n")


def test_the_version_is_the_same_wherever_it_stands():
    heading = re.search(
        r"^## (\S+) \((unreleased|\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert heading and cited
    assert heading[1] == cited[1] == earwitness.__version__
