"""A card that cannot be read is replaced by one nobody misses: of its cell, of no other stage, with another sound."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from earwitness.curriculum.online.cursor import Cursor, fork
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.plan.stand_ins import stand_ins
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import Categorical, Table
from earwitness.tests.curriculum.online.test_cursor import adaptive, static, table_of, turns

AXES = ["label", "source"]
TABLES = [table_of(90, seed) for seed in range(4)]


def plan_of(table: Table, *stages: dict, used: np.ndarray | None = None, origin=None, **top) -> Plan:
    return Plan(parse_curriculum({"seed": 7, "cells": AXES, "stages": list(stages), **top}), table, used, origin)


def rows_of(plan: Plan, stage: str) -> np.ndarray:
    """What a static stage deals, in the order of its presentation."""
    return plan.rows(stage, np.arange(plan.stage_plan(stage).rows))


def check(plan: Plan, stage: str, taken: dict[str, np.ndarray]) -> tuple[int, int]:
    """Holds for every row of the stage; returns how many stand-ins were of no stage, and how many of its own.

    taken: rows that each stage deals, or may deal.
    """
    table, disjoint = plan.table, "clip" in plan.curriculum.disjoint
    clip, own = table.identity("clip"), set(taken[stage].tolist())
    others = {row for name, rows in taken.items() if name != stage for row in rows.tolist()}
    used = set() if plan.used is None else set(np.flatnonzero(plan.used).tolist())
    their_clips = {int(clip[row]) for row in others | used} if disjoint else set()
    fresh = repeated = 0
    for row in taken[stage].tolist():
        found = list(stand_ins(plan, stage, row))
        cell = np.flatnonzero(plan.cell_of_row == plan.cell_of_row[row]).tolist()
        allowed = {r for r in cell if r not in others | used and int(clip[r]) not in their_clips | {int(clip[row])}}
        assert len(found) == len(set(found)) and set(found) == allowed, "each that may stand in, once"
        first = found[: len(allowed - own)]
        assert not own & set(first), "its own come again only where nothing else is left"
        fresh, repeated = fresh + len(first), repeated + len(found) - len(first)
    return fresh, repeated


@pytest.mark.parametrize("table", TABLES)
def test_cards_that_no_stage_deals_stand_in_first_then_the_stages_own(table):
    plan = plan_of(table, static("a"), static("b", budget={"samples": 20}))
    taken = {name: rows_of(plan, name) for name in ("a", "b")}
    for stage in taken:
        fresh, repeated = check(plan, stage, taken)
        assert fresh > 100 and repeated > 10


@pytest.mark.parametrize("table", TABLES)
def test_no_recording_of_another_stage_is_heard_through_a_stand_in(table):
    """With `disjoint: [clip]`; without it the same stand-ins do share recordings, so the rule is not idle."""
    stages = static("a"), static("b", budget={"samples": 20}), static("c", budget={"samples": 9})
    plan = plan_of(table, *stages, disjoint=["uid", "clip"])
    taken = {name: rows_of(plan, name) for name in "abc"}
    assert sum(check(plan, stage, taken)[0] for stage in taken) > 100
    clip = table.identity("clip")
    loose = plan_of(table, *stages)
    shared = [
        card
        for row in rows_of(loose, "a").tolist()
        for card in stand_ins(loose, "a", row)
        if clip[card] in clip[np.concatenate([rows_of(loose, "b"), rows_of(loose, "c")])]
    ]
    assert shared


@pytest.mark.parametrize("on_short", ["repeat", "stop"])
def test_a_stage_that_deals_everything_lends_its_own_cards(on_short):
    """90 rows in three passes, or repeated to 200: nobody's cards are left."""
    budget = {"samples": 200} if on_short == "repeat" else {"samples": 200, "epochs": 3}
    plan = plan_of(TABLES[0], static("a", budget=budget, on_short=on_short))
    assert plan.stage_plan("a").rows == 90
    fresh, repeated = check(plan, "a", {"a": rows_of(plan, "a")})
    assert fresh == 0 and repeated > 500


def may_deal(plan: Plan, stage: str) -> np.ndarray:
    """The top of each deck, as many cards as the whole budget."""
    dealt = plan.stage_plan(stage)
    rows = [dealt.deck[f : f + min(n, dealt.rows)] for f, n in zip(dealt.first, dealt.left, strict=True)]
    return np.concatenate(rows).astype(np.int64)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("disjoint", [["uid"], ["uid", "clip"]])
def test_what_an_adaptive_stage_may_still_deal_is_left_to_it(table, disjoint):
    """Its budget is two steps of one row: below the top two of each deck, cards are free for both stages."""
    follows = adaptive("g", batch_size=1, budget={"steps": 2}, window=1)
    plan = plan_of(table, static("a"), follows, disjoint=disjoint)
    taken = {"a": rows_of(plan, "a"), "g": may_deal(plan, "g")}
    for stage in taken:
        assert check(plan, stage, taken)[0] > 10


@pytest.mark.parametrize("table", TABLES)
def test_an_adaptive_stage_has_the_same_stand_ins_whatever_it_has_planned(table):
    """They must be the same after a restart, when windows behind the bad card are planned already or not yet."""
    plan = plan_of(table, static("a"), adaptive("g"))
    rows = may_deal(plan, "g").tolist()
    before = [list(stand_ins(plan, "g", row)) for row in rows]
    cursor = Cursor(plan, "g")
    for _ in range(9):
        cursor.observe(np.full((8, len(plan.cells)), 0.5))
        cursor.trained()
        assert [list(stand_ins(plan, "g", row)) for row in rows] == before
    assert plan.stage_plan("g").planned == 5
    check(plan, "g", {"a": rows_of(plan, "a"), "g": np.array(rows)})
    dealt = plan.rows("g", np.arange(27))
    assert not set(dealt.tolist()) & {card for row in rows_of(plan, "a") for card in stand_ins(plan, "a", int(row))}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("disjoint", [["uid"], ["uid", "clip"]])
def test_stages_that_take_turns_lend_each_other_nothing(table, disjoint):
    plan = plan_of(table, static("a", budget={"samples": 6}), turns(), disjoint=disjoint)
    taken = {name: rows_of(plan, name) for name in ("a", "x", "y")}
    for stage in taken:
        assert check(plan, stage, taken)[0] > 10


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("disjoint", [["uid"], ["uid", "clip"]])
def test_after_a_fork_no_row_of_the_run_before_stands_in(table, disjoint):
    before = plan_of(table, static("a"), static("b", budget={"samples": 20}))
    cursor = Cursor(before, "b")
    cursor.trained(3)
    used = fork(cursor.state(), table)
    assert used.sum() == 14 + 12
    plan = plan_of(table, static("z", budget={"samples": 10}), used=used, origin=cursor.state(), disjoint=disjoint)
    assert check(plan, "z", {"z": rows_of(plan, "z")})[0] > 10


def test_stand_ins_do_not_depend_on_the_order_of_the_table():
    table = TABLES[1]
    order = np.random.default_rng(3).permutation(len(table))
    one, two = (plan_of(t, static("a"), adaptive("g")) for t in (table, table.take(order)))
    place = {int(row): new for new, row in enumerate(order)}
    for row in rows_of(one, "a").tolist():
        first = [int(one.table.uid[card]) for card in stand_ins(one, "a", row)]
        assert first == [int(two.table.uid[card]) for card in stand_ins(two, "a", place[row])]


def test_rows_of_one_cell_do_not_all_have_the_same_stand_in():
    plan = plan_of(TABLES[0], static("a", budget={"samples": 30}))
    first = [next(stand_ins(plan, "a", int(row))) for row in rows_of(plan, "a")]
    assert len(set(first)) > 15


def test_without_recordings_in_the_table_only_the_row_itself_is_left_out():
    table = Table(TABLES[0].uid, {name: c for name, c in TABLES[0].columns.items() if name != "clip"})
    plan = plan_of(table, static("a"))
    for row in rows_of(plan, "a").tolist():
        cell = set(np.flatnonzero(plan.cell_of_row == plan.cell_of_row[row]).tolist())
        assert set(stand_ins(plan, "a", row)) == cell - {row}


def test_the_first_stand_ins_of_a_small_plan_never_change():
    """The rows dealt first, and who would stand in for them, as they were on the day this was written."""
    plan = plan_of(TABLES[2], static("a"), static("b"))
    found = {row: list(islice(stand_ins(plan, "a", row), 3)) for row in rows_of(plan, "a")[:4].tolist()}
    assert found == {16: [89, 60, 81], 48: [51, 19, 27], 22: [58, 53, 20], 82: [86, 61, 3]}


def test_recordings_that_are_named_by_texts_do_not_stand_in_for_themselves():
    """An index numbers its recordings; a table of one's own may name them."""
    table = TABLES[0]
    numbers = table.identity("clip")
    names, codes = np.unique(numbers, return_inverse=True)
    named = Table(table.uid, table.columns | {"clip": Categorical(codes.astype(np.int32), tuple(map(str, names)))})
    one, two = (plan_of(each, static("a"), static("b", budget={"samples": 20})) for each in (table, named))
    for row in rows_of(one, "a").tolist():
        assert list(stand_ins(two, "a", row)) == list(stand_ins(one, "a", row))
