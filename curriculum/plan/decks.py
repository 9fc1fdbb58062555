"""Decks: each cell's rows in the order of a hash of (seed, uid), in one long array with the cells end to end.

The order does not depend on the order of the file, and added rows leave the old ones in their relative order.
"""

from __future__ import annotations

import numpy as np

from ..arrays import Bools, Hashes, Ints
from ..identity import hash64, splitmix64

_CHUNK = 16_384  # hashes are formed piece by piece in the second-level cache: three times faster at ten million rows
_LOW = np.uint64((1 << 20) - 1)  # by which `among` marks hashes


def build_decks(uid: Hashes, cell: Ints, num_cells: int, seed: int) -> tuple[Ints, Ints]:
    """Rows [M] and starts [Q + 1]: deck q is `rows[starts[q]:starts[q + 1]]`, ascending by hash(seed, "deck", uid).

    uid: [N]. cell: [N] cell numbers; rows with -1 are in no deck.
    """
    inside = None if not len(cell) or cell.min() >= 0 else np.flatnonzero(cell >= 0)
    if inside is not None:
        uid, cell = uid[inside], cell[inside]
    starts = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=num_cells))])
    key = np.uint64(hash64(seed, "deck"))
    cell_bits, row_bits = max(1, (num_cells - 1).bit_length()), max(1, (len(uid) - 1).bit_length())
    if cell_bits + row_bits > 40:  # too few bits of hash are left to share one number
        rows: Ints = np.lexsort((splitmix64(uid ^ key), cell))
    else:
        rows = _packed_order(uid, cell, key, cell_bits, row_bits)
    return (rows if inside is None else inside[rows]).astype(np.uint32 if len(uid) < 1 << 32 else np.int64), starts


def _packed_order(uid: Hashes, cell: Ints, key: np.uint64, cell_bits: int, row_bits: int) -> Ints:
    """[M] places by cell, then hash: sorts `cell | top bits of the hash | place` as one number, four times as fast."""
    packed = np.empty(len(uid), np.uint64)
    shift, rows = np.uint64(cell_bits), np.uint64(row_bits)
    place = np.arange(min(_CHUNK, len(uid)), dtype=np.uint64)
    for start in range(0, len(uid), _CHUNK):
        part = slice(start, min(start + _CHUNK, len(uid)))
        mixed = splitmix64(uid[part] ^ key)
        mixed >>= shift
        mixed >>= rows
        mixed <<= rows
        mixed |= place[: len(mixed)] + np.uint64(start)
        mixed |= cell[part].astype(np.uint64) << np.uint64(64 - cell_bits)
        packed[part] = mixed
    packed.sort()
    order = (packed & np.uint64((1 << row_bits) - 1)).astype(np.int64)
    packed >>= rows
    tied = np.flatnonzero(packed[1:] == packed[:-1])
    if len(tied):  # equal top bits: the rest of the hash decides, never the place in the file
        _settle(order, packed, tied, uid, key)
    return order


def _settle(order: Ints, packed: Hashes, tied: Ints, uid: Hashes, key: np.uint64) -> None:
    """Orders, in place, each run of equal top bits by the whole hash. tied: places equal to their successor."""
    settled = -1
    for place in tied.tolist():
        if place < settled:
            continue
        end = place + 2
        while end < len(packed) and packed[end] == packed[place]:
            end += 1
        run = order[place:end]
        order[place:end] = run[np.argsort(splitmix64(uid[run] ^ key), kind="stable")]
        settled = end - 1


def order_by_hash(hashed: Hashes, group: Ints | None = None) -> Ints:
    """[N] places of hashes [N] in ascending order, by group [N] first where given; equal ones keep their order.

    Sorts hash and place packed into one number, which is faster than sorting places. A hash that comes with a group
    must be shifted right by 17 bits, which leaves the upper 17 bits to the group.
    """
    bits = np.uint64(max(1, (len(hashed) - 1).bit_length()))
    packed = (hashed >> bits) << bits
    if group is not None:
        packed |= group.astype(np.uint64) << np.uint64(47)
    packed |= np.arange(len(hashed), dtype=np.uint64)
    packed.sort()
    return (packed & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


def among(values: Hashes, wanted: Hashes) -> Bools:
    """[N] bool: np.isin for hashes; most are ruled out by their lowest 20 bits, without sorting all of them."""
    marked = np.zeros(1 << 20, bool)
    marked[wanted & _LOW] = True
    present: Bools = marked[values & _LOW]
    present[present] = np.isin(values[present], wanted)
    return present
