"""Every random decision is a hash of (seed, name, identity): known values, bijection, independence of company."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earwitness.curriculum.identity import hash64, keyed, permutation, splitmix64, uid_of, uniforms, unit

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
uint64 = st.integers(0, MASK)


def unmixed(y: int) -> int:
    """The inverse of splitmix64 in Python integers: multiplicative inverses modulo 2^64, xor-shifts undone."""

    def unshift(z: int, by: int) -> int:
        x = z
        for _ in range(64 // by + 1):
            x = z ^ (x >> by)
        return x

    z = unshift(y, 31) * pow(0x94D049BB133111EB, -1, 1 << 64) & MASK
    z = unshift(z, 27) * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) & MASK
    return (unshift(z, 30) - GOLDEN_GAMMA) & MASK


def test_splitmix64_gives_the_published_sequence_of_seed_1234567():
    """The reference generator adds the golden gamma to its state before each output; these five are its first."""
    states = np.uint64(1234567) + np.arange(5, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)
    assert splitmix64(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_splitmix64_of_zero_is_the_first_output_of_seed_0():
    assert splitmix64(np.zeros(1, np.uint64))[0] == 0xE220A8397B1DCDAF


@settings(deadline=None, max_examples=200)
@given(uint64)
def test_splitmix64_is_a_bijection(x):
    """An inverse written from the constants alone recovers the input."""
    assert unmixed(int(splitmix64(np.array([x], np.uint64))[0])) == x


def test_splitmix64_changes_half_of_the_bits_when_one_bit_changes():
    """Avalanche: 64 x 512 flips change 32 of 64 bits on average; the mean's standard error is 0.02 bits."""
    x = splitmix64(np.arange(512, dtype=np.uint64))
    flips = [splitmix64(x) ^ splitmix64(x ^ np.uint64(1 << bit)) for bit in range(64)]
    changed = np.mean([bin(int(word)).count("1") for words in flips for word in words])
    assert abs(changed - 32) < 0.1


def test_hash64_is_blake2b_over_length_prefixed_parts():
    """Spelt out: an eight-byte little-endian length before each part, an eight-byte little-endian digest."""
    data = b"\x03" + bytes(7) + b"uid" + b"\x02" + bytes(7) + b"12"
    assert hash64("uid", 12) == int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def test_hash64_sees_the_boundaries_between_parts():
    assert len({hash64("ab", "c"), hash64("a", "bc"), hash64("abc"), hash64("abc", ""), hash64("", "abc")}) == 5


def test_golden_values():
    """What plans, splits and augmentations on disk were made with: a change here is a change of every run."""
    assert hash64() == 0xB4B2797457A0A6E4
    assert hash64("a") == 0x80489184ECF46FB8
    assert uid_of("sounds", "1") == hash64("uid", "sounds", "1") == 0x3732018FF12041F3
    assert keyed(np.array([1, 2, 3], np.uint64), 0, "deck").tolist() == [
        9600668724177107618,
        14839826335258523272,
        10579645494620956484,
    ]
    assert uniforms(7, 3, 0, "x").tolist() == [0.8208878588924113, 0.20178105315403172, 0.28543626390233723]
    assert permutation(8, 7, 0, "choices") == [5, 7, 6, 4, 2, 3, 0, 1]


def test_keyed_is_splitmix64_of_the_uid_xor_the_name():
    uid = np.array([0, 5, MASK], np.uint64)
    expected = splitmix64(uid ^ np.uint64(hash64(3, "deck")))
    assert np.array_equal(keyed(uid, 3, "deck"), expected)
    assert not np.array_equal(keyed(uid, 4, "deck"), expected)


@settings(deadline=None, max_examples=50)
@given(st.lists(uint64, min_size=2, max_size=20), st.randoms())
def test_keyed_does_not_depend_on_the_rest_of_the_batch(uids, random):
    """One by one, all at once, or in another order: each uid keeps its number."""
    alone = {uid: int(keyed(np.array([uid], np.uint64), 1, "deck")[0]) for uid in uids}
    random.shuffle(uids)
    assert keyed(np.array(uids, np.uint64), 1, "deck").tolist() == [alone[uid] for uid in uids]


def test_unit_takes_the_top_53_bits():
    """2^63 is exactly one half, all ones is 1 - 2^-53, and the lowest eleven bits count for nothing."""
    x = np.array([0, 1 << 63, MASK, (1 << 11) - 1, 1 << 11], np.uint64)
    assert unit(x).tolist() == [0.0, 0.5, 1 - 2.0**-53, 0.0, 2.0**-53]


@settings(deadline=None, max_examples=50)
@given(uint64, st.integers(1, 40), st.integers(0, 40))
def test_asking_for_more_uniforms_does_not_change_the_first(uid, count, more):
    longer = uniforms(uid, count + more, 0, "noise")
    assert np.array_equal(longer[:count], uniforms(uid, count, 0, "noise"))
    assert (longer >= 0).all() and (longer < 1).all()


def test_uniforms_differ_between_uids_names_and_positions():
    draws = [uniforms(uid, 50, *name) for uid in (1, 2, MASK) for name in ((0, "gain"), (1, "gain"), (0, "noise"))]
    assert len(np.unique(draws)) == 9 * 50


def test_uniforms_are_uniform():
    """20,000 draws: mean 1/2 and variance 1/12, each within five standard errors."""
    x = np.concatenate([uniforms(uid, 20, "law") for uid in range(1000)])
    assert abs(x.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / len(x))
    assert abs(x.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / len(x))


@pytest.mark.parametrize("size", [0, 1, 2, 5])
def test_permutation_holds_every_number_once(size):
    for uid in range(20):
        assert sorted(permutation(size, uid, 0)) == list(range(size))


def test_permutation_puts_every_option_everywhere_equally_often():
    """2,400 questions with three options: each of the six orders about 400 times, standard deviation 18."""
    orders = [tuple(permutation(3, uid, 0, "choices")) for uid in range(2400)]
    counts = [orders.count(order) for order in sorted(set(orders))]
    assert len(counts) == 6 and all(abs(count - 400) < 5 * 18 for count in counts)
