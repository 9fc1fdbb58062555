"""What `import earwitness` gives: public names, loaded on first use, and known with their types to a type checker."""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

import earwitness
from earwitness.tests.places import ROOT

HEAVY = {"torch", "transformers", "lightning", "numpy", "pyarrow"}
USER = '''\
"""A user's file: everything above the line is right, every line below is wrong."""

import numpy as np
import numpy.typing as npt

import earwitness
from earwitness import GRPO, AudioQuestions, GRPOConfig, Lora, OmniPolicy, Paced, Reading, Rollout, TrainingSpec


def policy() -> OmniPolicy:
    return OmniPolicy("tiny", lora=Lora(rank=8))


def heard(column: npt.NDArray[np.float64], gamma: Paced = 1.0) -> npt.NDArray[np.float64]:
    return np.maximum(column, 0.0) ** gamma


training = TrainingSpec(curriculum="weak_to_strong", stage="grpo", augmentation=earwitness.Augmentation())
data: AudioQuestions = earwitness.AudioQuestions("index.arrow", training=training, reading=Reading(stall_s=60))
objective = GRPOConfig(beta=0.01, correction=earwitness.Correction(cap=3.0))
model = GRPO(policy, schedule=earwitness.Schedule(warmup_steps=5), rollout=Rollout(group_size=8), objective=objective)
samples = earwitness.IndexedSamples(earwitness.ShardReader("index.arrow"), np.arange(4))
plan = earwitness.Plan(earwitness.parse_curriculum({"stages": []}), earwitness.read_table("index.arrow"))
steps: int = plan.num_steps("grpo")
# ---- wrong
earwitness.GRPO(polcy=3)
earwitness.TrainingSpec(curiculum={})
earwitness.EvaluationSpec(batch_size="16")
earwitness.SFTT
count: str = plan.num_steps("grpo")
'''


def exported_to_type_checkers() -> dict[str, str]:
    """Name -> module, as the imports under TYPE_CHECKING say."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(block.body) and all(node.level == 1 for node in imports)
    assert all(alias.asname == alias.name for node in imports for alias in node.names), "`as` marks a re-export"
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_run_time_and_type_checkers_know_the_same_names():
    assert exported_to_type_checkers() == earwitness._PUBLIC
    assert sorted(["__version__", *earwitness._PUBLIC]) == sorted(earwitness.__all__) == dir(earwitness)


@pytest.mark.parametrize("name", earwitness._PUBLIC)
def test_every_public_name_is_loaded(name):
    value = getattr(earwitness, name)
    assert getattr(value, "__module__", "earwitness.").startswith("earwitness.") or name == "Paced"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'earwitness' has no attribute 'GRPOO'"):
        _ = earwitness.GRPOO


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, earwitness\nassert 'GRPO' in dir(earwitness) and earwitness.InputError\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\nsys.exit(f'imported {{heavy}}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_mark_of_a_typed_package_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "py.typed" in settings["package-data"]["earwitness"] and (ROOT / "py.typed").is_file()


@pytest.mark.slow
def test_a_type_checker_tells_right_calls_from_wrong_ones(tmp_path: Path):
    """mypy --strict in an environment where earwitness is installed, with no other setting."""
    pytest.importorskip("mypy")
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "earwitness").symlink_to(ROOT)
    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "all.pth").write_text(f"{tmp_path / 'installed'}\n{sysconfig.get_paths()['purelib']}\n")
    (tmp_path / "user.py").write_text(USER)
    options = ["--config-file=", "--strict", "--python-executable", "venv/bin/python"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "user.py"], cwd=tmp_path, capture_output=True, text=True
    )
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    first = USER.splitlines().index("# ---- wrong") + 2
    places = [int(line.split(":")[1]) for line in errors]
    assert places == [first, first + 1, first + 2, first + 3, first + 4], done.stdout + done.stderr
    for error, words in zip(errors, ("polcy", "curiculum", "batch_size", "SFTT", "Incompatible types"), strict=True):
        assert words in error
