"""Floating-point operations that reading takes, counted from a policy's layers: the numerator of utilisation.

2 per weight and position forward; backward 2 for the gradient of a layer's input, and 2 for that of a weight that
trains. Attention counts every pair of positions, as is usual (4 per pair, head dimension and head). What is computed
again in the backward pass, and padding, do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .omni import OmniPolicy


@dataclass(frozen=True)
class Row:
    """One prompt with what is said to it, in positions.

    clip: number of its recording; rows of one number are about the same. frames: of its mel spectrogram (100 a second).
    prefix, suffix: of the prompt. completions: the lengths of what is said, one per completion.
    """

    clip: int
    frames: int
    prefix: int
    suffix: int
    completions: tuple[int, ...]


@dataclass(frozen=True)
class Layers:
    """Weights that take part in matrix products, and how many of them train."""

    weights: int
    trained: int

    def flops(self, positions: float, backward: bool) -> float:
        """Of so many positions; backward: forward and backward, with the gradient of the input."""
        return float(positions) * (2 * self.weights + backward * (2 * self.weights + 2 * self.trained))

    @classmethod
    def of(cls, modules: Sequence[nn.Module]) -> Layers:
        """Those of the linear and convolutional layers in these modules."""
        kinds = (nn.Linear, nn.Conv1d)
        found = [m.weight for module in modules for m in module.modules() if isinstance(m, kinds)]
        return cls(sum(w.numel() for w in found), sum(w.numel() for w in found if w.requires_grad))


class ReadingCost:
    """What it costs a policy to read, to train on and to sample rows; made once, from its layers and config."""

    def __init__(self, policy: OmniPolicy) -> None:
        base: Any = policy.base
        tower, decoder, config = policy.tower, base.get_decoder(), base.config
        text, audio = config.get_text_config(), config.audio_config
        heads = text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // heads
        self.shared = policy.share
        self.decoder = Layers.of(list(decoder.layers))
        self.head = Layers.of([base.get_output_embeddings()])
        self.pair: float = 4 * text.num_hidden_layers * heads * width
        self.by_frame = Layers.of([tower.conv1])
        self.by_position = Layers.of([tower.conv2, *tower.layers])  # one per two frames
        self.by_token = Layers.of([tower.proj])  # one per two positions
        self.tower_pair: float = 4 * audio.encoder_layers * audio.d_model
        self.window: int = audio.n_window

    def read(self, rows: Sequence[Row], backward: bool = False, say: bool = True) -> float:
        """Of one pass over a micro-batch; backward: with the backward pass. say: with the head on what is said.

        A recording is heard once. Where prefixes are shared, its prompt is read once for all rows, and a row's question
        once for all its completions; where not, every completion is read with all that stands before it.
        """
        clips = {row.clip: row for row in rows}
        flops = sum(self._heard(row.frames, backward) for row in clips.values())
        positions = pairs = targets = 0
        if self.shared:
            positions = sum(row.prefix for row in clips.values())
            pairs = sum(row.prefix**2 for row in clips.values())
        for row in rows:
            before = row.prefix + row.suffix
            if self.shared:
                positions, pairs = positions + row.suffix, pairs + row.suffix * before
            for said in row.completions:
                read = said - 1 if self.shared else before + said
                positions += read
                pairs += read * (before + read) if self.shared else read**2
                targets += said
        flops += self.decoder.flops(positions, backward) + (3 if backward else 1) * self.pair * pairs
        return flops + (self.head.flops(targets, backward) if say else 0)

    def sampled(self, rows: Sequence[Row]) -> float:
        """Of sampling the rows' completions: prompts read once, then one position after the other."""
        clips = {row.clip: row for row in rows}
        positions, pairs, targets = 0.0, 0.0, 0
        for row in clips.values():
            positions, pairs = positions + row.prefix, pairs + row.prefix**2
        for row in rows:
            before = row.prefix + row.suffix
            positions, pairs = positions + row.suffix, pairs + row.suffix * before
            for said in row.completions:
                positions, targets = positions + said - 1, targets + said
                pairs += (said - 1) * before + said * (said - 1) / 2
        heard = sum(self._heard(row.frames, False) for row in clips.values())
        return heard + self.decoder.flops(positions, False) + self.pair * pairs + self.head.flops(targets, False)

    def _heard(self, frames: int, backward: bool) -> float:
        """Of one recording in the audio tower, whose attention looks within windows."""
        trains = backward and any(part.trained for part in (self.by_frame, self.by_position, self.by_token))
        flops = self.by_position.flops(frames / 2, trains) + self.by_token.flops(frames / 4, trains)
        flops += 2 * frames * (self.by_frame.weights + trains * self.by_frame.trained)  # nothing is before the sound
        windows, rest = divmod(frames / 2, self.window)
        return flops + (3 if trains else 1) * self.tower_pair * (windows * self.window**2 + rest**2)
