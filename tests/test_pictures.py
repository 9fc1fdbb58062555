"""The page on speed is what benchmarks/pictures.py makes of the committed figures, and its pictures can be read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from earwitness.benchmarks import figures
from earwitness.benchmarks.drawing import Figure, Panel, Row, draw
from earwitness.benchmarks.pictures import BLOCK, PICTURES, drawn, written
from earwitness.tests.places import ROOT
from earwitness.tests.reports.browser import browsing

RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
PAGE = DOCS / "speed.md"
SVG = "{http://www.w3.org/2000/svg}"
SWIFT = {
    "machine": "x86_64, one core",
    "versions": {"earwitness": "0.1.0", "ms-swift": "4.6.0"},
    "batch": 8,
    "group": 8,
    "new_tokens": 32,
    "sft": {
        "ours": {"cpu_s": 0.1, "mib": 80.0, "first loss": 7.17},
        "ms-swift": {"cpu_s": 1.5, "mib": 750.0, "first loss": 7.38},
        "cpu_s ratio": 15.0,
        "mib ratio": 9.38,
    },
    "grpo": {"ours": {"cpu_s": 0.5, "mib": 180.0, "first loss": 0.0}, "ms-swift": {"failed": "RuntimeError: no"}},
}
ONE = {"model": "7B", "rows": 8192, "mode": "frozen", "missing": []}
GPU = {
    "swift.json": SWIFT,
    "linear_logprob-gpu.json": {
        "about": {"torch": "2.13.0", "machine": "NVIDIA H200", "triton": "3.7.1"},
        "figures": [
            ONE | {"provider": "ours triton_fused", "ms": 30.5, "peak extra GiB": 0.1},
            ONE | {"provider": "torch naive", "ms": 61.0, "peak extra GiB": 7.5},
            ONE | {"provider": "bare products", "ms": 22.0, "peak extra GiB": 0.0},
            ONE | {"provider": "TRL chunked", "failed": "RuntimeError: no"},
            {"accuracy of": "torch", "logprob max": 1e-5},
        ],
    },
    "sampling-gpu.json": json.loads((RESULTS / "sampling.json").read_text()) | {"machine": "NVIDIA H200"},
    "steps-gpu.json": {
        "machine": "NVIDIA H200",
        "versions": {"torch": "2.13.0", "transformers": "5.19.0"},
        "sft": {"seconds": 0.8, "memory/peak_gb": 14.0, "memory/foretold_gb": 15.5},
        "grpo": {"failed": "torch.OutOfMemoryError: CUDA out of memory"},
        "tower": [{"clips": 8, "seconds": 10, "ours": 9.9, "transformers": 33.0, "ratio": 3.33}],
    },
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> dict[str, Figure]:
    """All pictures: of the committed figures, and of made ones of a GPU and ms-swift."""
    folder = tmp_path_factory.mktemp("results")
    for path in RESULTS.glob("*.json"):
        shutil.copy(path, folder)
    for name, content in GPU.items():
        (folder / name).write_text(json.dumps(content))
    return drawn(folder)


def test_the_page_and_its_pictures_are_those_of_the_committed_figures():
    found = drawn(RESULTS)
    assert PAGE.read_text() == written(PAGE.read_text(), found), "run `python benchmarks/pictures.py`"
    there = {path.stem: path.read_text() for path in (DOCS / "pictures").glob("*.svg")}
    assert there == {name: draw(figure) for name, figure in found.items()}, "run `python benchmarks/pictures.py`"


def test_other_figures_make_another_page(tmp_path):
    """As a user draws them: the number that changed stands in the picture, its text and the sentence."""
    for path in RESULTS.glob("*.json"):
        shutil.copy(path, tmp_path)
    found = json.loads((RESULTS / "sampling.json").read_text())
    found["tokens per second"]["ours"], found["ratio"] = 98_765.4, 23.45
    (tmp_path / "sampling.json").write_text(json.dumps(found))
    (tmp_path / "curriculum.json").unlink()
    docs = tmp_path / "docs"
    (docs / "pictures").mkdir(parents=True)
    shutil.copy(PAGE, docs)
    (docs / "pictures" / "curriculum.svg").write_text("an old one")
    words = ["--results", str(tmp_path), "--docs", str(docs)]
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / "pictures.py"), *words], check=True, capture_output=True)
    page = (docs / "speed.md").read_text()
    assert "in tokens per second: 23.4." in page and "earwitness 98,800 /s" in page
    assert ">98,800 /s</text>" in (docs / "pictures" / "sampling.svg").read_text()
    assert not (docs / "pictures" / "curriculum.svg").exists() and "pictures/curriculum.svg" not in page


def test_no_number_stands_outside_of_what_is_drawn():
    """Else it would stay when the figures are measured again."""
    words = BLOCK.sub("", PAGE.read_text())
    assert re.findall(r"\d[\d.,]*", words) == []
    assert re.findall(r"\b(?:twice|half|third|quarter|(?:two|three|four|ten)(?:fold| times))\b", words) == []


def test_every_number_of_the_page_comes_from_the_files():
    """Values by hand: 4211.5 tokens become 4,210, a ratio of 2.35 a bar of 43 %, 0.17 of it rounded."""
    page = PAGE.read_text()
    step = json.loads((RESULTS / "grpo_step.json").read_text())
    for run in step["runs"]:
        assert f"earwitness {100 / run['time_ratio']:.0f} % (rollout" in page
    sampled = json.loads((RESULTS / "sampling.json").read_text())
    assert f"transformers generate {figures.short(sampled['tokens per second']['transformers generate'])} /s" in page


def test_numbers_have_three_digits():
    given = [0, 5.336756, 11.0318, 0.0823, 123.4, 999.6, 4211.5, 704_480]
    assert [figures.short(value) for value in given] == [
        "0",
        "5.34",
        "11.0",
        "0.0823",
        "123",
        "1,000",
        "4,210",
        "704,000",
    ]


def test_a_page_without_a_picture_is_refused():
    page = PAGE.read_text().replace("<!-- picture: sampling -->", "")
    with pytest.raises(ValueError, match="wanted are"):
        written(page, {})


def test_without_figures_of_a_gpu_every_picture_says_so(everything):
    assert set(everything) == set(PICTURES)
    assert not any("No figure of a GPU exists." in figure.notes for figure in everything.values())
    if not list(RESULTS.glob("*-gpu.json")):
        assert all("No figure of a GPU exists." in figure.notes for figure in drawn(RESULTS).values())


def test_a_trainer_that_failed_is_named(everything):
    assert "ms-swift did not run GRPO: RuntimeError: no" in everything["swift"].said
    assert "SFT, ms-swift over ours: 15.0 in CPU time, 9.38 in memory" in everything["swift"].said
    assert "GRPO did not run: torch.OutOfMemoryError" in everything["gpu-steps"].said


def test_pictures_are_whole_documents_with_their_text(everything):
    for name, figure in everything.items():
        root = ElementTree.fromstring(draw(figure))
        title, desc = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
        assert title is not None and title.text == figure.title, name
        assert desc is not None and desc.text and all(panel.heading in desc.text for panel in figure.panels)
        assert root.get("role") == "img" and root.get("aria-labelledby") == "t d"
        assert "prefers-color-scheme:dark" in (root.findtext(f"{SVG}style") or "")


def test_a_bar_is_as_long_as_its_share():
    """A rail of 372: half of the largest is 186; parts of 25 and 50 % of 100 begin where the one before ends."""
    rows = [Row("a", 2.0, "2", True), Row("b", 1.0, "1"), Row("c<", 75.0, "75", parts=(25.0, 50.0))]
    text = draw(Figure("T", [Panel("p", rows[:2]), Panel("q", rows[2:], 100.0, ("x", "y"))], ["n"]))
    bars = [
        (bar.get("class"), float(bar.get("x", "")), float(bar.get("width", "")))
        for bar in ElementTree.fromstring(text).iter(f"{SVG}rect")
        if bar.get("height") == "9" and float(bar.get("width", "")) != 9
    ]
    assert bars == [
        ("rail", 14.0, 372.0),
        ("own", 14.0, 372.0),
        ("rail", 14.0, 372.0),
        ("other", 14.0, 186.0),
        ("rail", 14.0, 372.0),
        ("p0", 14.0, 93.0),
        ("p1", 107.0, 186.0),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("wide", [390, 1280])
def test_no_text_meets_another_or_the_edge(everything, tmp_path, wide):
    """Measured by a browser, on a phone and on a desk, as the fonts of this machine have it."""
    parts = [
        draw(figure).replace("<svg ", '<svg style="max-width:100%;height:auto" ', 1) for figure in everything.values()
    ]
    page: Path = tmp_path / "all.html"
    page.write_text("<!doctype html><meta charset=utf-8><body>" + "<br>".join(parts))
    look = """() => [...document.querySelectorAll('svg')].map(svg => {
        const paper = svg.querySelector('.paper').getBBox()
        return [svg.querySelector('title').textContent, [paper.x, paper.y, paper.width, paper.height],
            [...svg.querySelectorAll('text')].map(t => { const b = t.getBBox()
                return [t.textContent, b.x, b.y, b.width, b.height, t.getBoundingClientRect().height] })] })"""
    with browsing() as browser:
        opened = browser.new_page(viewport={"width": wide, "height": 800})
        opened.goto(page.as_uri())
        found = opened.evaluate(look)
        assert opened.evaluate("document.documentElement.scrollWidth") <= wide
    assert len(found) == len(PICTURES)
    for title, (_, _, width, height), texts in found:
        for number, (words, x, y, long, high, seen) in enumerate(texts):
            assert x >= 8 and y >= 4 and x + long <= width - 8 and y + high <= height - 2, (title, words)
            assert seen >= 9, (title, words)  # px, ascenders and all
            for other, x2, y2, long2, high2, _ in texts[number + 1 :]:
                apart = x + long <= x2 or x2 + long2 <= x or y + 0.8 * high <= y2 or y2 + 0.8 * high2 <= y
                assert apart, (title, words, other)
