"""The picture of a corpus: lengths and levels of its recordings, and what its questions are."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt

from .figures import AUDIO, COLOURS, STYLE

LEVEL_NAMES = {
    "peak_db": "peak (dB of full scale)",
    "rms_db": "RMS after mixing (dB of full scale)",
    "mix_loss_db": "lost by mixing, against the louder channel (dB)",
    "silent_share": "digital silence (% of the samples)",
    "clipped_share": "clipped (% of the samples)",
}


def corpus(seconds: Any, counted: Mapping[str, Mapping[str, int]], levels: Mapping[str, Any] | None = None) -> bytes:
    """PNG: histograms of the recordings' lengths and levels, and bars of how many questions have each value.

    seconds: [clips]. counted: column -> value -> questions; ten values are shown, the others together. levels: column
    of the index -> [clips that have one].
    """
    drawn = levels or {}
    with plt.rc_context(STYLE):
        panels = len(counted) + len(drawn) + 1
        figure, axes = plt.subplots(-(-panels // 2), 2, figsize=(10, 2.6 * -(-panels // 2)), squeeze=False)
        flat = axes.flatten()
        flat[0].hist(seconds, bins=40, color=AUDIO)
        flat[0].set_xlabel("length of a recording (s)")
        flat[0].set_ylabel("recordings")
        for panel, (column, values) in zip(flat[1:], drawn.items(), strict=False):
            panel.hist(100 * values if column.endswith("_share") else values, bins=40, color=AUDIO, log=True)
            panel.yaxis.set_major_formatter("{x:,.0f}")
            panel.yaxis.set_minor_formatter("")
            panel.set_ylim(bottom=0.7)
            panel.set_xlabel(LEVEL_NAMES[column])
            panel.set_ylabel("recordings")
        for panel, (column, counts) in zip(flat[1 + len(drawn) :], counted.items(), strict=False):
            shown = list(counts.items())[:10]
            rest = sum(count for _, count in list(counts.items())[10:])
            shown += [(f"{len(counts) - 10} more", rest)] if rest else []
            names = [value if len(value) <= 24 else value[:23] + "…" for value, _ in shown][::-1]
            bars = [count for _, count in shown][::-1]
            panel.barh(range(len(bars)), bars, color=[COLOURS.get(name, AUDIO) for name in names], height=0.7)
            panel.set_yticks(range(len(bars)), names)
            panel.set_ylim(max(len(bars), 4) * -1 + len(bars) - 0.6, len(bars) - 0.4)
            panel.grid(False)
            for place, count in enumerate(bars):
                panel.text(count, place, f" {count:,}", va="center", fontsize=9)
            panel.set_xlim(0, max(bars) * 1.2)
            panel.set_title(column.replace("_", " "), loc="left", fontsize=10)
        for panel in flat[panels:]:
            panel.set_visible(False)
        figure.tight_layout()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        plt.close(figure)
        return buffer.getvalue()
