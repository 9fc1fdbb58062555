"""The page of models: what it answers at the top, what it calls constant, and how a run becomes its questions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from earwitness.curriculum.evaluation.evaluate import evaluate
from earwitness.curriculum.table import read_arrow, write_arrow
from earwitness.datamodules.audio.waves import wav_bytes
from earwitness.reports.contribution import contribution_section, moves_section
from earwitness.reports.model_page import write_model_page
from earwitness.reports.overview import accuracy_section, gain_section, gains, verdicts
from earwitness.reports.records import Item, Reply
from earwitness.reports.run_page import build_report
from earwitness.reports.tally import Tally
from earwitness.tests.places import ROOT

CHOICES = ("a", "b", "c", "d")


def said(voter: str, condition: str, pick: str, answer: str) -> Reply:
    return Reply(voter, condition, pick, pick, "right" if pick == answer else "wrong")


def made(number: int, heard: dict[str, int], label: str = "strong", **facts: str) -> Item:
    """Its answer stands at place number % 4; model m hears those below heard[m], and says "a" in silence."""
    answer = CHOICES[number % 4]
    other = CHOICES[(number + 1) % 4]
    replies = [said(m, "audio", answer if number < most else other, answer) for m, most in heard.items()]
    replies += [said(m, "silence", "a", answer) for m in heard]
    return Item(f"q/{number}", f"Question {number}?", CHOICES, answer, {"label": label, **facts}, replies=replies)


@pytest.fixture
def tally() -> Tally:
    """40 questions; before hears the first 10, after the first 30; both always say "a" in silence: 10 are that."""
    return Tally([made(n, {"before": 10, "after": 30}, ("weak", "strong")[n >= 20]) for n in range(40)])


def test_three_answers_stand_at_the_top(tally):
    learnt, hearing, lost = verdicts(tally)
    assert learnt.says.startswith("+50.0 points [") and learnt.tone == "good" and "25\u00a0%" in learnt.because
    assert hearing.says == learnt.says and "Accuracy in silence changed by +0.0 [+0.0, +0.0]" in hearing.because
    assert (lost.asks, lost.says, lost.tone) == ("What did it lose?", "0 questions", "plain")
    assert verdicts(Tally([made(n, {"only": 20}) for n in range(40)]))[0].says.startswith("50.0 % [")


def test_what_is_lost_is_said_and_red_only_where_it_holds_for_all_tests():
    """Of 40 questions 12 are lost and none gained: p = 0.0002, also for all groups together; of weak ones 2: not so."""
    items = [made(n, {"before": 30, "after": 18}, ("weak", "strong")[n >= 20]) for n in range(40)]
    lost = verdicts(Tally(items))[2]
    assert lost.says == "12 questions" and "Groups that fell: all questions, labelled strong" in lost.because
    found = {gain.group: gain for gain in gains(Tally(items))}
    assert (found["label=weak"].lost, found["label=weak"].gained) == (2, 0) and found["label=weak"].holm > 0.05
    assert found["all"].p == pytest.approx(2**-12) and found["all"].holm == pytest.approx(3 * 2**-12)
    html = gain_section(Tally(items)).html
    assert html.count('<b class="bad">') == 2


def test_answers_that_never_change_are_called_constant(tally):
    html = accuracy_section(tally).html
    assert "before (silence) gives a constant answer: place A in 100 % of its answers" in html
    assert "after (silence) gives a constant answer" in html and "(audio) gives" not in html
    varied = [made(n, {"m": 10}) for n in range(40)]
    for one in varied:
        one.replies[1:] = [said("m", "silence", CHOICES[(int(one.id[2:]) // 4) % 4], str(one.answer))]
    assert "constant answer:" not in accuracy_section(Tally(varied)).html


def test_luck_is_that_of_the_very_questions():
    """Set x always has its answer in the first place; in y all four places and texts are as frequent."""
    items = [made(4 * n, {"m": 0}, set="x") for n in range(20)]
    items += [Item(**{**vars(made(n, {"m": 0}, set="y")), "id": f"y/{n}"}) for n in range(40)]
    tally = Tally(items)
    assert tally.constant(tally.groups["set=x"]) == pytest.approx(1.0, abs=1e-5)
    assert tally.constant(tally.groups["set=y"]) == tally.guessing(tally.groups["set=y"]) == 0.25
    html = accuracy_section(tally).html
    assert "set: x, n = 20" in html and "best constant answer 100\u00a0%" in html and "25\u00a0%" in html


def test_in_all_orders_no_place_is_better_than_another():
    """Answers always stand first in the file, and are as many texts as questions; each was asked in all four orders."""
    items = []
    for n in range(24):
        options = (f"right {n}", "b", "c", "d")
        replies = [Reply("m", "audio", options[1], options[1], "wrong", turn) for turn in range(4)]
        items.append(Item(f"q/{n}", "Which?", options, options[0], replies=replies))
    tally = Tally(items)
    assert tally.constant(tally.groups["all"]) == 0.25
    first = Tally([Item(**{**vars(one), "replies": one.replies[:1]}) for one in items])
    assert first.constant(first.groups["all"]) == 1.0


def test_a_higher_contribution_of_weak_questions_is_explained(tally):
    """Weak ones all heard: 100 - 25; strong ones half: 50 - 25."""
    html = accuracy_section(tally).html
    assert "Why the audio contributes more to weak questions" in html and "+75.0 points against" in html
    turned = Tally([made(n, {"before": 10, "after": 30}, ("strong", "weak")[n >= 20]) for n in range(40)])
    assert "Why the audio contributes" not in accuracy_section(turned).html


def test_moves_lead_to_the_questions(tally):
    """Of the 20 that after learnt to hear, 5 were "a", right in silence alone: now right both ways."""
    html = moves_section(tally).html
    assert '<a href="#change=0.neither.heard">15</a>' in html and '<a href="#change=0.hurts.both">5</a>' in html
    assert "15 from never right to right with audio alone" in html, "the picture says its numbers"


def test_bins_of_contribution_have_both_lines():
    items = [made(n, {"m": 20}) for n in range(40)]
    items = [Item(**{**vars(one), "numbers": {"ac_vote": 0.1 if n < 20 else 0.9}}) for n, one in enumerate(items)]
    html = contribution_section(Tally(items)).html
    assert "with audio from 100\u00a0% to 0\u00a0%; in silence from 25\u00a0% to 25\u00a0%" in html


def test_a_text_model_without_any_audio_has_a_page(tmp_path):
    items = [
        Item(f"q/{n}", "Why?", CHOICES, CHOICES[n % 4], {}, {}, None, [said("text", "none", "b", CHOICES[n % 4])])
        for n in range(40)
    ]
    text = write_model_page(tmp_path / "page.html", "A text model", items).read_text()
    assert "25.0 %" in text and "text, none: of 40 questions" in text and "Every condition" in text
    assert write_model_page(tmp_path / "none.html", "Nothing", []).is_file()


def data_of(path: str) -> dict:
    found = re.search(r'id="questions-data">(.*?)</script>', Path(path).read_text(encoding="utf-8"))
    return json.loads(found[1])


@pytest.fixture(scope="module")
def run(small, tmp_path_factory) -> Path:
    """Results of two models that answered the 16 test questions; `good` is right with the audio, nobody in silence."""
    folder = tmp_path_factory.mktemp("run")
    index = read_arrow(small.index)
    uids = [
        u for u, split in zip(*(index.column(c).to_pylist() for c in ("uid", "split")), strict=True) if split == "test"
    ]
    for name in ("bad", "good"):
        columns = {"uid": pa.array(uids * 2, pa.uint64()), "condition": ["audio"] * len(uids) + ["silence"] * len(uids)}
        right = [name == "good"] * len(uids) + [False] * len(uids)
        verdicts_of = ["right" if one else "unreadable" for one in right]
        columns |= {"raw": ["hm"] * len(right), "correct": right, "verdict": verdicts_of}
        write_arrow(pa.table(columns), folder / f"{name}.arrow")
    answers = {name: str(folder / f"{name}.arrow") for name in ("bad", "good")}
    evaluate(answers, small.index, str(folder / "results.json"), small.labels, small.planted, title="A run")
    return folder


def test_the_files_of_a_run_become_its_questions(run):
    found = data_of(build_report(str(run / "results.json"))["report"])
    assert len(found["items"]) == 16 and found["voters"] == ["bad", "good"] and found["compare"] == [[0, 1]]
    facts = [fact["name"] for fact in found["facts"]]
    assert {"label", "type", "planted"} <= set(facts) and "seconds" in found["numbers"]
    for _, question, choices, answer, _, _, clip, replies in found["items"]:
        assert question and found["clips"][clip] == {}
        picks = {(voter, condition): (outcome, pick) for voter, condition, _, outcome, pick, _ in replies}
        assert picks[1, 0] == (0, answer) and 0 <= answer < len(choices)
        assert picks[0, 0] == picks[1, 1] == (3, -1), "unreadable: no option"


def test_a_run_is_found_from_another_folder(run, tmp_path, monkeypatch):
    """Paths are written from the working folder of the run, here the one above it."""
    content = json.loads((run / "results.json").read_text())
    content["files"]["answers"] = {name: f"{run.name}/{name}.arrow" for name in ("bad", "good")}
    (run / "moved.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    assert len(data_of(build_report(str(run / "moved.json"), "page.html")["report"])["items"]) == 16


def test_results_whose_questions_are_gone_have_a_page_that_says_so(run, tmp_path):
    content = json.loads((run / "results.json").read_text())
    content["files"]["answers"]["bad"] = str(tmp_path / "gone.arrow")
    (tmp_path / "gone.json").write_text(json.dumps(content))
    text = Path(build_report(str(tmp_path / "gone.json"), str(tmp_path / "gone.html"))["report"]).read_text()
    assert f"The questions are not shown: {tmp_path / 'gone.arrow'}: not found" in text and "questions-data" not in text
    del content["files"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    text = Path(build_report(str(tmp_path / "old.json"))["report"]).read_text()
    assert "These results do not say where their answers lie" in text and "With and without the audio" in text


def test_the_page_that_the_documentation_makes(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "pages.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("dog.wav").write_bytes(wav_bytes(np.full(16_000 * 6, 0.1, np.float32)))
    exec(code[1], {})
    found = data_of("page.html")
    assert found["clips"] == [{}] and found["items"][0][:4] == [
        "mine/1",
        "Which animal is heard?",
        ["a dog", "a cat"],
        0,
    ]


def test_a_share_of_many_questions_is_drawn_by_their_identity(run, small):
    from earwitness.datamodules.shards.reader import ShardReader
    from earwitness.reports.reading import read_items

    tables = {"good": str(run / "good.arrow")}
    some, total = read_items(ShardReader(small.index), tables, most=5)
    again, _ = read_items(ShardReader(small.index), tables, most=5)
    assert total == 16 and [one.id for one in some] == [one.id for one in again] and len(some) == 5
    assert np.isfinite(some[0].numbers["seconds"])
