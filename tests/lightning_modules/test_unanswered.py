"""Questions without answers can be packed, indexed and asked; what needs an answer refuses them in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from earwitness.curriculum.contribution.accuracy import read_answers
from earwitness.curriculum.table import read_arrow
from earwitness.datamodules.batches.requests import EvaluationSpec, TrainingSpec
from earwitness.datamodules.module import AudioQuestions
from earwitness.datamodules.shards.packing import shard
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.voting.tasks import PromptingSpec, VoterTasks
from earwitness.errors import InputError
from earwitness.lightning_modules.callbacks.outputs import AnswerTable
from earwitness.lightning_modules.sft import SFT
from earwitness.tests.lightning_modules.test_training import SGD, policy_of
from earwitness.tests.trainers import trainer_of

STAGE = {"name": "sft", "algorithm": "sft", "batch_size": 2, "budget": {"steps": 1}}
CURRICULUM = {"seed": 0, "cells": ["split"], "stages": [STAGE]}


@pytest.fixture(scope="module")
def index(small, tmp_path_factory) -> str:
    """Six questions of the small corpus, four of which lost their answers on the way."""
    folder = tmp_path_factory.mktemp("unanswered")
    lines = [json.loads(line) for line in Path(small.annotations).read_text().splitlines()[:6]]
    root = str(small.root / "corpus")
    for part, records in (("a", lines[:4]), ("b", lines[4:])):
        for record in records:
            record["split"] = "train" if part == "b" else "test"
            if part == "a":
                del record["answer"]
        path = folder / f"{part}.jsonl"
        path.write_text("\n".join(map(json.dumps, records)))
        counts = shard(str(path), str(folder / part), root, fields={"answer": "none" if part == "a" else "text"})
        assert counts["questions"] == len(records)
    (folder / "both").mkdir()
    for part in "ab":
        (folder / part / "shard-000000.tar").rename(folder / "both" / f"{part}.tar")
    from earwitness.datamodules.shards.index import build_index

    assert build_index(str(folder / "both"))["questions"] == 6
    return str(folder / "both" / "index.arrow")


def test_the_index_says_which_have_none_and_the_reader_gives_them(index):
    reader = ShardReader(index)
    assert read_arrow(index).column("unanswered").to_pylist() == reader.unanswered.tolist()
    assert [reader.question(row).answer == "" for row in range(6)] == reader.unanswered.tolist()
    assert reader.unanswered.sum() == 4


def test_they_are_neither_trained_on_nor_voted_on(small, index):
    says = r"index\.arrow: 4 of 6 questions have no answer, .* the first: they can be asked, not "
    data = AudioQuestions(index, small.tiny, training=TrainingSpec(CURRICULUM, "sft", {}))
    with pytest.raises(InputError, match=f"{says}trained on; give a pool of questions that have one$"):
        data.setup("fit")
    reader = ShardReader(index)
    tasks = VoterTasks(reader, PromptingSpec(rotations=1))
    with pytest.raises(InputError, match=f"{says}voted on; "):
        tasks.tasks(range(6), ["audio"])
    answered = [row for row in range(6) if not reader.unanswered[row]]
    assert len(tasks.tasks(answered, ["audio"])) == 2
    data = AudioQuestions(index, small.tiny, training=TrainingSpec(CURRICULUM, "sft"))
    data.setup("fit")
    assert sorted(data.training_data.rows.tolist()) == answered


def test_they_are_answered_and_scoring_says_that_there_is_no_answer(small, index, tmp_path):
    module, data = (
        SFT(policy_of(small), SGD, max_new_tokens=4),
        AudioQuestions(index, small.tiny, evaluation=EvaluationSpec()),
    )
    trainer = trainer_of(tmp_path, 1)
    trainer.callbacks.append(AnswerTable(str(tmp_path / "answers.arrow")))
    trainer.predict(module, data, return_predictions=False)
    table = read_arrow(tmp_path / "answers.arrow")
    reader = ShardReader(index)
    expected = {reader.uid(row): bool(reader.unanswered[row]) for row in range(6)}
    judged = dict(zip(table.column("uid").to_pylist(), table.column("correct").to_pylist(), strict=True))
    assert {uid: value is None for uid, value in judged.items()} == expected
    assert pa.types.is_string(table.column("raw").type)
    with pytest.raises(InputError, match=r"4 answers were not judged; .* give questions that have an answer$"):
        read_answers(tmp_path / "answers.arrow")
    with pytest.raises(InputError, match=r" has no answer to judge by; `predict` writes down what is said to it$"):
        trainer_of(tmp_path, 1).test(module, AudioQuestions(index, small.tiny, evaluation=EvaluationSpec()))
