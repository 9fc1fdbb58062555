"""Several addresses, attempts until an answer can be used, and batch files out and in."""

from __future__ import annotations

import json
import time

import pytest

from earwitness.datamodules.asking import schemas
from earwitness.datamodules.asking.batches import export_requests, import_results
from earwitness.datamodules.asking.ledger import Ledger
from earwitness.datamodules.asking.runner import Asker, Model, Want
from earwitness.errors import InputError
from earwitness.tests.chat_server import ChatServer, serving

SCHEMA = schemas.record(answer=schemas.text(40), wrong=schemas.texts(3, 20), grade=schemas.one_of([1, 2, 3]))
GOOD = {"answer": "rain", "wrong": ["a", "b", "c"], "grade": 2}


@pytest.fixture
def server():
    with serving() as running:
        yield running


def want(number: int) -> Want:
    return Want(f"item {number}", [{"role": "user", "content": f"Question {number}?"}], SCHEMA, 99)


def asker(url, folder, **more) -> Asker:
    settings = {"concurrency": 8, "retries": 3, "timeout_s": 10.0, "patience_s": 20.0, "attempts": 3} | more
    return Asker(Model(url, "m", **settings), Ledger(folder))


def ask(one: Asker, count: int) -> list[dict | None]:
    one.ask(lambda: map(want, range(count)))
    return [one.state(want(number)).value for number in range(count)]


def content(asked) -> str:
    return asked.body["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("", "empty answer"),
        ("Sure! Rain.", "not JSON"),
        ([1], "not an object"),
        (GOOD | {"more": 1}, "other fields than asked for"),
        ({"answer": "rain"}, "other fields than asked for"),
        (GOOD | {"wrong": ["a", "b"]}, "another number of entries"),
        (GOOD | {"wrong": ["a", "b", 3]}, "not a string"),
        (GOOD | {"answer": " \n "}, "a text that is empty or too long"),
        (GOOD | {"answer": "x" * 41}, "a text that is empty or too long"),
        (GOOD | {"grade": 4}, "a value that is none of those allowed"),
        (GOOD | {"grade": True}, "not a integer"),
    ],
)
def test_what_is_not_the_schemas_is_named(reply, fault):
    with pytest.raises(schemas.Unusable) as told:
        schemas.parsed(reply if isinstance(reply, str) else json.dumps(reply), SCHEMA)
    assert str(told.value) == fault


def test_a_fence_and_white_space_around_an_answer_do_not_matter():
    fenced = f"```json\n{json.dumps(GOOD | {'answer': ' heavy   rain '}, indent=2)}\n```"
    assert schemas.parsed(fenced, SCHEMA) == GOOD | {"answer": "heavy rain"}


def test_schemas_are_bounded_everywhere():
    """An array without bounds never ends on some servers, and `pattern` turns `maxLength` off."""
    text = json.dumps(SCHEMA)
    assert "pattern" not in text and text.count("maxItems") == text.count('"array"') == text.count("minItems")
    strings = [part for part in json.loads(text)["properties"].values() if part["type"] == "string"]
    assert all("maxLength" in part or "enum" in part for part in strings)


def test_unusable_answers_are_asked_again_with_another_seed_then_given_up(server, tmp_path):
    """The first of item 1 is cut off in white space, all of item 2 are no JSON, item 3 answers where it thinks."""

    def say(asked):
        if "Question 1" in content(asked) and server.seen.count(asked) and asked.body["seed"] == seeds[0]:
            return {"message": {"content": '{"answer": ' + " " * 80}, "finish_reason": "length"}
        if "Question 2" in content(asked):
            return "no"
        if "Question 3" in content(asked):
            message = {"content": None, "reasoning": f"<think>hm</think>{json.dumps(GOOD)}"}
            return {"message": message, "finish_reason": "stop"}
        return json.dumps(GOOD)

    one = asker(server.url, tmp_path)
    seeds = [one.model.attempt(want(0), number).body["seed"] for number in range(3)]
    server.say = say
    assert ask(one, 4) == [GOOD, GOOD, None, GOOD]
    assert one.state(want(1)).faults == ["cut off in white space"] and one.state(want(2)).faults == ["not JSON"] * 3
    asked = len(server.seen)
    assert asked == 1 + 2 + 3 + 1 and sorted(a.body["seed"] for a in server.seen if "2?" in content(a)) == sorted(seeds)
    assert ask(one, 4)[2] is None and len(server.seen) == asked, "nothing is asked twice"
    assert server.seen[0].body["response_format"]["json_schema"] == {"name": "answer", "strict": True, "schema": SCHEMA}


def test_busy_answers_cost_no_attempt_and_no_retry(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Model, "_pause", lambda *_: 0.01)
    server.say = lambda asked: json.dumps(GOOD)
    one = asker(server.url, tmp_path, retries=0)
    ask(one, 1)
    server.fail("429", 30)
    assert ask(one, 20) == [GOOD] * 20
    assert len(server.seen) == 20 + 30 and one.ledger.tokens.answers == 20


def test_a_request_that_a_server_refuses_is_given_up_and_many_stop_the_job(server, tmp_path):
    """As one that is longer than its model takes; the others are answered, and nothing is asked for ever."""
    server.say = lambda asked: json.dumps(GOOD)
    server.fail("400", 99, lambda asked: "Question 7?" in content(asked))
    one = asker(server.url, tmp_path / "few")
    assert ask(one, 20) == [None if number == 7 else GOOD for number in range(20)]
    assert one.state(want(7)).faults == ["refused by the server"] * 3
    server.fail("400", 99, lambda asked: "Question 1" in content(asked))
    with pytest.raises(InputError, match="m refused 1. of 20 requests, the first about item 1"):
        ask(asker(server.url, tmp_path / "many"), 20)


def test_two_addresses_share_the_work_and_one_that_is_gone_is_left_alone(server, tmp_path):
    with serving() as other:
        for each in (server, other):
            each.say = lambda asked: (time.sleep(0.01), json.dumps(GOOD))[1]
        one = asker([server.url, other.url], tmp_path / "both")
        assert ask(one, 60) == [GOOD] * 60
        assert min(len(server.seen), len(other.seen)) > 15 and len(server.seen) + len(other.seen) == 60
        gone = other.url
    begun = time.monotonic()
    one = asker([server.url, gone], tmp_path / "gone", patience_s=60.0)
    assert ask(one, 60) == [GOOD] * 60 and time.monotonic() - begun < 15


def test_both_addresses_gone_are_told(tmp_path):
    with serving() as first, serving() as second:
        urls = [first.url, second.url]
    with pytest.raises(InputError, match=f"{urls[0]}: no answer .*{urls[1]}: no answer"):
        ask(asker(urls, tmp_path, patience_s=0.2), 3)
    with pytest.raises(InputError, match="named twice"):
        Model([urls[0], urls[0]], "m")


def test_the_money_limit_stops_before_the_next_request(server, tmp_path):
    server.say = lambda asked: json.dumps(GOOD)
    server.usage = {"prompt_tokens": 1_000, "completion_tokens": 500}
    one = asker(server.url, tmp_path, concurrency=1)
    one.model.price = {"input_million": 1.0, "output_million": 2.0}  # 0.002 each
    one.spend = lambda: one.model.cost(*one.ledger.tokens[1:]) < 0.0059
    with pytest.raises(InputError, match="money limit"):
        ask(one, 10)
    assert len(server.seen) == 3


def answered(path, server_answers: int, **change) -> list[str]:
    """Lines of results to the first requests of an exported part, as `vllm run-batch` writes them."""
    lines = []
    for line in path.read_text().splitlines()[:server_answers]:
        message = {"content": json.dumps(GOOD), "role": "assistant"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        body = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
        result = {"id": "vllm-1", "custom_id": json.loads(line)["custom_id"], "error": None}
        lines.append(json.dumps(result | {"response": {"status_code": 200, "request_id": "r", "body": body}} | change))
    return lines


def test_exported_parts_are_imported_and_what_was_cut_off_stays_open(tmp_path):
    one = Asker(Model(model="m", attempts=2), Ledger(tmp_path / "ledger"))
    wants = [want(number) for number in range(23)]
    with pytest.raises(InputError, match="m has no url, and item 0 is not answered; use --export"):
        one.ask(lambda: wants)
    parts = export_requests(one.missing([*wants, wants[0]]), tmp_path / "export", "writer", 10)
    assert [len(part.read_text().splitlines()) for part in parts] == [10, 10, 3]
    line = json.loads(parts[0].read_text().splitlines()[0])
    assert line["method"] == "POST" and line["url"] == "/v1/chat/completions" and line["body"]["model"] == "m"
    whole, cut = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    whole.write_text("\n".join(answered(parts[0], 10)) + "\n")
    cut.write_text("\n".join(answered(parts[1], 7))[:-40])
    failed = tmp_path / "c.jsonl"
    failed.write_text("\n".join(answered(parts[2], 3, response={"status_code": 400, "body": {}}, error={"code": 400})))
    counts = import_results([whole, cut, failed], {"writer": one.ledger})
    assert counts == {"stored": 16, "cut off": 1, "failed": 3}
    assert one.ledger.tokens == (16, 7 * 16, 3 * 16)
    assert import_results([whole], {"writer": one.ledger}) == {"stored before": 10}
    assert import_results([whole], {"grader": one.ledger}) == {"of another job": 10}
    parts = export_requests(one.missing(wants), tmp_path / "export", "writer", 10)
    assert [len(part.read_text().splitlines()) for part in parts] == [7], "older parts are gone"
    with pytest.raises(InputError, match=r"part-00000.jsonl:1: not a line of results; it needs custom_id and response"):
        import_results(parts, {"writer": one.ledger})


def test_a_server_of_chat_completions_gets_what_the_batch_file_says(server: ChatServer, tmp_path):
    server.say = lambda asked: json.dumps(GOOD)
    one = asker(server.url, tmp_path / "ledger")
    (part,) = export_requests(one.missing([want(0)]), tmp_path / "export", "writer")
    ask(one, 1)
    assert server.seen[0].body == json.loads(part.read_text())["body"]
