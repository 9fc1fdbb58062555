"""`earwitness evaluate` from the command line, against a server that answers in every form."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from earwitness.commands.cli import main
from earwitness.curriculum.table import read_arrow
from earwitness.datamodules.batches.conditions import parse_condition, part_of
from earwitness.datamodules.questions.answers import extract_answer
from earwitness.tests.chat_server import ChatServer, serving, until
from earwitness.tests.commands.evaluation.evaluation_parts import (
    COUNT,
    found,
    said,
    scored_by_letter,
    scored_by_words,
    write_benchmarks,
)
from earwitness.tests.places import SHARED

MMAU = SHARED / "data" / "mmau-test-mini.json"
CONDITIONS = ["--conditions", "audio,silence:1,mismatched"]


@pytest.fixture(scope="module")
def files(small, tmp_path_factory) -> dict[str, str]:
    """Benchmark files, in a copy of the corpus."""
    folder = tmp_path_factory.mktemp("benchmarks") / "corpus"
    shutil.copytree(Path(small.annotations).parent, folder)
    return write_benchmarks(str(folder / "questions.jsonl"))


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        running.say = said
        yield running


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory) -> None:
    """Packed recordings of one file are packed once for all tests, and not where a user keeps them."""
    monkeypatch.setenv("EARWITNESS_CACHE", str(tmp_path_factory.getbasetemp() / "evaluation-cache"))


def evaluate(server: ChatServer, to: Path, *words: str) -> dict:
    main(["evaluate", server.url, "--model", "m", "--to", str(to), *words])
    return json.loads((to / "results.json").read_text())


@pytest.fixture(scope="module")
def results(server, files, tmp_path_factory) -> tuple[Path, dict]:
    """One evaluation of four benchmarks."""
    to = tmp_path_factory.mktemp("evaluation") / "results"
    os.environ["EARWITNESS_CACHE"] = str(tmp_path_factory.getbasetemp() / "evaluation-cache")
    named = [f"--benchmark={name}={path}" for name, path in files.items()]
    return to, evaluate(server, to, *named, *CONDITIONS)


def test_published_scorers_print_of_the_exported_files_what_was_printed(results):
    """For every condition: right ones and denominator; those of MMSU without what the script drops."""
    to, whole = results
    for condition in ("audio", "silence:1", "mismatched"):
        for name, key in (("mmau", "model_output"), ("mmau", "model_prediction"), ("mmar", "answer_prediction")):
            score = found(whole, name)["scores"][condition]["official"]
            path = to / "predictions" / name / condition.replace(":", "-") / f"{name}.json"
            assert (score["right"], score["of"]) == scored_by_words(path, key), (name, condition)
            assert score["of"] == COUNT > score["right"] > 0 and score["dropped"] == 0
        score = found(whole, "mmsu")["scores"][condition]["official"]
        path = to / "predictions" / "mmsu" / condition.replace(":", "-") / "mmsu.jsonl"
        assert (score["right"], score["of"]) == scored_by_letter(path)
        assert score["of"] + score["dropped"] == COUNT and score["dropped"] > 2
    assert found(whole, "mmau")["facts"][-1] == "6 values of category are lists; they count as what they hold"


def test_words_in_another_order_are_right_officially_and_not_strictly(results, files):
    to, whole = results
    records = [json.loads(line) for line in Path(files["mmar"]).read_text().splitlines()]
    right = {f"MMAR/{r['id']}": r["answer"].lower().split() for r in records}
    answers = read_arrow(to / "answers" / "mmar.arrow").to_pylist()
    said_in_order = [(r, extract_answer(r["raw"]).lower().split()) for r in answers]
    turned = Counter(
        r["condition"]
        for r, words in said_in_order
        if words != right[r["key"]] and sorted(words) == sorted(right[r["key"]])
    )
    assert sum(turned.values()) > 2, "the server turns some right answers round"
    for condition, scores in found(whole, "mmar")["scores"].items():
        assert scores["official"]["right"] >= scores["strict"]["right"] + turned[condition]


def test_the_submission_of_dcase_has_the_options_as_the_file_writes_them(results, files):
    to, _ = results
    with (to / "predictions" / "dcase2026" / "audio" / "dcase2026.csv").open() as file:
        rows = list(csv.DictReader(file))
    theirs = [json.loads(line) for line in Path(files["dcase2026"]).read_text().splitlines()]
    assert [row["question"] for row in rows] == [record["id"] for record in theirs]
    assert {row["answer"] in ("", *record["multi_choice"]) for row, record in zip(rows, theirs, strict=True)} == {True}
    assert sum(row["answer"] != "" for row in rows) > COUNT // 2


def test_every_question_counts_strictly_and_every_test_is_corrected(results):
    _, whole = results
    mmau = found(whole, "mmau")
    for scores in mmau["scores"].values():
        assert scores["strict"]["of"] == sum(scores["strict"]["answers"].values()) == COUNT
        assert scores["strict"]["answers"]["missing"] == 0 < scores["strict"]["answers"]["unfinished"]
    heard = mmau["contribution"]["silence:1"]
    assert heard["both"] + heard["only_with"] + heard["only_without"] + heard["neither"] == COUNT
    a, s, m = (mmau["scores"][name]["strict"]["accuracy"][0] for name in ("audio", "silence:1", "mismatched"))
    assert mmau["contribution"]["S"][0] == pytest.approx(a - (s + m) / 2)
    assert heard["p_holm"] >= heard["p"] and whole["tests"] >= 8


def test_another_rule_judges_again_and_asks_nothing(results, server, tmp_path):
    to, whole = results
    copy = tmp_path / "copy"
    shutil.copytree(to, copy)
    asked = len(server.seen)
    main(["evaluate", str(copy), "--rule", "contains"])
    again = json.loads((copy / "results.json").read_text())
    assert len(server.seen) == asked
    scores, before = (found(one, "mmau")["scores"]["audio"] for one in (again, whole))
    assert {name: scores[name] for name in before} == before and scores["contains"]["right"] > 0
    assert found(again, "mmau")["rule"] == "contains"


def test_more_orders_of_the_options_ask_only_the_new_ones(server, files, tmp_path):
    words = ["--benchmark", f"mmau={files['mmau']}", "--conditions", "silence:1"]
    evaluate(server, tmp_path, *words)
    asked = len(server.seen)
    four = evaluate(server, tmp_path, *words, "--rotations", "all")
    assert len(server.seen) - asked == 3 * COUNT
    orders = found(four, "mmau")["orders"]["silence:1"]
    assert orders["orders"] == 4 and orders["all"] <= orders["mean"][0] <= orders["any"]
    assert {letter: place["answers"] for letter, place in orders["by_place"].items()} == dict.fromkeys("ABCD", COUNT)


def test_a_text_only_model_is_asked_without_recordings_that_need_not_be_there(server, tmp_path):
    record = {"id": "a", "audio_id": "./gone/a.wav", "question": "Which?", "choices": ["x", "y"], "answer": "y"}
    (tmp_path / "q.json").write_text(json.dumps([record | {"id": str(n)} for n in range(8)]))
    before = len(server.seen)
    whole = evaluate(server, tmp_path / "to", "--benchmark", f"mmau={tmp_path / 'q.json'}", "--conditions", "none")
    asked = server.seen[before:]
    assert len(asked) == 8 and {one.wave is None for one in asked} == {True}
    assert found(whole, "mmau")["scores"]["none"]["strict"]["answers"]["missing"] == 0


@pytest.mark.parametrize("fault", ["missing", "renamed", "no audio", "empty"])
def test_a_clip_that_cannot_be_heard_counts_as_wrong_and_is_named(server, files, tmp_path, fault, capsys):
    root = Path(files["mmau"]).parent
    records = json.loads(Path(files["mmau"]).read_text())[:12]
    (tmp_path / "q.json").write_text(json.dumps(records))
    for record in records:
        target = tmp_path / record["audio_id"]
        target.parent.mkdir(exist_ok=True)
        shutil.copy(root / record["audio_id"], target)
    clip = tmp_path / records[4]["audio_id"]
    if fault == "renamed":
        clip.rename(clip.with_suffix(".WAV"))
    elif fault == "missing":
        clip.unlink()
    else:
        clip.write_bytes(b"<html>404</html>" if fault == "no audio" else b"")
    whole = evaluate(server, tmp_path / "to", f"--benchmark=mmau={tmp_path / 'q.json'}", "--conditions=audio,silence:1")
    one = found(whole, "mmau")
    assert (
        one["scores"]["audio"]["strict"]["answers"]["missing"] == 1 and one["scores"]["audio"]["official"]["of"] == 12
    )
    assert one["scores"]["silence:1"]["strict"]["answers"]["missing"] == 0, "silence needs no recording"
    (reason,) = one["missing"]["reasons"]
    assert records[4]["id"] in reason and clip.name in reason
    told = capsys.readouterr()
    assert clip.name in told.out and "Traceback" not in told.err
    assert clip.name in (tmp_path / "to" / "report.html").read_text() or one["missing"]["tasks"] == {"audio": 1}


def test_no_answers_an_empty_option_and_no_labels_give_results_and_sentences(server, small, tmp_path, capsys):
    record = {"audio_id": "a.wav", "question": "Which?", "choices": ["x", "y"], "answer": "y", "task": "sound"}
    records = [record | {"id": str(n)} for n in range(6)]
    (tmp_path / "bad.json").write_text(json.dumps([*records, record | {"id": "z", "choices": ["x", "", "y"]}]))
    whole = evaluate(server, tmp_path / "bad", f"--benchmark=mmau={tmp_path / 'bad.json'}", "--conditions=silence:1")
    one = found(whole, "mmau")
    assert one["scores"]["silence:1"]["strict"]["of"] == one["scores"]["silence:1"]["official"]["of"] == 7
    assert "choices must be a list of 2 to 26 non-empty texts" in one["missing"]["reasons"][0]
    assert "1 records are no questions that can be asked; they count as wrong" in capsys.readouterr().out
    (tmp_path / "test.json").write_text(json.dumps([one | {"answer": ""} for one in records]))
    whole = evaluate(server, tmp_path / "test", f"--benchmark=mmau={tmp_path / 'test.json'}", "--conditions=silence:1")
    one = found(whole, "mmau")
    assert "scores" not in one and "the file has no answers: nothing is judged" in one["warnings"][0]
    written = json.loads((tmp_path / "test" / "predictions" / "mmau" / "silence-1" / "mmau.json").read_text())
    assert all("model_prediction" in each for each in written) and len(written) == 6
    whole = evaluate(server, tmp_path / "index", f"--benchmark=index={small.index}", "--conditions=audio,silence:1")
    assert found(whole, "index")["subsets"].keys() <= {"this model's own answers without the audio"}
    labelled = evaluate(
        server,
        tmp_path / "index",
        f"--benchmark=index={small.index}",
        "--conditions=audio,silence:1",
        "--labels",
        small.labels,
    )
    assert "labels of labels.arrow" in found(labelled, "index")["subsets"]
    for folder in ("bad", "test", "index"):
        assert (tmp_path / folder / "report.html").stat().st_size > 10_000


def test_one_split_of_an_index_is_asked(server, small, tmp_path, capsys):
    """Its questions are those of the split, its official denominator their number; another split is refused."""
    index = read_arrow(small.index)
    wanted = {
        key for key, split in zip(index["key"].to_pylist(), index["split"].to_pylist(), strict=True) if split == "test"
    }
    words = [f"--benchmark=index={small.index}", "--conditions=silence:1", "--labels", small.labels]
    whole = evaluate(server, tmp_path / "to", *words, "--split", "test")
    asked = read_arrow(tmp_path / "to" / "outcomes" / "index.arrow")["key"].to_pylist()
    assert set(asked) == wanted and found(whole, "index")["scores"]["silence:1"]["strict"]["of"] == len(wanted) < len(
        index
    )
    with pytest.raises(SystemExit):
        evaluate(server, tmp_path / "other", *words, "--split", "tst")
    assert "no question is of the split 'tst'; there are test, train, val" in capsys.readouterr().err


def test_changed_questions_are_not_mixed_with_answers_of_before(server, files, tmp_path, capsys):
    records = json.loads(Path(files["mmau"]).read_text())[:5]
    (tmp_path / "q.json").write_text(json.dumps(records))
    words = [f"--benchmark=mmau={tmp_path / 'q.json'}", "--conditions=silence:1"]
    evaluate(server, tmp_path / "to", *words)
    records[0]["question"] += " Really?"
    (tmp_path / "q.json").write_text(json.dumps(records))
    with pytest.raises(SystemExit):
        evaluate(server, tmp_path / "to", *words)
    assert "was asked with questions" in capsys.readouterr().err
    evaluate(server, tmp_path / "other", *words)
    main(["evaluate", "--compare", str(tmp_path / "to"), str(tmp_path / "other")])
    told = capsys.readouterr().out
    assert "warning: mmau: the question file differ" in told and "of 5 questions" in told


def test_overlap_with_what_was_trained_on_is_counted(server, files, small, tmp_path):
    """The index holds the recordings of all questions under the same ids; every second has other options."""
    words = [f"--benchmark=mmau={files['mmau']}", "--conditions=audio", "--train-index", small.index]
    (one,) = found(evaluate(server, tmp_path, *words), "mmau")["overlap"]
    assert one["of"] == one["ids"] == one["any"] == one["recordings"] == COUNT and one["questions"] == COUNT // 2


@pytest.mark.skipif(not MMAU.is_file(), reason="shared/data/mmau-test-mini.json is not beside the repository")
def test_the_published_file_of_mmau_has_the_published_baselines(server, tmp_path):
    whole = evaluate(server, tmp_path, f"--benchmark=mmau={MMAU}", "--conditions=none", "--concurrency=64")
    one = found(whole, "mmau")
    base = one["baselines"]
    assert round(100 * base["chance"], 2) == 25.54
    assert (base["first"], base["longest"], base["best_place"], base["place"]) == (0.395, 0.394, 0.395, "A")
    assert "13 values of category are lists; they count as what they hold" in one["facts"]
    assert one["groups"]["category"]["Reasoning"]["questions"] == 677
    assert {name: part["questions"] for name, part in one["groups"]["task"].items()} == {
        "music": 334,
        "sound": 333,
        "speech": 333,
    }


def test_a_yaml_file_says_the_same_and_values_change_behind_it(server, files, tmp_path):
    job = {"checkpoint": server.url, "model": "m", "benchmarks": {"mine": {"benchmark": "mmau", "file": files["mmau"]}}}
    (tmp_path / "e.yaml").write_text(json.dumps(job | {"to": "nowhere", "conditions": ["silence:1"]}))
    main(["evaluate", str(tmp_path / "e.yaml"), f"to={tmp_path / 'to'}", "style=letters"])
    whole = json.loads((tmp_path / "to" / "results.json").read_text())
    assert found(whole, "mine")["rule"] == "letter" and whole["made"]["style"] == "letters"
    score = found(whole, "mine")["scores"]["silence:1"]["official"]
    path = tmp_path / "to" / "predictions" / "mine" / "silence-1" / "mmau.json"
    assert (score["right"], score["of"]) == scored_by_words(path, "model_output")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["m"], "benchmarks: give one"),
        (["m", "--benchmark", "mmau"], "is not of the form NAME=FILE"),
        (["m", "--benchmark", "mmlu=x.json"], "unknown name 'mmlu'; did you mean"),
        (["m", "--benchmark", "mmau=x.json", "--conditions", "loud"], "condition 'loud': use 'audio'"),
        (["m", "--benchmark", "mmau=x.json", "--rotations", "some"], "rotations"),
        (["http://h/v1", "--benchmark", "mmau=x.json"], "--model NAME"),
        (["m", "--benchmark", "mmau=x.json", "--labels", "l.arrow"], "--labels: l.arrow: no such file"),
        (["m", "--benchmark", "mmau=x.json", "--train-index", "t.arrow"], "train_index: t.arrow: no such file"),
        (["a", "b"], "name one model, YAML file or folder of results, got 2: a, b"),
        (["--compare", "a"], "--compare takes two folders of results, got 1"),
        (["m", "--benchmark", "mmau=none.json"], "none.json: no such annotation file"),
    ],
)
def test_wrong_words_get_one_sentence(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["evaluate", *words])
    told = capsys.readouterr().err
    assert re.fullmatch(r"error: .*\n", told) and sentence in told


def test_fragments_by_hand():
    parts = {"fragment": (0, 30_000), "fragment:middle": (30_000, 60_000), "fragment:last:0.1": (81_000, 90_000)}
    parts |= {"fragment:0.001": (0, 1_600), "fragment:1": (0, 90_000)}
    assert {name: part_of(parse_condition(name), 90_000) for name in parts} == parts


def begin(server: ChatServer, files: dict[str, str], to: Path) -> subprocess.Popen:
    words = [f"--benchmark=mmau={files['mmau']}", *CONDITIONS, "--concurrency=4"]
    command = [sys.executable, "-m", "earwitness", "evaluate", server.url, "--model=m", "--to", str(to), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def stored(to: Path) -> list[dict]:
    path = to / "answers" / "mmau.asked" / "rank0.jsonl"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.is_file() else []


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_numbers_and_asks_nothing_twice(files, tmp_path):
    with serving() as server:
        server.say = lambda asked: time.sleep(0.02) or said(asked)
        whole = evaluate(server, tmp_path / "whole", f"--benchmark=mmau={files['mmau']}", *CONDITIONS)
        before = len(server.seen)
        to, kept = tmp_path / "killed", []
        for number in range(3):
            job = begin(server, files, to)
            until(lambda: len(stored(to)) >= len(kept) + 25 or job.poll() is not None, 60)  # noqa: B023
            job.send_signal(signal.SIGTERM if number % 2 else signal.SIGKILL)
            began = time.monotonic()
            told, _ = job.communicate(timeout=10)
            assert time.monotonic() - began < 5
            assert job.returncode == (143 if number % 2 else -9), told
            assert stored(to)[: len(kept)] == kept
            kept = stored(to)
        told, _ = begin(server, files, to).communicate(timeout=120)
        answers = stored(to)
        assert answers[: len(kept)] == kept and len(answers) == 3 * COUNT, told
        counts = Counter((a["uid"], a["condition"], a["rotation"]) for a in answers)
        assert len(counts) == 3 * COUNT and set(counts.values()) == {1}
        assert len(server.seen) - before <= 3 * COUNT + 3 * 4, "but what was under way when it was killed"
    again = json.loads((to / "results.json").read_text())
    assert again == whole
    for name in ("answers/mmau.arrow", "outcomes/mmau.arrow", "predictions/mmau/audio/mmau.json"):
        assert (to / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
def test_one_and_three_processes_write_the_same_files(small, files, tmp_path):
    """A tiny checkpoint, answering here; 12 questions in batches of five."""
    records = json.loads(Path(files["mmau"]).read_text())[:12]
    path = Path(files["mmau"]).with_name("few.json")
    path.write_text(json.dumps(records))
    words = ["evaluate", small.tiny, f"--benchmark=mmau={path}", "--conditions=audio,silence:1", "--max-new-tokens=4"]
    words += ["--batch-size=5", "--title=t", "--to"]
    main([*words, str(tmp_path / "1")])
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=3", "--rdzv-backend=c10d"]
    torchrun += ["--rdzv-endpoint=localhost:0", "-m", "earwitness"]
    subprocess.run([sys.executable, *torchrun, *words, str(tmp_path / "3")], check=True, timeout=240)
    names = ["results.json", "report.html", "answers/mmau.arrow", "outcomes/mmau.arrow", "job.json"]
    for name in [*names, "predictions/mmau/audio/mmau.json"]:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes(), name
    assert len(list((tmp_path / "3" / "answers" / "mmau.asked").glob("rank*.jsonl"))) == 3
