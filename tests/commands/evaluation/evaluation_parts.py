"""Benchmark files made of a small corpus, a model that answers in many forms, and published scorers reading files."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from earwitness.curriculum.identity import hash64
from earwitness.tests.chat_server import Asked

FORMS, COUNT = 12, 36  # of answers; questions of every file


def write_benchmarks(annotations: str) -> dict[str, str]:
    """MMAU, MMAR, MMSU and DCASE 2026 files with the questions of a corpus, beside it; name -> path."""
    root = Path(annotations).parent
    rows = [json.loads(line) for line in Path(annotations).read_text().splitlines()][:COUNT]
    forms: dict[str, list[dict[str, Any]]] = {"mmau": [], "mmar": [], "mmsu": [], "dcase2026": []}
    for n, row in enumerate(rows):
        asked = {"id": row["id"], "question": row["question"]}
        options, answer, path = row["choices"], row["answer"], row["audio_path"]
        if n % 2:  # of several words, whose order can be turned round
            options = [f"a loud {option}" for option in options]
            answer = f"a loud {answer}"
        mmau = asked | {"audio_id": f"./{path}", "choices": options, "answer": answer, "difficulty": "easy"}
        mmau |= {
            "task": ("sound", "music", "speech")[n % 3],
            "sub-category": row["question_type"],
            "split": "test-mini",
        }
        forms["mmau"].append(mmau | {"category": ["Reasoning"] if n % 7 == 0 else "Reasoning", "dataset": "d"})
        mmar = asked | {"audio_path": f"./{path}", "choices": [*options, ""] if n == 3 else options, "answer": answer}
        mmar |= {"modality": ("sound", "mix-sound-music")[n % 2], "category": "Signal Layer", "language": "en"}
        forms["mmar"].append(mmar | {"sub-category": row["question_type"], "source": "web"})
        letters = {f"choice_{letter}": option for letter, option in zip("abcd", [*options, "", ""], strict=False)}
        mmsu = asked | letters | {"audio_path": path, "answer_gt": answer, "task_name": row["question_type"]}
        forms["mmsu"].append(mmsu | {"category": "Perception", "sub-category": "x", "sub-sub-category": "y"})
        dcase = {"id": row["id"], "audio_path": path, "question_text": row["question"], "answer": answer}
        forms["dcase2026"].append(dcase | {"multi_choice": options})
    paths = {}
    for name, records in forms.items():
        lines = name in ("mmar", "mmsu", "dcase2026")
        paths[name] = str(root / f"{name}.{'jsonl' if lines else 'json'}")
        text = "".join(json.dumps(record) + "\n" for record in records) if lines else json.dumps(records)
        Path(paths[name]).write_text(text)
    return paths


def options_of(text: str) -> list[str]:
    """The options that a prompt shows, in its order."""
    if listed := re.search(r"following options: (\[.*\])\.", text):
        return list(ast.literal_eval(listed[1]))
    return re.findall(r"^[A-Z]\. (.*)$", text, re.MULTILINE)


def said(asked: Asked) -> str | dict[str, Any]:
    """An answer that depends on the words and on what is heard: tagged, bare, re-ordered, by letter, cut, empty, ..."""
    sound = asked.wave
    drawn = hash64(asked.text, "" if sound is None else sound.tobytes().hex())
    options = options_of(asked.text)
    option = options[drawn // FORMS % len(options)]
    letter = "ABCDEFGHIJ"[options.index(option)]
    forms: list[str | dict[str, Any]] = [
        f"<answer>{option}</answer>",
        f"<think>It is {options[0]}?</think>\n<answer>{option.upper()}</answer>",
        option,
        " ".join(reversed(option.split())),
        f"The answer is {letter}.",
        letter,
        f"Because of {options[0]} and {options[1]}",
        "None",
        "",
        " ".join(reversed(option.split())),
        {"message": {"content": f"<think>{option}"}, "finish_reason": "length"},
        f"<answer>{' '.join(reversed(option.split()))}</answer>",
    ]
    return forms[drawn % FORMS]


def scored_by_words(path: Path, key: str) -> tuple[int, int]:
    """The published script of MMAU and MMAR on a file: right ones, and how many records it counts."""
    records = json.loads(path.read_text()) if path.suffix == ".json" else list(map(json.loads, path.open()))
    right = counted = 0
    for record in records:
        if key not in record:
            continue
        counted += 1
        words = set(re.findall(r"\b\w+\b", record[key].lower()))
        wanted = set(re.findall(r"\b\w+\b", record["answer"].lower()))
        others = [set(re.findall(r"\b\w+\b", choice.lower())) for choice in record["choices"]]
        only_wrong = {word for one in others if one != wanted for word in one - wanted}
        right += bool(words) and wanted <= words and not words & only_wrong
    return right, counted


def scored_by_letter(path: Path) -> tuple[int, int]:
    """The published script of MMSU on a file, with the letter that it carries over where a response is empty."""
    right = counted = 0
    carried = ""
    for record in map(json.loads, path.open()):
        response = record["response"].strip().replace("\n", "")
        if response not in ("", "None"):
            if response[0] in "ABCD":
                carried = response[0]
            elif len(response) > 1 and response[-2] in "ABCD":
                carried = response[-2]
            else:
                continue
        assert carried, "the script would stop here"
        counted += 1
        right += record.get(f"choice_{carried.lower()}") == record["answer_gt"]
    return right, counted


def found(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One benchmark of a results.json."""
    return next(dict(one) for one in results["benchmarks"] if one["name"] == name)
