"""Pages in a browser: filters, order, sound, keys, links, sizes; what hostile texts may not do; what numbers say."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

from earwitness.datamodules.audio.encoding import opus_bytes
from earwitness.datamodules.audio.waves import decode, wav_bytes
from earwitness.errors import InputError
from earwitness.reports.model_page import write_model_page
from earwitness.reports.pages import write_page
from earwitness.reports.records import Clip, Item, Overview, Reply, Section, Verdict
from earwitness.tests.reports.browser import Looked, browsing

CHOICES = ("a dog", "a bell", "rain", "a horn")
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "\"'><svg onload=alert(3)>",
    "<!--<script>",
    "\u202egnp.exe\x00\x1b[31m\u2028",
    "javascript:alert(4)",
    "${alert(5)}",
    "half a pair \ud800",
]


def tone(number: int, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(np.arange(int(16_000 * seconds)) * 0.02 * (1 + number % 7))).astype(np.float32)


def item(number: int, audio: Clip | None = None) -> Item:
    """Question n of which `late` is right with audio from 3 on, `early` from 6 on, and silence is right for 0 to 2.

    The right answer stands at place n % 4; labels alternate, types go by three.
    """
    answer = CHOICES[number % 4]
    other = CHOICES[(number + 1) % 4]
    replies = []
    for voter, first in (("early", 6), ("late", 3)):
        for condition, right in (("audio", number >= first), ("silence", number < 3)):
            pick = answer if right else other
            replies.append(Reply(voter, condition, f"<answer>{pick}</answer>", pick, "right" if right else "wrong"))
    facts = {"label": ("weak", "strong")[number % 2], "type": ("sound", "music", "speech")[number % 3]}
    return Item(f"set/{number}", f"Question {number}?", CHOICES, answer, facts, {"ac": number / 10}, audio, replies)


@pytest.fixture(scope="module")
def browser():
    with browsing() as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Twelve questions: three with embedded clips of 1 s, one with a clip that cannot be read."""
    items = [item(n, Clip(f"clip{n}", load=lambda n=n: tone(n)) if n < 3 else None) for n in range(12)]
    items[3] = item(3, Clip("gone", "/nowhere/gone.wav"))
    overview = Overview("A page", "Lead.", [Verdict("Did it learn?", "+25.0 points [+1.0, +49.0]", "Because.", "good")])
    return write_page(tmp_path_factory.mktemp("page") / "page.html", overview, items, [("early", "late")])


@pytest.fixture
def looked(browser, page):
    opened = Looked(browser, page)
    yield opened
    assert opened.faults == []
    opened.context.close()


def test_questions_are_filtered_by_facts_answers_and_changes(looked):
    """Of 0 to 11: late gained 3, 4, 5; 1, 3, ... 11 are strong; early is right in silence on 0, 1, 2."""
    assert looked.count() == "12 of 12 questions"
    looked.choose("change", "early to late: gained")
    assert looked.rows() == [f"Question {n}?" for n in (3, 4, 5)]
    looked.choose("label", "strong")
    assert looked.rows() == ["Question 3?", "Question 5?"]
    looked.page.click("#x-clear")
    looked.choose("model", "early")
    looked.choose("condition", "silence")
    looked.choose("answer was", "right")
    assert looked.rows() == [f"Question {n}?" for n in (0, 1, 2)]
    looked.page.click("#x-clear")
    looked.choose("model", "late")
    looked.choose("what the audio did", "right with audio alone")
    looked.choose("type", "music")
    assert looked.rows() == [f"Question {n}?" for n in (4, 7, 10)]
    looked.page.fill("#x-form input", "question 7?")
    looked.until("document.querySelectorAll('.row').length === 1")
    looked.page.fill("#x-form input", "no such words")
    looked.page.wait_for_selector("text=No question fits all filters.")
    assert looked.count() == "0 of 12 questions"


def test_questions_are_sorted(looked):
    looked.choose("sort by", "ac")
    looked.choose("direction", "descending")
    assert looked.rows()[:3] == ["Question 11?", "Question 10?", "Question 9?"]
    looked.choose("sort by", "right answers, audio")
    assert looked.rows()[0] == "Question 6?" and looked.rows()[-1] == "Question 2?"


def test_a_clip_plays_and_one_that_is_gone_says_so(looked):
    looked.page.click("text=Question 1?")
    length = looked.page.evaluate(
        "() => new Promise((done, fail) => { const a = document.querySelector('audio'); "
        "a.ontimeupdate = () => { if (a.currentTime > 0) done(a.duration); }; a.onerror = fail; a.play(); })"
    )
    assert length == pytest.approx(1.0, abs=0.05)
    looked.page.click("text=Question 3?")
    assert "gone.wav" in looked.page.inner_text("#x-item") and looked.page.locator("audio").count() == 0


def test_every_answer_is_shown_beside_the_right_option(looked):
    looked.page.click("text=Question 4?")
    shown = looked.page.locator("#x-item tbody tr").all_inner_texts()
    assert [" ".join(line.split()) for line in shown] == [
        "early audio a bell <answer>a bell</answer> ✗ wrong",
        "early silence a bell <answer>a bell</answer> ✗ wrong",
        "late audio a dog <answer>a dog</answer> ✓ right",
        "late silence a bell <answer>a bell</answer> ✗ wrong",
    ]
    assert looked.page.inner_text(".is-right").startswith("a dog")


def test_a_link_leads_to_a_question_and_keeps_the_filters(browser, page):
    opened = Looked(browser, page, "#q=set%2F7&is.label=strong")
    assert opened.page.inner_text("#x-item h3") == "Question 7?" and opened.count() == "6 of 12 questions"
    opened.page.keyboard.press("j")
    assert opened.page.url.endswith("#is.label=strong&q=set%2F9")
    missing = Looked(browser, page, "#q=set%2F99")
    assert "There is no question set/99" in missing.page.inner_text("#x-item")
    assert opened.faults == missing.faults == []


def test_the_keyboard_reaches_everything(looked):
    page = looked.page
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    page.focus("#x-list")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#x-item h3") == "Question 2?"
    active = page.get_attribute("#x-list", "aria-activedescendant")
    assert page.get_attribute(f"#{active}", "aria-selected") == "true"
    page.keyboard.press("End")
    assert page.inner_text("#x-item h3") == "Question 11?"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "x-item"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "x-list"
    page.keyboard.press("Home")
    page.keyboard.press("p")
    looked.until("!document.querySelector('audio').paused")


def test_it_is_dark_where_the_reader_wants_it(browser, page):
    def ground(opened: Looked) -> str:
        return opened.page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark, light = Looked(browser, page, color_scheme="dark"), Looked(browser, page, color_scheme="light")
    assert ground(dark) == "rgb(20, 24, 28)" and ground(light) == "rgb(246, 247, 248)"
    light.page.click("#theme")
    assert ground(light) == ground(dark) and light.page.inner_text("#theme") == "Light"
    assert dark.faults == light.faults == []


def test_a_phone_shows_it_without_scrolling_sideways(browser, page):
    opened = Looked(browser, page, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    opened.page.locator(".row").nth(2).tap()
    opened.until("document.getElementById('x-item').getBoundingClientRect().top < 120")
    assert opened.page.inner_text("#x-item h3") == "Question 2?" and opened.faults == []


def test_a_whole_page_of_models_fits_and_has_names_for_everything(browser, tmp_path):
    """Pictures, tables and controls; the numbers of who moved lead to their questions: 3, 4, 5 are heard now."""
    path = write_model_page(tmp_path / "page.html", "Two models", [item(n) for n in range(12)])
    for width in (1280, 390):
        opened = Looked(browser, path, viewport={"width": width, "height": 844})
        page = opened.page
        assert page.evaluate("document.documentElement.scrollWidth") == width
        pictures = page.locator("svg[role=img]")
        names = pictures.evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
        assert len(names) > 5 and all(re.search(r"\d", name) for name in names)
        named = "one.labels?.[0]?.innerText || one.innerText || one.ariaLabel"
        nameless = f"all => all.filter(one => !({named})).length"
        page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        assert page.locator("button, select, input, a, [role=listbox]").evaluate_all(nameless) == 0
        page.click("a[href='#change=0.neither.heard']")
        opened.until("document.getElementById('x-count').textContent.startsWith('3 of 12')")
        assert opened.rows() == [f"Question {n}?" for n in (3, 4, 5)] and opened.faults == []


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_texts_are_shown_and_never_run(browser, tmp_path, bad):
    facts, replies = {bad: bad, "label": bad}, [Reply(bad, bad, bad, bad, "wrong"), Reply("b", "audio", bad, None)]
    items = [Item(bad, bad, (bad, "x"), bad, facts, {bad: 1.0}, Clip(bad, bad), replies), item(1)]
    overview = Overview(bad, bad, [Verdict(bad, bad, bad, bad)], [bad], [Section(bad, "")], {bad: bad})
    opened = Looked(browser, write_page(tmp_path / "page.html", overview, items))
    opened.page.wait_for_timeout(50)
    assert opened.faults == [] and opened.page.locator("main img, main script[src], svg[onload]").count() == 0
    shown = opened.page.inner_text("#x-item h3")
    assert shown == re.sub("[\u202e\x00\x1b\u2028\ud800]", lambda c: f"⟨U+{ord(c.group()):04X}⟩", bad)


def test_what_a_policy_forbids_is_not_run(browser, page, tmp_path):
    """A script that got into the page all the same: the policy names the page's own by hash."""
    broken = tmp_path / "broken.html"
    text = page.read_text().replace(
        "</main>", "<script>document.title='run'</script><img src='http://x.test/a'></main>"
    )
    broken.write_text(text)
    opened = Looked(browser, broken)
    assert opened.page.title() == "A page"
    assert sum("Content Security Policy" in fault for fault in opened.faults) == 2, "the script and the picture"


def test_clips_beyond_the_room_are_linked_or_written_beside(browser, tmp_path):
    """Two fit inside; a wav of the disk is linked with its part, a clip of a shard becomes a file beside."""
    (tmp_path / "a b.wav").write_bytes(wav_bytes(tone(1, 2.0)))
    room = 2 * 4 / 3 * len(opus_bytes(tone(0))) / 1e6 + 1e-4
    items = [item(n, Clip(f"c{n}", load=lambda: tone(0))) for n in range(2)]
    items.append(item(2, Clip("c2", str(tmp_path / "a b.wav"), start=0.5, seconds=1.0)))
    items += [item(n, Clip(f"c{n}", load=lambda n=n: tone(n))) for n in (3, 4)]
    path = write_page(tmp_path / "page.html", Overview("A page"), items, embed_mb=room, beside_mb=1e-3)
    assert [file.name for file in (tmp_path / "page.clips").iterdir()] == ["3.ogg"]
    assert len(decode((tmp_path / "page.clips" / "3.ogg").read_bytes(), "3.ogg")) == 16_000
    opened = Looked(browser, path)
    for number, source in ((1, "data:audio/ogg"), (2, "a%20b.wav#t=0.5,1.5"), (3, "page.clips/3.ogg")):
        opened.page.click(f"text=Question {number}?")
        assert source in opened.page.evaluate("document.querySelector('audio').src")
        opened.until("document.querySelector('audio').duration > 0")
    opened.page.click("text=Question 4?")
    assert "room for the first recordings only" in opened.page.inner_text("#x-item") and opened.faults == []


def test_ten_thousand_questions_open_in_two_seconds(browser, tmp_path):
    path = write_page(tmp_path / "page.html", Overview("Many"), [item(n) for n in range(10_000)], [("early", "late")])
    opened = Looked(browser, path)
    timing = "(() => { const t = performance.timing; return (t.loadEventEnd - t.navigationStart) / 1000; })()"
    opened.until("performance.timing.loadEventEnd > 0")
    assert opened.count() == "10,000 of 10,000 questions" and opened.page.evaluate(timing) < 2
    assert opened.page.locator(".row").count() < 40, "only rows in sight are drawn"
    began = time.monotonic()
    opened.choose("label", "strong")
    opened.choose("sort by", "right answers, audio")
    opened.page.locator("#x-list").evaluate("list => { list.scrollTop = list.scrollHeight; }")
    opened.page.wait_for_selector("text=Question 9999?")
    assert time.monotonic() - began < 2 and opened.faults == []


def test_ten_seconds_of_sound_take_little_room():
    """A thousand of them stay below 60 MB, in Base64: noise is the worst case."""
    noise = (0.1 * np.random.default_rng(0).standard_normal(160_000)).astype(np.float32)
    data = opus_bytes(noise)
    assert 1_000 * len(data) * 4 / 3 < 60e6 and data == opus_bytes(noise)
    heard = decode(opus_bytes(tone(2, 10.0)), "tone")
    assert len(heard) == 160_000 and np.corrcoef(heard, tone(2, 10.0))[0, 1] > 0.99


def test_two_questions_with_one_id_are_refused(tmp_path):
    with pytest.raises(InputError, match="two questions of the page have the id 'set/1'"):
        write_page(tmp_path / "page.html", Overview("A page"), [item(1), item(1)])
