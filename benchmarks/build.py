"""What building costs: checks, the ledger, the client against a local server; figures and the least that is expected.

Seconds are those that a core works for this process, so that what else runs on the machine matters little; the server
is a process of its own.

python benchmarks/build.py [--quick] [--out benchmarks/results/build.json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import platform
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

from earwitness.curriculum.identity import hash64
from earwitness.datamodules.asking import schemas
from earwitness.datamodules.asking.ledger import Ledger
from earwitness.datamodules.asking.runner import Asker, Model, Want
from earwitness.datamodules.building.balance import placed
from earwitness.datamodules.building.checks import Repeats, fault_of, talks_of_captions
from earwitness.datamodules.building.draft import CHAIN, Draft
from earwitness.datamodules.building.stages import Stages
from earwitness.datamodules.sources.item import Item

_WORDS = "dog bell train river violin hammer kettle crow engine whistle piano thunder clock drum frog horn bus owl"
WORDS = _WORDS.split()
SCHEMA = schemas.record(answer=schemas.text(80))


def draft(number: int) -> Draft:
    """A question as a good writer makes it."""
    words = [WORDS[hash64(number, place) % len(WORDS)] for place in range(16)]
    item = Item(
        "Bench", str(number), "train", (f"{number}.wav",), (f"A {words[0]} and a {words[1]} near the {words[2]}.",)
    )
    question = f"Which of these is heard near the {words[2]} at moment {number}?"
    wrong = [f"a {words[3 + k]} then a {words[7 + k]} {k}" for k in range(3)]
    chain = dict.fromkeys(CHAIN, f"The {words[0]} is clear, and it comes before the {words[1]} that follows it.")
    return Draft(item, question, f"a {words[0]} then a {words[1]}", wrong, "sound", chain, f"It is a {words[0]}.")


def megabytes() -> float:
    """The most memory this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(act, *args):
    """What a function returns in a process of its own, and the memory that it added there, in MB."""
    receive, send = multiprocessing.Pipe(False)

    def child() -> None:
        before = megabytes()
        found = act(*args)
        send.send((found, megabytes() - before))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    found = receive.recv()
    process.join()
    return found


def checks(count: int) -> float:
    """Records per second through all checks."""
    made = (draft(number) for number in range(count))
    repeats, seconds = Repeats(), 0.0
    for one in made:
        begun = time.process_time()
        fault_of(one) or talks_of_captions(one) or repeats.fault(one)
        seconds += time.process_time() - begun
    return count / seconds


def places(count: int) -> list[float]:
    """Shares of the places at which answers stand."""
    with tempfile.TemporaryDirectory() as folder:
        stages = Stages(Path(folder))
        stages.run("all", "", lambda _: ((draft(number), "") for number in range(count)))
        found = Counter(one.choices.index(one.draft.answer) for one in placed(stages.path("all"), stages.drafts(), 1))
    return [found[place] / count for place in range(4)]


def write_ledger(folder: str, count: int) -> float:
    """Appends per second of answers of 1.6 kB, as many as five seconds are enough for; the rest is written at once."""
    ledger, text = Ledger(folder), "x" * 1_400
    begun, done = time.process_time(), 0
    while done < count and time.process_time() - begun < 5:
        for _ in range(500):
            key = f"{hash64('bench', done):016x}{done:016x}"
            ledger.add(
                key, 500, 100, {"name": str(done), "attempt": 0, "text": text, "reason": "stop", "finished": True}
            )
            done += 1
    rate = done / (time.process_time() - begun)
    ledger.close()
    with (Path(folder) / "answers.jsonl").open("a") as file:
        for number in range(done, count):
            key = f"{hash64('bench', number):016x}{number:016x}"
            file.write(f'{{"key": "{key}", "in": 500, "out": 100, "name": "{number}", "text": "{text}"}}\n')
    return rate


def open_ledger(folder: str) -> tuple[float, int]:
    """Seconds to open a ledger, and its answers."""
    begun = time.process_time()
    ledger = Ledger(folder, write=False)
    return time.process_time() - begun, len(ledger)


def serve(port, drawn: bool) -> None:
    """A server that answers at once; drawn: 10 % 429, 5 % 500, 2 % cut off."""
    from aiohttp import web

    count = 0

    async def answer(request):
        nonlocal count
        count += 1
        body = await request.json()
        draw = hash64(count) % 100 if drawn else 99
        if draw < 15:
            return web.Response(status=429 if draw < 10 else 500)
        message = {"content": json.dumps({"answer": body["messages"][-1]["content"]})}
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        text = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})
        if draw < 17:
            response = web.StreamResponse(headers={"Content-Length": str(len(text))})
            await response.prepare(request)
            await response.write(text[: len(text) // 2].encode())
            request.transport.close()
            return response
        return web.Response(text=text, content_type="application/json")

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.send(runner.addresses[0][1])
        await asyncio.sleep(3_600)

    asyncio.run(run())


def client(count: int, drawn: bool) -> tuple[float, float, int]:
    """Requests per second with the ledger behind it, the share answered, and further attempts."""
    receive, send = multiprocessing.Pipe(False)
    process = multiprocessing.Process(target=serve, args=(send, drawn), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{receive.recv()}/v1"
    with tempfile.TemporaryDirectory() as folder:
        asker = Asker(Model(url, "m", concurrency=64, retries=8), Ledger(folder))
        wants = [Want(str(n), [{"role": "user", "content": f"Question {n}?"}], SCHEMA, 50) for n in range(count)]
        begun = time.process_time()
        asker.ask(lambda: wants)
        seconds = time.process_time() - begun
        states = [asker.state(want) for want in wants]
        asker.ledger.close()
    process.terminate()
    return count / seconds, sum(s.value is not None for s in states) / count, sum(s.attempts - 1 for s in states)


def main() -> None:
    """Measures, prints a line each, and writes the numbers where told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--out", help="JSON file for the numbers")
    args = parser.parse_args()
    scale = 10 if args.quick else 1
    rows: list[tuple[str, float, str, bool]] = []

    def told(what: str, value: float, least: str, good: bool) -> None:
        rows.append((what, value, least, good))
        print(f"{what:60s} {value:12,.1f}   {least:12s} {'ok' if good else 'MISSED'}", flush=True)

    rate, memory = apart(checks, 100_000 // scale)
    told("checks, records per core-second", rate, ">= 5,000", rate >= 5_000)
    told(f"checks, MB that {100_000 // scale:,} records add", memory, "<= 73", memory <= 73)
    shares = places(20_000 // scale)
    worst = max(abs(100 * share - 25) for share in shares)
    told("places of answers, points off 25 %", worst, "<= 1", worst <= 1)
    with tempfile.TemporaryDirectory() as folder:
        count = 2_300_000 // scale
        rate, _ = apart(write_ledger, folder, count)
        told("ledger, appends per core-second", rate, ">= 5,000", rate >= 5_000)
        (seconds, found), memory = apart(open_ledger, folder)
        assert found == count
        told(f"ledger of {count:,} answers, core-seconds to open", seconds, f"<= {20 // scale}", seconds <= 20 / scale)
        told(f"ledger of {count:,} answers, MB", memory, "<= 300", memory <= 300)
    rate, _, _ = client(10_000 // scale, False)
    told("client and ledger, requests per core-second", rate, ">= 800", rate >= 800)
    rate, answered, further = client(2_000 // scale, True)
    told("10 % 429, 5 % 500, 2 % cut: answered, %", 100 * answered, "100", answered == 1)
    told("the same: attempts that 429 cost", further, "0", further == 0)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        where = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
        Path(args.out).write_text(json.dumps(where | {"figures": [row[:3] for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
