"""Writes `questions.json`, a benchmark in a form of its own, from the corpus's questions that are for testing."""

import json
from pathlib import Path

if __name__ == "__main__":
    lines = [json.loads(line) for line in Path("corpus/questions.jsonl").read_text().splitlines()]
    asked = [
        {
            "nr": number,
            "clip": line["audio_path"],
            "ask": line["question"],
            "options": dict(zip("abcd", line["choices"], strict=False)),
            "right": "abcd"[line["choices"].index(line["answer"])],
            "about": line["question_type"],
        }
        for number, line in enumerate(line for line in lines if line["split"] == "test")
    ]
    Path("questions.json").write_text(json.dumps(asked, indent=1))
    print(f"{len(asked)} questions")
