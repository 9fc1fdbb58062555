"""The page of an experiment says what its numbers say, and is read in light and dark, on a desk and on a phone."""

from __future__ import annotations

import re

import numpy as np
import pytest

from earwitness.commands.evaluation.results import finite
from earwitness.curriculum.evaluation.arms import Asked, Trial, compared
from earwitness.reports.experiment_page import build_experiment_page
from earwitness.reports.forest import Row, forest
from earwitness.tests.reports.browser import browsing


def comparison(seeds=(1, 2)):
    """Two arms on 60 questions: `fell` loses ten weak ones that were all right, and gains ten strong ones."""
    label = np.array(["weak"] * 30 + ["strong"] * 30)
    before = np.r_[np.ones(30), np.zeros(30)]
    kept, fell = before.copy(), before.copy()
    fell[:10], fell[30:40] = 0, 1
    trials = [Trial(arm, s, 1, before, after) for arm, after in (("kept", kept), ("fell<b>", fell)) for s in seeds]
    results = compared([Asked("quiz", np.arange(60, dtype=np.uint64), label, trials, 3)], "kept")
    return finite(
        {
            "title": "Two arms",
            "arms": ["kept", "fell<b>"],
            "seeds": [{"train": s, "draw": 1} for s in seeds],
            "declared": ["curriculum.stages.*.pool"],
            "match": "none",
            "results": results | {"silence": []},
            "differences": [
                {
                    "arm": "kept",
                    "other": "fell<b>",
                    "key": "steps.sft.lr",
                    "value": 1.0,
                    "other_value": 0.5,
                    "by": "steps",
                }
            ],
            "sheet": None,
        }
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return build_experiment_page(comparison(), tmp_path_factory.mktemp("page") / "comparison.html")


def test_what_was_lost_and_gained_stands_on_the_page(page):
    """Weak -33.3 and strong +33.3 points: the whole is where it was, and the interaction is 66.7."""
    text = page.read_text()
    assert "fell&lt;b&gt; on weak, quiz: -33.3" in text and "fell<b>" not in text
    assert re.search(r'<b class="bad">-33\.3', text) and re.search(r'<b class="good">\+33\.3', text)
    assert re.search(r"<td>fell&lt;b&gt;</td><td><b class=\"good\">\+66\.7", text)
    assert "3 questions of quiz were not answered by all runs" in text
    assert "declared by steps" in text and "meant to differ in: curriculum.stages.*.pool" in text


def test_one_run_says_that_luck_is_not_known(tmp_path):
    text = build_experiment_page(comparison((1,)), tmp_path / "c.html").read_text()
    assert "How far seeds lie apart is not known" in text


def test_a_forest_has_a_mark_per_group_and_its_numbers_in_words():
    figure = forest(
        "Change",
        [Row("a", {"weak": [-0.1, -0.2, 0.0], "strong": [0.2, float("nan"), float("nan")]})],
        {"weak": "weak", "strong": "strong"},
    )
    assert figure.count("<circle") == 2 and figure.count('class="l-weak"') == 1 and 'class="l-strong"' not in figure
    assert "a, weak: -10.0 points; a, strong: +20.0 points" in figure
    assert forest("Change", [], {"weak": "weak"}) == ""


def test_it_fits_offline_in_light_and_dark(page):
    with browsing() as browser:
        for scheme, width in (("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)):
            _looked(browser, page, scheme, width)


def _looked(browser, page, scheme, width):
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}, offline=True)
    shown, faults = context.new_page(), []
    shown.on("console", lambda message: faults.append(message.text))
    shown.on("pageerror", lambda error: faults.append(str(error)))
    shown.goto(page.as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.locator("svg[role=img]").count() == 2 and faults == []
    context.close()
