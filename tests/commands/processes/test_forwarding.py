"""A command in a process of its own gets our signals, and its end is ours."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from earwitness.commands.processes.forwarding import forwarded
from earwitness.commands.recipes.graph import Graph
from earwitness.commands.recipes.steps import Places, Step

LISTENS = """
import signal, sys, time
signal.signal(signal.SIGNAL, lambda *_: sys.exit(7))
print("listening", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_reaches_the_command_and_its_code_is_returned(name):
    number = signal.Signals[name]
    before = signal.getsignal(number)
    timer = threading.Timer(1.5, os.kill, (os.getpid(), number))
    timer.start()
    assert forwarded([sys.executable, "-c", LISTENS.replace("SIGNAL", name)]) == 7
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("code", "is_"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137), ("pass", 0)])
def test_a_command_that_a_signal_ended_has_the_code_of_shells(code, is_):
    assert forwarded([sys.executable, "-c", f"import os, sys; {code}"]) == is_


def test_a_step_on_two_devices_that_a_signal_ended_is_not_done_and_ends_the_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(Step, "places", lambda self: Places())
    monkeypatch.setattr(Step, "missing", lambda self, written, elsewhere=None: None)
    monkeypatch.setattr("earwitness.commands.recipes.steps.forwarded", lambda words: 143)
    graph = Graph({"sft": {"do": "fit", "trainer": {"devices": 2}}}, tmp_path, "recipe.yaml")
    with pytest.raises(SystemExit) as end:
        graph.run()
    assert end.value.code == 143
    assert graph.explain() == [("sft", "runs", "it was started and did not end")]
