"""The laws of a plan: exact budgets, nothing twice, the same rows whatever the file, the world size or the process."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from earwitness.curriculum.identity import hash64, keyed, splitmix64
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.schedule.allocation import round_block, water_fill
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import Categorical, Table
from earwitness.errors import InputError

LAW = settings(deadline=None, max_examples=60)
LABELS = ("weak", "strong", "mixed")


def table_of(counts, seed=0, names=LABELS):
    """`counts[i]` rows labelled names[i], a last surplus count without a label, in a random order of rows."""
    codes = np.repeat([*range(len(names)), -1][: len(counts)], counts)
    order = np.random.default_rng(seed).permutation(len(codes))
    uid = splitmix64(np.arange(len(codes), dtype=np.uint64))
    return Table(uid, {"label": Categorical(codes.astype(np.int32), tuple(names))}).take(order)


def spec(*stages, **top):
    """A curriculum mapping; each stage gets a name, an objective and a batch size where it has none."""
    filled = [{"name": f"s{i}", "algorithm": "sft", "batch_size": 4, **stage} for i, stage in enumerate(stages)]
    return {"stages": filled, **top}


def deal_matrix(blocks, left, mass=None):
    """Cards of every block: the allocation of a stage whose weight is a plain mass, or the mix of what is left."""
    left, debt, matrix = left.copy(), np.zeros(len(left)), np.zeros((len(blocks), len(left)), int)
    for k, cards in enumerate(blocks):
        amount = left.astype(float) if mass is None else mass
        open_ = (amount > 0) & (left > 0)
        target = np.where(open_, debt + water_fill(float(cards), amount, left), 0.0)
        matrix[k] = round_block(target, open_, left, int(cards))
        debt, left = target - matrix[k], left - matrix[k]
    return matrix


def plan_of(table, *stages, **top):
    return Plan(parse_curriculum(spec(*stages, **top)), table)


def dealt_rows(plan, stage):
    return plan.rows(stage, np.arange(plan.stage_plan(stage).rows))


def uids(plan, stage):
    return plan.table.uid[dealt_rows(plan, stage)].tolist()


def table_names(table):
    return table.text("label").names


tables = st.builds(
    table_of, st.lists(st.integers(0, 40), min_size=4, max_size=4).filter(lambda c: sum(c[:3])), st.integers(0, 99)
)


@st.composite
def plans(draw):
    """Up to three stages that the table can supply, with every kind of pool, shares, block and batch size."""
    table, stages, seed = draw(tables), [], draw(st.integers(0, 9))
    text = table.text("label")
    left = {name: int((text.codes == code).sum()) for code, name in enumerate(LABELS)}
    for _ in range(draw(st.integers(1, 3))):
        pool = draw(st.sampled_from([{}, {"label": ["weak"]}, {"label": ["strong", "mixed"]}]))
        shares = draw(st.sampled_from([None, {"weak": 3.0, "strong": 1.0, "mixed": 1.0}, {"weak": 0.3, "mixed": 0.7}]))
        if shares and not set(shares) <= set(table_names(table)):
            shares = None
        wanted = pool.get("label", LABELS)
        room = sum(left[name] for name in LABELS if name in wanted and (shares is None or name in shares))
        if not room:
            continue
        stage = {"pool": pool, "block": draw(st.integers(1, 50)), "mix": draw(st.sampled_from(["spread", "shuffle"]))}
        stage |= {"weight": {"shares": shares}} if shares else {}
        stage["batch_size"] = draw(st.integers(1, 9))
        stage["budget"] = {"samples": draw(st.integers(1, room)), "epochs": draw(st.integers(1, 2))}
        stages.append(stage)
        plan = plan_of(table, *stages, seed=seed)
        for name, count in plan.composition(f"s{len(stages) - 1}", "label").items():
            left[name] -= count
    assume(stages)
    return plan


@LAW
@given(plans())
def test_budgets_are_exact_and_nothing_is_dealt_twice(plan):
    """Within a stage and between stages; every row is of the stage's pool, none is unlabelled or has share 0."""
    everything = []
    for name, dealt in plan.stages.items():
        rows, stage = dealt_rows(plan, name), dealt.stage
        assert len(rows) == dealt.rows == stage.budget.samples
        text = plan.table.text("label")
        parts = stage.weight.modifiers
        wanted = {name for name in stage.pool.get("label", LABELS) if not parts or name in parts[0].paces}
        assert {LABELS[code] if code >= 0 else "" for code in text.codes[rows].tolist()} <= wanted
        everything += plan.table.uid[rows].tolist()
    assert len(set(everything)) == len(everything)


@LAW
@given(plans())
def test_every_block_holds_what_its_line_of_the_matrix_says(plan):
    """Line sums are the block length, the last one the rest; the rows of a block have the line's cells."""
    labels = plan.cells.values("label").tolist()
    for name, dealt in plan.stages.items():
        rows, block = dealt_rows(plan, name), dealt.stage.block
        for start, line in zip(range(0, len(rows), block), dealt.matrix, strict=True):
            part = rows[start : start + block]
            assert line.sum() == len(part)
            found = [LABELS[code] for code in plan.table.text("label").codes[part].tolist()]
            assert [found.count(label) for label in labels] == line.tolist()


@LAW
@given(tables, st.integers(1, 50))
def test_a_stage_of_everything_is_a_permutation_of_the_labelled_rows(table, block):
    plan = plan_of(table, {"budget": {"fraction": 1.0}, "block": block})
    labelled = np.flatnonzero(table.text("label").codes >= 0)
    assert sorted(dealt_rows(plan, "s0").tolist()) == labelled.tolist()


def test_the_deck_order_is_the_hash_of_seed_and_uid():
    """In blocks of one card a single deck comes in ascending splitmix64(uid xor H(seed, "deck"))."""
    table = table_of([50])
    key = splitmix64(table.uid ^ np.uint64(hash64(7, "deck")))
    plan = plan_of(table, {"budget": {"fraction": 1.0}, "block": 1}, seed=7)
    assert uids(plan, "s0") == table.uid[np.argsort(key)].tolist()


@LAW
@given(plans(), st.integers(0, 99))
def test_the_plan_does_not_depend_on_the_order_of_the_file(plan, seed):
    """Rows permuted, and the label names numbered in another order: the same uids in the same places."""
    shuffled = plan.table.take(np.random.default_rng(seed).permutation(len(plan.table)))
    codes = np.int32([1, 0, 2, -1])[shuffled.text("label").codes]
    other = Plan(plan.curriculum, Table(shuffled.uid, {"label": Categorical(codes, ("strong", "weak", "mixed"))}))
    assert other.fingerprint == plan.fingerprint
    assert all(uids(other, name) == uids(plan, name) for name in plan.stages)


@LAW
@given(tables, st.integers(1, 30))
def test_added_rows_leave_the_old_ones_in_their_order(table, added):
    """Per deck: the old uids of a longer table come in the order of the shorter one."""
    more = keyed(np.arange(added, dtype=np.uint64), "another corpus")
    codes = np.concatenate([table.text("label").codes, np.arange(added, dtype=np.int32) % 3])
    longer = Table(np.concatenate([table.uid, more]), {"label": Categorical(codes, LABELS)})
    everything = {"budget": {"fraction": 1.0}, "block": 1}
    label = dict(zip(longer.uid.tolist(), codes.tolist(), strict=True))
    before, after = uids(plan_of(table, everything), "s0"), uids(plan_of(longer, everything), "s0")
    old = set(before)
    for code in range(3):
        assert [u for u in before if label[u] == code] == [u for u in after if u in old and label[u] == code]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=9), st.integers(1, 60), st.data())
def test_every_prefix_has_the_mix_of_the_decks_within_two_cards(decks, block, data):
    left = np.array(decks)
    assume(left.sum())
    cards = data.draw(st.integers(1, int(left.sum())))
    edges = np.append(np.arange(0, cards, block), cards)
    matrix = deal_matrix(np.diff(edges), left)
    assert matrix.min() >= 0 and (matrix.sum(axis=0) <= left).all()
    assert matrix.sum(axis=1).tolist() == np.diff(edges).tolist()
    target = np.outer(edges[1:], left / left.sum())
    assert np.abs(matrix.cumsum(axis=0) - target).max() < 2


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=9), st.integers(1, 60), st.integers(1, 500))
def test_every_prefix_has_the_wanted_shares_within_two_cards(weights, block, cards):
    """While no deck runs dry; a deck with share 0 deals nothing."""
    assume(sum(weights))
    shares = np.array(weights, float)
    edges = np.append(np.arange(0, cards, block), cards)
    matrix = deal_matrix(np.diff(edges), np.full(len(shares), 1000), shares)
    target = np.outer(edges[1:], shares / shares.sum())
    assert matrix.sum(axis=1).tolist() == np.diff(edges).tolist()
    assert np.abs(matrix.cumsum(axis=0) - target).max() < 2
    assert not matrix[:, shares == 0].any()


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 4)), min_size=1, max_size=6), st.integers(1, 9))
def test_dealing_everything_empties_every_deck_whatever_the_shares(decks, block):
    left, shares = np.array(decks).T
    edges = np.append(np.arange(0, left.sum(), block), left.sum())
    matrix = deal_matrix(np.diff(edges), left, shares.astype(float))
    assert matrix.min(initial=0) == 0 and matrix.sum(axis=0).tolist() == left.tolist()
    assert matrix.sum(axis=1).tolist() == np.diff(edges).tolist()


def test_deal_matrix_by_hand():
    """One card at a time for 1/2, 1/4, 1/4: the debt goes round. Halves with a deck of two: the other takes over."""
    single = deal_matrix(np.ones(8, int), np.array([9, 9, 9]), np.array([2.0, 1.0, 1.0]))
    assert single.argmax(axis=1).tolist() == [0, 1, 2, 0] * 2 and single.sum() == 8
    # 8 of (1, 7, 7): 0.53, 3.73, 3.73 give 0, 4, 4. Then 6 of (1, 3, 3): the single card is owed 1.39 and gets its 1.
    assert deal_matrix(np.array([8, 6]), np.array([1, 7, 7])).tolist() == [[0, 4, 4], [1, 3, 2]]
    halves = deal_matrix(np.array([2, 4, 4]), np.array([2, 10]), np.ones(2))
    assert halves.tolist() == [[1, 1], [1, 3], [0, 4]]
    assert water_fill(5.0, np.array([1.0, 0.0]), np.array([2, 10])).tolist() == [2.0, 0.0], "three are not to be had"


@LAW
@given(st.integers(1, 60), st.integers(1, 60))
def test_every_prefix_of_a_block_has_the_block_s_mix(weak, strong):
    """Card i of n stands at (i + u) / n: among the first k rows a cell with share s has k s within 1 + 2 s cards."""
    plan = plan_of(table_of([weak, strong]), {"budget": {"fraction": 1.0}})
    codes = plan.table.text("label").codes[dealt_rows(plan, "s0")]
    first = np.arange(1, weak + strong + 1)
    for code, count in enumerate((weak, strong)):
        share = count / (weak + strong)
        assert np.abs(np.cumsum(codes == code) - first * share).max() < 1 + 2 * share


@LAW
@given(plans())
def test_batches_are_slices_of_the_rows_and_the_padding_weighs_nothing(plan):
    for name, dealt in plan.stages.items():
        size, presented = dealt.stage.batch_size, dealt.stage.budget.samples * dealt.stage.budget.epochs
        batches = [plan.batch(name, step) for step in range(dealt.steps)]
        rows, weights = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        assert len(rows) == dealt.steps * size and 0 <= len(rows) - presented < size
        assert weights.tolist() == [1.0] * presented + [0.0] * (len(rows) - presented)
        assert rows[:presented].tolist() == plan.rows(name, np.arange(presented)).tolist()


@LAW
@given(plans(), st.integers(1, 5), st.randoms())
def test_ranks_in_any_step_order_train_on_the_global_batches(plan, world, random):
    """Each rank compiles its own plan and takes `[rank::world]`; interleaved they are the batches of one process."""
    for name, dealt in plan.stages.items():
        steps = list(range(dealt.steps))
        slices = {}
        for rank in range(world):
            mine = Plan(plan.curriculum, plan.table)
            random.shuffle(steps)
            slices |= {(rank, step): mine.batch(name, step)[0][rank::world] for step in steps}
        for step in range(dealt.steps):
            union = np.empty(dealt.stage.batch_size, int)
            for rank in range(world):
                union[rank::world] = slices[rank, step]
            assert union.tolist() == plan.batch(name, step)[0].tolist()


def test_epochs_replay_the_same_rows_in_another_order():
    plan = plan_of(table_of([40, 20]), {"budget": {"samples": 30, "epochs": 3}, "block": 10, "batch_size": 8})
    passes = plan.rows("s0", np.arange(90)).reshape(3, 30)
    assert len({tuple(one) for one in passes.tolist()}) == 3
    for block in range(3):  # the blocks stay where they are, so that an easy-to-hard order survives repetition
        part = np.sort(passes[:, 10 * block : 10 * block + 10])
        assert len(set(part[0])) == 10 and (part == part[0]).all()
    assert plan.stage_plan("s0").steps == 12 and plan.batch("s0", 11)[1].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_a_steps_budget_repeats_a_small_pool():
    """10 steps x 8 = 80 presentations of 30 rows: two full passes, then 20 rows a third time, none padded."""
    plan = plan_of(table_of([30]), {"budget": {"steps": 10}, "batch_size": 8, "on_short": "repeat"})
    batches = [plan.batch("s0", step) for step in range(10)]
    rows = np.concatenate([batch[0] for batch in batches])
    assert plan.stage_plan("s0").steps == 10 and plan.stage_plan("s0").rows == 30
    assert all(weights.tolist() == [1.0] * 8 for _, weights in batches)
    assert set(rows[:30]) == set(rows[30:60]) == set(range(30)) and len(set(rows[60:])) == 20
    assert rows[:30].tolist() != rows[30:60].tolist()
    assert plan.passes("s0", 3).tolist() == [0] * 6 + [1] * 2 and plan.passes("s0", 9).tolist() == [2] * 8


def test_a_fraction_is_of_the_whole_pool_and_rounds_down():
    plan = plan_of(table_of([7, 4]), *[{"pool": {"label": "weak"}, "budget": {"fraction": 0.5}}] * 2)
    assert [plan.stage_plan(stage).rows for stage in ("s0", "s1")] == [3, 3]


def test_the_paper_s_arms_at_their_real_size():
    """313,177 weak and 257,941 strong. Mixed SFT of 313,177 takes 171,733.0 weak and 141,444.0 strong in proportion."""
    table = table_of([313_177, 257_941])
    sft = {"pool": {"label": "weak"}, "budget": {"samples": 313_177, "epochs": 2}, "batch_size": 160}
    grpo = {"pool": {"label": "strong"}, "budget": {"steps": 100}, "batch_size": 8}
    plan = plan_of(table, sft, grpo)
    assert plan.composition("s0", "label") == {"weak": 313_177}
    assert plan.composition("s1", "label") == {"strong": 800}
    assert plan.stage_plan("s0").steps == 3915  # 626,354 / 160 = 3914.7
    mixed = plan_of(table, {"budget": {"samples": 313_177}})
    assert mixed.composition("s0", "label") == {"weak": 171_733, "strong": 141_444}


def test_rows_without_a_value_in_any_cell_column_are_never_dealt():
    """Cells of two columns, both with gaps: what is left are the rows that have both values."""
    label, source = np.int32([0, 0, 1, 1, -1, 0, -1, 1]), np.int32([0, -1, 0, -1, 0, 1, -1, 1])
    columns = {"label": Categorical(label, ("weak", "strong")), "source": Categorical(source, ("b", "a"))}
    table, cells = Table(np.arange(8, dtype=np.uint64), columns), {"cells": ["label", "source"]}
    everything = plan_of(table, {"budget": {"fraction": 1.0}}, **cells)
    assert sorted(uids(everything, "s0")) == [0, 2, 5, 7]
    assert [everything.cells.name(q) for q in range(4)] == [
        f"label={a}, source={b}" for a in ("strong", "weak") for b in "ab"
    ]
    pool = plan_of(table, {"pool": {"source": "a", "label": ["weak", "strong"]}, "budget": {"samples": 2}}, **cells)
    assert sorted(uids(pool, "s0")) == [5, 7] and pool.composition("s0", "label") == {"weak": 1, "strong": 1}


def test_golden_rows():
    """The first uids of a fixed table: what was trained yesterday is what this plan says today."""
    codes = (np.arange(24) % 3 == 0).astype(np.int32)
    table = Table(np.arange(1, 25, dtype=np.uint64), {"label": Categorical(codes, ("strong", "weak"))})
    sft = {"name": "sft", "pool": {"label": "weak"}, "budget": {"samples": 6, "epochs": 2}}
    grpo = {"name": "grpo", "algorithm": "grpo", "budget": {"steps": 4}}
    plan = plan_of(table, sft, grpo, seed=20260925)
    batches = {name: [table.uid[plan.batch(name, i)[0]].tolist() for i in range(3)] for name in plan.stages}
    assert batches["sft"] == [[10, 22, 1, 16], [19, 7, 22, 19], [16, 10, 1, 7]]
    assert batches["grpo"] == [[5, 15, 6, 20], [17, 4, 11, 21], [2, 3, 8, 18]]
    assert plan.fingerprint == "92405df35466265c"


WEAK = {"pool": {"label": "weak"}, "budget": {"samples": 6}}
STAGE_EDITS = (
    *({}, {"name": "sft"}, {"algorithm": "grpo"}, {"batch_size": 3}, {"block": 5}, {"pool": {}}),
    *({"weight": {"shares": {"weak": 0.5}}}, {"budget": {"samples": 7}}, {"budget": {"samples": 6, "epochs": 2}}),
    *({"budget": {"steps": 5}}, {"budget": {"fraction": 0.5}}, {"budget": {"epochs": 1}}, {"mix": "shuffle"}),
    *({"claim": "first"}, {"on_short": "stop"}, {"loss_weight": "uniform"}, {"mass": "size"}),
)
EDITS = [spec(WEAK | edit) for edit in STAGE_EDITS]
EDITS += [spec(WEAK, seed=1), spec(WEAK, cells=["label", "source"]), spec(WEAK, WEAK)]
EDITS += [spec(WEAK, cells={"name": "label"}), spec(WEAK, columns={"label": {"permute": {}}})]


def test_the_fingerprint_changes_with_any_edit_of_the_curriculum_or_of_the_rows():
    def table(label, uid):
        columns = {"label": Categorical(label, LABELS), "source": Categorical(label * 0, ("sounds",))}
        return Table(np.array(uid, np.uint64), columns)

    label, uid = np.repeat(np.int32([0, 1]), 20), np.arange(40)
    rows = table(label, uid)
    prints = [Plan(parse_curriculum(edit), rows).fingerprint for edit in EDITS]
    relabelled, swapped, missing = label.copy(), label.copy(), label.copy()
    relabelled[3], swapped[[0, 39]], missing[3] = 1, [1, 0], -1
    tables = [table(relabelled, uid), table(swapped, uid), table(missing, uid), table(label, uid + 1)]
    tables += [rows.take(np.arange(39)), table(np.append(label, np.int32(0)), np.append(uid, 40))]
    prints += [plan_of(other, WEAK).fingerprint for other in tables]
    assert len(set(prints)) == len(EDITS) + len(tables)
    assert plan_of(table(label, uid), WEAK).fingerprint == prints[0]


@pytest.mark.parametrize(
    ("stages", "top", "message"),
    [
        ([WEAK], {"sead": 1}, "curriculum: unknown key 'sead'; did you mean 'seed'?"),
        ([WEAK], {"zzz": 1}, "curriculum: unknown key 'zzz'; it knows seed, stages, cells, disjoint, columns, cost"),
        ([WEAK, {"batchsize": 8}], {}, "curriculum.stages[1]: unknown key 'batchsize'; did you mean 'batch_size'?"),
        ([{"budget": {"sample": 5}}], {}, "stages[0].budget: unknown key 'sample'; did you mean 'samples'?"),
        ([{"budget": 5}], {}, "curriculum.stages[0].budget must be a mapping, got 5"),
        ([{}], {}, "one of samples, fraction, steps, hours and flops, or epochs alone; got none"),
        ([{"budget": {"samples": 5, "steps": 1}}], {}, "or epochs alone; got ['samples', 'steps']"),
        ([{"budget": {"samples": 0}}], {}, "budget samples must be positive"),
        ([{"budget": {"fraction": 1.5}}], {}, "budget fraction must be positive (a fraction at most 1), got 1.5"),
        ([{"budget": {"steps": 5, "epochs": 2}}], {}, "not combined with steps; got 2"),
        ([WEAK | {"algorithm": "dpo"}], {}, "curriculum.stages[0].algorithm must be 'sft' or 'grpo', got 'dpo'"),
        ([WEAK | {"batch_size": 0}], {}, "stage 's0': batch_size must be a whole number of at least 1, got 0"),
        ([WEAK | {"name": "a"}] * 2, {}, "stages with different names, got ['a', 'a']"),
        ([], {}, "needs at least one stage, in the list `stages`"),
        ([WEAK], {"cells": ["labl"]}, "cells: no column 'labl' in the table; there are label"),
        (
            [WEAK | {"pool": {"source": "x"}}],
            {},
            "pool column 'source' is neither a cell axis nor a col",
        ),
        (
            [WEAK | {"pool": {"label": "week"}}],
            {},
            "stage 's0': label is never 'week'; it is one of ['mixed'",
        ),
        (
            [WEAK | {"weight": {"shares": {"week": 1.0}}}],
            {},
            "weight.shares: week are not values of one axis; ",
        ),
        ([WEAK | {"budget": {"samples": 9}}], {}, "'s0' wants 9 rows of label weak, 8 are left; lower the budget"),
        ([WEAK, WEAK], {}, "stage 's1' wants 6 rows of label weak, 2 are left after s0; lower the budget"),
        (
            [{"budget": {"fraction": 1.0}}, {"budget": {"steps": 1}}],
            {},
            "wants 4 rows of all rows, 0 are left after s0",
        ),
    ],
)
def test_a_curriculum_that_cannot_be_is_refused_with_the_way_out(stages, top, message):
    with pytest.raises(InputError) as caught:
        plan_of(table_of([8, 5]), *stages, **top)
    assert message in str(caught.value)


def test_a_stage_or_a_step_that_is_not_there_is_named():
    plan = plan_of(table_of([8, 5]), WEAK)
    with pytest.raises(InputError, match="no stage 'sft' in the curriculum; it has s0"):
        plan.batch("sft", 0)
    with pytest.raises(IndexError, match="stage 's0' has 2 steps, asked for step 2"):
        plan.batch("s0", 2)


def test_a_fraction_is_exact_and_a_plan_travels_to_other_processes():
    """0.29 of 100 is 29 rows; the pickled plan deals the same batch."""
    import pickle

    label = Categorical(np.arange(100, dtype=np.int32) % 2, ("strong", "weak"))
    stage = {"name": "a", "algorithm": "sft", "batch_size": 8, "budget": {"fraction": 0.29}}
    one = Plan(parse_curriculum({"stages": [stage]}), Table(np.arange(100, dtype=np.uint64), {"label": label}))
    assert one.stage_plan("a").rows == 29
    assert pickle.loads(pickle.dumps(one)).batch("a", 1)[0].tolist() == one.batch("a", 1)[0].tolist()
