"""What benchmarks found of data, curricula and builds, and on a GPU, as figures; see figures.py."""

from __future__ import annotations

from typing import Any

from earwitness.benchmarks.drawing import Figure, Panel, Row
from earwitness.benchmarks.figures import OURS, Result, loss_rows, short, table


def machine_of(result: Result) -> str:
    """Machine and Python of the data benchmark."""
    found = result["machine"]
    return f"{found['cpu']}, one core; Python {found['python']}."


def access(result: Result) -> Figure:
    """Decoded samples per CPU-second by the share of a corpus that is wanted."""
    panels, columns = [], {}
    for share, found in result["access"].items():
        wanted = f"{100 * float(share):.0f} %"
        rates = {name: rate for name, rate in found.items() if isinstance(rate, float)}
        rows = [Row(name, rate, f"{short(rate)} /s", name.startswith(OURS)) for name, rate in rates.items()]
        rows.sort(key=lambda row: not row.own)
        columns[f"{wanted} wanted"] = rows
        panels.append(Panel(f"{wanted} of the questions, {found['samples']:,}: samples per CPU-second", rows))
    notes = [f"{result['samples']:,} recordings of ten seconds; more is better.", machine_of(result)]
    return Figure("Reading a part of a corpus", panels, notes, table("ours over theirs", columns, more=True))


def features(result: Result) -> Figure:
    """Log-mel features of clips at their own length, and padded."""
    panels, said = [], []
    for how in ("one by one", "batches of 8"):
        exact, padded = (result["features"][f"{kind}, {how}"] for kind in ("exact", "padded to 300 s"))
        rows = [Row(f"{OURS}, at their own length", exact, f"{short(exact)} /s", True)]
        rows += [Row("padded to 300 s, the processor's default", padded, f"{short(padded)} /s")]
        panels.append(Panel(f"{how}: clips per CPU-second, more is better", rows))
        said.append(f"{how} {short(exact / padded)}")
    title = "Log-mel features of ten seconds"
    text = f"Ours over the default, in clips per second: {', '.join(said)}."
    return Figure(title, panels, ["Both give the same numbers.", machine_of(result)], text)


def decoding(result: Result) -> Figure:
    """Decoding by the kind of file, with all checks, mixing and resampling, and the library alone."""
    panels = []
    for kind, rates in result["kinds"].items():
        ours, bare = rates["earwitness"], rates["library alone"]
        rows = [Row(f"{OURS}, to 16 kHz mono", ours, f"{short(ours)} /s", True)]
        panels.append(Panel(kind, [*rows, Row("the library alone", bare, f"{short(bare)} /s")]))
    flac = result["decode"]
    said = f"FLAC that is 16 kHz and mono already: {short(flac['earwitness'])} files per CPU-second with all checks, "
    said += f"{short(flac['soundfile'])} by the library alone."
    notes = ["Ten seconds, 44.1 or 48 kHz, stereo. The library alone neither mixes nor resamples, nor checks."]
    return Figure("Decoding: files per CPU-second", panels, [*notes, machine_of(result)], said)


def curriculum(result: Result) -> Figure:
    """Seconds of planning, milliseconds of batches."""
    timed = {name: value for name, value in result.items() if isinstance(value, float)}
    seconds = [
        Row(name[:-3], value, f"{short(value)} s", not name.startswith("for comparison"))
        for name, value in timed.items()
        if name.endswith(", s")
    ]
    batches = [
        Row(name[:-4], value, f"{short(value)} ms", True) for name, value in timed.items() if name.endswith(", ms")
    ]
    panels = [Panel("Planning: seconds", seconds), Panel("A batch of a plan: milliseconds", batches)]
    peak = result["peak memory of the process, GiB"]
    notes = [f"{result['machine']}, one core; numpy {result['numpy']}."]
    return Figure("Curricula", panels, notes, f"The process took {short(peak)} GiB at most.")


def build(result: Result) -> Figure:
    """What building questions costs, beside what was asked for."""
    more, less = [], []
    for what, value, limit in result["figures"]:
        sign, _, number = limit.partition(" ")
        wanted = float(number.replace(",", "")) if number else 0.0
        if sign == ">=":
            more.append(Row(what, value / wanted, f"{short(value)}, least {number}", True))
        elif wanted >= 1 and value:
            less.append(Row(what, 100 * value / wanted, f"{short(value)}, most {number}", True))
    panels = [
        Panel("Over the least that was asked for", more),
        Panel("Of the most that was allowed", less, 100.0),
    ]
    notes = [f"{result['machine']}, one core; Python {result['python']}."]
    return Figure("Building questions", panels, notes)


def gpu_losses(result: Result) -> Figure:
    """The losses on a GPU: the largest shape of every model, time and memory."""
    entries = [entry for entry in result["figures"] if "ms" in entry and entry["provider"] != "bare products"]
    most = max(entry["rows"] for entry in entries)
    kept = [entry for entry in entries if entry["rows"] == most]
    panels = []
    for model, mode in dict.fromkeys((entry["model"], entry["mode"]) for entry in kept):
        found = [entry for entry in kept if (entry["model"], entry["mode"]) == (model, mode)]
        panels.append(Panel(f"{model}, {mode}: milliseconds, less is better", loss_rows(found, "ms", "ms")))
        panels.append(Panel(f"{model}, {mode}: memory at its peak", loss_rows(found, "peak extra GiB", "GiB")))
    found_about: dict[str, Any] = dict(result["about"])
    machine = found_about.pop("machine")
    notes = [f"{most:,} rows, bf16.", f"{machine}; {', '.join(f'{name} {v}' for name, v in found_about.items())}."]
    return Figure("Losses on a GPU", panels, notes)


def gpu_steps(result: Result) -> Figure:
    """Whole steps on a GPU, their memory beside what was foretold, and the audio tower beside transformers'."""
    panels, said = [], []
    for name in ("sft", "grpo"):
        found = result[name]
        if "failed" in found:
            said.append(f"- {name.upper()} did not run: {found['failed']}")
            continue
        panels.append(
            Panel(f"{name.upper()}: a step", [Row(OURS, found["seconds"], f"{short(found['seconds'])} s", True)])
        )
        keys = {"memory/peak_gb": "at its peak", "memory/foretold_gb": "foretold by earwitness plan --memory"}
        rows = [Row(text, found[key], f"{short(found[key])} GB", True) for key, text in keys.items() if key in found]
        panels += [Panel(f"{name.upper()}: memory", rows)] if rows else []
    for clips in result["tower"]:
        rows = [
            Row(OURS if who == "ours" else who, clips[who], f"{short(clips[who])} ms", who == "ours")
            for who in ("ours", "transformers")
        ]
        panels.append(Panel(f"Audio tower, {clips['clips']} clips of {clips['seconds']} s, less is better", rows))
    names = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return Figure("Whole steps on a GPU", panels, [f"{result['machine']}; {names}."], "\n".join(said))
