"""What `earwitness inspect` shows: an index as counts and a picture, and one sample of it to read and hear."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...boundary.files import made_folder, write_bytes
from ...boundary.words import file_name, plain, say
from ...curriculum.table import Categorical, read_table
from ...datamodules.audio.levels import CANCELLED_DB, LEVELS, Meter
from ...datamodules.questions.prompts import question_text
from ...datamodules.shards.reader import ShardReader
from ...datamodules.storage.files import Reading


def inspect_index(
    index: str,
    labels: str | None = None,
    out: str | None = None,
    sample: str | None = None,
    shards: str | None = None,
) -> None:
    """Prints counts and hours and writes inspect.png; with `sample`, prints that question and writes its audio.

    labels: a label table to count too. out: the folder written to. shards: where they lie, if not where the index says.
    InputError where the index is not there, the sample is not in it, or its recording is damaged.
    """
    folder = Path(out or "runs/inspect")
    made_folder(folder)
    reader = ShardReader(index, Reading(shards=shards))
    if sample is not None:
        _show_sample(reader, sample, folder)
        return
    table = read_table(index, labels)
    clips, first = np.unique(reader.numbers["clip"], return_index=True)
    duration = table.columns["duration_s"]
    assert isinstance(duration, np.ndarray)
    seconds = duration[first].astype(float)
    say(f"{len(reader):,} questions about {len(clips):,} recordings, {seconds.sum() / 3600:,.2f} hours")
    say(f"length {seconds.min():.2f} to {seconds.max():.2f} s, half of them under {np.median(seconds):.2f} s")
    say(f"{len(reader) / len(clips):.2f} questions a recording, {len(reader.files.shards):,} shards in {reader.place}")
    levels = {name: column[first] for name in LEVELS if isinstance(column := table.columns.get(name), np.ndarray)}
    say("\n".join(_level_lines(levels, len(clips))))
    counted: dict[str, dict[str, int]] = {}
    for name in ("split", "source", "question_type", "audio_contribution", "label"):
        column = table.columns.get(name)
        if isinstance(column, Categorical) and (column.codes >= 0).any():
            counted[name] = _counts(column)
    choices = table.columns["num_choices"]
    assert isinstance(choices, np.ndarray)
    kinds, numbers = np.unique(choices.astype(int), return_counts=True)
    counted["options"] = {str(kind): int(number) for kind, number in zip(kinds, numbers, strict=True)}
    for name, counts in counted.items():
        say(f"\n{name}")
        for value, count in counts.items():
            say(f"  {value:<32.32} {count:>10,}  {count / len(reader):6.1%}")
    from ...reports.corpus_figure import corpus

    known = {name: values[~np.isnan(values)] for name, values in levels.items() if not np.isnan(values).all()}
    # A pair of dollars would be set as a formula, or fail to be one.
    shown = {name: {value.replace("$", r"\$"): n for value, n in counts.items()} for name, counts in counted.items()}
    write_bytes(folder / "inspect.png", corpus(seconds, shown, known))
    say(f"\nwritten: {folder / 'inspect.png'}")


def _level_lines(levels: Mapping[str, np.ndarray], clips: int) -> list[str]:
    """What is to be said of the recordings' levels; of those that were never decoded none is known."""
    known = ~np.isnan(levels["rms_db"]) if "rms_db" in levels else np.zeros(clips, bool)
    if not known.any():
        return ["levels are not known: `earwitness index SHARDS --decode` measures them"]
    low, middle, high = np.percentile(levels["rms_db"][known], [5, 50, 95])
    lines = [f"RMS {middle:.1f} dB of full scale (median; 5 and 95 %: {low:.1f} and {high:.1f})"]
    for name, what, limit in (
        ("mix_loss_db", "lost more than 10 dB when their channels were mixed", CANCELLED_DB),
        ("clipped_share", "have more than 0.1 % of their samples at full scale", 1e-3),
        ("silent_share", "are digital silence for more than 90 %", 0.9),
    ):
        if count := int((levels[name][known] > limit).sum()):
            lines.append(f"{count:,} of {int(known.sum()):,} recordings {what}")
    if not known.all():
        lines.append(f"levels of {int((~known).sum()):,} recordings are not known (`earwitness index --decode`)")
    return lines


def _counts(column: Categorical) -> dict[str, int]:
    """Value -> rows, the most frequent first; rows without a value last."""
    counts = np.bincount(column.codes + 1, minlength=len(column.names) + 1)
    named = {name: int(count) for name, count in zip(column.names, counts[1:], strict=True) if count}
    named = dict(sorted(named.items(), key=lambda item: -item[1]))
    return named | ({"(none)": int(counts[0])} if counts[0] else {})


def _show_sample(reader: ShardReader, key: str, folder: Path) -> None:
    """Prints the question of that key, and writes its recording into the folder as it lies in its shard."""
    row = reader.row_of(key)
    question = reader.question(row)
    data = reader.sound(row)
    wave = reader.wave(row)  # an error rather than a file that cannot be played
    path = folder / f"{file_name(key)}.{reader.text('audio_ext', row)}"
    write_bytes(path, data)
    say(f"{key}  ({reader.text('split', row)}, {question.question_type}, {reader.num_samples(row) / 16_000:.2f} s)")
    levels = Meter().levels(wave)
    say(f"peak {levels.peak_db:.1f} dB, RMS {levels.rms_db:.1f} dB, {levels.silent_share:.0%} digital silence")
    say(f"\n{plain(question.question)}")
    for choice in question.choices:
        say(f"  {'*' if choice == question.answer else ' '} {plain(choice)}")
    for what, text in (
        ("published contribution", question.audio_contribution),
        ("structured reasoning", question.structured_cot),
        ("unstructured reasoning", question.unstructured_cot),
    ):
        if text:
            say(f"\n{what}: {plain(text)}")
    say(f"\nasked as: {plain(question_text(question.question, question.choices))}")
    say(f"\n{reader.where(row)}\nwritten: {path}")
