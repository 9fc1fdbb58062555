"""Several channels into one.

One and two channels are averaged, and so are more whose places nobody knows, such as the microphones of an array. Of
surround sound, six channels without places included, the downmix to stereo of ITU-R BS.775 is averaged: left and right
count half, the centre and a single rear one 0.707, other sides and rears 0.354, and the low-frequency channel not at
all. The plain mean of six would lower speech in the centre by 15.6 dB.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .decoding import Block

_SIDE = 0.5**1.5
_WEIGHTS = {"FL": 0.5, "FR": 0.5, "FC": 0.5**0.5, "FLC": 0.5, "FRC": 0.5, "LFE": 0.0, "LFE2": 0.0, "BC": 0.5**0.5}
_WEIGHTS |= {"BL": _SIDE, "BR": _SIDE, "SL": _SIDE, "SR": _SIDE, "WL": _SIDE, "WR": _SIDE}
_SURROUND = ("FL", "FR", "FC", "LFE", "BL", "BR")  # what six channels without places are


def mixed(block: Block) -> np.ndarray:
    """[n] float32: the channels of a block as one."""
    channels = block.samples.shape[1]
    if channels == 1:
        return block.samples[:, 0]
    weights = _weights(block.places, channels) if channels > 2 else None
    if weights is None:
        mean: np.ndarray = block.samples.mean(axis=1, dtype=np.float32)
        return mean
    downmix: np.ndarray = block.samples @ weights
    return downmix


@cache
def _weights(places: tuple[str, ...], channels: int) -> np.ndarray | None:
    """[c] float32 weights of surround sound; None where the places are unknown."""
    known = [_WEIGHTS[place] for place in places if place in _WEIGHTS]
    if len(known) != channels:
        if channels != len(_SURROUND) or known:
            return None
        known = [_WEIGHTS[place] for place in _SURROUND]
    return np.array(known, np.float32)
