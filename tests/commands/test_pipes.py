"""Output that goes into `head`, into a closed pipe or nowhere: the command ends without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from earwitness.commands import inspect
from earwitness.commands.cli import main
from earwitness.tests.places import TESTS

STORED = TESTS / "stored"
INDEX, LABELS = str(STORED / "shards" / "index.arrow"), str(STORED / "labels.arrow")
TABLE = ["--index", INDEX, "--labels", LABELS]
COMMANDS = [
    ["--help"],
    ["--version"],
    ["plan", "--help"],
    ["inspect", INDEX, "--labels", LABELS],
    ["plan", "weak_to_strong", *TABLE],
    ["plan", "paper", "--compare", *TABLE],
    ["label", "job.yaml", "--dry-run"],
    ["run", "demo", "--dry-run"],
]


def piped(words, folder, reads, unbuffered=False):
    """Exit code and stderr of a command whose reader takes so many bytes and leaves."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= {"PYTHONUNBUFFERED": "1"} if unbuffered else {}
    read, write = os.pipe()
    command = [sys.executable, "-m", "earwitness", *words]
    with subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, cwd=folder, env=environment) as process:
        os.close(write)
        got = os.read(read, reads) if reads else b""
        os.close(read)
        assert bool(got) == bool(reads)
        error = process.communicate()[1].decode()
    return process.returncode, error


@pytest.fixture
def folder(tmp_path):
    voter = {"name": "v", "endpoint": {"url": "http://localhost:1/v1", "model": "m"}}
    (tmp_path / "job.yaml").write_text(f"index: {INDEX}\nout: lab\nconditions: [silence]\nvoters: [{voter}]\n")
    return tmp_path


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_a_reader_that_is_gone_ends_a_command_quietly(words, folder):
    """With 141, as programs end that SIGPIPE ends; argparse itself may have dropped what it could not write."""
    code, error = piped(words, folder, 0)
    assert error == "" and code in (0, 141)


@pytest.mark.parametrize("words", [["--help"], ["plan", "weak_to_strong", *TABLE]], ids=["help", "plan"])
def test_a_reader_that_leaves_after_a_byte_does_too(words, folder):
    """Where every line is written at once, and where it is not."""
    for unbuffered in (False, True):
        code, error = piped(words, folder, 1, unbuffered)
        assert code in (0, 141)
        assert not error or (error.startswith("next: ") and error.count("\n") == 1), "it left after all was written"


def test_what_was_wrong_is_still_said(folder):
    code, error = piped(["plan", "no_such", "--synthetic"], folder, 0)
    assert code == 1 and error.startswith("error: no_such: no such file") and error.count("\n") == 1


def test_another_broken_pipe_is_not_taken_for_a_reader_that_left(monkeypatch):
    """A server or a process that went away: not a quiet end."""

    def run(args):
        raise BrokenPipeError("a worker's pipe")

    monkeypatch.setattr(inspect, "run", run)
    with pytest.raises(BrokenPipeError, match="a worker's pipe"):
        main(["inspect", "x"])


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_command_without_an_output_runs(closed, folder):
    shell = {"stdout": ">&-", "stderr": "2>&-"}[closed]
    command = f'"{sys.executable}" -m earwitness plan weak_to_strong --index "{INDEX}" --labels "{LABELS}" {shell}'
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (folder / "runs" / "plans" / "weak_to_strong" / "plan.json").exists()
