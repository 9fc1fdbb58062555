"""The command line answers at once, and bad input ends in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from earwitness.commands.cli import main

LIGHT = [
    ["--help"],
    ["--version"],
    ["run", "--help"],
    ["index", "--help"],
    ["shard", "--help"],
    ["inspect", "--help"],
    ["label", "--help"],
    ["plan", "--help"],
    ["serve", "--help"],
    ["report", "--help"],
]


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_commands_without_a_model_do_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom earwitness.commands.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'lightning', 'matplotlib', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_index_plan_and_label_never_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom earwitness.commands.cli import main\n"
        f"for words in (['index', {str(tmp_path)!r}], ['plan', 'x', '--index', 'y'], ['label', 'x', '--out', 'y']):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert end.code == 1, end.code\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "no_such_recipe"], "no_such_recipe"),
        (["run", "demo", "sed=2"], "did you mean 'seed'"),
        (["run", "demo", "steps.gpro.do=fit"], "did you mean 'grpo'"),
        (["run", "demo", "seed"], "not of the form key=value"),
        (["index", "no/such/folder"], "no/such/folder"),
        (["shard", "no.jsonl", "out"], "no.jsonl"),
        (["label", "no.arrow", "no.arrow", "no.arrow", "--out", "x"], "no.arrow"),
        (["report", "no.json"], "no.json"),
        (["plan", "no.yaml", "--index", "no.arrow"], "no.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_exit_code_1(arguments: list[str], named: str, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    error = capsys.readouterr().err
    assert end.value.code == 1
    assert error.startswith("error: ") and named in error and error.count("\n") == 1


def test_an_unknown_command_or_option_is_exit_code_2(capsys) -> None:
    for arguments in (["rnu"], ["run"], ["index", "x", "--ot", "y"], ["run", "demo", "--fast"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
