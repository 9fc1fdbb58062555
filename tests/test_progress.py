"""Long work says how far it is, also in a log; short work says nothing."""

import time

import pytest

from earwitness import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def run(clock: list[float], count: int, seconds: float, total: int | None) -> list[str]:
    """Items of a thousandth of the work each, none of which is lost."""
    seen = []
    for item in progress.track(range(count), "packing", total):
        seen.append(item)
        clock[0] += seconds
    assert seen == list(range(count))
    return seen


def test_a_log_has_a_line_for_every_tenth(clock, capsys):
    run(clock, 1_000, 0.2, 1_000)  # 200 s: a tenth takes 20 s
    assert capsys.readouterr().err.splitlines() == [f"packing: {n} of 1,000" for n in range(100, 1_000, 100)]


def test_slow_work_has_a_line_every_half_minute_and_one_of_unknown_size_too(clock, capsys):
    run(clock, 100, 10.0, 1_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "packing: 3 of 1,000,000" and len(lines) == 33
    run(clock, 1_000, 0.125, None)
    assert capsys.readouterr().err.splitlines() == ["packing: 240", "packing: 480", "packing: 720", "packing: 960"]


def test_short_work_is_silent_and_lines_come_no_closer_than_ten_seconds(clock, capsys):
    run(clock, 1_000, 0.009, 1_000)
    assert capsys.readouterr().err == ""
    run(clock, 1_000, 0.05, 1_000)  # 50 s
    assert len(capsys.readouterr().err.splitlines()) == 4
