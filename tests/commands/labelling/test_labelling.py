"""`earwitness label`: everything is asked once, whatever happens in between, and the labels are those of the votes."""

from __future__ import annotations

import ast
import copy
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from earwitness.commands.cli import main
from earwitness.commands.labelling import results as label_results
from earwitness.commands.labelling.job import load_job
from earwitness.commands.labelling.run import run_job
from earwitness.curriculum.contribution.labels import read_about
from earwitness.curriculum.contribution.votes import read_tallies
from earwitness.curriculum.table import read_arrow, write_arrow
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.voting.answer_store import AnswerStore
from earwitness.errors import InputError
from earwitness.lightning_modules.voters.endpoint import Endpoint
from earwitness.lightning_modules.voters.judge import IMPLICIT, LOGICAL, category_of, prompt_of
from earwitness.tests.chat_server import Asked, ChatServer, serving, until
from earwitness.tests.datamodules.test_datamodule import CHOICES, CLIPS, SPLITS, build

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
# Who is right without the audio about question n; with it, all are but for every seventh.
KNOWS: dict[str, Callable[[int], bool]] = {
    "one": lambda n: n % 2 == 0,
    "two": lambda n: n % 3 == 0,
    "three": lambda n: n % 5 < 2,
}
WEAK = {0, 6, 10, 12, 15, 16, 18}  # at least two of the three are right
EVERYTHING = Counter({(name, n, heard): 1 for name in KNOWS for n in range(20) for heard in (True, False)})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Twenty questions; question n has the answer n mod 4, and every other one was published as weak."""
    published = {"audio_contribution": lambda n: "weak" if n % 2 else "strong"}
    return build(tmp_path_factory.mktemp("labelling") / "corpus", CLIPS, SPLITS, **published)


@pytest.fixture
def server():
    with serving() as running:
        running.say = letter
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Without pauses, as the only process."""
    monkeypatch.setattr(Endpoint, "_pause", lambda self, attempt, ask: 0.0)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # a kill, unlike a power cut, loses nothing that was written
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def key_of(asked: Asked) -> tuple[str, int, bool]:
    assert asked.wave is not None
    return asked.model, asked.number, bool(asked.wave.any())


def letter(asked: Asked) -> str:
    """The right option's letter, or the one after it."""
    name, n, heard = key_of(asked)
    right = n % 7 > 0 if heard else KNOWS[name](n)
    shown = re.findall(r"^([A-D])\. (.*)$", asked.text, re.MULTILINE)
    places = {option: place for place, (_, option) in enumerate(shown)}
    assert set(places) == set(CHOICES)
    return shown[(places[CHOICES[n % 4]] + (not right)) % 4][0]


def voter(server: ChatServer, name: str, **more) -> dict[str, Any]:
    endpoint = {"url": server.url, "model": name, "concurrency": 3, "retries": 1, "give_up": 4, "timeout_s": 20}
    endpoint |= more.pop("endpoint", {})
    return {"name": name, "endpoint": endpoint, "style": "letters", "rule": "letter", "rotations": 1} | more


def job_file(folder: Path, corpus: Path, voters: list[dict], **more) -> str:
    spec = {"index": str(corpus / "index.arrow"), "out": str(folder / "out"), "voters": voters, "bootstrap": 50}
    spec |= {"conditions": ["audio", "silence:0.1"], "condition": "silence:0.1"} | more
    path = folder / "job.yaml"
    path.write_text(json.dumps(spec))
    return str(path)


def three(server: ChatServer, folder: Path, corpus: Path, **more) -> str:
    return job_file(folder, corpus, [voter(server, name) for name in KNOWS], **more)


def run(path: str) -> dict[str, Any]:
    return run_job(load_job(path))


def counted(server: ChatServer) -> Counter:
    return Counter(key_of(asked) for asked in server.seen)


def numbers(corpus: Path) -> dict[int, int]:
    """Identity -> number of the question."""
    reader = ShardReader(corpus / "index.arrow")
    return {reader.uid(row): int(reader.key(row)[2:]) for row in range(20)}


def labelled(folder: Path, corpus: Path) -> dict[int, str | None]:
    table = read_arrow(folder / "out" / "labels.arrow")
    number = numbers(corpus)
    uids = table.column("uid").to_pylist()
    return {number[uid]: label for uid, label in zip(uids, table.column("label").to_pylist(), strict=True)}


def stored(folder: Path, corpus: Path) -> set[tuple[str, int, bool]]:
    """What is answered so far."""
    number, found = numbers(corpus), set()
    for name in KNOWS:
        for record in AnswerStore(folder / "out" / "answers" / f"{name}.arrow").read():
            found.add((name, number[record["uid"]], record["condition"] == "audio"))
    return found


EXPECTED = {n: "weak" if n in WEAK else "strong" for n in range(20)}


def test_a_whole_job_by_hand(server, tmp_path, corpus):
    """Votes, labels and statistics of twenty questions: right without audio are 10, 7 and 8; with it 17."""
    found = run(three(server, tmp_path, corpus, title="By <hand>"))
    out = tmp_path / "out"
    assert found == {
        "asked": 120,
        "failed": 0,
        "weak": 7,
        "strong": 13,
        "labels": str(out / "labels.arrow"),
        "report": str(out / "report.html"),
    }
    assert counted(server) == EVERYTHING
    assert labelled(tmp_path, corpus) == EXPECTED
    for name, knows in KNOWS.items():
        tallies = read_tallies(out / "answers" / f"{name}.arrow")
        number = numbers(corpus)
        silent, heard = tallies["silence:0.1"], tallies["audio"]
        assert {number[u] for u, r in zip(silent.uid.tolist(), silent.right, strict=True) if r} == {
            n for n in range(20) if knows(n)
        }
        assert {number[u] for u, r in zip(heard.uid.tolist(), heard.right, strict=True) if not r} == {0, 7, 14}
        assert silent.asked.tolist() == heard.asked.tolist() == [1] * 20
    jury = json.loads((out / "jury.json").read_text())
    assert [v["accuracy"] for v in jury["voters"]] == [0.5, 0.35, 0.4]
    assert jury["counts"] == {"weak": 7, "strong": 13, "unlabelled": 0} and jury["weak"][0] == 0.35
    # Right both ways: 10 - {0, 14}, 7 - {0}, 8 - {0}; in silence alone those, with audio alone 17 less the first.
    squares = {
        n: [jury["audio"][n][key] for key in ("both", "audio_only", "silence_only", "neither")] for n in jury["audio"]
    }
    assert squares == {"one": [8, 9, 2, 1], "two": [6, 11, 1, 2], "three": [7, 10, 1, 2]}
    about = read_about(out / "labels.arrow")
    assert about["rule"] == "majority of the voters (tie: strong)" and about["condition"] == "silence:0.1"
    assert [v["model"] for v in about["asked"]] == list(KNOWS) and "url" not in json.dumps(about)


MISSING = re.compile(r"\b(?:nan|NaN|None|inf|Infinity)\b")


def without_sounds(page: str) -> str:
    """The page's own words: without recordings, scripts, styles and the questions' data, where null is a value."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


def test_the_report_can_be_heard_and_read(server, tmp_path, corpus):
    run(three(server, tmp_path, corpus, title="By <hand>"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<script type="text/plain" id="clip-') == len(set(CLIPS)), "each recording once"
    text = without_sounds(page)
    assert "<h1>By &lt;hand&gt;</h1>" in text and not MISSING.search(text)
    for words in (
        "Of 20 questions, 7 were answered without the audio (weak)",
        "35.0 %",
        "<td>one</td><td>20</td><td>0</td><td>50.0 %</td>",
    ):
        assert words in text
    assert "<tr><td>two</td><td>6</td><td>11</td><td>1</td><td>2</td></tr>" in text
    assert text.count('<svg role="img"') == 8 and text.count("<table") == 6 and "one / three" in text
    assert "60 answers" not in text and "20 answers of three to 20 questions" in text and "Warning" not in text
    assert not re.search(r"(?:src|href)=.?(?!#)\w|https?://", text), "nothing is fetched"


def test_a_jury_without_spread_shows_dashes_instead_of_missing_numbers(server, tmp_path, corpus):
    """One voter that is never right, or hardly ever answers: kappas, shares and tests that do not exist."""
    server.say = lambda asked: "A"  # of question 3 the last is right
    server.fail("400", math.inf, lambda asked: asked.number != 3 and not asked.wave.any())
    path = job_file(tmp_path, corpus, [voter(server, "one", endpoint={"give_up": 99})], allow_missing=True)
    assert run(path)["unlabelled"] == 19
    text = without_sounds((tmp_path / "out" / "report.html").read_text())
    assert not MISSING.search(text) and "<td>-</td>" in text
    jury = json.loads((tmp_path / "out" / "jury.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert jury["flips"] == {"one": None}


def test_a_dry_run_asks_nothing_and_leaves_nothing_behind(server, tmp_path, corpus, capsys):
    """20 questions: 2.6 s of recordings (1,600 n + 160 c samples), 0.1 s of silence each."""
    rates = {"audio_minute": 60.0}
    path = job_file(tmp_path, corpus, [voter(server, "one", price=rates), voter(server, "two", rotations="all")])
    main(["label", path, "--dry-run"])
    said = capsys.readouterr().out.splitlines()
    seconds = sum(1_600 + 160 * clip for clip in CLIPS) / 16_000 + 20 * 0.1
    assert said[0].startswith("one: 40 requests, 0.1 minutes of audio, about ")
    assert f"about {round(seconds, 2)} in money" in said[0]
    assert said[1].startswith("two: 160 requests, 0.3 minutes of audio, about ") and "money" not in said[1]
    assert not server.seen and not (tmp_path / "out").exists()
    Path(path).write_text(Path(path).read_text().replace('"letters"', '"inline"'))
    main(["label", path, "--dry-run"])
    assert not server.seen


def test_a_dry_run_tells_what_is_answered_already(server, tmp_path, corpus, capsys):
    path = three(server, tmp_path, corpus, pool={"split": "val"})
    run(path)
    spec = json.loads(Path(path).read_text()) | {"pool": {"split": ["val", "test"]}}
    Path(path).write_text(json.dumps(spec))
    capsys.readouterr()
    run_job(load_job(path), dry_run=True)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and all("10 requests" in line and "(6 are answered already)" in line for line in said)
    assert len(server.seen) == 18


def test_the_same_command_asks_nothing_anew(server, tmp_path, corpus):
    path = three(server, tmp_path, corpus)
    first = run(path)
    table = (tmp_path / "out" / "answers" / "one.arrow").read_bytes()
    assert run(path) == first | {"asked": 0} and counted(server) == EVERYTHING
    assert (tmp_path / "out" / "answers" / "one.arrow").read_bytes() == table


def test_more_questions_conditions_and_voters_ask_for_what_is_new_alone(server, tmp_path, corpus):
    voters = [voter(server, name) for name in KNOWS]
    run(job_file(tmp_path, corpus, voters[:1], pool={"split": "train"}, conditions=["silence:0.1"]))
    assert counted(server) == Counter({("one", n, False): 1 for n in range(12)})
    run(job_file(tmp_path, corpus, voters[:2], conditions=["silence:0.1"]))
    assert counted(server) == Counter({(name, n, False): 1 for name in ("one", "two") for n in range(20)})
    assert run(job_file(tmp_path, corpus, voters))["asked"] == 80
    assert counted(server) == EVERYTHING and labelled(tmp_path, corpus) == EXPECTED


def test_only_the_pool_is_labelled_also_where_more_was_asked(server, tmp_path, corpus):
    run(three(server, tmp_path, corpus))
    found = run(three(server, tmp_path, corpus, pool={"split": ["val", "test"]}))
    assert labelled(tmp_path, corpus) == {n: EXPECTED[n] for n in range(12, 20)}
    assert (found["asked"], found["weak"], found["strong"]) == (0, 4, 4)


def test_orders_and_draws_are_asked_each_and_counted_together(server, tmp_path, corpus):
    """Voter one is right about even questions in every order it is asked in: 4 of 4, and 2 draws of 2."""
    say = {"one": voter(server, "one", rotations="all"), "two": voter(server, "two", draws=2)}
    say["two"]["endpoint"]["temperature"] = 0.7
    run(job_file(tmp_path, corpus, list(say.values()), conditions=["silence:0.1"]))
    assert Counter(asked.model for asked in server.seen) == {"one": 80, "two": 40}
    orders = {(asked.number, asked.text) for asked in server.seen if asked.model == "one"}
    assert len(orders) == 80 and len({asked.text for asked in server.seen if asked.model == "two"}) == 20
    for name, times in (("one", 4), ("two", 2)):
        tally = read_tallies(tmp_path / "out" / "answers" / f"{name}.arrow")["silence:0.1"]
        assert tally.asked.tolist() == [times] * 20
        number = numbers(corpus)
        assert {number[u] for u, r in zip(tally.uid.tolist(), tally.right, strict=True) if r == times} == {
            n for n in range(20) if KNOWS[name](n)
        }


def test_voters_behind_servers_here_and_of_before_are_one_jury(server, small, tmp_path, corpus):
    """Two endpoints, our tiny model by the log-probs of options, and a table of votes: the majority of four."""
    reader = ShardReader(small.index)
    rows = [row for row in range(len(reader)) if reader.text("split", row) == "test"]
    questions = {reader.uid(row): reader.question(row) for row in rows}
    guess = {question.question: question.answer for question in questions.values()}  # words are shared by some

    def say(asked: Asked) -> str:
        words, _, options = asked.text.partition(" Please choose the answer from the following options: ")
        first = ast.literal_eval(options.partition("]")[0] + "]")[0]
        return f"<answer>{guess[words] if asked.model == 'knowing' or asked.wave.any() else first}</answer>"

    server.say = say
    paper = {"style": "paper", "rule": "exact"}
    uids = sorted(reader.uid(row) for row in rows)
    earlier = {uid: place % 2 == 0 for place, uid in enumerate(uids)}
    columns = {"uid": pa.array(uids, pa.uint64()), "condition": ["silence:1"] * len(uids)}
    write_arrow(pa.table(columns | {"correct": list(earlier.values())}), tmp_path / "earlier.arrow")
    voters = [voter(server, "knowing", **paper), voter(server, "hearing", **paper)]
    voters.append({"name": "tiny", "checkpoint": small.tiny, "scoring": "options", "rotations": 2, "batch_size": 7})
    voters.append({"name": "earlier", "answers": str(tmp_path / "earlier.arrow")})
    how = {"index": small.index, "pool": {"split": "test"}, "rule": {"majority": True, "tie": "drop"}}
    path = job_file(tmp_path, corpus, voters, **how, conditions=["audio", "silence:1"], condition="silence:1")
    found = run(path)
    assert found["asked"] == 4 * len(rows) + 2 * 2 * len(rows) and found["failed"] == 0
    answers = tmp_path / "out" / "answers"
    scored = read_arrow(answers / "tiny.arrow").to_pylist()
    assert Counter((r["condition"], r["rotation"]) for r in scored) == {
        (condition, rotation): len(rows) for condition in ("audio", "silence:1") for rotation in (0, 1)
    }
    assert all(len(r["scores"]) == 4 and 0 < r["p_right"] < 1 for r in scored)
    assert all(r["correct"] == (int(np.argmax(r["scores"])) == r["right_option"]) for r in scored)
    tiny = read_tallies(answers / "tiny.arrow")["silence:1"]
    for row in read_arrow(tmp_path / "out" / "labels.arrow").to_pylist():
        share = tiny.right[tiny.uid == row["uid"]][0] / 2
        question = questions[row["uid"]]
        knowing = guess[question.question] == question.answer
        hearing = question.choices[0] == question.answer
        votes = knowing + hearing + (np.sign(share - 0.5) + 1) / 2 + earlier[row["uid"]]
        assert row["label"] == ("weak" if votes > 2 else "strong" if votes < 2 else None)
        assert [row[f"vote_{j}"] for j in range(4)] == [knowing, hearing, share, earlier[row["uid"]]]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "clip-0" in page and not MISSING.search(without_sounds(page))
    assert run(path)["asked"] == 0


# Interruptions.


def forked(act: Callable[[], Any]) -> int:
    """A child that does this, and nothing of the tests; 0 after success, 3 after an error."""
    pid = os.fork()
    if pid:
        return pid
    code = 3
    try:
        act()
        code = 0
    finally:
        os._exit(code)


def killed(act: Callable[[], Any], when: Callable[[], bool] | None = None) -> None:
    """Runs this in a child and kills it then, or waits until it kills itself."""
    pid = forked(act)
    try:
        if when is not None:
            until(when)
            os.kill(pid, signal.SIGKILL)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, f"it ended by itself: {status}"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("answered", [0, 1, 40, 61, 117])
def test_killed_while_asking_nothing_answered_is_asked_again(server, tmp_path, corpus, answered):
    """The server stops answering after so many; three requests are open when the job is killed."""
    path = three(server, tmp_path, corpus)
    server.fail("hang", math.inf, lambda asked: len(server.seen) > answered)
    left = min(3, 40 - answered % 40) if answered % 40 else 1  # the first is asked alone
    killed(lambda: run(path), lambda: server.answered >= answered and server.open >= left)
    until(lambda: server.open == 0)
    kept = stored(tmp_path, corpus)
    assert server.answered - 3 <= len(kept) <= server.answered, "at most what was open is lost"
    before = counted(server)
    server.faults.clear()
    assert run(path)["asked"] == 120 - len(kept)
    again = counted(server) - before
    assert again == EVERYTHING - Counter(dict.fromkeys(kept, 1)), "what was kept is not asked again, the rest once"
    assert stored(tmp_path, corpus) == set(EVERYTHING) and labelled(tmp_path, corpus) == EXPECTED


@pytest.mark.parametrize("status", ["429", "503"])
def test_killed_while_a_server_limits_the_rate_no_answer_is_asked_for_again(server, tmp_path, corpus, status):
    """Every third request is refused for a moment, without a retry to spend; nothing fails, each is answered once."""
    path = job_file(tmp_path, corpus, [voter(server, name, endpoint={"retries": 0}) for name in KNOWS])
    turn, given = itertools.count(1), Counter()
    server.headers = {"Retry-After": "0.01"}
    server.fail(status, math.inf, lambda asked: next(turn) % 3 == 0)
    server.say = lambda asked: given.update([key_of(asked)]) or letter(asked)
    killed(lambda: run(path), lambda: server.answered >= 50)
    until(lambda: server.open == 0)
    kept, earlier = stored(tmp_path, corpus), given.copy()
    assert len(earlier) - 3 <= len(kept) <= len(earlier) < 120
    found = run(path)
    assert (found["asked"], found["failed"]) == (120 - len(kept), 0) and labelled(tmp_path, corpus) == EXPECTED
    assert given - earlier == EVERYTHING - Counter(dict.fromkeys(kept, 1))


def half_a_line(self, records) -> None:
    """Writes what is there, but the last bytes of the seventh answer to voter two."""
    records = list(records)
    whole(self, records)
    if "two" in str(self.path) and self.path.read_bytes().count(b"\n") == 7:
        os.truncate(self.path, self.path.stat().st_size - 5)
        die()


def before(*_: Any, **__: Any) -> None:
    die()


def after(act: Callable) -> Callable:
    return lambda *args, **options: (act(*args, **options), die())


whole = AnswerStore.append
POINTS: dict[str, tuple[Any, str, Callable]] = {
    "within a line": (AnswerStore, "append", half_a_line),
    "before the first table": (AnswerStore, "finish", before),
    "after the first table": (AnswerStore, "finish", after(AnswerStore.finish)),
    "before the labels": (label_results, "label", before),
    "after the labels": (label_results, "label", after(label_results.label)),
    "before the statistics": (label_results, "describe_jury", before),
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_other_point_the_same_command_goes_on(server, tmp_path, corpus, point):
    path = three(server, tmp_path, corpus)
    where, name, broken = POINTS[point]

    def act() -> None:
        setattr(where, name, broken)
        run(path)

    killed(act)
    until(lambda: server.open == 0)
    kept, earlier = stored(tmp_path, corpus), counted(server)
    assert len(earlier) - len(kept) <= 4, "what was in flight"
    assert run(path)["asked"] == 120 - len(kept)
    assert counted(server) - earlier == EVERYTHING - Counter(dict.fromkeys(kept, 1))
    assert labelled(tmp_path, corpus) == EXPECTED and (tmp_path / "out" / "report.html").is_file()
    assert run(path)["asked"] == 0


def test_killed_while_it_is_written_how_a_voter_is_asked(server, tmp_path, corpus):
    """A third of the questions is answered when the file is written anew; half of it would be of no use."""
    run(three(server, tmp_path, corpus, pool={"split": ["val", "test"]}))
    path = three(server, tmp_path, corpus)

    def act() -> None:
        Path.replace = before
        run(path)

    killed(act)
    assert run(path)["asked"] == 72 and counted(server) == EVERYTHING and labelled(tmp_path, corpus) == EXPECTED


def test_a_model_here_is_killed_between_batches_and_goes_on(small, tmp_path, corpus):
    """After the second batch of five, before the third is kept."""
    from earwitness.lightning_modules.voters.module import VoterModule

    how = {"index": small.index, "pool": {"split": "val"}, "conditions": ["silence:1"], "condition": "silence:1"}
    tiny = {"name": "tiny", "checkpoint": small.tiny, "scoring": "options", "rotations": "all", "batch_size": 5}
    path = job_file(tmp_path, corpus, [tiny], **how)
    step = VoterModule.predict_step

    def act() -> None:
        VoterModule.predict_step = lambda self, batch, number: die() if number == 2 else step(self, batch, number)
        run(path)

    killed(act)
    store = AnswerStore(tmp_path / "out" / "answers" / "tiny.arrow")
    kept = store.read()
    assert len(kept) == 10
    assert run(path)["asked"] == 32 - 10
    answers = store.read()
    assert answers[:10] == kept and len(answers) == 32
    assert len({(r["uid"], r["rotation"]) for r in answers}) == 32
    whole_job = job_file(tmp_path / "..", corpus, [tiny], **how, out=str(tmp_path / "whole"))
    run(whole_job)
    expected = read_arrow(tmp_path / "whole" / "answers" / "tiny.arrow").to_pylist()
    for one, other in zip(read_arrow(store.file).to_pylist(), expected, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-4) and one["answer"] == other["answer"]


@pytest.mark.slow
def test_two_processes_share_the_questions_and_ask_none_twice(small, tmp_path, corpus):
    """Two voters after each other, on two processes that Lightning starts."""
    tiny = {"checkpoint": small.tiny, "scoring": "options", "batch_size": 3, "devices": 2, "accelerator": "cpu"}
    how = {"index": small.index, "pool": {"split": "val"}, "conditions": ["silence:1"], "condition": "silence:1"}
    path = job_file(
        tmp_path, corpus, [{"name": "one", "rotations": 1} | tiny, {"name": "two", "rotations": 2} | tiny], **how
    )
    command = [sys.executable, "-m", "earwitness", "label", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert "asked 24, failed 0, " in done.stdout and run(path)["asked"] == 0
    for name, orders in (("one", 1), ("two", 2)):
        folder = tmp_path / "out" / "answers" / f"{name}.asked"
        parts = [(folder / f"rank{rank}.jsonl").read_text().splitlines() for rank in (0, 1)]
        assert min(map(len, parts)) > 0
        records = [json.loads(line) for part in parts for line in part]
        assert len(records) == len({(r["uid"], r["rotation"]) for r in records}) == 8 * orders


def test_a_server_that_goes_down_stops_the_job_and_the_same_command_goes_on(server, tmp_path, corpus, capsys):
    path = three(server, tmp_path, corpus)
    server.fail("500", math.inf, lambda asked: server.answered >= 50)
    with pytest.raises(SystemExit) as stopped:
        main(["label", path])
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 1 and said[-1].startswith(f"error: {server.url}: 4 requests in a row failed")
    assert "500: no" in said[-1] and "the same command continues" in said[-1]
    kept = stored(tmp_path, corpus)
    assert len(kept) == server.answered and not (tmp_path / "out" / "labels.arrow").exists()
    told = (tmp_path / "out" / "answers" / "two.failed.jsonl").read_text().splitlines()
    assert len(told) >= 4 and json.loads(told[0])["error"] == "500: no"
    server.faults.clear()
    earlier = counted(server)
    assert run(path)["asked"] == 120 - len(kept)
    assert counted(server) - earlier == EVERYTHING - Counter(dict.fromkeys(kept, 1))
    assert labelled(tmp_path, corpus) == EXPECTED
    assert not (tmp_path / "out" / "answers" / "two.failed.jsonl").exists()


def test_failed_requests_are_missing_votes_and_are_asked_again(server, tmp_path, corpus, capsys):
    """Voter two says nothing about 0, 3, 11 and 15; of 11 and 15 one of the other two is right: they stay open."""
    path = three(server, tmp_path, corpus)
    lost = {0, 3, 11, 15}
    server.told = "audio\ntoo short"
    server.fail("422", math.inf, lambda asked: asked.model == "two" and asked.number in lost and not asked.wave.any())
    with pytest.raises(InputError, match="^2 questions lack votes"):
        run(path)
    assert "some requests failed, see" in capsys.readouterr().err
    failed = tmp_path / "out" / "answers" / "two.failed.jsonl"
    lines = [json.loads(line) for line in failed.read_text().splitlines()]
    assert {line["error"] for line in lines} == {"422: audio too short"} and len(lines) == 4
    assert {numbers(corpus)[line["uid"]] for line in lines} == lost
    spec = json.loads(Path(path).read_text()) | {"allow_missing": True}
    Path(path).write_text(json.dumps(spec))
    found = run(path)
    assert (found["asked"], found["failed"], found["unlabelled"]) == (4, 4, 2)
    # One and three: 0 has two right votes and is weak, 3 none (0, ?, 0) and is strong, 11 and 15 have one.
    assert labelled(tmp_path, corpus) == EXPECTED | {11: None, 15: None}
    votes = read_arrow(tmp_path / "out" / "labels.arrow")
    missing = [
        numbers(corpus)[u]
        for u, vote in zip(votes.column("uid").to_pylist(), votes.column("vote_1").to_pylist(), strict=True)
        if vote is None
    ]
    assert set(missing) == lost
    server.faults.clear()
    asked = len(server.seen)
    assert run(path)["asked"] == 4 and len(server.seen) == asked + 4
    assert labelled(tmp_path, corpus) == EXPECTED and not failed.exists()


CHANGES = {
    "model": lambda spec: spec["voters"][0]["endpoint"].update(model="two"),
    "style": lambda spec: spec["voters"][0].update(style="inline"),
    "rule": lambda spec: spec["voters"][0].update(style="inline", rule="contains"),
    "system": lambda spec: spec["voters"][0]["endpoint"].update(system="Listen."),
    "temperature": lambda spec: spec["voters"][0]["endpoint"].update(temperature=0.5),
    "max_tokens": lambda spec: spec["voters"][0]["endpoint"].update(max_tokens=5),
    "body": lambda spec: spec["voters"][0]["endpoint"].update(body={"top_p": 0.9}),
    "rotations": lambda spec: spec["voters"][0].update(rotations=2),
    "draws": lambda spec: spec["voters"][0].update(
        draws=2, endpoint=spec["voters"][0]["endpoint"] | {"temperature": 1}
    ),
    "seed": lambda spec: spec.update(seed=4),
}


def test_answers_given_to_something_else_are_not_mixed_in(server, tmp_path, corpus):
    path = job_file(tmp_path, corpus, [voter(server, "one")])
    run(path)
    spec, asked = json.loads(Path(path).read_text()), len(server.seen)
    for key, change in CHANGES.items():
        changed = copy.deepcopy(spec)
        change(changed)
        Path(path).write_text(json.dumps(changed))
        with pytest.raises(InputError, match=r"one\.asked: one was asked with (\w+)") as refused:
            run(path)
        said = re.search(r"was asked with (\w+) (.*), now it is (.*); remove the folder", str(refused.value))
        expected = {"rule": "prompt", "style": "prompt", "draws": "draws"}.get(key, key)
        assert said and said[1] == expected and said[2] != said[3], key
    harmless = copy.deepcopy(spec)
    harmless["voters"][0]["endpoint"] |= {"concurrency": 1, "retries": 0, "give_up": 3, "timeout_s": 5}
    harmless["voters"][0]["price"] = {"audio_minute": 1.0}
    Path(path).write_text(json.dumps(harmless))
    assert run(path)["asked"] == 0 and len(server.seen) == asked


def test_a_job_that_does_not_say_how_many_orders_goes_on_as_it_began(server, tmp_path, corpus, capsys):
    """Asked in one order when that was the default; a new job is asked in all four."""
    silent = [{k: v for k, v in voter(server, name).items() if k != "rotations"} for name in KNOWS]
    how = {"conditions": ["silence:0.1"]}
    run(job_file(tmp_path, corpus, [voter(server, "one")], pool={"split": "train"}, **how))
    asked = len(server.seen)
    capsys.readouterr()
    path = job_file(tmp_path, corpus, silent[:2], **how)
    found = run(path)
    assert found["asked"] == 8 + 4 * 20 and len(server.seen) == asked + 88
    assert "one: goes on as it began, with rotations: 1" in capsys.readouterr().err
    about = read_about(tmp_path / "out" / "labels.arrow")
    assert [v["rotations"] for v in about["asked"]] == [1, "all"] and run(path)["asked"] == 0
    with pytest.raises(InputError, match="one was asked with rotations 1, now it is 'all'"):
        run(job_file(tmp_path, corpus, [silent[0] | {"rotations": "all"}], **how))


def test_a_voter_that_always_says_a_is_named_and_claims_nothing(server, tmp_path, corpus, capsys):
    """The answers stand at A, B, C, D five times each: in one order 5 of 20 are weak, in all orders none."""
    server.say = lambda asked: "A"
    for orders, weak in ((1, 5), ("all", 0)):
        folder = tmp_path / str(orders)
        folder.mkdir()
        voters = [voter(server, "one", rotations=orders)]
        assert run(job_file(folder, corpus, voters, conditions=["silence:0.1"]))["weak"] == weak
        said = "one gives a constant answer: place A in 100 % of its answers, whatever is asked (25 % of the right ones"
        assert f"warning: {said}" in capsys.readouterr().err
        jury = json.loads((folder / "out" / "jury.json").read_text())
        assert jury["constant"] == ["one"] and jury["warnings"][0].startswith(said)
        assert jury["picks"]["one"]["by_place"] == {"A": 1, "B": 0, "C": 0, "D": 0}
        assert jury["picks"]["one"]["right_by_place"] == dict.fromkeys("ABCD", 0.25)
        skill = jury["skill"]["one"]
        assert skill["above"][1] <= 0 <= skill["above"][2] + 1e-9 and not skill["claimed"]
        assert jury["expected_weak_if_dealt"] == pytest.approx(weak / 20)
        text = without_sounds((folder / "out" / "report.html").read_text())
        assert f"<b>Warning.</b> {said}" in text and "No skill is claimed for one" in text
        assert "One voter agrees with nobody" in text and "Cohen" not in text


def test_other_recordings_under_the_same_name_are_noticed(server, tmp_path, corpus):
    path = job_file(tmp_path, corpus, [voter(server, "one")])
    run(path)
    other = build(tmp_path / "other", [clip + 1 for clip in CLIPS], SPLITS)
    spec = json.loads(Path(path).read_text()) | {"index": str(other / "index.arrow")}
    Path(path).write_text(json.dumps(spec))
    with pytest.raises(InputError, match="one was asked with content "):
        run(path)


def test_the_first_settings_do_not_bind_as_long_as_nothing_was_answered(server, tmp_path, corpus):
    server.fail("404", 8)
    path = job_file(tmp_path, corpus, [voter(server, "one", endpoint={"max_tokens": 3})])
    with pytest.raises(InputError, match="it has no chat completions there"):
        run(path)
    server.faults.clear()
    assert run(job_file(tmp_path, corpus, [voter(server, "one", endpoint={"max_tokens": 9})]))["asked"] == 40


# Why weak questions need no audio.


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("A", LOGICAL),
        ("B", IMPLICIT),
        (" B.\n", IMPLICIT),
        ("**A**", LOGICAL),
        ("(B)", IMPLICIT),
        ("The answer is B.", IMPLICIT),
        ("A. Explicit logical reasoning", LOGICAL),
        ("B\n\nNothing in the wording gives it away.", IMPLICIT),
        ("Implicit knowledge", IMPLICIT),
        ("It is B, since A dog usually barks", IMPLICIT),
        ("A dog usually barks", ""),
        ("", ""),
        ("C", ""),
        ("A or B", ""),
        ("Both A and B.", ""),
        ("I cannot say", ""),
        ("a question about a dog", ""),
    ],
)
def test_categories_by_hand(text, category):
    assert category_of(text) == category


def test_the_judge_reads_the_question_its_options_and_the_right_one(corpus):
    question = ShardReader(corpus / "index.arrow").question(0)
    text = prompt_of(question)
    n = int(question.id)
    assert f"\nQuestion: Question {n}?\nOptions:\n- rain\n- wind\n- a dog\n- a bell\n" in text
    assert f"\nRight answer: {CHOICES[n % 4]}\n" in text and text.endswith("Reply with the letter A or B alone.")
    assert "\nA. Explicit logical reasoning: " in text and "\nB. Implicit knowledge: " in text


def judged(asked: Asked) -> str:
    """The judge hears nothing; it says B about questions up to 12, A about 15 and 16, and does not know about 18."""
    if asked.model != "judge":
        return letter(asked)
    assert asked.wave is None and "Right answer: " in asked.text
    return "B" if asked.number <= 12 else "A" if asked.number <= 16 else "hm"


def judging(server: ChatServer, folder: Path, corpus: Path, **more) -> str:
    judge = {"url": server.url, "model": "judge", "concurrency": 1, "retries": 0, "give_up": 3} | more
    return three(server, folder, corpus, judge=judge)


def test_weak_questions_are_judged_and_counted(server, tmp_path, corpus):
    """0, 6, 10 and 12 are implicit, 15 and 16 logical, 18 undecided: 4 of 6."""
    server.say = judged
    path = judging(server, tmp_path, corpus)
    run(path)
    asked = Counter(a.number for a in server.seen if a.model == "judge")
    assert asked == Counter(dict.fromkeys(WEAK, 1))
    found = json.loads((tmp_path / "out" / "jury.json").read_text())["categories"]
    assert (found["judge"], found["weak"], found["undecided"]) == ("judge", 7, 1)
    assert found["counts"] == {LOGICAL: 2, IMPLICIT: 4} and found["implicit"][0] == pytest.approx(4 / 6)
    table = read_arrow(tmp_path / "out" / "answers" / "categories.arrow").to_pylist()
    said = {numbers(corpus)[row["uid"]]: (row["raw"], row["answer"]) for row in table}
    assert said == dict.fromkeys((0, 6, 10, 12), ("B", IMPLICIT)) | dict.fromkeys((15, 16), ("A", LOGICAL)) | {
        18: ("hm", "")
    }
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<tr><td>implicit knowledge</td><td>4</td></tr>" in page and "<tr><td>undecided</td><td>1</td></tr>" in page
    assert run(path)["asked"] == 0 and sum(a.model == "judge" for a in server.seen) == 7


def test_a_judge_is_resumed_without_asking_twice(server, tmp_path, corpus):
    server.say = judged
    path = judging(server, tmp_path, corpus)
    server.fail("hang", math.inf, lambda asked: asked.model == "judge" and sum(map(is_judge, server.seen)) > 3)
    killed(lambda: run(path), lambda: sum(map(is_judge, server.seen)) == 4)
    until(lambda: server.open == 0)
    server.faults.clear()
    run(path)
    counts = Counter(a.number for a in server.seen if is_judge(a))
    assert set(counts) == WEAK and sorted(counts.values()) == [1] * 6 + [2], "the one in flight"
    assert json.loads((tmp_path / "out" / "jury.json").read_text())["categories"]["undecided"] == 1


def is_judge(asked: Asked) -> bool:
    return asked.model == "judge"


def test_a_judge_that_fails_is_asked_again_and_another_judge_is_not_mixed_in(server, tmp_path, corpus):
    server.say = judged
    server.fail("400", 1, is_judge)
    path = judging(server, tmp_path, corpus)
    run(path)
    assert json.loads((tmp_path / "out" / "jury.json").read_text())["categories"]["undecided"] in (1, 2)
    run(path)
    assert sum(map(is_judge, server.seen)) == 8
    assert json.loads((tmp_path / "out" / "jury.json").read_text())["categories"]["undecided"] == 1
    with pytest.raises(InputError, match="the judge was asked with model 'judge', now it is 'jury'"):
        run(judging(server, tmp_path, corpus, model="jury"))
    assert sum(asked.model in ("judge", "jury") for asked in server.seen) == 8


# Mistakes in the file.

GOOD: dict[str, Any] = {
    "index": "i.arrow",
    "out": "o",
    "voters": [
        {"name": "e", "endpoint": {"url": "http://h/v1", "model": "m"}},
        {"name": "c", "checkpoint": "x/y"},
        {"name": "a", "answers": "v.arrow"},
    ],
    "judge": {"url": "http://h/v1", "model": "j"},
}
MISTAKES: list[tuple[str, Any, str]] = [
    ("index", None, "needs 'index'"),
    ("out", 3, "out must be a text, got 3"),
    ("colour", "red", "unknown key 'colour'; it knows index, out, voters, pool"),
    ("voters", None, "`voters` must be a list of voters"),
    ("voters", [], "`voters` must be a list of voters"),
    ("voters", {"name": "x"}, "`voters` must be a list of voters"),
    ("voters.0", "kimi", "voters[0]: a voter is a mapping with a `name`"),
    ("voters.1.name", None, "voters[1]: a voter is a mapping with a `name`"),
    ("voters.1.name", 7, "voters[1]: a voter is a mapping with a `name`"),
    ("voters.1.name", "../x", "voters[1]: the name '../x' may hold letters, digits, - _ and ."),
    ("voters.1.name", "", "voters[1]: the name ''"),
    ("voters.1.name", "categories", "voters[1]: the name 'categories'"),
    ("voters.1.name", "e", "voters: two have the name 'e'"),
    ("voters.0.checkpoint", "x/y", "voters[0] (e): give one of endpoint, checkpoint, answers"),
    ("voters.2.answers", None, "voters[2] (a): give one of endpoint, checkpoint, answers"),
    ("voters.2.answers", 3, "voters[2] (a): answers must be the path of an answer table, got 3"),
    ("voters.2.dtype", "float32", "voters[2] (a): unknown key 'dtype' beside answers"),
    ("voters.0.batch_size", 4, "voters[0] (e): unknown key 'batch_size' beside endpoint"),
    ("voters.1.batchsize", 4, "voters[1] (c): unknown key 'batchsize'; did you mean 'batch_size'?"),
    ("voters.1.batch_size", "4", "voters[1] (c): batch_size must be a whole number, got '4'"),
    ("voters.1.batch_size", 0, "voters[1] (c): batch_size must be 1 or more, got 0"),
    ("voters.1.max_new_tokens", 0, "voters[1] (c): max_new_tokens must be 1 or more"),
    ("voters.1.num_workers", -1, "voters[1] (c): num_workers must be 0 or more"),
    ("voters.1.temperature", -0.5, "voters[1] (c): temperature must be 0 or more"),
    ("voters.1.checkpoint", ["x"], "voters[1] (c): checkpoint must be a text, got ['x']"),
    ("voters.1.system", 4, "voters[1] (c): system must be a text or null, got 4"),
    ("voters.1.devices", [0], "voters[1] (c): devices must be a whole number or a text, got [0]"),
    ("voters.0.endpoint", "http://h/v1", "voters[0] (e): endpoint must be a mapping, got 'http://h/v1'"),
    ("voters.0.endpoint.url", None, "voters[0] (e): endpoint: needs 'url'"),
    ("voters.0.endpoint.url", "h", "voters[0] (e): endpoint: endpoint url 'h' must begin with http:// or https://"),
    ("voters.0.endpoint.modle", "m", "voters[0] (e): endpoint: unknown key 'modle'; did you mean 'model'?"),
    (
        "voters.0.endpoint.key_env",
        "NO_SUCH_KEY",
        "voters[0] (e): endpoint: endpoint m: the environment variable NO_SUCH_",
    ),
    ("voters.0.endpoint.retries", -1, "voters[0] (e): endpoint: endpoint retries must not be negative, got -1"),
    ("voters.0.endpoint.retries", 1.5, "voters[0] (e): endpoint.retries must be a whole number, got 1.5"),
    ("voters.0.endpoint.retries", True, "voters[0] (e): endpoint.retries must be a whole number, got True"),
    ("voters.0.endpoint.temperature", "hot", "voters[0] (e): endpoint.temperature must be a number, got 'hot'"),
    ("voters.0.endpoint.body", "top_p", "voters[0] (e): endpoint.body must be a mapping, got 'top_p'"),
    ("voters.0.endpoint.letter_logprobs", 1, "voters[0] (e): endpoint.letter_logprobs must be true or false, got 1"),
    ("voters.0.style", "essay", "voters[0] (e): style: unknown name 'essay'; there are paper, letters, inline, lines"),
    ("voters.0.style", ["paper"], "voters[0] (e): style must be a text, got ['paper']"),
    ("voters.0.style", "letters", "voters[0] (e): style letters asks for a letter, which rule exact never finds"),
    ("voters.0.rule", "best", "rule: unknown name 'best'; there are exact, mmau, letter, contains"),
    ("voters.0.scoring", "options", "voters[0] (e): scoring: chat endpoints give no log-probs of whole options"),
    (
        "voters.0.scoring",
        "guess",
        "voters[0] (e): scoring must be one of 'generate', 'options', 'letters', got 'guess'",
    ),
    ("voters.1.scoring", "letters", "voters[1] (c): scoring by letters needs a style that shows letters"),
    ("voters.0.rotations", "every", "voters[0] (e): rotations must be a whole number or 'all', got 'every'"),
    ("voters.0.rotations", 0, "voters[0] (e): rotations is a number from 1 on or 'all', got 0"),
    ("voters.0.draws", "two", "voters[0] (e): draws must be a whole number, got 'two'"),
    ("voters.0.draws", 2, "voters[0] (e): draws is 2, but at temperature 0 all of them are the same answer"),
    ("voters.1.draws", 2, "voters[1] (c): draws is 2, but at temperature 0"),
    ("voters.0.price", 3, "voters[0] (e): price must be a mapping, got 3"),
    ("voters.0.price", {"audio_minute": "a lot"}, "voters[0] (e): price.audio_minute must be a number, got 'a lot'"),
    ("voters.0.price", {"audio_hour": 1}, "voters[0] (e): price: unknown rate 'audio_hour'"),
    ("judge", "gpt", "judge must be a mapping or null, got 'gpt'"),
    ("judge.url", "h", "judge: endpoint url 'h'"),
    ("judge.nmae", "h", "judge: unknown key 'nmae'"),
    ("conditions", "silence", "conditions must be a list of texts, got 'silence'"),
    ("conditions", ["silence", "silent"], "conditions: condition 'silent': use 'audio'"),
    ("conditions", ["silence", "silence"], "conditions: one is named twice"),
    ("conditions", [], "condition 'silence' must be one without the audio, among the conditions []"),
    ("conditions", ["audio"], "condition 'silence' must be one without the audio, among the conditions ['audio']"),
    ("condition", "noise", "condition 'noise' must be one without the audio, among the conditions ['silence']"),
    ("condition", 4, "condition must be a text, got 4"),
    ("rule", "most", "rule: rule 'most': write majority"),
    ("rule", {"at_least": "2"}, "rule: "),
    ("rule", {"at_least": 4}, "rule: at_least is 4, there are 3 voters"),
    ("rule", {"at_least": 2, "majority": True}, "rule: a rule is one of"),
    ("rule", ["majority"], "rule: rule ['majority']"),
    ("pool", "test", "pool must be a mapping, got 'test'"),
    ("pool", {"split": 3}, "pool.split must be a text or a list of texts, got 3"),
    ("allow_missing", "yes", "allow_missing must be true or false, got 'yes'"),
    ("seed", "x", "seed must be a whole number, got 'x'"),
    ("bootstrap", 0, "bootstrap must be 1 or more, got 0"),
    ("title", 3, "title must be a text, got 3"),
    ("shards", 3, "shards must be a text or null, got 3"),
]


def changed(spec: Any, where: str, value: Any) -> Any:
    """The spec with a value in that place, or without it where the value is None."""
    spec = copy.deepcopy(spec)
    *path, last = where.split(".")
    inner = spec
    for step in path:
        inner = inner[int(step)] if step.isdigit() else inner[step]
    if value is None:
        del inner[last]
    else:
        inner[int(last) if last.isdigit() else last] = value
    return spec


@pytest.mark.parametrize(("where", "value", "said"), MISTAKES, ids=lambda value: str(value)[:30])
def test_a_mistake_in_the_file_is_one_line_that_names_it(tmp_path, capsys, where, value, said):
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(changed(GOOD, where, value)))
    with pytest.raises(SystemExit) as end:
        main(["label", str(path)])
    error = capsys.readouterr().err
    assert end.value.code == 1 and error.count("\n") == 1
    assert error.startswith(f"error: {path}: ") and said in error


def test_a_file_without_mistakes_is_read_as_it_says(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "index: i.arrow\nout: o\nseed: 3\nconditions: [audio, none, 'silence:clip']\ncondition: none\n"
        "pool: {split: test, source: [a, b]}\nrule: {majority: true, tie: weak}\n"
        "voters:\n"
        "  - {name: kimi-2.5_x, endpoint: {url: 'http://h:80/v1', model: m, temperature: 1}, style: letters,\n"
        "     rule: letter, draws: 3, price: {audio_minute: 2}}\n"
        "  - {name: l, endpoint: {url: 'http://h/v1', model: m}, style: inline, scoring: letters, rotations: all}\n"
        "  - {name: c, checkpoint: x/y, scoring: options, devices: auto, system: null}\n"
    )
    job = load_job(str(path))
    assert (job.seed, job.condition, job.pool) == (3, "none", {"split": "test", "source": ["a", "b"]})
    one, two, local = job.voters
    assert one.endpoint.temperature == 1 and not one.endpoint.letter_logprobs and one.price == {"audio_minute": 2}
    assert (
        two.endpoint.letter_logprobs is True and two.prompting.rotations == "all" and two.prompting.scoring == "letters"
    )
    assert (local.local.checkpoint, local.local.devices, local.prompting.scoring) == ("x/y", "auto", "options")
    assert one.described()["model"] == "m" and "url" not in one.described() and "key_env" not in one.described()


@pytest.mark.parametrize(
    ("text", "said"), [("- 1\n", "not a YAML mapping"), ("a: [", "not a YAML mapping"), ("a: ${b}", "job.yaml: ")]
)
def test_a_file_that_is_no_mapping_is_told_so(tmp_path, capsys, text, said):
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(SystemExit):
        main(["label", str(tmp_path / "job.yaml")])
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"index": "no/index.arrow"}, "no/index.arrow: not found"),
        ({"pool": {"split": "tset"}}, "column 'split' has no value 'tset'; it has "),
        ({"pool": {"colour": "red"}}, "no text column 'colour'"),
        (
            {"voters": [{"name": "c", "checkpoint": "no/such/folder"}]},
            "no/such/folder: neither a checkpoint folder nor",
        ),
        ({"voters": [{"name": "v", "answers": "no/votes.arrow"}]}, "no/votes.arrow: not found"),
    ],
)
def test_what_a_file_names_and_is_not_there_is_one_line(tmp_path, corpus, capsys, more, said):
    path = job_file(tmp_path, corpus, **({"voters": [{"name": "v", "answers": "v.arrow"}]} | more))
    with pytest.raises(SystemExit) as end:
        main(["label", path])
    error = capsys.readouterr().err
    assert end.value.code == 1 and said in error and error.count("\n") == 1


def test_what_would_stop_the_last_voter_is_told_before_the_first_is_asked(server, small, tmp_path, corpus):
    first = voter(server, "one")
    for last in ({"name": "c", "checkpoint": "no/such/folder"}, {"name": "t", "checkpoint": small.tiny}):
        path = job_file(tmp_path, corpus, [first, last], conditions=["audio", "none"], condition="none")
        with pytest.raises(InputError, match="no/such/folder|t: Qwen2.5-Omni is asked with a recording"):
            run(path)
    assert not server.seen


def test_a_folder_to_write_to_must_be_one(server, tmp_path, corpus):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="out must be a folder"):
        run(job_file(tmp_path, corpus, [voter(server, "one")]))
    assert not server.seen


def test_a_job_file_that_is_not_there_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["label", str(tmp_path / "no.yaml")])
    assert end.value.code == 1 and capsys.readouterr().err == f"error: {tmp_path}/no.yaml: no such file\n"


# The command line.


def test_label_a_job_on_the_command_line(server, tmp_path, corpus, capsys):
    main(["label", three(server, tmp_path, corpus)])
    said = capsys.readouterr().out
    assert said.startswith("asked 120, failed 0, weak 7, strong 13, labels ") and "report.html" in said
    assert counted(server) == EVERYTHING


def test_label_from_answer_tables_on_the_command_line(server, tmp_path, corpus, capsys):
    """The tables of a job under the paper's silence give its labels again."""
    run(three(server, tmp_path, corpus, conditions=["silence"], condition="silence"))
    tables = [str(tmp_path / "out" / "answers" / f"{name}.arrow") for name in KNOWS]
    capsys.readouterr()
    main(["label", *tables, "--out", str(tmp_path / "again.arrow"), "--index", str(corpus / "index.arrow")])
    assert capsys.readouterr().out == "weak 7, strong 13\n"
    again, first = read_arrow(tmp_path / "again.arrow"), read_arrow(tmp_path / "out" / "labels.arrow")
    assert again.column("uid").equals(first.column("uid")) and again.column("label").equals(first.column("label"))
    main(["label", *tables, "--out", str(tmp_path / "all.arrow"), "--at-least", "3"])
    assert capsys.readouterr().out == "weak 2, strong 18\n", "0 and 6"


def test_label_as_published_on_the_command_line(tmp_path, corpus, capsys):
    main(["label", "--published", "--index", str(corpus / "index.arrow"), "--out", str(tmp_path / "p.arrow")])
    assert capsys.readouterr().out == "weak 10, strong 10\n"
    table = read_arrow(tmp_path / "p.arrow")
    for uid, label in zip(table.column("uid").to_pylist(), table.column("label").to_pylist(), strict=True):
        assert label == ("weak" if numbers(corpus)[uid] % 2 else "strong")


@pytest.mark.parametrize("words", [["--published"], ["v.arrow"], ["v.arrow", "--published", "--out", "x"], []])
def test_label_needs_a_job_or_tables_or_published_labels(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(["label", *words])
    assert end.value.code == 1 and "give a job's YAML file; or answer tables and --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"RANK": "0", "LOCAL_RANK": "3"}, 0),
        ({"RANK": "5", "LOCAL_RANK": "0"}, 5),
        ({"SLURM_PROCID": "2"}, 2),
        ({"LOCAL_RANK": "1"}, 1),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, 1),
        ({"NODE_RANK": "0", "LOCAL_RANK": "0"}, 0),
    ],
)
def test_only_the_first_of_all_processes_asks_servers(server, tmp_path, corpus, monkeypatch, environment, rank):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = run(job_file(tmp_path, corpus, [voter(server, "one")], conditions=["silence:0.1"]))
    assert len(server.seen) == (0 if rank else 20) and bool(found) == (not rank)
    assert (tmp_path / "out").exists() == (not rank)
