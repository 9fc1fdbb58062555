"""Requests wait together for a server that is busy, loading or gone, as long as it says and no longer than they may."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from earwitness.datamodules.asking import patience
from earwitness.datamodules.asking.chat import what_to_change
from earwitness.datamodules.asking.patience import Patience, told_seconds
from earwitness.datamodules.voting.answer_store import AnswerId
from earwitness.datamodules.voting.tasks import Ask, Reply, Task
from earwitness.errors import InputError
from earwitness.lightning_modules.voters.endpoint import Endpoint
from earwitness.tests.chat_server import Asked, ChatServer, serving, until


@pytest.fixture
def server():
    with serving() as running:
        yield running


class Clock:
    """A clock that stands still but for the waiting; it jumps when a crowd of refusals had time to come together."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def now(self) -> float:
        return self.time

    async def until(self, moment: float) -> None:
        await asyncio.sleep(0.05)
        self.time = max(self.time, moment)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(patience, "now", made.now)
    monkeypatch.setattr("earwitness.datamodules.asking.client.now", made.now)
    monkeypatch.setattr(patience, "until", made.until)
    return made


def ask(number: int = 0) -> Ask:
    return Ask(Task(AnswerId(number, "none"), number), f"Question {number}?", ("rain", "wind"), None)


def replies(server: ChatServer, count: int, **more) -> dict[int, Reply]:
    """By the number of the question; each comes once."""
    found: dict[int, Reply] = {}

    def take(asked: Ask, reply: Reply) -> None:
        assert asked.task.row not in found
        found[asked.task.row] = reply

    settings = {"url": server.url, "model": "m", "timeout_s": 20.0, "retries": 0} | more
    Endpoint(**settings).ask_all(map(ask, range(count)), take)
    return found


TODAY = datetime(2026, 11, 29, 7, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("20", 20),
        (" 1.5 ", 1.5),
        ("0", 0),
        ("-3", 0),
        ("Sun, 29 Nov 2026 07:02:00 GMT", 120),
        ("Sun, 29 Nov 2026 09:01:00 +0200", 60),
        ("Sunday, 29-Nov-26 07:00:30 GMT", 30),
        ("Sun, 29 Nov 2026 06:00:00 GMT", 0),
        ("soon", None),
        ("", None),
        (None, None),
        ("inf", None),
        ("nan", None),
    ],
)
def test_what_a_header_tells(header, seconds):
    assert told_seconds(header, TODAY) == seconds


@pytest.mark.parametrize("status", ["429", "503", "529"])
def test_all_wait_as_long_as_they_are_told_and_nobody_loses_an_attempt(server, clock, status):
    """Three refusals of 100 s each, then answers: 300 s of waiting with no retry to spend; then all is answered."""
    server.headers = {"Retry-After": "100"}
    refused: list[float] = []

    def meant(asked: Asked) -> bool:
        if asked.number > 0 and len(refused) < 3:
            refused.append(clock.time)
            return True
        return False

    server.fail(status, math.inf, meant)
    found = replies(server, 30, concurrency=1)
    assert len(found) == 30 and not any(reply.error for reply in found.values())
    assert refused == [1_000, 1_100, 1_200] and clock.time == 1_300 and len(server.seen) == 33


def test_a_date_is_waited_for(server, monkeypatch):
    """Two seconds ahead, to a whole second: between 1 and 2 s."""
    monkeypatch.setattr(Endpoint, "_pause", lambda self, attempt, ask: 0.0)
    ahead = datetime.fromtimestamp(time.time() + 2, UTC)
    server.headers = {"Retry-After": ahead.strftime("%a, %d %b %Y %H:%M:%S GMT")}
    server.fail("429", 1)
    begun = time.monotonic()
    assert replies(server, 1)[0].text == "A" and 0.9 < time.monotonic() - begun < 4


def test_one_goes_ahead_and_the_others_wait_for_its_answer(server, clock):
    """Of eight requests all are refused at once; until one is answered, the server meets one at a time."""
    server.meeting = threading.Barrier(8, timeout=20)
    server.headers = {"Retry-After": "5"}
    open_then: list[int] = []

    def meant(asked: Asked) -> bool:
        if 1 < len(server.seen) <= 9:  # the first is asked alone; these eight come together
            return True
        server.meeting = None
        if 9 < len(server.seen) <= 13:
            open_then.append(server.open)
            return True
        return False

    server.fail("429", math.inf, meant)
    found = replies(server, 40, concurrency=8)
    assert len(found) == 40 and not any(reply.error for reply in found.values())
    assert open_then == [1, 1, 1, 1] and len(server.seen) == 40 + 8 + 4
    assert 1_000 + 5 * 5 <= clock.time < 1_000 + 9 * 5


def test_a_refused_crowd_is_smaller_and_grows_by_one_a_round():
    """16, of which 3/4 are left: 12. Eight refusals of one crowd count once; 12 answers add about one."""

    async def act() -> None:
        gate = Patience("http://h", 16, 600)
        for _ in range(8):
            assert await gate.enter()
        begun = patience.now()
        for _ in range(8):
            gate.refused(begun, 0.001, "429: no")
            gate.leave()
        assert gate.room == 12 and gate.refusals == 1
        gate.refused(patience.now() + 1, 0.001, "429: no")
        assert gate.room == 9 and gate.refusals == 2
        for _ in range(9):
            gate.answered()
        assert 9.9 < gate.room < 10.01 and gate.refusals == 0
        for _ in range(1_000):
            gate.answered()
        assert gate.room == 16
        for number in range(40):
            gate.refused(patience.now() + 2 + number, 0.0, "429: no")
        assert gate.room == 1

    asyncio.run(act())


def test_a_limited_server_gets_no_more_than_it_wants(server, clock):
    """Ten answers every 60 s, as providers have it: all 100 are answered, refused are far fewer than answered."""
    window, given = [clock.time], [0]
    server.headers = {"Retry-After": "60"}

    def meant(asked: Asked) -> bool:
        if clock.time - window[0] >= 60:
            window[0], given[0] = clock.time, 0
        given[0] += 1
        return given[0] > 10

    server.fail("429", math.inf, meant)
    found = replies(server, 100, concurrency=8)
    assert len(found) == 100 and not any(reply.error for reply in found.values())
    assert len(server.seen) < 160 and 9 * 60 <= clock.time - 1_000 < 14 * 60


def test_a_server_that_is_started_again_is_waited_for(capsys):
    """It goes away after five answers, comes back after half a second, loads for three requests, and goes on."""
    with serving() as first:
        port = first.server_address[1]
        first.fail("hang", math.inf, lambda asked: asked.number >= 5)
        found: dict[int, Reply] = {}
        voter = Endpoint(first.url, "m", concurrency=4, timeout_s=20, retries=3, patience_s=30)
        voter._pause = lambda attempt, asked: 0.05  # type: ignore[method-assign]
        asking = threading.Thread(
            target=lambda: voter.ask_all(
                map(ask, range(20)), lambda asked, reply: found.update({asked.task.row: reply})
            )
        )
        asking.start()
        until(lambda: first.open == 4)
    time.sleep(0.5)
    with serving(port) as second:
        second.told = '{"error": {"message": "Loading model"}}'
        second.fail("503", 3)
        asking.join(20)
    assert not asking.is_alive() and len(found) == 20 and not any(reply.error for reply in found.values())
    said = capsys.readouterr().err
    assert said.count("; waiting, up to 30 s") == 1 and "Cannot connect" in said
    again = {asked.number for asked in second.seen[3:]}
    assert again == set(range(5, 20)) and len(second.seen) == 15 + 3, "what was answered is not asked again"


def test_a_server_that_gives_no_answer_for_so_long_stops_the_job(server, clock):
    """Refusals of 100 s: at 1,000, 1,100 and 1,200; another would be waited for until 1,300, beyond 250 s."""
    server.headers = {"Retry-After": "100"}
    server.fail("503", math.inf, lambda asked: asked.number > 2)
    found: list[Reply] = []
    with pytest.raises(InputError) as stopped:
        Endpoint(server.url, "m", patience_s=250, concurrency=1).ask_all(
            map(ask, range(9)), lambda _, reply: found.append(reply)
        )
    assert str(stopped.value) == (
        f"{server.url}: no answer within patience_s (250 s), the last said: 503: no; raise patience_s; "
        "answers so far are kept, the same command continues"
    )
    assert len(server.seen) == 3 + 3 and [bool(reply.error) for reply in found] == [False] * 3 + [True]


def test_a_server_that_wants_to_be_left_alone_for_too_long_is_not_waited_for(server, clock):
    server.headers = {"Retry-After": "86400"}
    server.fail("429", math.inf, lambda asked: asked.number > 0)
    with pytest.raises(InputError, match=r"it asks to wait 86,400 s, no answer within patience_s \(600 s\)"):
        replies(server, 5, concurrency=2)
    assert clock.time <= 1_000.1 and len(server.seen) <= 3


def test_a_request_that_alone_is_refused_for_so_long_is_a_missing_vote(server, clock):
    """Question 2 meets 503 for ever; the others are answered in between, so that the job goes on."""
    server.headers = {"Retry-After": "100"}
    server.fail("503", math.inf, lambda asked: asked.number == 2)
    found = replies(server, 12, concurrency=2, patience_s=350)
    assert [number for number in range(12) if found[number].error] == [2] and found[2].error == "503: no"
    assert 2 <= sum(asked.number == 2 for asked in server.seen) <= 4


def test_waiting_and_retries_are_counted_apart(server, clock, monkeypatch):
    """500, 429, 429, 500, 429, then an answer: two attempts of the three are used."""
    monkeypatch.setattr(Endpoint, "_pause", lambda self, attempt, ask: 0.0)
    for kind in ("500", "429", "429", "500", "429"):
        server.fail(kind, 1, lambda asked: asked.number == 1)
    found = replies(server, 2, retries=2, concurrency=1)
    assert not found[1].error and sum(asked.number == 1 for asked in server.seen) == 6


# What is wrong with all questions is told after one.

LLAMA = '{"error":{"message":"audio input is not supported - hint: you may need to provide the mmproj"}}'
WRONG = [
    ("401", "Incorrect API key provided", {}, "it wants a key; key_env must name the environment variable"),
    ("403", "no", {"key_env": "LAB_KEY"}, "the key in LAB_KEY is not accepted; key_env must name"),
    ("402", "Insufficient Balance", {}, "no credit left"),
    ("429", '{"error": {"code": "insufficient_quota"}}', {}, "no credit left"),
    ("404", '{"detail":"Not Found"}', {}, "`url` must be what stands before /chat/completions"),
    ("405", "Method Not Allowed", {}, "`url` must be what stands before /chat/completions"),
    ("307", "", {}, r"`url` must be what .* \(307: redirects to http://elsewhere/v1\)"),
    ("404", "The model `m` does not exist.", {}, "it has no model 'm'; `model` must be one of"),
    ("400", "invalid model ID", {}, "it has no model 'm'"),
    ("400", "Unsupported parameter: 'max_tokens'; use 'max_completion_tokens'", {}, "`body` overrides fields"),
    (
        "400",
        "Requested sample logprobs of 20, which is greater than max allowed: 5",
        {"letter_logprobs": True},
        "20 of",
    ),
]


@pytest.mark.parametrize(("status", "told", "settings", "said"), WRONG)
def test_wrong_settings_are_told_after_one_request(server, monkeypatch, status, told, settings, said):
    monkeypatch.setenv("LAB_KEY", "sk-secret")
    server.told, server.headers = told, {"Location": "http://elsewhere/v1"}
    server.fail(status, math.inf)
    with pytest.raises(InputError, match=f"^{server.url}: .*{said}"):
        replies(server, 50, **settings)
    assert len(server.seen) == 1


DEAF = [
    ("400", "At most 0 audio(s) may be provided in one prompt."),
    ("400", "Qwen3-8B is not a multimodal model"),
    ("404", "No endpoints found that support input audio"),
    ("400", "Invalid content type. image_url is only supported by certain models; input_audio"),
    ("500", LLAMA),
]


def heard(number: int) -> Ask:
    return replace(ask(number), wave=np.zeros(80, np.float32))


@pytest.mark.parametrize(("status", "told"), DEAF)
def test_a_server_that_does_not_hear_is_told_after_one_request_with_a_recording(server, status, told):
    """Also where questions without one were answered before: then in the middle of the job."""
    server.told = told
    server.fail(status, math.inf, lambda asked: asked.wave is not None)
    voter = Endpoint(server.url, "m", retries=3, concurrency=4)
    for unheard in (0, 9):
        server.seen.clear()
        found: list[Reply] = []
        asks = itertools.chain(map(ask, range(unheard)), map(heard, range(100, 150)))
        with pytest.raises(InputError, match="m takes no audio there; serve a model that hears, or ask under the cond"):
            voter.ask_all(asks, lambda _, reply, found=found: found.append(reply))
        assert sum(asked.wave is not None for asked in server.seen) == 1
        assert sum(not reply.error for reply in found) >= unheard - 4


@pytest.mark.parametrize(
    "told", ["Audio is too short", "audio of 700 s is longer than 600 s", "context length exceeded"]
)
def test_what_is_about_one_recording_stops_nothing(told):
    assert what_to_change(400, f"400: {told}", "m", None, True, False) == ""


def test_the_first_answer_is_kept_and_nothing_is_asked_twice(server):
    found = replies(server, 30, concurrency=8)
    assert len(found) == 30 and sorted(asked.number for asked in server.seen) == list(range(30))


def test_a_first_question_that_is_refused_for_its_own_sake_is_not_the_end(server):
    server.told = "prompt is too long"
    server.fail("400", math.inf, lambda asked: asked.number < 2)
    found = replies(server, 10, concurrency=4)
    assert [bool(found[number].error) for number in range(10)] == [True] * 2 + [False] * 8


def test_a_page_of_a_web_site_is_told_as_a_wrong_address(server):
    server.fail("garbage", math.inf)
    with pytest.raises(InputError, match=r"`url` must be what stands before .*<html>it works!</html>"):
        replies(server, 9)
    assert len(server.seen) == 1


def test_a_host_that_does_not_exist_is_not_waited_for():
    with pytest.raises(InputError, match="there is no host of that name; `url` must name the server"):
        Endpoint("http://no-such-host.invalid/v1", "m").ask_all([ask()], lambda *_: None)
