"""A chat server is asked so many questions at a time, again where that may help, and never twice in vain."""

from __future__ import annotations

import base64
import gc
import io
import json
import math
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import soundfile

from earwitness.commands.labelling.job import VoterSpec
from earwitness.datamodules.asking.chat import Completion
from earwitness.datamodules.voting.answer_store import AnswerId
from earwitness.datamodules.voting.tasks import Ask, PromptingSpec, Reply, Task
from earwitness.errors import InputError
from earwitness.lightning_modules.voters.endpoint import Endpoint, wav_bytes
from earwitness.tests.chat_server import BODIES, ChatServer, serving, until

KEY = "sk-7Hq2secret"


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Pauses between attempts are tested by their numbers."""
    monkeypatch.setattr(Endpoint, "_pause", lambda self, attempt, ask: 0.0)


def ask(number: int = 0, wave: np.ndarray | None = None) -> Ask:
    return Ask(Task(AnswerId(number, "audio"), number), f"Question {number}?", ("rain", "wind"), wave)


def endpoint(server: ChatServer, **more) -> Endpoint:
    return Endpoint(**({"url": server.url, "model": "m", "timeout_s": 10.0, "retries": 2} | more))


def replies(voter: Endpoint, count: int) -> dict[int, Reply]:
    """By the number of the question; each comes once."""
    found: dict[int, Reply] = {}

    def take(asked: Ask, reply: Reply) -> None:
        assert reply.task is asked.task and asked.task.row not in found
        found[asked.task.row] = reply

    voter.ask_all(map(ask, range(count)), take)
    return found


def test_the_request_holds_the_sound_the_words_and_the_settings():
    """Half of full scale is 16,384 of 32,768 steps; no sample is off by more than one of them."""
    wave = np.random.default_rng(0).uniform(-1, 1, 4_001).astype(np.float32)
    wave[:3] = [0.5, -0.5, 0.0]
    voter = Endpoint("http://h/v1", "gpt", system="Listen.", temperature=0.7, max_tokens=9, body={"top_p": 0.5})
    request = voter.request(ask(3, wave))
    (audio, text) = request["messages"][1]["content"]
    assert text == {"type": "text", "text": "Question 3?"}
    assert audio["type"] == "input_audio" and audio["input_audio"]["format"] == "wav"
    data = base64.b64decode(audio["input_audio"]["data"], validate=True)
    assert soundfile.info(io.BytesIO(data)).subtype == "PCM_16"
    steps, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == 16_000 and steps[:3].tolist() == [16_384, -16_384, 0] and len(steps) == 4_001
    assert np.abs(steps - 32_768 * wave.astype(float)).max() <= 1
    del request["messages"][1]
    assert request == {
        "model": "gpt",
        "messages": [{"role": "system", "content": "Listen."}],
        "temperature": 0.7,
        "max_tokens": 9,
        "top_p": 0.5,
    }


def test_a_question_without_sound_has_words_alone_and_no_system_turn_unless_asked():
    request = Endpoint("http://h/v1", "m").request(ask(1))
    assert request["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Question 1?"}]}]
    assert request["temperature"] == 0.0 and "logprobs" not in request


def test_more_fields_of_the_body_win():
    request = Endpoint("http://h/v1", "m", max_tokens=5, body={"max_tokens": None, "max_completion_tokens": 5})
    assert request.request(ask())["max_tokens"] is None


def test_a_loud_recording_is_scaled_down_and_never_wraps_around():
    """Peak 2: all samples are halved; 1.0 becomes 0.5."""
    steps, _ = soundfile.read(io.BytesIO(wav_bytes(np.array([2.0, -2.0, 1.0], np.float32))), dtype="int16")
    assert np.abs(steps - np.array([32_767, -32_768, 16_384])).max() <= 1
    assert len(soundfile.read(io.BytesIO(wav_bytes(np.zeros(0, np.float32))))[0]) == 0


@pytest.mark.parametrize(("behind", "path"), [("", ""), ("/", ""), ("?version=3", "?version=3")])
def test_the_server_gets_the_request_at_its_address(server, behind, path):
    voter = endpoint(server, url=server.url + behind, system="Hm.")
    wave = np.linspace(-0.5, 0.5, 800).astype(np.float32)
    voter.ask_all([ask(5, wave)], lambda *_: None)
    (seen,) = server.seen
    assert seen.path == f"/v1/chat/completions{path}" and seen.body == voter.request(ask(5, wave))
    assert np.abs(seen.wave - wave).max() < 2**-15 and seen.headers["Content-Type"] == "application/json"
    assert "Authorization" not in seen.headers


@pytest.mark.parametrize("concurrency", [1, 3, 7])
def test_so_many_requests_are_open_at_a_time_and_no_more(server, concurrency):
    """None is answered before so many are open: fewer would wait for ever, more would be counted."""
    server.meeting = threading.Barrier(concurrency, timeout=20)
    found = replies(endpoint(server, concurrency=concurrency, timeout_s=30), 3 * concurrency + 1)
    assert server.most_open == concurrency and sorted(found) == list(range(3 * concurrency + 1))
    assert all(reply.text == "A" and not reply.error for reply in found.values())


def test_more_than_a_hundred_requests_can_be_open(server):
    """The client's own limit is 100; the 101st would wait in a queue and time out there."""
    server.meeting = threading.Barrier(120, timeout=30)
    found = replies(endpoint(server, concurrency=120, timeout_s=60), 121)
    assert server.most_open == 120 and len(found) == 121 and not any(reply.error for reply in found.values())


def test_questions_are_made_ready_no_earlier_than_they_are_asked(server):
    """Each is answered before the next but three is read."""
    made: list[int] = []
    taken: list[int] = []

    def asks():
        for number in range(12):
            made.append(number)
            assert len(made) <= len(taken) + 4
            yield ask(number)

    endpoint(server, concurrency=4).ask_all(asks(), lambda asked, _: taken.append(asked.task.row))
    assert sorted(taken) == list(range(12))


TRANSIENT = ["408", "409", "425", "429", "500", "502", "503", "504", "drop", "cut", *BODIES]


@pytest.mark.parametrize("kind", TRANSIENT)
def test_what_may_pass_is_asked_again(server, kind):
    """Twice wrong, then right: three requests, one answer."""
    server.fail(kind, 2)
    found = replies(endpoint(server), 1)
    assert len(server.seen) == 3 and found[0].text == "A" and not found[0].error
    assert server.seen[0].body == server.seen[1].body == server.seen[2].body


def test_a_server_that_does_not_answer_in_time_is_asked_again(server):
    server.fail("hang", 2)
    found = replies(endpoint(server, timeout_s=0.3), 1)
    assert len(server.seen) == 3 and found[0].text == "A"


@pytest.mark.parametrize("status", ["400", "401", "403", "404", "413", "422", "501"])
def test_what_will_not_pass_is_asked_once(server, status):
    server.told = "this  recording\n\x1b[31mis no\u202eise"
    server.fail(status, 9, lambda asked: asked.number == 1)
    found = replies(endpoint(server), 2)
    assert len(server.seen) == 2
    assert found[1].error == f"{status}: this recording [31mis no ise" and found[1].text == ""


@pytest.mark.parametrize("retries", [0, 1, 4])
@pytest.mark.parametrize(("kind", "said"), [("500", "500: no"), ("drop", "Disconnected"), ("garbage", "not an answer")])
def test_retries_are_bounded_and_what_was_wrong_is_told(server, retries, kind, said):
    server.fail(kind, math.inf, lambda asked: asked.number == 1)
    found = replies(endpoint(server, retries=retries), 2)
    assert len(server.seen) == retries + 2 and said in found[1].error and "\n" not in found[1].error


def test_a_server_that_is_not_there_is_told_as_such():
    with serving() as gone:
        url = gone.url
    found: list[Reply] = []
    with pytest.raises(InputError, match=r"no answer within patience_s \(0.2 s\), .* Cannot connect to host 127.0.0.1"):
        Endpoint(url, "m", retries=1, patience_s=0.2).ask_all([ask()], lambda _, reply: found.append(reply))
    assert "Cannot connect to host 127.0.0.1" in found[0].error


def test_pauses_double_from_half_a_second_and_are_shifted(monkeypatch):
    """0.5 x 2^k s, times 0.5 to 1.5, never over 30 x 1.5; shorter where timeouts are shorter than 10 s."""
    monkeypatch.undo()
    voter = Endpoint("http://h/v1", "m")
    for attempt in range(12):
        base = min(30.0, 0.5 * 2**attempt)
        pauses = [voter._pause(attempt, ask(number)) for number in range(200)]
        assert all(0.5 * base <= pause <= 1.5 * base for pause in pauses)
        assert np.mean(pauses) == pytest.approx(base, rel=0.1) and len(set(pauses)) == 200
        assert pauses[:9] == [voter._pause(attempt, ask(number)) for number in range(9)], "the same in every run"
    short = Endpoint("http://h/v1", "m", timeout_s=1.0)
    assert short._pause(3, ask(1)) == pytest.approx(voter._pause(3, ask(1)) / 10)


def test_the_pauses_are_kept(server, monkeypatch):
    """Two pauses of 0.15 s lie between three requests."""
    monkeypatch.setattr(Endpoint, "_pause", lambda self, attempt, ask: 0.15)
    server.fail("500", 2)
    begun = time.monotonic()
    replies(endpoint(server), 1)
    assert time.monotonic() - begun >= 0.3


def test_a_server_that_gives_nothing_stops_the_job_with_one_clear_line(server):
    """At the start after three questions, which are asked one by one; later after as many as it may give up."""
    server.fail("500", math.inf)
    url = server.url.replace("http://", "http://me:pass@") + "?token=abc"
    voter = endpoint(server, url=url, retries=0, give_up=6, concurrency=2)
    for answered, failures in ((0, 3), (1, 6)):
        server.faults[0].meant = lambda asked, answered=answered: asked.number >= answered
        server.seen.clear()
        taken: list[Reply] = []
        with pytest.raises(InputError) as stopped:
            voter.ask_all(map(ask, range(500)), lambda _, reply, taken=taken: taken.append(reply))
        assert str(stopped.value) == (
            f"{server.url}: {failures} requests in a row failed, the last with: 500: no; "
            "answers so far are kept, the same command continues"
        )
        assert failures <= len(taken) - answered <= failures + 1 and len(server.seen) <= failures + 5, (
            "it did not go on"
        )


def test_failures_in_a_row_are_counted_anew_after_an_answer(server):
    """Three fail, one answers, and so on: four in a row never fail."""
    server.fail("501", math.inf, lambda asked: asked.number % 4 > 0)
    found = replies(endpoint(server, give_up=4, concurrency=1), 40)
    assert sum(bool(reply.error) for reply in found.values()) == 30 and len(server.seen) == 40
    with pytest.raises(InputError, match="3 requests in a row failed"):
        replies(endpoint(server, give_up=3, concurrency=1), 40)


@pytest.mark.parametrize("status", ["400", "413", "422"])
def test_refused_questions_stop_a_job_only_as_long_as_nothing_was_answered(server, status):
    """A setting that the server does not take refuses all; a recording that it does not take, one."""
    server.fail(status, math.inf, lambda asked: asked.number != 2)
    with pytest.raises(InputError, match="2 requests in a row failed"):
        replies(endpoint(server, give_up=2, concurrency=1), 40)
    found = replies(endpoint(server, give_up=3, concurrency=1), 40)
    assert sum(reply.refused for reply in found.values()) == 39 and not found[2].error
    taken: list[Reply] = []
    again = endpoint(server, give_up=2, concurrency=1)
    again.ask_all(map(ask, range(3, 9)), lambda _, reply: taken.append(reply), answered_before=True)
    assert len(taken) == 6 and all(reply.refused for reply in taken)
    server.faults[0].kind = "501"
    with pytest.raises(InputError, match="2 requests in a row failed, the last with: 501"):
        again.ask_all(map(ask, range(3, 9)), lambda *_: None, answered_before=True)


def test_answers_that_come_together_with_the_last_failure_are_handed_on(monkeypatch):
    """Every attempt ends at once; a good answer stands behind the failures that stop the job."""

    async def instant(self, asked):
        return asked, Completion(error="" if asked.task.row in (0, 4) else "501: no")

    monkeypatch.setattr("earwitness.datamodules.asking.client._Client.ask", instant)
    taken: dict[int, str] = {}
    voter = Endpoint("http://h/v1", "m", give_up=2, concurrency=8)
    with pytest.raises(InputError, match="requests in a row failed"):
        voter.ask_all(map(ask, range(8)), lambda asked, reply: taken.update({asked.task.row: reply.error}))
    assert sorted(taken) == list(range(8)) and taken[0] == taken[4] == ""


def test_the_key_is_sent_and_told_nowhere(server, monkeypatch, capsys):
    """Not in what is remembered of the voter, nor in an error in which the server repeats it."""
    monkeypatch.setenv("LAB_KEY", f"{KEY}\n")
    voter = endpoint(server, key_env="LAB_KEY", retries=0, give_up=3)
    assert replies(voter, 1)[0].text == "A"
    assert server.seen[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in json.dumps(server.seen[0].body)
    server.told = f"Incorrect API key provided: {KEY}."
    server.fail("401", math.inf)
    taken: list[Reply] = []
    with pytest.raises(InputError) as stopped:
        voter.ask_all(map(ask, range(9)), lambda _, reply: taken.append(reply))
    described = VoterSpec("v", PromptingSpec(), endpoint=voter).described()
    told = [str(stopped.value), repr(voter), json.dumps(described), *(reply.error for reply in taken)]
    assert not any(KEY in text for text in [*told, *capsys.readouterr()])
    assert taken[0].error == "401: Incorrect API key provided: ***."


def test_a_password_and_a_query_of_the_address_are_used_and_told_nowhere(server):
    url = server.url.replace("http://", "http://me:hush@") + "?token=t0k3n"
    server.told = "no entry with hush and token=t0k3n"
    server.fail("501", 1)
    found = replies(endpoint(server, url=url), 1)
    assert found[0].error == "501: no entry with *** and ***"
    server.fail("403", 1)
    with pytest.raises(InputError, match=r"it wants a key; .* \(403: no entry with \*\*\* and \*\*\*\)"):
        replies(endpoint(server, url=url), 1)
    seen = server.seen[0]
    assert seen.path.endswith("/chat/completions?token=t0k3n")
    assert base64.b64decode(seen.headers["Authorization"].removeprefix("Basic ")) == b"me:hush"


def test_a_key_that_is_not_there_is_noticed_before_anything_is_asked(monkeypatch):
    monkeypatch.delenv("LAB_KEY", raising=False)
    with pytest.raises(InputError, match="endpoint m: the environment variable LAB_KEY with its key is not set"):
        Endpoint("http://h/v1", "m", key_env="LAB_KEY")
    monkeypatch.setenv("LAB_KEY", " \n")
    with pytest.raises(InputError, match="LAB_KEY with its key is not set"):
        Endpoint("http://h/v1", "m", key_env="LAB_KEY")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"url": "h/v1"}, "must begin with http:// or https://"),
        ({"url": "ftp://h/v1"}, "must begin with http:// or https://"),
        ({"url": "http://"}, "and a host"),
        ({"url": "http://[::1/v1"}, "and a host"),
        ({"url": "pipe://me:hush@h"}, "pipe://h"),
        ({"concurrency": 0}, "concurrency must be positive, got 0"),
        ({"max_tokens": 0}, "max_tokens must be positive, got 0"),
        ({"give_up": 0}, "give_up must be positive, got 0"),
        ({"patience_s": 0.0}, "patience_s must be positive, got 0.0"),
        ({"timeout_s": -1.0}, "timeout_s must be positive, got -1.0"),
        ({"retries": -1}, "retries must not be negative, got -1"),
        ({"temperature": -0.1}, "temperature must not be negative, got -0.1"),
        ({"url": "http://me:hush@h/v1", "key_env": "LAB_KEY"}, "give either a key_env or a user in the url"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(monkeypatch, wrong, named):
    monkeypatch.setenv("LAB_KEY", KEY)
    with pytest.raises(InputError) as refused:
        Endpoint(**({"url": "http://h/v1", "model": "m"} | wrong))
    assert named in str(refused.value) and "hush" not in str(refused.value)


ENDS = {
    True: ["stop", "eos", "eos_token", "end_turn", None],
    False: ["length", "max_tokens", "content_filter", "abort"],
}


@pytest.mark.parametrize(("reason", "finished"), [(reason, end) for end in ENDS for reason in ENDS[end]])
def test_token_counts_and_the_end_of_an_answer(server, reason, finished):
    server.say = lambda asked: {"message": {"content": " B.\n"}, "finish_reason": reason}
    server.usage = {"prompt_tokens": 731, "completion_tokens": 4, "total_tokens": 735}
    reply = replies(endpoint(server), 1)[0]
    assert (reply.prompt_tokens, reply.completion_tokens, reply.finished) == (731, 4, finished)
    assert reply.text == " B.\n" and reply.error == "" and reply.scores is None and reply.letters == {}


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}])
def test_a_server_that_counts_no_tokens_is_believed(server, usage):
    server.usage = usage
    reply = replies(endpoint(server), 1)[0]
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("A", 0, 0)


@pytest.mark.parametrize("kind", ["text/plain", "text/html; charset=utf-8", "application/octet-stream"])
def test_what_is_an_answer_is_read_whatever_the_server_calls_it(server, kind):
    server.kind = kind
    assert replies(endpoint(server, retries=0), 1)[0].text == "A"


def tops(*pairs: tuple[str, float]) -> dict:
    top = [{"token": token, "logprob": math.log(share)} for token, share in pairs]
    first = {"token": pairs[0][0], "logprob": top[0]["logprob"], "top_logprobs": top}
    later = {"token": "x", "logprob": 0.0, "top_logprobs": [{"token": "D", "logprob": 0.0}]}
    return {"message": {"content": "A"}, "finish_reason": "stop", "logprobs": {"content": [first, later]}}


def test_spellings_of_a_letter_are_added_up_and_only_the_first_token_counts(server):
    """A: 0.3 + 0.2 + 0.05; B: 0.1 + 0.02; words, digits and marks are no letters."""
    pairs = [("A", 0.3), (" A", 0.2), ("b", 0.1), ("(A", 0.05), ("\nB", 0.02)]
    pairs += [("Answer", 0.25), ("3", 0.01), ("ß", 0.01), ("(", 0.01), (".", 0.01)]
    server.say = lambda asked: tops(*pairs)
    reply = replies(endpoint(server, letter_logprobs=True), 1)[0]
    assert {letter: math.exp(value) for letter, value in reply.letters.items()} == pytest.approx({"A": 0.55, "B": 0.12})
    assert server.seen[0].body["logprobs"] is True and server.seen[0].body["top_logprobs"] == 20


def test_a_server_without_log_probs_is_noticed_where_they_are_needed(server):
    """After one request; where others had them, it is this question's fault and not asked again."""
    with pytest.raises(InputError, match=r"/v1: it gives no log-probs; use scoring: generate, or let it give 20 of"):
        replies(endpoint(server, letter_logprobs=True), 1)
    assert len(server.seen) == 1
    server.say = lambda asked: tops(("A", 0.5)) if asked.number == 0 else "A"
    found = replies(endpoint(server, letter_logprobs=True), 2)
    assert "no log-probs" in found[1].error and found[1].refused and len(server.seen) == 3
    assert replies(endpoint(server), 1)[0].error == "", "and only there"


FORMS = [
    ("A", "A"),
    ([{"type": "text", "text": "The answer "}, {"type": "text", "text": "is B"}], "The answer is B"),
    ([{"text": "B"}, {"type": "reasoning", "text": "It is A"}, {"type": "output_audio", "data": ""}], "B"),
    ([{"type": "thinking", "thinking": "It is A"}, {"type": "output_text", "text": "C"}], "C"),
    ([], ""),
    (None, ""),
    ("", ""),
]


@pytest.mark.parametrize(("content", "text"), FORMS)
def test_an_answer_is_read_in_every_form_and_nothing_that_was_thought(server, content, text):
    more = {"reasoning_content": "It must be A.", "reasoning": "A", "refusal": "A, sorry"}
    server.say = lambda asked: {"message": {"role": "assistant", "content": content} | more, "finish_reason": "stop"}
    reply = replies(endpoint(server, retries=0), 1)[0]
    assert (reply.text, reply.error, reply.finished) == (text, "", True) and len(server.seen) == 1


def test_a_message_that_was_cut_before_any_content_is_an_unfinished_empty_answer(server):
    server.say = lambda asked: {"message": {"role": "assistant", "reasoning": "A"}, "finish_reason": "length"}
    reply = replies(endpoint(server, retries=0), 1)[0]
    assert (reply.text, reply.error, reply.finished) == ("", "", False)


def test_an_answer_is_read_up_to_a_limit(server, monkeypatch):
    """Of 64 MB no more than a few are read, and the job goes on."""
    monkeypatch.setattr("earwitness.datamodules.asking.chat.MOST_BYTES", 1 << 20)
    server.say = lambda asked: "A" * (64 << 20) if asked.number == 1 else "A"
    found = replies(endpoint(server, retries=0), 3)
    assert found[1].error.startswith("not an answer of chat completions (ValueError: more than 1 MB")
    assert found[0].text == found[2].text == "A" and len(found[1].error) < 300


class Broken(Exception):
    """What only this test raises."""


@pytest.mark.parametrize("where", ["take", "asks"])
def test_a_failure_here_ends_every_request_there(server, where, caplog):
    """After a first answer five hang for ever when another comes: they are gone although none of them was answered."""
    server.fail("hang", math.inf, lambda asked: 0 < asked.number < 6)

    def take(asked: Ask, reply: Reply) -> None:
        if where == "take" and asked.task.row == 6:
            until(lambda: server.open == 5)
            raise Broken

    def asks():
        yield from map(ask, range(7))
        raise Broken

    with pytest.raises(Broken):
        endpoint(server, concurrency=6, timeout_s=60).ask_all(asks(), take)
    until(lambda: server.open == 0)
    gc.collect()
    assert len(server.seen) <= 7 and server.answered <= 2 and not caplog.records, "nothing is begun or lost afterwards"


def test_giving_up_ends_every_request(server):
    server.fail("hang", math.inf, lambda asked: 0 < asked.number < 4)
    server.fail("404", math.inf, lambda asked: asked.number > 0)
    with pytest.raises(InputError, match="2 requests in a row failed"):
        replies(endpoint(server, concurrency=5, timeout_s=60, give_up=2), 50)
    until(lambda: server.open == 0)
    assert len(server.seen) < 12


def test_an_endpoint_can_be_asked_again_after_a_failure(server):
    voter = endpoint(server)
    with suppress(Broken):
        voter.ask_all([ask()], lambda *_: (_ for _ in ()).throw(Broken))
    assert replies(voter, 3).keys() == {0, 1, 2}
