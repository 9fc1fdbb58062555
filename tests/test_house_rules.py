"""The rules of the house: who imports whom, sizes, docstrings, and that lists of folders are whole."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from earwitness.tests.architecture import (
    FLOORS,
    FOLDERS,
    ROOMS,
    circles,
    floors,
    graph,
    imported,
    imported_modules,
    source_files,
    upward,
)
from earwitness.tests.places import ROOT, TESTS

# What a folder must not import: other projects, and `kernels` where torch would come with it.
FORBIDDEN = {
    "commands": {"triton", "peft", "vllm", "soundfile", "webdataset"},
    "reports": {"torch", "lightning", "transformers", "pyarrow", "soundfile", "webdataset", "kernels"},
    "lightning_modules": {"triton", "soundfile", "webdataset"},
    "datamodules": {"peft", "vllm", "triton"},
    "curriculum": {"torch", "lightning", "transformers", "soundfile", "webdataset", "omegaconf", "kernels"},
    "configs": {"torch", "lightning", "transformers", "soundfile", "webdataset", "numpy", "pyarrow", "kernels"},
    "kernels": {"lightning", "transformers", "peft"},
    "boundary": {"torch", "lightning", "transformers", "soundfile", "webdataset", "omegaconf", "kernels"},
}
MAX_LINES, MAX_FUNCTION, MAX_ARGUMENTS = 300, 60, 10
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
FILES = source_files()


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def folders_with_python(top: Path) -> set[Path]:
    return {path.parent for path in top.rglob("*.py")}


def test_nothing_imports_in_a_circle():
    assert circles(graph()) == []


def test_imports_point_downward():
    """Between folders and between rooms, as the floors in architecture.py say."""
    assert upward(graph()) == []


def test_no_floor_is_empty():
    """What the floors name is a folder or a file."""
    named = [ROOT / name for name in floors(FLOORS)]
    named += [ROOT / folder / room for folder, rooms in ROOMS.items() for room in floors(rooms)]
    assert [shown(path) for path in named if not path.is_dir() and not path.with_suffix(".py").is_file()] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_keeps_away_from_what_is_not_its_business(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        names = {name.split(".")[0] for name in imported(path)} | {module[0] for module in imported_modules(path)}
        assert not names & FORBIDDEN[folder], f"{shown(path)} imports {names & FORBIDDEN[folder]}"


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, FUNCTIONS):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MAX_FUNCTION, f"{node.name} has {lines} lines"
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([a for a in arguments if a.arg not in ("self", "cls")])
            assert "kernels" in path.parts or count <= MAX_ARGUMENTS, f"{node.name} has {count} arguments"


def public_definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Functions, classes and their methods without an underscore; a property counts once."""
    for node in tree.body:
        if isinstance(node, FUNCTIONS | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            for member in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(member, FUNCTIONS) and not member.name.startswith("_") and not _again(member):
                    yield f"{node.name}.{member.name}", member


def _again(method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it belongs to another definition: the setter of a property, one of several signatures."""
    marks = [ast.unparse(decorator) for decorator in method.decorator_list]
    return any(mark.endswith((".setter", "overload")) for mark in marks)


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_everything_public_says_what_it_does(path):
    """In three words at least; a formula alone tells a reader nothing."""
    tree = ast.parse(path.read_text())
    said = {"the module": ast.get_docstring(tree)}
    said |= {name: ast.get_docstring(node) for name, node in public_definitions(tree)}
    assert [name for name, text in said.items() if not text] == [], "without a docstring"
    short = {name: text for name, text in said.items() if len(re.findall(r"[^\W\d_]+", text or "")) < 3}
    assert short == {}, "fewer than three words"


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_a_module_says_what_it_is(path):
    said = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert said.split()[0] != "Knows", said.splitlines()[0]


def test_the_laws_of_docstrings_bite():
    tree = ast.parse(
        "class A:\n    '''What stands for a thing.'''\n    def b(self): ...\n    def _c(self): ...\n"
        "    @property\n    def d(self):\n        '''1 - p.'''\n    @d.setter\n    def d(self, value): ...\n"
        "def e(): ...\ndef _f(): ...\nasync def g(): ...\nclass _H:\n    def i(self): ...\n"
    )
    assert [name for name, _ in public_definitions(tree)] == ["A", "A.b", "A.d", "e", "g"]


def test_the_package_list_is_whole():
    """Every folder with Python files is listed; a forgotten one would be missing from the wheel without an error."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {folder for top in FOLDERS for folder in folders_with_python(ROOT / top)}
    assert listed == {"earwitness"} | {".".join(["earwitness", *f.relative_to(ROOT).parts]) for f in folders}


def test_every_folder_is_a_package_but_kernels():
    """An __init__.py there would shadow Hugging Face's `kernels` for whoever runs in the repository."""
    folders = {folder for top in FOLDERS for folder in folders_with_python(ROOT / top)}
    assert [f for f in folders if not (f / "__init__.py").exists()] == [ROOT / "kernels"]


def test_the_root_holds_only_what_belongs_to_no_folder():
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py", "progress.py"}


def test_the_tests_mirror_the_package():
    """tests/curriculum/plan is about curriculum/plan; golden figures and stored files belong to no room."""
    files = [path.relative_to(TESTS) for path in TESTS.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    rooms = {file.parent for file in files} - {Path()}
    rooms = {room for room in rooms if room.parts[0] not in ("golden", "stored")}
    assert sorted(str(room) for room in rooms if not list((ROOT / room).glob("*.py"))) == []
    assert {room.parts[0] for room in rooms} <= set(FOLDERS)


def test_the_lists_of_other_files_are_whole():
    """Styles, scripts, YAML and whatever else lies beside the code is in the wheel."""
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packed = {
        path
        for package, patterns in globs.items()
        for pattern in patterns
        for path in (ROOT / Path(*package.split(".")[1:])).glob(pattern)
    }
    beside = {path for top in FOLDERS for path in (ROOT / top).rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert sorted(shown(path) for path in beside - packed if path.suffix != ".py") == []
