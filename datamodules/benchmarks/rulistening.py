"""RUListening (Zang et al. 2025): MuChoMusic with wrong options that a text cannot tell from the right one."""

from __future__ import annotations

from .benchmark import Benchmark

RULISTENING = Benchmark(
    "rulistening",
    "rulistening",
    why_not="the published evaluation leaves out one wrong option at a time and takes the majority of such rounds, "
    "shuffled at random; here all options are asked together, and --rotations all asks them in every order",
    facts=("the authors report an accuracy with noise beside that with the music: add the condition noise",),
)
