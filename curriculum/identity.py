"""Identities and their hashes: every random decision is a hash of (seed, name, identity), never a generator's state."""

from __future__ import annotations

import hashlib

import numpy as np

from .arrays import Floats, Hashes

_MASK = (1 << 64) - 1


def hash64(*parts: object) -> int:
    """64-bit hash of a sequence of strings and integers; the boundaries between the parts count."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")


def uid_of(source: str, identifier: str) -> int:
    """The uid of a sample, from its source and its identifier there: the same in every file, shard and row order."""
    return hash64("uid", source, identifier)


def splitmix64(x: Hashes) -> Hashes:
    """[...] uint64, each element hashed by the finaliser of splitmix64 (Steele et al. 2014): a bijection."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def keyed(uid: Hashes, *name: object) -> Hashes:
    """[N] one hash per uid [N], independent between names, e.g. `keyed(uid, seed, "deck")`."""
    return splitmix64(np.asarray(uid, np.uint64) ^ np.uint64(hash64(*name)))


def unit(x: Hashes) -> Floats:
    """[...] hashes as float64 numbers in [0, 1), from their top 53 bits."""
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniforms(uid: int, count: int, *name: object) -> Floats:
    """[count] numbers in [0, 1) for one uid under one name."""
    counters = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return unit(splitmix64(counters ^ np.uint64(hash64(uid & _MASK, *name))))


def permutation(size: int, uid: int, *name: object) -> list[int]:
    """A permutation of range(size) that depends on the identity and the name alone."""
    places: list[int] = np.argsort(uniforms(uid, size, "permutation", *name), kind="stable").tolist()
    return places
