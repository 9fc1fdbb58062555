"""What SECURITY.md promises of the code: one way in and one way out, and versions that are known to be good."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from earwitness.tests.architecture import source_files
from earwitness.tests.places import ROOT

# Names of calls that only `boundary` makes, and the files that may make them elsewhere, with the reason.
LAWS: dict[str, dict[str, str]] = {
    "print": {},
    "open": {"commands/cli.py": "/dev/null", "datamodules/storage/address.py": "a scratch file that the cache made"},
    ".open": {
        "datamodules/questions/formats.py": "texts in a given encoding, of a file that is known to be one",
        "datamodules/corpora/writing.py": "the corpus's own new folder",
        "curriculum/evaluation/evaluate.py": "planted answers of the corpus's own",
        "datamodules/asking/batches.py": "parts of an export, and results of a batch, a line at a time",
        "datamodules/asking/ledger.py": "the ledger's own file",
        "datamodules/building/balance.py": "drafts of the build's own stages",
        "datamodules/building/draft.py": "drafts of the build's own stages",
        "datamodules/building/outputs.py": "the build's own output",
        "datamodules/building/stages.py": "drafts of the build's own stages",
        "datamodules/sources/tables.py": "texts in the encoding that a source is published in",
    },
    ".read_text": {},
    ".read_bytes": {},
    ".write_text": {
        "curriculum/evaluation/evaluate.py": "its own results",
    },
    ".write_bytes": {},
    ".touch": {"datamodules/storage/cache.py": "exclusively"},
    "OSFile": {},
    "open_file": {"datamodules/shards/recordings.py": "the packing's own scratch file"},
    "open_stream": {},
    "memory_map": {"datamodules/shards/recordings.py": "the packing's own scratch file"},
    "ParquetFile": {"datamodules/questions/datasets.py": "the class of that name here"},
    "flock": {
        "datamodules/asking/ledger.py": "the ledger's own file",
    },
    "NamedTemporaryFile": {},
    "mkstemp": {},
    "urlopen": {},
    "apply_chat_template": {},
    "eval": {},
    "exec": {},
    "system": {},
}
METHODS = {name.removeprefix(".") for name in LAWS if name.startswith(".")}


@cache
def called(path: Path) -> set[str]:
    """The names that a file calls: a function's own, or `.name` of a method that LAWS lists so."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                names.add(node.func.id)
            elif isinstance(node.func, ast.Attribute) and node.func.attr not in ("eval", "exec"):
                name = node.func.attr
                inner = ast.unparse(node.func.value)
                # os.open, a method of this package's own, or of an archive is not a path's
                own = inner in ("os", "self", "self._llm", "engine", "tarfile", "sf", "av", "_DIRECT", "soundfile")
                names.add(f".{name}" if name in METHODS and not own else name if name not in METHODS else "")
    return names


@pytest.mark.parametrize("law", LAWS)
def test_only_the_boundary_does(law):
    """Files of others, words of others and scratch files go through one function each, which is tested."""
    doing = {
        str(path.relative_to(ROOT))
        for path in source_files()
        if path.relative_to(ROOT).parts[0] not in ("boundary",) and law in called(path)
    }
    assert doing - set(LAWS[law]) == set(), f"use boundary/ instead of {law}()"
    assert set(LAWS[law]) - doing == set(), "no longer needed"


def test_no_model_is_loaded_without_saying_that_its_code_is_not_run():
    silent = []
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            ours = ast.unparse(node.func.value) in ("OmniProcessor", "cls")
            if node.func.attr == "from_pretrained" and not ours:
                said = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if said.get("trust_remote_code") != "False":
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert silent == []


def test_nothing_is_unpickled_but_tensors():
    for path in source_files():
        text = path.read_text()
        assert "pickle.load" not in text and "allow_pickle=True" not in text
        assert "weights_only=False" not in text, path


def constraints() -> dict[str, str]:
    parts = [line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return {canonicalize_name(name): version for name, _, version in parts if version}


def test_every_dependency_has_a_version_that_was_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = constraints()
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, needed):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} excludes {version}"


def test_bad_releases_cannot_be_installed():
    """Two were stolen accounts' work, the others let a file or a server end or take over the process."""
    bad = {"lightning": ("2.6.2", "2.6.3"), "pyarrow": ("14.0.0", "23.0.0"), "aiohttp": ("3.13.2", "3.14.0")}
    bad |= {"jinja2": ("3.1.5",), "torch": ("2.5.1",)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {canonicalize_name(one.name): one.specifier for one in map(Requirement, project["dependencies"])}
    for name, versions in bad.items():
        assert not any(found[name].contains(version) for version in versions), name


def test_the_page_on_trust_says_what_runs_code():
    text = (ROOT / "SECURITY.md").read_text()
    for word in ("class_path", "--dry-run", "plan", "trust_remote_code=False", "weights_only", "Reporting", "token"):
        assert word in text
    assert "-c constraints.txt" in (ROOT / "Makefile").read_text()
