"""A lab's own layout, prompt style and judging rule, named by import path, along the way that a run takes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from earwitness.datamodules.questions.answers import judge
from earwitness.datamodules.questions.prompts import prompt_text
from earwitness.datamodules.shards.packing import shard
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.voting.answer_store import AnswerId
from earwitness.datamodules.voting.tasks import PromptingSpec, Reply, Task, VoterTasks
from earwitness.errors import InputError
from earwitness.tests import lab_plugins
from earwitness.tests.datamodules.test_datamodule import CHOICES, build, module

LAB = "earwitness.tests.lab_plugins."
RECORDS = [{"name": str(n), "file": "0.wav", "text": f"{n}?", "right": "rain", "wrong": ["wind"]} for n in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four training questions and one for validation, on five recordings."""
    return build(tmp_path_factory.mktemp("plugins") / "corpus", [0, 1, 2, 3, 4], ["train"] * 4 + ["val"])


def annotated(folder, tmp_path, records) -> str:
    (tmp_path / "lab.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "0.wav").write_bytes((folder / "0.wav").read_bytes())
    return str(tmp_path / "lab.jsonl")


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_are_packed_from_records_of_a_layout_of_ones_own(folder, tmp_path, workers):
    counts = shard(
        annotated(folder, tmp_path, RECORDS), str(tmp_path / "out"), fields={"layout": LAB + "layout"}, workers=workers
    )
    reader = ShardReader(tmp_path / "out" / "index.arrow")
    questions = [reader.question(row) for row in range(len(reader))]
    assert counts["questions"] == 3 and [question.key for question in questions] == ["lab/0", "lab/1", "lab/2"]
    assert {(question.choices, question.answer) for question in questions} == {(("rain", "wind"), "rain")}


def test_what_a_layout_stumbles_over_is_a_fault_of_that_record(folder, tmp_path):
    records = [RECORDS[0], {"name": "1"}, RECORDS[2]]
    path = annotated(folder, tmp_path, records)
    (line,) = [n for n, text in enumerate(Path(lab_plugins.__file__).read_text().splitlines(), 1) if '["file"]' in text]
    told = f"raised KeyError: 'file' in {lab_plugins.__file__}, line {line}"
    says = f"{path}:2: layout '{LAB}layout' cannot read the record ({told})"
    with pytest.raises(InputError) as stopped:
        shard(path, str(tmp_path / "out"), fields={"layout": LAB + "layout"})
    assert str(stopped.value) == says
    counts = shard(path, str(tmp_path / "out"), fields={"layout": LAB + "layout"}, on_bad="quarantine")
    assert counts["questions"] == 2 and counts["left_out"] == 1
    assert json.loads((tmp_path / "out" / "packing.quarantine.jsonl").read_text())["reason"] == says


def test_voters_are_asked_in_a_style_and_judged_by_a_rule_of_ones_own(folder):
    reader = ShardReader(folder / "index.arrow")
    voter_tasks = VoterTasks(reader, PromptingSpec(LAB + "style", LAB + "rule"))
    row = reader.row_of("s/00")
    ask = voter_tasks.ask(Task(AnswerId(reader.uid(row), "silence:1"), row))
    assert ask.text == f"LAB Question 0? {' | '.join(CHOICES)}"
    backwards = CHOICES[0][::-1]
    for said, right in ((backwards, True), (CHOICES[0], False)):
        record = voter_tasks.record(ask, Reply(ask.task, said))
        assert record["correct"] is right and record["raw"] == said
        json.dumps(record)


def test_letters_can_be_scored_where_a_style_says_that_it_shows_them(folder):
    reader = ShardReader(folder / "index.arrow")
    voter_tasks = VoterTasks(reader, PromptingSpec(LAB + "lettered", scoring="letters"))
    row = reader.row_of("s/00")
    ask = voter_tasks.ask(Task(AnswerId(reader.uid(row), "none"), row))
    record = voter_tasks.record(ask, Reply(ask.task, letters={"A": -0.1, "B": -3.0}))
    assert ask.text.startswith("Question 0?\nA) ") and record["correct"] is True
    assert PromptingSpec("letters", LAB + "rule").rule == LAB + "rule", "a rule of the lab's may understand letters"
    with pytest.raises(InputError, match="needs a style that shows letters"):
        PromptingSpec(LAB + "style", scoring="letters")
    with pytest.raises(InputError, match="score by letters"):
        PromptingSpec(LAB + "lettered", scoring="options")


def test_a_batch_is_prompted_in_a_style_of_ones_own(folder):
    stage = {"name": "first", "algorithm": "sft", "batch_size": 4, "budget": {"epochs": 1}}
    data = module(folder, curriculum={"seed": 3, "cells": ["split"], "stages": [stage]})
    request = data.training_data.request(0)
    batch = data.builder.batch(replace(request, style=LAB + "style"))
    for ids, mask, sample in zip(batch.prompts.suffix_ids, batch.prompts.suffix_mask, batch.samples, strict=True):
        text = data.processor.tokenizer.decode(ids[mask.bool()])
        assert text.startswith(f"LAB {sample.question.question} {' | '.join(sample.choices)}"), text
        assert sample.style == LAB + "style"
    with pytest.raises(InputError, match="style: '.*no_text' must return the text of a prompt, got None"):
        data.builder.batch(replace(request, style=LAB + "no_text"))


@pytest.mark.parametrize(
    ("manner", "says"),
    [
        ({"style": "papr"}, "style: unknown name 'papr'; did you mean 'paper'? (or give an import path)"),
        ({"rule": "leter"}, "rule: unknown name 'leter'; did you mean 'letter'? (or give an import path)"),
        ({"style": LAB + "mine"}, f"style: cannot import '{LAB}mine' ("),
        ({"rule": "no_such_lab.rules.mine"}, "rule: cannot import 'no_such_lab.rules.mine' (No module named"),
        ({"style": LAB + "not_a_function"}, f"style: '{LAB}not_a_function' is not a function"),
        ({"style": LAB + "one_argument"}, f"style: '{LAB}one_argument' must take the arguments (question, choices): "),
        ({"rule": LAB + "style"}, f"rule: '{LAB}style' must take the arguments (completion, answer, choices): "),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_asked(manner, says):
    with pytest.raises(InputError) as refused:
        PromptingSpec(**manner)
    assert str(refused.value).startswith(says) and "\n" not in str(refused.value)


def test_what_a_style_and_a_rule_return_is_checked():
    with pytest.raises(InputError, match="must return the text of a prompt, got None"):
        prompt_text(LAB + "no_text", "Q?", ["a", "b"])
    with pytest.raises(InputError, match="must return True, False or None, got 0.5"):
        judge(LAB + "half_right", "a", "a", ["a", "b"])
