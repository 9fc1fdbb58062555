"""`earwitness build` from published files to trained steps: what is asked, kept, dropped, counted, and never lost."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from earwitness.commands.building.job import BuildJob
from earwitness.commands.cli import main
from earwitness.commands.training.trainer import main as trainer_main
from earwitness.curriculum.identity import hash64
from earwitness.curriculum.table import read_arrow, read_table
from earwitness.datamodules.building.checks import CHECKS
from earwitness.datamodules.building.pipeline import Rules
from earwitness.datamodules.questions.annotations import read_annotations
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.tests.build_parts import (
    SAMPLES,
    events,
    lines_of,
    many_clips,
    sample_sources,
    two_a_clip,
    voices,
    write_job,
    writer,
)
from earwitness.tests.chat_server import ChatServer, serving
from earwitness.tests.places import ROOT

needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="no sample files beside the repository")


@pytest.fixture
def server():
    with serving() as running:
        running.say = writer()
        yield running


def funnel(root: Path) -> dict:
    found = json.loads((root / "out" / "funnel.json").read_text())
    for before, after in zip(found["stages"], found["stages"][1:], strict=False):
        assert before["kept"] == after["in"]
    for stage in found["stages"]:
        assert stage["in"] == stage["kept"] + sum(stage["dropped"].values())
        for by in ("by_source", "by_type"):
            rows = stage[by].values()
            assert sum(row["in"] for row in rows) == stage["in"] and sum(row["kept"] for row in rows) == stage["kept"]
    assert found["composition"]["questions"] == found["stages"][-1]["kept"]
    return found


def dropped(found: dict) -> Counter:
    """Reason -> drafts, of all stages."""
    total: Counter = Counter()
    for stage in found["stages"]:
        total.update(stage["dropped"])
    return total


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """All seven sources, built once."""
    if not SAMPLES.is_dir():
        pytest.skip("no sample files beside the repository")
    root = tmp_path_factory.mktemp("built")
    with serving() as server:
        server.say = writer()
        job = write_job(root, server.url, sample_sources(root))
        main(["build", str(job)])
        asked = len(server.seen)
        main(["build", str(job)])
        assert len(server.seen) == asked, "what is done is not asked again"
    return root


def test_the_funnel_adds_up_and_every_file_says_the_same(built):
    found = funnel(built)
    assert found["stages"][0]["in"] == 43 and found["composition"]["questions"] >= 38
    records = lines_of(built / "out" / "questions.jsonl")
    assert {record["source_dataset"] for record in records} == {
        *("Clotho", "AudioCaps", "MusicCaps", "LP-MusicCaps-MTT", "CompA-R", "TACOS", "SpeechCraft")
    }
    assert pq.read_table(built / "out" / "questions.parquet").num_rows == len(records)
    hub = sorted((built / "out" / "hub" / "data").glob("*.parquet"))
    assert [path.name.split("-")[0] for path in hub] == sorted({record["split"] for record in records})
    assert sum(pq.read_table(path).num_rows for path in hub) == len(records)
    card = (built / "out" / "hub" / "README.md").read_text()
    assert "| SpeechCraft | 3 |" in card and "cc-by-nc-3.0" in card and found["prompts"]["grade"] in card
    page = (built / "out" / "report.html").read_text()
    assert "571" not in page or "228,033" in page
    assert "228,033" in page and page.count("<audio controls") >= 12 and "tell-tale length" in page
    canaries = found["canaries"]
    assert sum(row["graded"] for row in canaries.values()) >= 15
    assert all(row["caught"] >= 0.5 * row["graded"] for row in canaries.values())


def test_records_are_those_of_the_published_layout(built):
    """Four options of which one is the answer, both chains of thought, and the paper's tags."""
    for record in lines_of(built / "out" / "questions.jsonl"):
        assert len(set(record["choices"])) == 4 and record["answer"] in record["choices"]
        assert record["structured_cot"].startswith("<stage1>According to the question text, the question asks")
        assert record["structured_cot"].endswith(f'so the correct answer is "{record["answer"]}".<stage3>')
        assert record["structured_cot"].count("<stage2>") == 2 and "</stage" not in record["structured_cot"]
        assert re.fullmatch(r"<simple analysis> .+ </simple analysis>", record["unstructured_cot"])
    annotations = read_annotations(built / "out" / "questions.jsonl")
    grades = read_arrow(built / "out" / "grades.arrow").to_pylist()
    assert {row["uid"] for row in grades} == {one.question.uid for one in annotations}
    assert {row["grade_least"] for row in grades} == {5}
    provenance = read_arrow(built / "out" / "provenance.arrow").to_pylist()
    assert {row["writer"] for row in provenance} == {"scripted"} and {row["grader"] for row in provenance} == {"strict"}
    assert "youtube:vfY_TJq7n_U" in {row["origin"] for row in provenance}


def voters(root: Path, url: str, index: Path) -> Path:
    """A labelling job of three voters behind the server, who know a question or not by its words."""
    spec = {"style": "letters", "rule": "letter", "rotations": 1, "max_unreadable": 1.0}
    names = ("one", "two", "three")
    each = [{"name": n, **spec, "endpoint": {"url": url, "model": n, "concurrency": 4}} for n in names]
    job = {"index": str(index), "out": str(root / "labels"), "voters": each, "bootstrap": 100}
    (root / "label.yaml").write_text(json.dumps(job))
    return root / "label.yaml"


def answers(records: list[dict], knows):
    """What voters say: the right letter where they know the question, else another one."""
    right = {record["question"]: record["answer"] for record in records}

    def say(asked):
        question = next(q for q in right if q in asked.text)
        letters = dict(re.findall(r"\(?([A-D])[).:]\s*(.+)", asked.text))
        known = next(letter for letter, text in letters.items() if text.strip() == right[question])
        return known if knows(question) else next(letter for letter in "ABCD" if letter != known)

    return say


def test_from_sources_to_trained_steps(built, tmp_path, server, small):
    """Shards, silent votes, labels, a plan of weak to strong, two SFT and two GRPO steps; grades choose a pool."""
    shards = tmp_path / "shards"
    main(["shard", str(built / "out" / "questions.jsonl"), str(shards), "--audio-root", str(built / "audio")])
    reader = ShardReader(str(shards / "index.arrow"))
    records = lines_of(built / "out" / "questions.jsonl")
    assert len(reader) == len(records)
    server.say = answers(records, lambda question: hash64(question) % 2 == 0)
    main(["label", str(voters(tmp_path, server.url, shards / "index.arrow"))])
    labels, grades = str(tmp_path / "labels" / "labels.arrow"), str(built / "out" / "grades.arrow")
    table = read_table(shards / "index.arrow", [labels, grades])
    assert len(table.where({"label": "weak"})) >= 8 and len(table.where({"label": "strong"})) >= 8
    assert min(table.columns["grade_least"]) == 5
    arm = [
        "stages.sft.batch_size=4",
        "stages.sft.pool={label: weak, grade_least: {min: 4}}",
        "stages.grpo.batch_size=2",
    ]
    tables = ["--index", str(shards / "index.arrow"), "--labels", labels, "--labels", grades]
    main(["plan", "weak_to_strong", *arm, *tables, "--out", str(tmp_path / "plan")])
    given = ["--data.init_args.index", str(shards / "index.arrow"), "--data.init_args.labels", f"[{labels},{grades}]"]
    given += ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "0"]
    curriculum = "--data.init_args.training.curriculum"
    for name in ("sft", "grpo"):
        out = tmp_path / name
        paths = ["--paths.data", str(tmp_path), "--paths.model", small.tiny, "--paths.out", str(out)]
        arm = f"weak_to_strong stages.{name}.batch_size=2"
        config = ["--config", str(ROOT / "configs" / f"{name}.yaml")]
        trainer_main(["fit", *config, *paths, *given, curriculum, arm])
        assert (out / "model" / "model.safetensors").is_file()


def faulty(server: ChatServer) -> Counter:
    """10 % 429, 5 % 500, 2 % cut off on the way, 2 % loops of white space, 5 % answers where the reasoning goes."""
    met: Counter = Counter()
    looped: set[int] = set()
    say, enter = server.say, server.enter

    def drawn(asked) -> str:
        fault = enter(asked)
        draw = hash64(len(server.seen), "fault") % 100
        kind = "429" if draw < 10 else "500" if draw < 15 else "cut" if draw < 17 else ""
        met.update([kind] if kind else [])
        return fault or kind

    def answer(asked):
        text = say(asked)
        identity = hash64(asked.body["seed"], asked.body["messages"][-1]["content"])
        draw = identity % 100
        if draw < 2:
            met["white space"] += identity not in looped  # one that was also cut off on the way comes again
            looped.add(identity)
            return {"message": {"content": text[:12] + " \n" * 99}, "finish_reason": "length"}
        if draw < 7:
            met["reasoning"] += 1
            return {"message": {"content": "", "reasoning_content": text}, "finish_reason": "stop"}
        return text

    server.enter, server.say = drawn, answer
    return met


def test_everything_is_answered_by_a_server_that_fails_often(server, tmp_path, monkeypatch):
    """No 429 counts as an attempt: the ledger's further attempts are those of white space alone."""
    monkeypatch.setattr("earwitness.datamodules.asking.endpoint.ChatEndpoint._pause", lambda *_: 0.01)
    job = write_job(tmp_path, server.url, many_clips(tmp_path, 120))
    main(["build", str(job)])
    clean = lines_of(tmp_path / "out" / "questions.jsonl")
    answered = len(server.seen)
    met = faulty(server)
    job = write_job(tmp_path, server.url, json.loads(job.read_text())["sources"], out=str(tmp_path / "again" / "out"))
    main(["build", str(job)])
    assert min(met.values()) >= 5 and met["429"] > 0.06 * answered
    found = funnel(tmp_path / "again")
    assert lines_of(tmp_path / "again" / "out" / "questions.jsonl") == clean, "100 % answered, and the same"
    ledger = [line for path in sorted((tmp_path / "again").rglob("answers.jsonl")) for line in lines_of(path)]
    assert len(ledger) == answered + met["white space"]
    assert sum(line["attempt"] > 0 for line in ledger) == met["white space"]
    assert not any(reason.startswith(("unparsable", "not graded")) for reason in dropped(found))


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_repeat_no_more_than_was_in_flight(server, tmp_path):
    sources = many_clips(tmp_path, 300)
    job = write_job(tmp_path, server.url, sources)
    main(["build", str(job)])
    clean = lines_of(tmp_path / "out" / "questions.jsonl")
    server.seen.clear()
    say = server.say
    server.say = lambda asked: (time.sleep(0.04), say(asked))[1]
    job = write_job(tmp_path, server.url, sources, out=str(tmp_path / "killed" / "out"))
    command = [sys.executable, "-m", "earwitness", "build", str(job)]
    draw, kills, ended = random.Random(5), 0, False
    while not ended:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        before = len(server.seen)
        if kills < 20:
            limit = time.monotonic() + 60
            while len(server.seen) < before + draw.randint(5, 60) and process.poll() is None:
                assert time.monotonic() < limit
                time.sleep(0.02)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
        said = process.communicate()[1]
        ended = process.returncode == 0
        assert ended or process.returncode == -signal.SIGKILL, said
    assert kills == 20
    assert lines_of(tmp_path / "killed" / "out" / "questions.jsonl") == clean
    asked = Counter(json.dumps(one.body, sort_keys=True) for one in server.seen)
    assert sum(asked.values()) - len(asked) <= 20 * 8, "at most what was in flight"
    keys = [line["key"] for path in (tmp_path / "killed").rglob("answers.jsonl") for line in lines_of(path)]
    assert len(keys) == len(set(keys)) == len(asked)
    funnel(tmp_path / "killed")


DEFECTS = {
    "words of the form as options": lambda r: r | {"wrong": ["question_type", *r["wrong"][1:]]},
    "options mean the same": lambda r: r | {"wrong": [f"The {r['answer']}.", *r["wrong"][1:]]},
    "left over from writing": lambda r: r | {"question": f"Modified question: {r['question']}"},
    "tags or signs in a text": lambda r: r | {"question": f"{r['question']} <|im_end|>"},
    "cannot be determined": lambda r: r | {"wrong": [*r["wrong"][:2], "It cannot be determined"]},
    "question gives the answer away": lambda r: r | {"question": f"Is it {r['answer']} that is heard?"},
    "length gives the answer away": lambda r: r | {"answer": f"{r['answer']} quite clearly during all of the scene"},
    "kind gives the answer away": lambda r: r | {"wrong": ["3 s", "14 s", "25 s"]},
    "unrelated to the recording": lambda r: r | {"question": "What colour is it?", "answer": "bluish green tint"},
    "unparsable: other fields than asked for": lambda r: {k: v for k, v in r.items() if k != "wrong"},
    "unparsable: another number of entries": lambda r: r | {"wrong": r["wrong"][:2]},
    "unparsable: a text that is empty or too long": lambda r: r | {"answer": "x" * 500},
    "grade: answer_consistency": lambda r: r | {"answer": r["wrong"][0], "wrong": [r["answer"], *r["wrong"][1:]]},
}


def spoiled(name: str, text: str, reply: dict, planted: dict[str, str]) -> dict:
    """A reply with the defect of its item: each kind once in 50; `planted` gets item -> kind."""
    if name != "question":
        return reply
    number = int(re.search(r"(?:Voice |ask about: \w+ |\b)(\d+)(?: times| says| \w+)", text)[1])
    if "Voice" in text:
        right = re.search(r"emotion: (\w+)", text)[1]
        wrong = [mood for mood in ("sad", "happy", "angry", "neutral") if mood != right]
        reply |= {"question": f"What is the emotion of voice {number}?", "answer": right, "wrong": wrong}
        if number % 25 == 3:
            planted[f"voice_{number}"] = "label is contradicted"
            return reply | {"answer": wrong[0], "wrong": [right, *wrong[1:]]}
        return reply
    if "ask about" in text:
        if number % 25 in (3, 5):
            planted[f"{number}_0"] = "time is wrong"
            return reply | ({"answer": "12.9s"} if number % 25 == 3 else {"wrong": ["20.5s", *reply["wrong"][1:]]})
        return reply
    if "outside" in text:
        if number % 50 < 2:
            planted[str(number)] = "answers to one question differ"
            return reply | {"question": "Which of these things is outside?"}
        if number % 50 < 4:
            planted |= {str(number): "question is asked twice"} if number % 2 else {}
            return reply | {"question": "Which of these is outside?", "answer": "things outside", "wrong": _OTHER}
        return reply
    kind = KINDS[number % 50] if number % 50 < len(KINDS) else ""
    planted |= {f"clip {number}.wav": kind} if kind else {}
    if kind.startswith("caption talk"):
        said = "the caption mentions" if kind.endswith("repaired") else "the description says"
        return reply | {"question": f"{said} a scene: {reply['question']}"}
    return DEFECTS[kind](reply) if kind else reply


KINDS = [*DEFECTS, "caption talk, repaired", "caption talk, kept"]
_OTHER = ["animals inside", "engines far off", "nothing indoors"]


@pytest.mark.slow
def test_every_planted_defect_is_caught_and_clean_items_stay(server, tmp_path):
    """Each kind once in 50 items; talk of captions is written anew and stays where that helps."""
    planted: dict[str, str] = {}
    server.say = writer(lambda name, text, reply: spoiled(name, text, reply, planted))
    count = 300
    sources = [*many_clips(tmp_path, count), *two_a_clip(tmp_path, 50), *events(tmp_path, 50), *voices(tmp_path, 50)]
    job = write_job(tmp_path, server.url, sources, rules={"canaries": 0, "longest": None})
    main(["build", str(job)])
    found = funnel(tmp_path)
    reasons: dict[str, str] = {}
    for path in (tmp_path / "out" / "stages").glob("*.dropped.jsonl"):
        reasons |= {record["item"]["id"]: record["dropped"] for record in lines_of(path)}
    kept = {record["id"]: record for record in lines_of(tmp_path / "out" / "questions.jsonl")}
    items = count + 100 + 50 + 50
    assert len(planted) == 6 * len(KINDS) + 2 + 4 + 4 + 2 and len(reasons) + len(kept) == items
    told = {clip: (kind, reasons.get(clip)) for clip, kind in planted.items() if not kind.startswith("caption talk")}
    assert {clip: pair for clip, pair in told.items() if pair[0] != pair[1]} == {}
    repaired = [clip for clip, kind in planted.items() if kind == "caption talk, repaired"]
    assert all("there is a scene" in kept[clip]["question"] for clip in repaired)
    assert all(reasons[c] == "speaks of a caption" for c, kind in planted.items() if kind == "caption talk, kept")
    alarms = [clip for clip in reasons if clip not in planted]
    assert len(alarms) < 0.01 * (items - len(planted)), [reasons[clip] for clip in alarms]
    assert set(CHECKS) - {"no question"} <= set(dropped(found))


def test_places_and_lengths_are_balanced(server, tmp_path):
    """25 +- 1 % in every place; where 60 % of the answers are longest, at most 30 % are afterwards."""

    def change(name, text, reply):
        if name == "question" and hash64(text) % 10 < 6:
            return reply | {"answer": f"{reply['answer']} {'x' * 7}"}
        return reply

    server.say = writer(change)
    job = write_job(tmp_path, server.url, many_clips(tmp_path, 400), rules={"canaries": 0, "longest": 0.3})
    main(["build", str(job)])
    found = funnel(tmp_path)["composition"]
    assert max(found["places"]) - min(found["places"]) <= 0.02 * found["questions"] + 1
    assert 0.25 * found["questions"] < found["longest"] <= 0.3 * found["questions"]


def test_a_changed_prompt_asks_only_what_it_changes(server, tmp_path):
    sources = many_clips(tmp_path, 20)
    job = write_job(tmp_path, server.url, sources)
    main(["build", str(job)])
    server.seen.clear()
    mine = tmp_path / "grade.txt"
    text = (ROOT / "configs" / "prompts" / "grade.txt").read_text()
    mine.write_text(text.replace("Be strict", "Be very strict"))
    job = write_job(tmp_path, server.url, sources, prompts={"grade": str(mine)})
    main(["build", str(job)])
    asked = {one.body["response_format"]["json_schema"]["name"] for one in server.seen}
    assert asked == {"grades"} and len(server.seen) >= 20
    assert all("Be very strict" in one.body["messages"][0]["content"] for one in server.seen)


def test_two_calls_do_for_four(server, tmp_path):
    job = write_job(tmp_path, server.url, many_clips(tmp_path, 20), rules={"calls": "two", "canaries": 0})
    main(["build", str(job)])
    assert len(server.seen) == 40 and len(lines_of(tmp_path / "out" / "questions.jsonl")) == 20
    assert len(server.seen[0].body["response_format"]["json_schema"]["schema"]["required"]) == 8


def test_a_dry_run_prices_and_the_limit_holds(server, tmp_path, capsys):
    """20 items: 20 requests of each of four stages, and one repair; nothing is asked and nothing written."""
    server.usage = {"prompt_tokens": 500, "completion_tokens": 100}
    price = {"input_million": 1.0, "output_million": 10.0}  # 0.0015 an answer
    model = {"url": server.url, "model": "m", "price": price, "tokens_per_s": 100, "concurrency": 1}
    more = {"writer": model, "grader": model, "rules": {"canaries": 0}}
    job = write_job(tmp_path, server.url, many_clips(tmp_path, 20), **more, limit={"money": 0.06})
    main(["build", str(job), "--dry-run"])
    said = capsys.readouterr().out
    assert "question (writer): 20 requests" in said and "grade (grader): 20 requests" in said
    assert "requests 81, " in said and "spent 0" in said and not server.seen and not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        main(["build", str(job)])
    assert "the money limit is reached" in capsys.readouterr().err and len(server.seen) == 40
    main(["build", str(job), "--dry-run"])
    said = capsys.readouterr().out
    assert "spent 0.06" in said and "requests 41, " in said and "question" not in said
    job = write_job(tmp_path, server.url, json.loads(job.read_text())["sources"], **more, limit={"money": 0.2})
    main(["build", str(job)])
    assert len(server.seen) == 80
    assert funnel(tmp_path)["cost"]["writer"]["money"] == pytest.approx(60 * 0.0015)


def test_export_and_import_build_without_an_address(server, tmp_path, capsys):
    """Stage by stage: parts are exported, answered elsewhere, imported; one that was cut off is asked again."""
    sources, rounds = many_clips(tmp_path, 12), 0
    job = write_job(tmp_path, server.url, sources)
    main(["build", str(job)])
    clean = lines_of(tmp_path / "out" / "questions.jsonl")
    models = {name: {"model": model} for name, model in (("writer", "scripted"), ("grader", "strict"))}
    models["grader"]["temperature"] = 0.0
    job = write_job(tmp_path, server.url, sources, out=str(tmp_path / "batch" / "out"), **models)
    command = ["build", str(job), "--export", "--part-lines", "5"]
    say = writer()
    while True:
        main(command)
        said = capsys.readouterr().out
        if "parts" not in said:
            break
        rounds += 1
        folder = Path(re.search(r"folder (\S+)", said)[1])
        results = []
        for part in sorted(folder.glob("part-*.jsonl")):
            lines = []
            for line in lines_of(part):
                asked = type("Asked", (), {"body": line["body"]})
                choice = {"message": {"content": say(asked)}, "finish_reason": "stop"}
                body = {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 5}}
                lines.append(
                    json.dumps({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}})
                )
            results.append(tmp_path / f"{rounds}-{part.name}")
            text = "\n".join(lines) + "\n"
            results[-1].write_text(text[:-30] if rounds == 1 and part.stem == "part-00001" else text)
        command = ["build", str(job), "--export", "--part-lines", "5", "--import", *map(str, results)]
    assert rounds == 5, "question, its last line again, reasoning, simple, grade"
    assert lines_of(tmp_path / "batch" / "out" / "questions.jsonl") == clean


def test_the_probe_counts_what_needs_no_audio_and_can_rewrite_it(server, tmp_path):
    """A reader that finds the answer by its last word; new wrong options leave it nothing to go by."""

    def change(name, text, reply):
        if name == "question" and hash64(text) % 3 == 0:
            return reply | {"answer": f"{reply['answer']} zz"}
        return reply

    scripted = writer(change)

    def say(asked):
        if "response_format" in asked.body:
            return scripted(asked)
        letters = dict(re.findall(r"\(?([A-D])[).:]\s*(.+)", asked.body["messages"][-1]["content"]))
        known = [letter for letter, text in letters.items() if text.strip().endswith("zz")]
        slow = any("slowly" in text for text in letters.values())
        return known[0] if known and not slow else "A"

    server.say = say
    probing = {"url": server.url, "model": "reader", "concurrency": 8}
    rules = {"canaries": 0, "on_fall": "rewrite", "longest": None}
    sources = many_clips(tmp_path, 60)
    job = write_job(tmp_path, server.url, sources, probe=probing, rules=rules)
    main(["build", str(job)])
    grades = read_arrow(tmp_path / "out" / "grades.arrow").to_pylist()
    rewritten = [row for row in grades if row["rewritten"]]
    assert 10 <= len(rewritten) <= 30 and {row["unheard"] for row in grades} == {0.25}
    found = funnel(tmp_path)
    assert found["probe"]["all"] == {"probed": len(grades), "fell": 0, "accuracy": 0.25}
    assert [stage["stage"] for stage in found["stages"]][-3:] == ["probe", "rewrite", "probe again"]
    job = write_job(tmp_path, server.url, sources, probe=probing, rules=rules | {"on_fall": "drop"})
    main(["build", str(job)])
    found = funnel(tmp_path)
    assert dropped(found)["answered without the audio"] == len(rewritten)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"writer": {"url": "http://h/v1", "model": "m", "atempts": 2}}, "did you mean 'attempts'"),
        ({"prompts": {"grades": "x.txt"}}, "did you mean 'grade'"),
        ({"rules": {"calls": "three"}}, "calls"),
        ({"sources": [{"reader": "cloto", "annotations": "."}]}, "did you mean 'clotho'"),
        ({"limit": {"money": 3}}, "limit: money needs the price of scripted"),
        ({"exclude": ["nowhere.txt"]}, "exclude: nowhere.txt: no such file"),
        ({"audio_root": "/nowhere"}, "audio_root: /nowhere: no such folder"),
    ],
)
def test_a_wrong_job_is_told_before_anything_is_asked(server, tmp_path, capsys, change, said):
    job = write_job(tmp_path, server.url, many_clips(tmp_path, 2), **change)
    with pytest.raises(SystemExit):
        main(["build", str(job)])
    assert said in capsys.readouterr().err and not server.seen


@needs_samples
def test_licences_missing_recordings_and_other_sources_leave_items_out(server, tmp_path):
    """No nc; a recording that is gone; a benchmark's origin; a YouTube clip that two sources have is taken once."""
    sources = sample_sources(tmp_path)
    (tmp_path / "audio" / "audiocaps" / "UDGBjjwyaqE_20.wav").unlink()
    (tmp_path / "benchmark.txt").write_text("# a benchmark\nfreesound:200334\n")
    folder = tmp_path / "annotations" / "compa_r"
    for name in ("flat.json", "nested.json"):
        text = (folder / name).read_text().replace("YUChcduGcOSc", "Yr1nicOVtvkQ")
        (folder / name).write_text(text)
    audio = tmp_path / "audio" / "compa_r"
    (audio / "YUChcduGcOSc.wav").rename(audio / "Yr1nicOVtvkQ.wav")
    job = write_job(tmp_path, server.url, sources, deny=["nc"], exclude=[str(tmp_path / "benchmark.txt")])
    main(["build", str(job)])
    found = dropped(funnel(tmp_path))
    assert found["licence: nc"] == 2 + 2 and found["no recording"] == 1
    assert found["excluded by benchmark.txt"] == 2 and found["recording is in AudioCaps"] == 5
    missing = (tmp_path / "out" / "stages" / "missing.tsv").read_text()
    assert missing.startswith("AudioCaps/58146\tUDGBjjwyaqE_20")


@needs_samples
def test_parts_of_whole_recordings_are_cut_in_packing(server, tmp_path):
    """AudioCaps names ten seconds of a video; here the whole video lies under its id, a tone from 130 s on."""
    import numpy as np
    import soundfile

    (spec,) = [one for one in sample_sources(tmp_path) if one["reader"] == "audiocaps"]
    folder = tmp_path / "audio" / "audiocaps"
    wave = np.zeros(16_000 * 145)
    wave[16_000 * 130 : 16_000 * 140] = 0.3 * np.sin(np.arange(160_000) / 8)
    for path in folder.glob("*.wav"):
        path.unlink()
    soundfile.write(folder / "r1nicOVtvkQ.wav", wave, 16_000)
    job = write_job(tmp_path, server.url, [spec | {"whole": True, "splits": ["train"]}], rules={"longest": None})
    main(["build", str(job)])
    main(
        [
            "shard",
            str(tmp_path / "out" / "questions.jsonl"),
            str(tmp_path / "shards"),
            "--audio-root",
            str(tmp_path / "audio"),
        ]
    )
    reader = ShardReader(str(tmp_path / "shards" / "index.arrow"))
    assert len(reader) == 2 and len(reader.wave(0)) == 160_000 and abs(reader.wave(0)).min(initial=1) < 0.3
    assert (abs(reader.wave(0)) > 0.1).mean() > 0.5


@needs_samples
def test_the_shipped_job_runs_as_it_is_shipped(server, tmp_path, capsys):
    """With other paths and addresses alone; every type of question is there."""
    import yaml

    sample_sources(tmp_path)
    text = (ROOT / "configs" / "build.yaml").read_text()
    text = text.replace("data/captions", str(tmp_path / "annotations")).replace("data/audio", str(tmp_path / "audio"))
    text = re.sub(r"http://localhost:\d+/v1", server.url, text).replace("runs/build", str(tmp_path / "out"))
    (tmp_path / "build.yaml").write_text(text)
    main(["build", str(tmp_path / "build.yaml"), "--dry-run"])
    assert "probe (probe)" in capsys.readouterr().out
    main(["build", str(tmp_path / "build.yaml")])
    found = funnel(tmp_path)
    assert found["probe"]["all"]["probed"] == found["composition"]["questions"] >= 15
    assert all(built > 0 for built, _ in found["composition"]["by_type"].values())
    assert server.seen[0].body["chat_template_kwargs"] == {"enable_thinking": False}
    fields = {*BuildJob.__dataclass_fields__}
    assert fields == set(yaml.safe_load(text)), "every key is shown"
    assert set(yaml.safe_load(text)["rules"]) == {*Rules.__dataclass_fields__} - {"closed_tags"}
