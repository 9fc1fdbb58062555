"""Four of the kills that `python tests/kills.py` makes: the end is the undisturbed one, bit for bit."""

from __future__ import annotations

import subprocess
import sys

import pytest

from earwitness.tests.places import TESTS

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_a_run_that_is_killed_at_random_moments_ends_bitwise_as_undisturbed(tmp_path):
    words = [sys.executable, str(TESTS / "kills.py"), "--kills", "4", "--worlds", "2-fsdp2", "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "4 kills" in done.stdout and ", 0 faults" in done.stdout
