"""What each stage kept: on the page, on a terminal and from a log, with a warning where a group was lost."""

from __future__ import annotations

import pytest

from earwitness.curriculum.statistics import paired_difference, wilson_interval
from earwitness.reports.records import Item, Reply
from earwitness.reports.retention import kept_in, kept_in_log, kept_in_results, retention_section
from earwitness.reports.run_page import summary_lines
from earwitness.reports.tally import Tally
from earwitness.reports.training import read_log, training_section


def item(number, heard):
    """Weak below 20; each model is right with the audio on those that heard names, and never in silence."""
    replies = [Reply(m, "audio", outcome="right" if number in right else "wrong") for m, right in heard.items()]
    replies += [Reply(m, "silence") for m in heard]
    label = "weak" if number < 20 else "strong"
    return Item(f"q/{number}", "?", ("a", "b"), "a", {"label": label}, replies=replies)


@pytest.fixture
def tally():
    """SFT has 20 weak and 5 strong ones right, GRPO 8 and 20 of 20 and 20: -60, +75 and +7.5 points."""
    return Tally([item(n, {"SFT": range(25), "GRPO": range(12, 40)}) for n in range(40)])


def test_a_group_that_fell_is_said_and_the_others_are_not(tally):
    weak, strong, whole = kept_in(tally)
    assert [one.group for one in (weak, strong, whole)] == ["label=weak", "label=strong", "all"]
    assert (weak.questions, weak.before[0], weak.after[0]) == (20, 1.0, 0.4)
    before, after = [1.0] * 20, [0.0] * 12 + [1.0] * 8
    assert weak.change == pytest.approx(paired_difference(before, after)) and weak.lost
    assert strong.change[0] == pytest.approx(0.75) and not strong.lost and not whole.lost
    html = retention_section([weak, strong, whole]).html
    assert html.count('<p class="warning">') == 1 and html.count('<b class="bad">') == 1
    assert "SFT to GRPO: the questions “labelled weak” fell by 60.0 points [38.5, 81.5], from 100.0 to 40.0 %" in html


def result_of(tally):
    """As `evaluate` writes it, of those numbers."""
    kept = kept_in(tally)
    silent = {"silence": [0.0, *wilson_interval(0, 20)], "contribution": [0.0, 0.0, 0.0]}
    models = {
        name: {one.group: {"questions": one.questions, "audio": list(getattr(one, when))} | silent for one in kept}
        for name, when in (("SFT", "before"), ("GRPO", "after"))
    }
    gains = [{"from": "SFT", "to": "GRPO", "group": one.group, "difference": list(one.change)} for one in kept]
    return {"models": models, "gains": gains}


def test_the_terminal_shows_all_questions_and_ends_with_what_was_lost(tally):
    result = result_of(tally)
    assert kept_in_results(result) == [
        one.__class__(**vars(one) | {"change": list(one.change)}) for one in kept_in(tally)
    ]
    lines = summary_lines(result)
    assert any(line.startswith("all questions: SFT ") and "62.5 %" in line for line in lines)
    assert any(line.startswith("all questions: SFT to GRPO") and "+7.5 [" in line for line in lines)
    assert lines[-1].startswith("warning: SFT to GRPO: the questions “labelled weak” fell by 60.0 points")


def test_a_log_begins_with_the_validation_before_the_first_step(tmp_path):
    """Validated after 0, 1 and 2 steps; Lightning writes 0 for both of the first two."""
    names = [
        f"val/{kind}/audio/{group}{end}"
        for kind in ("accuracy", "change")
        for group in ("weak", "all")
        for end in ("", "/low", "/high")
    ]
    lines = [",".join(["step", "train/loss", "val/step", *names])]
    for step, trained, accuracy, change in ((0, 0, 0.5, 0.0), (0, 1, 0.4, -0.1), (1, 2, 0.2, -0.3)):
        group = [accuracy, accuracy - 0.1, accuracy + 0.1, *[]]
        moved = [change, change - 0.1, change + 0.1]
        lines += [",".join(map(str, [step, "", trained, *group, *group, *moved, *moved]))]
        lines += [",".join(map(str, [step, 1.5, "", *[""] * 12]))] if trained else []
    (tmp_path / "version_0").mkdir()
    (tmp_path / "version_0" / "metrics.csv").write_text("\n".join(lines))
    log = read_log(tmp_path)
    assert log["val/accuracy/audio/weak"] == [(-1, 0.5), (0, 0.4), (1, 0.2)] and log["train/loss"] == [
        (0, 1.5),
        (1, 1.5),
    ]
    weak, whole = kept_in_log("grpo", log)
    assert (weak.group, weak.before[0], weak.after[0], weak.change[0]) == ("label=weak", 0.5, 0.2, -0.3)
    assert weak.lost and whole.group == "all"
    html = training_section({"grpo": str(tmp_path)}).html
    assert "Validation before the first step and after the last" in html and "-30.0" in html
    assert kept_in_log("grpo", {"val/accuracy/audio/weak": [(9, 0.5)]}) == []  # a log of before
