"""Reshuffled options are balanced: over as many passes as there are options, the answer stands at every place once."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from earwitness.curriculum.identity import permutation
from earwitness.datamodules.module import AudioQuestions
from earwitness.tests.datamodules.test_datamodule import CHOICES, build, module

OPTIONS = 24 * [2] + 24 * [3] + 24 * [4] + 8 * [5]  # of each question
WORDS = [*CHOICES, "a train"]
CLIPS = [n % 8 for n in range(len(OPTIONS))]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Eighty questions of two to five options; the answer of question n is option n modulo their number."""
    texts = {"choices": lambda n: WORDS[: OPTIONS[n]], "answer": lambda n: WORDS[n % OPTIONS[n]]}
    return build(tmp_path_factory.mktemp("orders"), CLIPS, ["train"] * len(CLIPS), per_shard=40, **texts)


def data_of(corpus: Path, budget: dict, batch_size: int = 16, name: str = "first", **more) -> AudioQuestions:
    stage = {"name": name, "algorithm": "sft", "batch_size": batch_size, "budget": budget}
    stage |= {key: more.pop(key) for key in ("on_short", "pool") if key in more}
    curriculum = {"seed": 3, "cells": ["question_type"], "stages": [stage]}
    return module(corpus, stage=name, curriculum=curriculum, conditions=["silence:0.2"], **more)


def shown(data: AudioQuestions) -> dict[str, list[tuple[int, tuple[str, ...]]]]:
    """Question -> (pass, options as shown) of each of its presentations, in the order of training."""
    found = defaultdict(list)
    for batch in data.train_dataloader():
        for sample, number in zip(batch.samples, batch.passes, strict=True):
            if sample.weight:
                found[sample.question.key].append((number, sample.choices))
    return found


def place(key: str, choices: tuple[str, ...]) -> int:
    n = int(key.partition("/")[2])
    return choices.index(WORDS[n % OPTIONS[n]])


def test_the_first_pass_is_a_plain_permutation_by_identity_seed_and_stage(corpus):
    data = data_of(corpus, {"epochs": 1}, shuffle_options=True, seed=7)
    for batch in data.train_dataloader():
        for sample in batch.samples:
            written = sample.question.choices
            order = permutation(len(written), sample.question.uid, 7, "first", 0)
            assert sample.choices == tuple(written[i] for i in order)


def test_every_round_has_the_answer_at_every_place_once_for_any_number_of_options(corpus):
    """Twelve passes are six rounds of two options, four of three, three of four, and two of five with two over."""
    orders = shown(data_of(corpus, {"epochs": 12}, 80, shuffle_options=True))
    assert len(orders) == 80
    for key, passes in orders.items():
        size = OPTIONS[int(key.partition("/")[2])]
        assert [number for number, _ in passes] == list(range(12))
        assert all(sorted(choices) == sorted(WORDS[:size]) for _, choices in passes)
        for start in range(0, 12 - size + 1, size):
            block = [choices for _, choices in passes[start : start + size]]
            for word in WORDS[:size]:  # not the answer alone: no option can be told by its place
                assert sorted(choices.index(word) for choices in block) == list(range(size))
            assert [choices[1:] + choices[:1] for choices in block[:-1]] == block[1:], "turned by one place"


def test_rounds_have_orders_of_their_own(corpus):
    """Up to turning, four options have 3! = 6 orders: equal in two rounds for a sixth of the questions."""
    orders = shown(data_of(corpus, {"epochs": 8}, 80, shuffle_options=True))
    four = {key: passes for key, passes in orders.items() if OPTIONS[int(key.partition("/")[2])] == 4}
    same = sum({c for _, c in passes[:4]} == {c for _, c in passes[4:]} for passes in four.values())
    assert len(four) == 24 and same <= 12
    starts = Counter((place(key, passes[0][1]), place(key, passes[4][1])) for key, passes in four.items())
    assert len(starts) >= 8, "where a round begins does not tell where the next one does"


def test_four_epochs_are_one_line_and_show_each_question_four_times_with_its_answer_everywhere(corpus):
    """96 presentations in batches of 20, which cross from pass to pass."""
    budget, pool = {"epochs": 4}, {"num_choices": {"min": 4, "max": 4}}
    data = data_of(corpus, budget, 20, pool=pool, shuffle_options=True)
    assert data.num_steps == 5
    orders = shown(data)
    assert len(orders) == 24
    for key, passes in orders.items():
        assert [number for number, _ in passes] == [0, 1, 2, 3]
        assert sorted(place(key, choices) for _, choices in passes) == [0, 1, 2, 3]


def test_a_pool_that_is_repeated_to_fill_its_budget_counts_its_passes_and_stays_balanced(corpus):
    """200 of 80: twice all, and half of them a third time."""
    orders = shown(data_of(corpus, {"samples": 200}, 16, on_short="repeat", shuffle_options=True))
    assert Counter(len(passes) for passes in orders.values()) == {2: 40, 3: 40}
    for key, passes in orders.items():
        assert [number for number, _ in passes] == list(range(len(passes)))
        size = OPTIONS[int(key.partition("/")[2])]
        places = [place(key, choices) for _, choices in passes]
        assert len(set(places[:size])) == min(size, len(places))


def test_orders_differ_between_stages_and_seeds_and_are_the_same_on_any_number_of_ranks(corpus):
    def first(**more) -> dict:
        orders = shown(data_of(corpus, {"epochs": 5}, shuffle_options=True, **more))
        return {key: dict(passes) for key, passes in orders.items()}

    one = first()
    assert one != first(name="other") and one != first(seed=1)
    parts = [first(rank=rank, world=2) for rank in range(2)]
    joined = {key: parts[0].get(key, {}) | parts[1].get(key, {}) for key in one}
    assert joined == one and not any(parts[0].get(key, {}).keys() & parts[1].get(key, {}) for key in one)


def test_without_shuffling_the_options_stay_as_written(corpus):
    for key, passes in shown(data_of(corpus, {"epochs": 2}, 80)).items():
        assert [choices for _, choices in passes] == 2 * [tuple(WORDS[: OPTIONS[int(key.partition("/")[2])]])]
