"""The benchmarks by their names on the command line; `index` is a question set of one's own."""

from __future__ import annotations

from collections.abc import Sequence

from ..questions.answers import is_right
from .benchmark import Benchmark
from .dcase import DCASE2025, DCASE2026
from .mmar import MMAR
from .mmau import MMAU
from .mmau_pro import MMAU_PRO
from .mmsu import MMSU
from .rulistening import RULISTENING
from .trea import TREA


def exact(said: str, answer: str, choices: Sequence[str]) -> bool:
    """The rule of question sets of one's own: the option's own text."""
    return is_right(said, answer)


INDEX = Benchmark("index", "audiomcq", exact, rule="the option's own text")
BENCHMARKS = {one.name: one for one in (MMAU, MMAR, MMSU, DCASE2025, DCASE2026, MMAU_PRO, TREA, RULISTENING, INDEX)}
