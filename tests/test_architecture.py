"""The check of imports bites: made-up packages with a circle or an import upward, and one that is in order."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from earwitness.tests.architecture import circles, graph, imported, source_files, upward

IN_ORDER = {
    "__init__.py": "if TYPE_CHECKING:\n    from .lightning_modules.sft import SFT as SFT",
    "errors.py": "class InputError(ValueError): ...",
    "commands/__init__.py": "",
    "commands/cli.py": "from .. import __version__\nfrom ..lightning_modules import sft",
    "lightning_modules/__init__.py": "",
    "lightning_modules/sft.py": "from .policy import omni\nfrom ..datamodules.module import AudioQuestions",
    "lightning_modules/policy/__init__.py": "",
    "lightning_modules/policy/omni.py": "from .checkpoint import load",
    "lightning_modules/policy/checkpoint.py": "import torch\nfrom ...errors import InputError",
    "datamodules/__init__.py": "",
    "datamodules/module.py": "from ..curriculum.plan.plan import Plan\nfrom ..errors import InputError",
    "curriculum/__init__.py": "",
    "curriculum/identity.py": "import numpy as np",
    "curriculum/plan/__init__.py": "",
    "curriculum/plan/plan.py": "import earwitness.curriculum.identity\nfrom earwitness.errors import InputError",
}


def faults(root: Path, **changed: str) -> tuple[list[str], list[str]]:
    """Circles and imports upward of the package in order, with some files changed; `__` in a name is a slash."""
    changes = {f"{name.replace('__', '/')}.py": textwrap.dedent(text) for name, text in changed.items()}
    for name, text in (IN_ORDER | changes).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    edges = graph(root)
    assert len(edges) == len(source_files(root)) == len(IN_ORDER | changes)
    return circles(edges), upward(edges)


def test_a_package_in_order_has_no_fault(tmp_path):
    assert faults(tmp_path) == ([], [])
    edges = graph(tmp_path)
    assert edges["__init__",] == {("lightning_modules", "sft")}
    assert edges["commands", "cli"] == {("__init__",), ("lightning_modules", "sft")}
    assert edges["curriculum", "plan", "plan"] == {("curriculum", "identity"), ("errors",)}


@pytest.mark.parametrize(
    "text",
    [
        "from .omni import read",
        "from . import omni",
        "import earwitness.lightning_modules.policy.omni",
        "if TYPE_CHECKING:\n    from .omni import OmniPolicy",
        "def load():\n    from ..policy.omni import OmniPolicy\n    return OmniPolicy",
        "class Checkpoint:\n    def load(self):\n        try:\n            from . import omni\n        finally: ...",
    ],
    ids=["name", "module", "absolute", "TYPE_CHECKING", "function", "method"],
)
def test_a_circle_is_found_wherever_the_import_stands(text, tmp_path):
    found, wrong = faults(tmp_path, lightning_modules__policy__checkpoint=text)
    assert found == ["lightning_modules.policy.checkpoint <-> lightning_modules.policy.omni"] and wrong == []


def test_a_circle_of_three_is_one_circle(tmp_path):
    """Down two folders and up again: one group of three modules, and one import upward."""
    text = "def steps():\n    from ...lightning_modules.sft import SFT"
    found, wrong = faults(tmp_path, curriculum__plan__plan=text)
    assert found == ["curriculum.plan.plan <-> datamodules.module <-> lightning_modules.sft"]
    assert wrong == ["curriculum.plan.plan imports lightning_modules.sft"]


@pytest.mark.parametrize(
    ("module", "text", "fault"),
    [
        ("curriculum__identity", "from .plan.plan import Plan", "curriculum.identity imports curriculum.plan.plan"),
        ("datamodules__module", "from .. import commands", "datamodules.module imports commands.__init__"),
        ("datamodules__module", "from earwitness import SFT", "datamodules.module imports __init__"),
        ("errors", "from .curriculum import identity", "errors imports curriculum.identity"),
        (
            "lightning_modules__policy__checkpoint",
            "if TYPE_CHECKING:\n    from ..sft import SFT",
            "lightning_modules.policy.checkpoint imports lightning_modules.sft",
        ),
    ],
)
def test_an_import_upward_is_found(module, text, fault, tmp_path):
    """Between rooms and between folders; a neighbour on the same floor counts as upward, too."""
    assert faults(tmp_path, **{module: text})[1] == [fault]


def test_neighbours_on_a_floor_do_not_import_each_other(tmp_path):
    _, wrong = faults(tmp_path, lightning_modules__grpo="from .sft import SFT")
    assert wrong == ["lightning_modules.grpo imports lightning_modules.sft"]


def test_a_room_without_a_floor_is_a_fault(tmp_path):
    _, wrong = faults(tmp_path, curriculum__helpers="import math", utils="import math")
    assert wrong == ["curriculum.helpers stands on no floor", "utils stands on no floor"]


def test_names_of_other_packages_are_seen(tmp_path):
    """Also inside functions, where heavy imports stand."""
    (tmp_path / "progress.py").write_text("import os.path\ndef show():\n    from rich.progress import track, Progress")
    assert imported(tmp_path / "progress.py", tmp_path) == {
        "os.path", "rich.progress.track", "rich.progress.Progress",
    }  # fmt: skip
