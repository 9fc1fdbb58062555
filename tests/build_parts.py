"""What tests of building share: sources with recordings, a job's file, and a writer that follows a script."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from earwitness.curriculum.identity import hash64
from earwitness.datamodules.sources.item import Found
from earwitness.datamodules.sources.registry import READERS, read_source
from earwitness.tests.chat_server import Asked
from earwitness.tests.places import SHARED

SAMPLES = SHARED / "data" / "sources"
_WORDS = """
dog bell train river violin hammer kettle crow engine whistle piano thunder clock saw drum frog
barks rings passes flows plays knocks boils calls hums blows repeats rolls ticks cuts beats croaks
yard hall tunnel valley studio workshop kitchen field garage station room sky tower forest street pond
"""
THINGS, DOES, PLACES = (line.split() for line in _WORDS.strip().splitlines())


def tone(path: Path, name: str, seconds: float = 0.4) -> None:
    """A recording of its own for every name."""
    time = np.arange(int(16_000 * seconds)) / 16_000
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * (200 + hash64(name) % 3_000) * time), 16_000)


def sample_sources(root: Path) -> list[dict[str, Any]]:
    """All published samples below `root/annotations` with a recording for each item; their entries in a job."""
    specs = []
    for reader in READERS:
        folder = root / "annotations" / reader
        shutil.copytree(SAMPLES / reader, folder)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        for item in read_source(reader, str(folder), Found()):
            name = next((n for n in item.names if n.rpartition(".")[2] == "wav"), f"{item.names[0]}.wav")
            tone(root / "audio" / reader / name.replace(".mp3", ""), item.id)
        specs.append(
            {"reader": reader, "annotations": str(folder), "audio": reader, "splits": ["train", "val", "test"]}
        )
    return specs


def many_clips(root: Path, count: int) -> list[dict[str, Any]]:
    """A source in Clotho's format with so many clips; every sentence names a thing, what it does, and a place."""
    folder = root / "annotations" / "many"
    folder.mkdir(parents=True)
    names = ["file_name", *(f"caption_{k}" for k in range(1, 6))]
    captions, about = (
        [",".join(names)],
        ["file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license"],
    )
    for number in range(count):
        thing, does, place = (words[hash64(number, k) % 16] for k, words in enumerate((THINGS, DOES, PLACES)))
        said = [f"The {thing} {does} {number} times in the {place}", f"In the {place} a {thing} {does} loudly"]
        captions.append(",".join([f"clip {number}.wav", *said, "", "", ""]))
        about.append(f"clip {number}.wav,a;b,{1000 + number},,,lab,http://creativecommons.org/publicdomain/zero/1.0/")
        tone(root / "audio" / "many" / f"clip {number}.wav", str(number), 0.1)
    (folder / "clotho_captions_development.csv").write_text("\n".join(captions) + "\n")
    (folder / "clotho_metadata_development.csv").write_text("\n".join(about) + "\n")
    return [{"reader": "clotho", "annotations": str(folder), "audio": "many"}]


def two_a_clip(root: Path, count: int) -> list[dict[str, Any]]:
    """A source in the format of AudioCaps: so many clips with two captions each."""
    folder = root / "annotations" / "two"
    folder.mkdir(parents=True)
    rows = ["audiocap_id,youtube_id,start_time,caption"]
    for number in range(2 * count):
        video = f"clip{number // 2:07d}"
        rows.append(f"{number},{video},30,the {THINGS[number % 16]} {DOES[number % 15]} {number} times outside")
        tone(root / "audio" / "two" / f"{video}_30.wav", video, 0.1)
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return [{"reader": "audiocaps", "annotations": str(folder), "audio": "two"}]


def events(root: Path, count: int) -> list[dict[str, Any]]:
    """A source in the format of TACOS: so many clips with one event that occurs twice."""
    folder = root / "annotations" / "events"
    folder.mkdir(parents=True)
    strong, weak = ["filename,text,onset,offset"], ["filename,text"]
    for number in range(count):
        text = f"{THINGS[number % 16]} {number} {DOES[number % 15]}"
        strong += [f"{number}.mp3,{text},{1.5 + number % 3},{4.25}", f"{number}.mp3,{text},20.5,22.0"]
        weak.append(f"{number}.mp3,a {text}")
        tone(root / "audio" / "events" / f"{number}.wav", text, 0.1)
    (folder / "annotations_strong.csv").write_text("\n".join(strong) + "\n")
    (folder / "annotations_weak.csv").write_text("\n".join(weak) + "\n")
    (folder / "metadata.csv").write_text("filename,freesound_id,license\n")
    return [{"reader": "tacos", "annotations": str(folder), "audio": "events"}]


def voices(root: Path, count: int) -> list[dict[str, Any]]:
    """A source in the format of SpeechCraft: so many utterances with labels and a transcript."""
    folder = root / "annotations" / "voices"
    folder.mkdir(parents=True)
    told = {}
    for number in range(count):
        labels = (
            f"age:Adult\tgender:{('male', 'female')[number % 2]}\tpitch:high\temotion:{('sad', 'happy')[number % 2]}"
        )
        told[f"voice_{number}"] = {"labels": labels, "description": f"Voice {number} says {THINGS[number % 16]} twice."}
        tone(root / "audio" / "voices" / f"voice_{number}.wav", str(number), 0.1)
    (folder / "labels.json").write_text(json.dumps(told))
    return [{"reader": "speechcraft", "annotations": str(folder), "audio": "voices"}]


def write_job(root: Path, url: str, sources: list[dict[str, Any]], /, **more: Any) -> Path:
    """The file of a job over the sources; every model is at the one address."""
    model = {"url": url, "model": "scripted", "concurrency": 8, "retries": 6, "timeout_s": 20, "patience_s": 30}
    job = {"out": str(root / "out"), "audio_root": str(root / "audio"), "sources": sources}
    job |= {"writer": model, "grader": {**model, "model": "strict", "temperature": 0.0}} | more
    path = root / "job.yaml"
    path.write_text(json.dumps(job))
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


_LEFT_OUT = ("a", "the", "in", "of", "caption", "captions", "description", "written", "for", "test")


def words_told(text: str) -> list[str]:
    """The words of the first line that is told."""
    told = text.split("told of", 1)[-1].split("All sounds:", 1)[-1]
    line = next(line for line in told.splitlines() if line.startswith("- "))
    return [word for word in re.findall(r"[\w']+", line) if word.casefold() not in _LEFT_OUT]


def question_for(text: str) -> dict[str, Any]:
    """A question that passes every check, from the words of a request."""
    kind = re.search(r"one of: (\w+)", text)[1]
    if kind == "temporal":
        event = re.search(r"ask about: (.+)", text)[1]
        onsets = [float(x) for x in re.findall(rf"- (\d+\.\d)s to \d+\.\d+s: {re.escape(event)}", text)]
        times = re.findall(r"- (\d+\.\d)s to", text)
        other = [x for x in range(3, 40, 2) if all(abs(x + 0.5 - float(t)) > 1 for t in times)][:3]
        wrong = [f"{x + 0.5}s" for x in other]
        return {"question": f"When does this begin: {event}?", "answer": f"{onsets[0]}s", "wrong": wrong, "type": kind}
    words = words_told(text)
    mark = hash64(text) % 10_000
    answer = " ".join(words[:3]) if len(words) > 2 else f"{words[0]} sounding"
    wrong = []
    for number in range(3):
        other = [THINGS[(mark + 5 * number) % 16], DOES[(mark + number) % 16], PLACES[(mark + 3 * number) % 16]]
        wrong.append(" ".join([*other, *["here"] * ((len(answer) - 12) // 5)]))
    asked = f"Which of these belongs to {words[-1]} in scene {mark}?"
    return {"question": asked, "answer": answer, "wrong": wrong, "type": kind}


def reply_to(name: str, text: str) -> dict[str, Any]:
    """What the scripted writer and grader say to a request for `name`; `text` is the user's message."""
    if name == "question":
        return question_for(text)
    if name == "reasoning":
        return {
            "question_reading": "The question asks which sound is present",
            "listening": "listen for what stands out",
            "conclusion": "what stands out fits one option alone",
        }
    if name == "simple":
        return {"analysis": "One sound stands out, and it fits one option alone."}
    if name == "grades":
        return {"reason": "Nothing is wrong.", **graded(text)}
    if name == "distractors":
        words = [words_told(text)[0], "knocks", "slowly"]
        return {"wrong": [f"{word} {' '.join(words[1:])}" for word in ("pan", "cat", "axe")]}
    fields = dict(re.findall(r"^(\w+(?: \d)?): (.*)$", text, re.MULTILINE))  # repair
    kept = {key: re.sub(r"\bthe caption mentions\b", "there is", value) for key, value in fields.items()}
    return {k: v for k, v in kept.items() if " " not in k} | {"wrong": [kept[f"wrong {n}"] for n in (1, 2, 3)]}


def graded(text: str) -> dict[str, int]:
    """Grades of one who checks: an answer not told, options alike, and an answer that is far too long get a 1."""
    told = text.split("Question:", maxsplit=1)[0].casefold()
    answer = re.search(r"^Answer that is called right: (.*)$", text, re.MULTILINE)[1]
    options = re.search(r"Options:\n(.*?)\nAnswer", text, re.DOTALL)[1].casefold().splitlines()
    names = ("answer_consistency", "options_quality", "language", "reasoning", "simple_reasoning")
    grades = dict.fromkeys(names, 5)
    words = re.findall(r"[\w']+", answer.casefold())[:3]
    if not all(word in told for word in words):
        grades["answer_consistency"] = 1
    bare = [option.strip("- .") for option in options]
    if len(set(bare)) < 4 or len(answer) > 2 * sorted(map(len, bare))[-2]:
        grades["options_quality"] = 2
    return grades


Change = Callable[[str, str, dict[str, Any]], dict[str, Any]]


def writer(change: Change | None = None) -> Callable[[Asked], Any]:
    """What a server says: the scripted reply, changed by (name, user's text, reply); "A" where text is asked for."""

    def say(asked: Asked) -> Any:
        text = asked.body["messages"][-1]["content"]
        form = asked.body.get("response_format")
        if form is None:
            return "A"
        name = form["json_schema"]["name"]
        reply = reply_to(name, text)
        if set(form["json_schema"]["schema"]["required"]) > set(reply):  # all texts in one answer
            reply |= reply_to("reasoning", text) | reply_to("simple", text)
        return json.dumps(change(name, text, reply) if change else reply)

    return say
