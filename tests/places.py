"""Where things lie: the package, its tests, and what may lie beside the repository."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
SHARED = ROOT.parent / "shared"  # texts of others, no part of the repository; tests skip without them
