"""The law of decks: a deck is its cell's rows in ascending order of a hash of (seed, uid), however it is sorted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.curriculum.identity import hash64, splitmix64
from earwitness.curriculum.plan import decks
from earwitness.curriculum.plan.decks import _packed_order, build_decks

LAW = settings(deadline=None, max_examples=60)


def deck_key(seed):
    return np.uint64(hash64(seed, "deck"))


def by_two_keys(uid, cell, seed):
    """Rows by cell and then by the whole 64-bit hash; those with -1 left out."""
    rows = np.flatnonzero(cell >= 0)
    return rows[np.lexsort((splitmix64(uid[rows] ^ deck_key(seed)), cell[rows]))]


def random_table(seed, size, cells, gaps):
    """Identities far apart or close together, and cells of very different sizes."""
    rng = np.random.default_rng(seed)
    uid = rng.permutation(size).astype(np.uint64)
    uid = splitmix64(uid) if rng.random() < 0.5 else uid
    cell = (rng.random(size) ** 2 * cells).astype(np.int32)
    cell[rng.random(size) < gaps] = -1
    return uid, cell


@LAW
@given(
    st.integers(0, 2**32 - 1),
    st.one_of(st.integers(0, 40), st.integers(0, 40_000)),
    st.one_of(st.integers(1, 9), st.integers(1, 5_000)),
    st.sampled_from([0.0, 0.0, 0.3, 1.0]),
    st.integers(0, 2**63),
)
def test_decks_are_the_rows_sorted_by_cell_and_hash(draw, size, cells, gaps, seed):
    """Whatever the sizes; the pieces of 16,384 rows in which the hashes are formed do not show."""
    uid, cell = random_table(draw, size, cells, gaps)
    rows, starts = build_decks(uid, cell, cells, seed)
    assert rows.dtype == np.uint32 and rows.tolist() == by_two_keys(uid, cell, seed).tolist()
    assert starts.tolist() == [int(((cell >= 0) & (cell < q)).sum()) for q in range(cells)] + [len(rows)]


@pytest.mark.parametrize("size", [16_383, 16_384, 16_385, 32_768, 50_000])
def test_decks_are_the_same_where_the_pieces_end(size):
    uid, cell = random_table(size, size, 7, 0.1)
    assert build_decks(uid, cell, 7, 3)[0].tolist() == by_two_keys(uid, cell, 3).tolist()


def test_decks_by_hand():
    """One deck of four rows for each of two cells; the row without a cell is in none."""
    uid = np.arange(9, dtype=np.uint64)
    cell = np.array([2, 0, 2, 0, -1, 0, 2, 2, 0], np.int32)
    hashed = {int(u): int(splitmix64(np.array([u]) ^ deck_key(1))[0]) for u in uid}
    first, last = sorted([1, 3, 5, 8], key=hashed.get), sorted([0, 2, 6, 7], key=hashed.get)
    rows, starts = build_decks(uid, cell, 4, 1)
    assert rows.tolist() == first + last and starts.tolist() == [0, 4, 4, 8, 8]
    assert build_decks(uid, cell, 4, 2)[0].tolist() != rows.tolist(), "another seed is another order"


def test_rows_without_a_cell_are_in_no_deck():
    uid = np.arange(100, dtype=np.uint64)
    rows, starts = build_decks(uid, np.where(uid % np.uint64(3) == 0, -1, 0), 1, 0)
    assert sorted(rows.tolist()) == [k for k in range(100) if k % 3] and starts.tolist() == [0, 66]
    nothing, starts = build_decks(uid, np.full(100, -1), 3, 0)
    assert len(nothing) == 0 and starts.tolist() == [0, 0, 0, 0]


def test_too_many_cells_and_rows_for_one_number_are_sorted_by_two(monkeypatch):
    """2^21 + 1 cells take 22 bits and 2^18 + 1 rows take 19: the 41 leave too little of the hash."""
    uid, cell = random_table(0, (1 << 18) + 1, (1 << 21) + 1, 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(decks, "_packed_order", None)  # calling it would fail
        rows, starts = build_decks(uid, cell, (1 << 21) + 1, 5)
    assert rows.tolist() == by_two_keys(uid, cell, 5).tolist()
    assert len(starts) == (1 << 21) + 2 and starts[-1] == len(uid)
    fewer = uid[:-1], cell[:-1]  # one row less takes 18 bits: back to one number, and the same order
    assert build_decks(*fewer, (1 << 21) + 1, 5)[0].tolist() == by_two_keys(*fewer, 5).tolist()


@LAW
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(1, 8), st.integers(0, 12))
def test_rows_whose_leading_bits_agree_are_settled_by_the_whole_hash(draw, size, cells, hash_bits):
    """With few or no bits of hash in the packed number nearly all rows tie, in long runs and short ones."""
    uid, cell = random_table(draw, size, cells, 0.0)
    key = deck_key(draw)
    cell_bits = max(1, (cells - 1).bit_length())
    got = _packed_order(uid, cell, key, cell_bits, 64 - cell_bits - hash_bits)
    assert got.tolist() == np.lexsort((splitmix64(uid ^ key), cell)).tolist()


@LAW
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(0, 12))
def test_ties_do_not_depend_on_the_order_of_the_file(draw, size, hash_bits):
    uid, cell = random_table(draw, size, 3, 0.0)
    order = np.random.default_rng(draw).permutation(size)
    one, other = (
        _packed_order(u, c, deck_key(7), 2, 62 - hash_bits) for u, c in ((uid, cell), (uid[order], cell[order]))
    )
    assert uid[one].tolist() == uid[order][other].tolist()


def test_runs_of_ties_are_settled_one_by_one():
    """No bit of hash: cells 0 and 1 are two runs, the single row of cell 2 is none, and none reaches into the next."""
    uid = np.arange(40, 49, dtype=np.uint64)
    cell = np.array([0, 1, 0, 1, 2, 0, 1, 0, 1], np.int32)
    hashed = splitmix64(uid ^ deck_key(0))
    expected = [row for q in range(3) for row in sorted(np.flatnonzero(cell == q).tolist(), key=lambda r: hashed[r])]
    assert _packed_order(uid, cell, deck_key(0), 2, 62).tolist() == expected
