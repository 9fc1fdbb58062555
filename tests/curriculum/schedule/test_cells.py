"""The laws of cells: bins are the exact order statistics, pools are exact row by row, numbers follow the names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from earwitness.curriculum.identity import splitmix64
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.schedule.cells import MAX_CELLS, Axis, parse_axes, partition
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.curriculum.table import Categorical, Table
from earwitness.errors import InputError

LAW = settings(deadline=None, max_examples=60)
# Values near the largest float overflow the grid that only speeds the binning up; the bins stay exact.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")


def text(*values, names=None):
    """A text column; None is a missing value. The names are numbered as they first occur unless they are given."""
    names = tuple(names or dict.fromkeys(v for v in values if v is not None))
    return Categorical(np.array([-1 if v is None else names.index(v) for v in values], np.int32), names)


def table_of(**columns):
    first = next(iter(columns.values()))
    size = len(first.codes if isinstance(first, Categorical) else first)
    return Table(splitmix64(np.arange(size, dtype=np.uint64)), columns)


def binned(values, **how):
    """[N] bin of every row (-1: missing) and the edges of one axis over the column."""
    cells, number = partition(table_of(x=values), [Axis("x", "x", **how)], {})
    return np.append(cells.codes[:, 0], -1)[number], cells.edges["x"]


def names_of(cells):
    return [cells.name(q) for q in range(len(cells))]


def _drawn(kind, rng, size):
    if kind == "ties":
        return rng.choice(rng.normal(size=rng.integers(1, 60)), size)
    if kind == "half tied":
        return np.where(rng.random(size) < 0.5, 0.25, rng.random(size))
    if kind == "outliers":  # everything else falls into one step of any even grid
        return np.where(rng.random(size) < 0.01, 1e30, rng.normal(size=size))
    if kind == "constant":
        return np.full(size, rng.normal())
    return rng.normal(size=size)


@st.composite
def columns(draw, gaps=True):
    """Float columns: smooth, tied, with far outliers, constant, or any finite floats; the first value is no gap."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    kind = draw(st.sampled_from(["plain", "ties", "half tied", "outliers", "constant", "any"]))
    if kind == "any":
        some = st.floats(allow_nan=False, allow_infinity=False, width=32 if dtype == np.float32 else 64)
        values = np.array(draw(st.lists(some, min_size=1, max_size=80)), dtype)
    else:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        values = _drawn(kind, rng, draw(st.integers(1, 3000))).astype(dtype)
    if gaps and len(values) > 1:
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        values[1:][rng.random(len(values) - 1) < draw(st.sampled_from([0.0, 0.3]))] = np.nan
    return values + dtype(0)  # no zero with a sign


@LAW
@given(columns(), st.integers(1, 70))
def test_quantile_edges_are_the_order_statistics(values, bins):
    """Edge k is the value at place k n // bins of the sorted column; where each value has its own bin, all but one."""
    known = np.sort(values[~np.isnan(values)])
    wanted = known[np.arange(1, bins) * len(known) // bins]
    distinct = np.unique(known)
    edges = binned(values, bins=bins)[1]
    assert edges.dtype == values.dtype
    assert edges.tolist() == (distinct[1:] if len(distinct) <= bins else np.unique(wanted)).tolist()


@LAW
@given(columns(), st.integers(1, 70))
def test_a_row_s_bin_is_the_number_of_edges_at_or_below_its_value(values, bins):
    """So a value on an edge belongs above, and equal values share a bin; a missing one has none."""
    codes, edges = binned(values, bins=bins)
    expected = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="right"))
    assert codes.tolist() == expected.tolist()


@LAW
@given(columns(gaps=False), st.lists(st.floats(-3, 3, width=32), unique=True, max_size=40), st.data())
def test_explicit_edges_are_taken_as_they_stand(values, edges, data):
    """Some of the edges are values of the column, where the side decides."""
    edges += data.draw(st.lists(st.sampled_from(values.tolist()), max_size=5))
    edges = sorted({0.0 if e == 0 else e for e in edges})
    codes, got = binned(values, edges=tuple(edges))
    assert got.tolist() == edges
    assert codes.tolist() == [sum(e <= v for e in edges) for v in values.tolist()]


@LAW
@given(st.integers(1, 2000), st.integers(1, 70), st.sampled_from([np.float32, np.float64]), st.integers(0, 99))
def test_bins_of_different_values_hold_equal_counts(size, bins, dtype, seed):
    """Bin k has the rows from k n // bins to (k + 1) n // bins of the sorted column: counts differ by one at most."""
    values = np.random.default_rng(seed).permutation(size).astype(dtype) ** 3
    counts = np.bincount(binned(values, bins=bins)[0])
    ends = np.arange(bins + 1) * size // bins
    assert counts.tolist() == (np.diff(ends).tolist() if size > bins else [1] * size)


def test_a_value_on_an_edge_belongs_to_the_bin_above():
    """Eight values in four bins: the edges are the third, fifth and seventh value."""
    values = np.array([7, 0, 1, 6, 5, 2, 4, 3], np.float32)
    codes, edges = binned(values, bins=4)
    assert edges.tolist() == [2, 4, 6]
    assert codes.tolist() == [3, 0, 0, 3, 2, 1, 2, 1]


def test_ties_make_bins_unequal_rather_than_split_a_value():
    """1 1 1 1 2 3 4 5 in three bins: the values at places 2 and 5 are 1 and 3, so nothing lies below the first edge."""
    codes, edges = binned(np.array([1.0, 5, 1, 2, 1, 4, 1, 3]), bins=3)
    assert edges.tolist() == [1, 3] and codes.tolist() == [1, 2, 1, 1, 1, 2, 1, 2]


def test_bins_of_equal_width_by_hand():
    """From 0 to 10 in five: edges 2, 4, 6, 8; the largest value lies in the last bin, and nothing in the second."""
    codes, edges = binned(np.array([0, 10, 1.9, 4, 5.9, 6, 8], np.float64), bins=5, by="width")
    assert edges.tolist() == [2, 4, 6, 8] and codes.tolist() == [0, 4, 0, 2, 2, 3, 4]
    constant = binned(np.full(3, 0.7, np.float32), bins=5, by="width")[0]
    assert len(set(constant.tolist())) == 1


@LAW
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]), st.integers(1, 60))
def test_bins_of_equal_width_are_the_multiples_of_the_width(seed, dtype, bins):
    values = np.random.default_rng(seed).exponential(size=500).astype(dtype)
    codes, edges = binned(values, bins=bins, by="width")
    low, high = float(values.min()), float(values.max())
    assert edges == pytest.approx([low + k * (high - low) / bins for k in range(1, bins)], rel=1e-6)
    assert codes.tolist() == np.searchsorted(edges, values, side="right").tolist()


def test_fewer_different_values_than_bins_have_a_bin_each():
    """The name says where the bin begins and ends; a constant column is one bin."""
    cells, number = partition(table_of(x=np.array([0.5, 0.25, 0.5, 1.0])), [Axis("x", "x")], {})
    assert names_of(cells) == ["x=[0.25, 0.5)", "x=[0.5, 1)", "x=[1, 1]"] and number.tolist() == [1, 0, 1, 2]
    cells, number = partition(table_of(x=np.full(4, 0.3, np.float32)), [Axis("x", "x")], {})
    assert names_of(cells) == ["x=[0.3, 0.3]"] and number.tolist() == [0, 0, 0, 0]


def test_a_row_with_a_missing_value_on_an_axis_has_the_number_minus_one():
    """A gap in the text or in the number is enough; the sizes count only rows that are in a cell."""
    label = text("weak", None, "strong", "weak", "weak")
    ac = np.array([0.1, 0.2, 0.9, np.nan, 0.1])
    cells, number = partition(table_of(label=label, ac=ac), [Axis("label", "label"), Axis("ac", "ac")], {})
    assert number.tolist() == [1, -1, 0, -1, 1] and cells.size.tolist() == [1, 2]
    assert names_of(cells) == ["label=strong, ac=[0.9, 0.9]", "label=weak, ac=[0.1, 0.2)"]


def test_a_gap_next_to_the_first_values_is_still_a_gap():
    """Codes of -1 must not run over into the cell of the value before."""
    a, b = text("x", "y", "y", None), text("u", None, "w", "w")
    _, number = partition(table_of(a=a, b=b), [Axis("a", "a"), Axis("b", "b")], {})
    assert number.tolist() == [0, -1, 1, -1]


@LAW
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(3, 2), (40, 30), (200, 180, 190)]),
    st.integers(1, 400),
    st.sampled_from([0, 0.3]),
)
def test_cells_are_numbered_by_the_names_of_their_values(seed, sizes, rows, gaps):
    """A row's number is the place of its names among those that occur; with few possible cells or with millions."""
    rng = np.random.default_rng(seed)
    made, values = {}, []
    for axis, size in enumerate(sizes):
        names = (*(f"v{k}" for k in rng.permutation(size)), "")  # v10 comes before v2; the last is that of a gap
        codes = np.where(rng.random(rows) < gaps, -1, rng.integers(0, size, rows)).astype(np.int32)
        made[f"c{axis}"] = Categorical(codes, names[:-1])
        values.append([names[code] for code in codes])
    cells, number = partition(table_of(**made), [Axis(name, name) for name in made], {})
    tuples = [one if all(one) else None for one in zip(*values, strict=True)]
    occurring = sorted(set(tuples) - {None})
    assert number.tolist() == [-1 if one is None else occurring.index(one) for one in tuples]
    assert [tuple(cells.values(name)[q] for name in made) for q in range(len(cells))] == occurring
    assert cells.size.tolist() == [tuples.count(one) for one in occurring]


@LAW
@given(columns(), st.integers(0, 99), st.integers(1, 9))
def test_the_number_depends_neither_on_the_order_of_rows_nor_on_that_of_the_names(values, seed, bins):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, 3, len(values)).astype(np.int32)
    axes = [Axis("label", "label"), Axis("x", "x", bins=bins)]
    cells, number = partition(table_of(x=values, label=Categorical(codes, ("weak", "strong", "mixed"))), axes, {})
    order, again = rng.permutation(len(values)), rng.permutation(3)
    renamed = Categorical(
        np.append(np.argsort(again), -1)[codes].astype(np.int32), tuple(np.array(["weak", "strong", "mixed"])[again])
    )
    shuffled = table_of(x=values, label=renamed).take(order)
    other, moved = partition(shuffled, axes, {})
    assert moved.tolist() == number[order].tolist() and names_of(other) == names_of(cells)


def test_bins_are_named_with_as_many_digits_as_tell_their_ends_apart():
    """Four where they do; 1234.51 and 1234.52 need six, and floats that are neighbours all there are."""
    for values, names in (
        ([1234.51, 1234.52, 1234.53], ["[1234.51, 1234.52)", "[1234.52, 1234.53)", "[1234.53, 1234.53]"]),
        ([0.123456, 0.5], ["[0.1235, 0.5)", "[0.5, 0.5]"]),
        ([1.0, np.nextafter(1.0, 2)], ["[1, 1.0000000000000002)", "[1.0000000000000002, 1.0000000000000002]"]),
    ):
        cells, _ = partition(table_of(x=np.array(values)), [Axis("x", "x")], {})
        assert cells.axes["x"] == tuple(names)


@LAW
@given(columns(), st.integers(1, 70))
def test_no_two_bins_have_the_same_name(values, bins):
    cells, _ = partition(table_of(x=values), [Axis("x", "x", bins=bins)], {})
    names = cells.axes["x"]
    assert len(set(names)) == len(names) == len(cells.edges["x"]) + 1


def test_a_zero_with_a_sign_is_called_zero():
    for values in ([0.0, -0.0, 1.0], [-0.0, 0.0, 1.0]):
        cells, _ = partition(table_of(x=np.array(values)), [Axis("x", "x", edges=(0.5,))], {})
        assert names_of(cells) == ["x=[0, 0.5)", "x=[0.5, 1]"]


def pooled(table, *pools, **top):
    """A plan whose stages deal all of their pools, as far as earlier stages left it."""
    stage = {"algorithm": "sft", "batch_size": 2, "budget": {"fraction": 1.0}, "on_short": "stop"}
    stages = [{"name": f"s{k}", "pool": pool, **stage} for k, pool in enumerate(pools)]
    return Plan(parse_curriculum({"stages": stages, **top}), table)


def dealt(plan, stage):
    return sorted(plan.rows(stage, np.arange(plan.stage_plan(stage).rows)).tolist())


@LAW
@given(columns(), st.data())
def test_a_pool_of_numbers_is_exact_row_by_row(values, data):
    """Between the bounds, both included, whatever bins the column has besides; the second stage has what is left."""
    some = st.sampled_from([*values[~np.isnan(values)].tolist(), 0.3, 0.7, -0.1])
    pools, wanted = [], []
    for _ in range(2):
        pool, inside = {}, ~np.isnan(values)
        for key, keep in (("min", np.greater_equal), ("max", np.less_equal)):
            if data.draw(st.booleans()):
                pool[key] = data.draw(some)
                inside &= keep(values, values.dtype.type(pool[key]))
        pools.append({"x": pool})
        wanted.append(set(np.flatnonzero(inside).tolist()))
    wanted[1] -= wanted[0]
    assume(all(wanted))
    axes = data.draw(
        st.sampled_from([[], ["x"], {"x": {"bins": 5}, "coarse": {"column": "x", "bins": 3, "by": "width"}}])
    )
    plan = pooled(table_of(x=values), *pools, cells=axes)
    assert dealt(plan, "s0") == sorted(wanted[0]) and dealt(plan, "s1") == sorted(wanted[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_bounds_of_a_pool_belong_to_it(dtype):
    """The neighbours of .3 and .7 in the column's own precision are told apart."""
    low, high = dtype(0.3), dtype(0.7)
    ac = np.array(
        [np.nextafter(low, 0), low, np.nextafter(low, 1), 0.5, np.nextafter(high, 0), high, np.nextafter(high, 1)],
        dtype,
    )
    plan = pooled(table_of(ac=ac), {"ac": {"min": 0.3, "max": 0.7}}, cells=[])
    assert dealt(plan, "s0") == [1, 2, 3, 4, 5]
    exactly = pooled(table_of(ac=ac), {"ac": {"min": 0.3, "max": 0.3}}, {"ac": {"min": 0.7}}, cells={"ac": {"bins": 2}})
    assert dealt(exactly, "s0") == [1] and dealt(exactly, "s1") == [5, 6]


def test_rank_is_the_share_of_the_pool_below_the_cell_and_below_its_end():
    """Ten rows; below ac = .5 lie 3 weak and 1 strong of them, or 3 of the 4 weak ones."""
    label = text(*["weak"] * 4, *["strong"] * 6)
    ac = np.array([0.1, 0.2, 0.3, 0.9, 0.4, 0.6, 0.6, 0.7, 0.8, 0.9])
    axes = [Axis("label", "label"), Axis("ac", "ac", edges=(0.5,))]
    cells, _ = partition(table_of(label=label, ac=ac), axes, {})
    assert cells.size.tolist() == [1, 5, 3, 1]  # strong low, strong high, weak low, weak high
    low, high = cells.rank("ac")
    assert low == pytest.approx([0, 0.4, 0, 0.4]) and high == pytest.approx([0.4, 1, 0.4, 1])
    weak = cells.at(cells.left, cells.values("label") == "weak", {})
    low, high = weak.rank("ac")
    assert low == pytest.approx([0, 0.75, 0, 0.75]) and high == pytest.approx([0.75, 1, 0.75, 1])


def test_rank_by_a_column_that_is_no_axis_orders_the_cells_by_their_means():
    """Means 3, 1, 1, 2 over 1, 2, 3, 4 rows: the two cells at 1 share the bounds 0 and .5, then .9, then 1."""
    label = text(*"a", *"bb", *"ccc", *"dddd")
    p = np.array([3, 0.5, 1.5, 1, 1, 1, 2, 2, 2, 2], np.float32)
    cells, _ = partition(table_of(label=label, p=p), [Axis("label", "label")], {})
    low, high = cells.rank("p")
    assert low == pytest.approx([0.9, 0, 0, 0.5]) and high == pytest.approx([1, 0.5, 0.5, 0.9])


def test_rank_counts_the_rows_of_the_table_and_not_those_that_are_left():
    """A competence that moved as the decks empty would widen the pool by itself."""
    cells, _ = partition(table_of(x=np.array([1.0, 2, 2, 2])), [Axis("x", "x")], {})
    low, high = cells.at(np.array([1, 0]), cells.pool, {}).rank("x")
    assert low.tolist() == [0, 0.25] and high.tolist() == [0.25, 1]


def test_a_column_is_the_mean_over_each_cell_of_the_rows_that_have_a_value():
    """strong: (.5 + 1) / 2, the gap left out; weak: (.25 + .25 + 1) / 3, the row without a label left out."""
    label = text("weak", "strong", "weak", "strong", "strong", "weak", None)
    ac = np.array([0.25, 0.5, 0.25, np.nan, 1.0, 1.0, 9.0], np.float32)
    cells, _ = partition(table_of(label=label, ac=ac), [Axis("label", "label")], {})
    assert cells.column("ac").tolist() == [0.75, 0.5]


def test_a_column_is_found_by_the_name_of_its_axis_too():
    cells, _ = partition(table_of(ac=np.array([1.0, 3, 5])), [Axis("heard", "ac", edges=(4.0,))], {})
    assert cells.column("heard").tolist() == cells.column("ac").tolist() == [2, 5]
    assert cells.group("heard").tolist() == [0, 1]


def test_an_observed_column_is_read_from_the_moment_s_observations():
    cells, _ = partition(table_of(label=text("a", "b")), [Axis("label", "label")], {})
    now = cells.at(np.array([0, 1]), np.array([True, False]), {"p": [0.5, 1]})
    assert now.column("live.p").tolist() == [0.5, 1.0]
    assert now.left.tolist() == [0, 1] and now.pool.tolist() == [True, False]
    assert cells.left.tolist() == [1, 1] and cells.pool.all() and not cells.live, "the other moment stays as it was"


def test_a_column_that_cannot_be_decided_on_says_why():
    label = text("weak", "strong", "weak")
    table = table_of(label=label, ac=np.array([0.1, np.nan, 0.3]), p=np.zeros(3), clip=np.arange(3, dtype=np.uint64))
    cells, _ = partition(table, [Axis("label", "label")], {})
    for by, message in {
        "label": "'label' is no number column of the table; there are ac, p",
        "clip": "'clip' is no number column of the table; there are ac, p",
        "acc": "'acc' is no number column of the table; there are ac, p",
        "ac": "column 'ac' has no value in the cell label=strong; leave that cell out of the pool",
        "live.p": "no observed column 'live.p'; there are none; give the stage a window and feedback",
    }.items():
        with pytest.raises(InputError) as caught:
            cells.column(by)
        assert str(caught.value) == message
    with pytest.raises(InputError, match=r"no observed column 'live.p'; there are live.ac, live.useful$"):
        cells.at(cells.left, cells.pool, {"ac": np.zeros(2), "useful": np.zeros(2)}).column("live.p")
    with pytest.raises(InputError, match="no cell axis 'source'; add it to `cells`, there are label$"):
        cells.group("source")
    with pytest.raises(InputError, match="'label' is no number column of the table; there are none"):
        partition(table_of(label=label), [Axis("label", "label")], {})[0].column("label")


def test_no_axes_are_one_cell_of_all_rows():
    cells, number = partition(table_of(ac=np.zeros(3)), [], {})
    assert names_of(cells) == ["all rows"] and cells.size.tolist() == [3] and number.tolist() == [0, 0, 0]


@pytest.mark.parametrize("axes", [2, 3])
def test_more_cells_than_there_may_be_are_counted_and_refused(axes):
    """One row on each of MAX_CELLS + 1 cells, of 2 x 32,769 possible ones or of 2 x 256 x 32,769."""
    rows = MAX_CELLS + 1
    names = tuple(f"{k:05d}" for k in range(rows // 2 + 1))
    half = Categorical((np.arange(rows) // 2).astype(np.int32), names)
    few = Categorical((np.arange(rows) % 256).astype(np.int32), names[:256])
    made = {"a": Categorical((np.arange(rows) % 2).astype(np.int32), ("x", "y")), "b": half, "c": few}
    split = [Axis(name, name) for name in list(made)[:axes]]
    with pytest.raises(InputError, match="cells: 65537 cells are more than 65536; use fewer bins or columns"):
        partition(table_of(**made), split, {})
    cells, number = partition(table_of(**made).take(np.arange(MAX_CELLS)), split, {})
    assert len(cells) == MAX_CELLS and cells.size.tolist() == [1] * MAX_CELLS and number.max() == MAX_CELLS - 1


def test_axes_whose_product_nobody_could_number_are_refused():
    """4,096 bins each: four axes would be 2^48 numbers."""
    values = np.arange(5000.0)
    with pytest.raises(InputError, match="cells: 4 axes make more than 65536 cells; use fewer bins or columns"):
        partition(table_of(x=values), [Axis(f"x{k}", "x", bins=4096) for k in range(4)], {})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("label", "`cells` must be a list of columns, or a mapping of names to columns"),
        ([3], "cells: 3: a column or a mapping with `column` is needed, got 3"),
        ({"ac": 3}, "cells: 'ac': a column or a mapping with `column` is needed, got 3"),
        ({"ac": {"bin": 3}}, "cells.ac: unknown key 'bin'; it knows column, bins, by, edges"),
        ({"ac": {"bins": 0}}, "cells.ac: bins must be a whole number from 1 to 4096, got 0"),
        ({"ac": {"bins": 4097}}, "cells.ac: bins must be a whole number from 1 to 4096, got 4097"),
        ({"ac": {"bins": True}}, "cells.ac: bins must be a whole number from 1 to 4096, got True"),
        ({"ac": {"bins": 2.0}}, "cells.ac: bins must be a whole number from 1 to 4096, got 2.0"),
        ({"ac": {"by": "count"}}, "cells.ac: bins are made `by: quantile` or `by: width`, got 'count'"),
        ({"ac": {"edges": [0.5, 0.2]}}, "cells.ac: edges must ascend, got [0.5, 0.2]"),
        ({"ac": {"edges": [0.5, 0.5]}}, "cells.ac: edges must ascend, got [0.5, 0.5]"),
    ],
)
def test_axes_that_cannot_be_are_refused(spec, message):
    with pytest.raises(InputError) as caught:
        parse_axes(spec)
    assert message in str(caught.value)


def test_axes_are_read_from_a_list_or_from_a_mapping():
    assert (
        parse_axes(["label"])
        == parse_axes({"label": "label"})
        == parse_axes({"label": {}})
        == (Axis("label", "label"),)
    )
    spec = {"heard": {"column": "ac", "bins": 4, "by": "width"}, "cut": {"column": "ac", "edges": [0, 1]}}
    assert parse_axes(spec) == (Axis("cut", "ac", edges=(0.0, 1.0)), Axis("heard", "ac", 4, "width"))


def test_axes_come_by_their_names_whatever_the_order_of_the_file():
    """Of a list as of a mapping, and with them the numbers of the cells."""
    axes = parse_axes(["source", "ac", "label"])
    assert [axis.name for axis in axes] == ["ac", "label", "source"]
    assert axes == parse_axes(["label", "source", "ac"]) == parse_axes({"source": {}, "label": "label", "ac": {}})


def test_a_column_that_cannot_be_an_axis_is_named():
    table = table_of(label=text("a", "b"), ac=np.full(2, np.nan))
    with pytest.raises(InputError, match="cells: no column 'source' in the table; there are ac, label"):
        partition(table, [Axis("x", "source")], {})
    with pytest.raises(InputError, match="cells.x: column 'ac' has no value at all"):
        partition(table, [Axis("x", "ac")], {})


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ({"label": {"min": 0}}, "stage 's0': pool label is text; give a value or a list of values"),
        ({"ac": "high"}, "stage 's0': pool ac is a number; give {min: ..., max: ...}"),
        ({"ac": {"low": 0}}, "stage 's0': pool ac takes min and max, got low: 0"),
        ({"ac": {"min": "50%"}}, "stage 's0': pool ac: min must be a number, got '50%'"),
        ({"ac": {"max": True}}, "stage 's0': pool ac: max must be a number, got True"),
        ({"label": []}, "stage 's0': pool label is an empty list; name a value"),
        ({"ac": {"min": 0.9}}, "stage 's0': the table has no row with ac min 0.9; give it another pool"),
        ({"ac": {"min": 0.3, "max": 0.1}}, "stage 's0': the table has no row with ac min 0.3 and max 0.1;"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(pool, message):
    with pytest.raises(InputError) as caught:
        pooled(table_of(label=text("a", "b"), ac=np.array([0.2, 0.4])), pool)
    assert message in str(caught.value)


@pytest.mark.parametrize("edges", [0.5, ["low"], "0.5"])
def test_edges_that_are_no_list_of_numbers_are_refused(edges):
    with pytest.raises(InputError, match="edges"):
        parse_axes({"ac": {"edges": edges}})


def test_an_identity_column_is_not_called_missing_when_it_is_there():
    with pytest.raises(InputError) as caught:
        partition(table_of(clip=np.arange(3, dtype=np.uint64)), [Axis("clip", "clip")], {})
    assert "no column 'clip'" not in str(caught.value)
