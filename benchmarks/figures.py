"""What benchmarks found, as figures: of each file of results the bars, the notes and the sentences of its picture.

A function takes the parsed JSON and returns a Figure. Nothing is said that the numbers could contradict when they are
measured again: sentences hold values and quotients, never who won.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from earwitness.benchmarks.drawing import Figure, Panel, Row

Result = Mapping[str, Any]
OURS = "earwitness"


def short(value: float) -> str:
    """Three digits of a number, with commas: 5.34, 11.0, 0.153, 14,800."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:#.3g}"


def table(corner: str, columns: Mapping[str, Sequence[Row]], more: bool = False) -> str:
    """A Markdown table of what others need of what ours needs, a line for each of them.

    columns: name -> bars, ours among them. more: they are rates, and ours is divided by theirs. A cell is empty where
    ours is nothing, or where somebody is missing.
    """
    names = dict.fromkeys(row.name for rows in columns.values() for row in rows if not row.own)
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---" + "|--:" * len(columns) + "|"]
    for name in names:
        cells = []
        for rows in columns.values():
            own = next((row.value for row in rows if row.own), 0.0)
            other = next((row.value for row in rows if row.name == name), 0.0)
            cells.append(short(own / other if more else other / own) if own > 0 and other > 0 else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def provider(name: str) -> str:
    """A provider of the losses as pictures call it."""
    known = {"torch naive": "torch, all logits at once", "torch native": "torch's own fused loss"}
    if name.startswith("ours"):
        return f"{OURS}, {name[5:]} kernel" if "triton" in name else OURS
    return known.get(name, name)


def loss_rows(found: Sequence[Result], key: str, unit: str) -> list[Row]:
    """A bar per provider that ran; ours first."""
    rows = [
        Row(
            provider(entry["provider"]),
            max(entry[key], 0.0),
            f"{short(entry[key])} {unit}",
            "ours" in entry["provider"],
        )
        for entry in found
        if key in entry
    ]
    return sorted(rows, key=lambda row: not row.own)


def about(result: Result) -> str:
    """Machine and versions of the comparison of losses."""
    said = dict(result["about"])
    shape = said.pop("rows x width x vocabulary", "")
    machine = said.pop("machine")
    names = ", ".join(f"{name} {version}" for name, version in said.items())
    shown = shape.replace(" ", "\N{NO-BREAK SPACE}")
    return f"{machine}; {names}." + (f" Rows, width, vocabulary: {shown}." if shape else "")


def loss_figure(result: Result, modes: Mapping[str, str], title: str) -> Figure:
    """Time and memory of some modes; modes: name -> heading."""
    panels, said = [], []
    for mode, heading in modes.items():
        found = [entry for entry in result["figures"] if entry.get("mode") == mode and "provider" in entry]
        seconds, memory = loss_rows(found, "s", "s"), loss_rows(found, "GiB", "GiB")
        panels += [Panel(f"{heading}: CPU seconds, less is better", seconds)]
        panels += [Panel(f"{heading}: memory beyond inputs and gradients", memory)]
        said.append(table(f"{heading}: theirs over ours", {"time": seconds, "memory": memory}))
    notes = ["Forward and backward, float32; every provider in a process of its own.", about(result)]
    return Figure(title, panels, notes, "\n\n".join(said))


def cross_entropy(result: Result) -> Figure:
    """SFT's loss beside its peers."""
    return loss_figure(result, {"cross entropy": "Cross entropy"}, "SFT's loss from hidden states, without logits")


def log_probs(result: Result) -> Figure:
    """Log-probs beside their peers, with a head that trains and one that does not."""
    modes = {"frozen": "Log-probs, head frozen (LoRA)", "trainable": "Log-probs, head trained"}
    return loss_figure(result, modes, "Log-probs of tokens, for any loss on top")


def grpo_loss(result: Result) -> Figure:
    """GRPO's loss beside its peer."""
    return loss_figure(result, {"grpo": "GRPO's loss"}, "GRPO's loss from hidden states, in one pass")


def truncated(result: Result) -> Figure:
    """Log-probs over the words that top_k and top_p left."""
    found = [entry for entry in result["figures"] if entry.get("mode") == "truncated" and "s" in entry]
    times = {entry["provider"].removeprefix("ours, "): entry["s"] for entry in found}
    rows = [Row(words, seconds, f"{short(seconds)} s", True) for words, seconds in times.items()]
    whole = times.pop("all words")
    said = "; ".join(f"over {words} {short(seconds / whole)}" for words, seconds in times.items())
    notes = ["Frozen head, forward and backward, float32.", about(result)]
    title = "Log-probs over the words that top_k left"
    return Figure(title, [Panel("CPU seconds by words per row", rows)], notes, f"Time over that of all words: {said}.")


def sampling(result: Result, gpu: bool = False) -> Figure:
    """The sampler beside `generate`; gpu: measured on one, in seconds of the wall."""
    rates = result["tokens per second"]
    rows = [
        Row(OURS if name == "ours" else name, rate, f"{short(rate)} /s", name == "ours") for name, rate in rates.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    size = f"{result['parameters']:,} parameters"
    notes = [
        f"{result['machine']}; {versions}; {size}.",
    ]
    panel = Panel(f"Tokens per {'' if gpu else 'CPU '}second, more is better", rows)
    said = f"Ours over `generate`, in tokens per second: {short(result['ratio'])}."
    return Figure("Sampling answers for GRPO", [panel], notes, said)


GRPO_PARTS = {"rollout": "rollout", "fixed log-probs": "fixed log-probs", "forward": "forward", "backward": "backward"}
WAYS = {"ours": OURS, "usual": "the usual way"}


def grpo_step(result: Result) -> Figure:
    """A GRPO step beside the usual way: time with its parts, memory."""
    panels, said = [], []
    for run in result["runs"]:
        words = f"{run['vocabulary']:,} words"
        length = {"ours": 100 / run["time_ratio"], "usual": 100.0}
        rows = []
        for way, name in WAYS.items():
            shares = [run["shares"][way][part] for part in GRPO_PARTS]
            parts = [length[way] * share for share in [*shares, max(0.0, 1 - sum(shares))]]
            rows.append(Row(name, length[way], f"{length[way]:.0f} %", way == "ours", parts=parts))
        legend = [*GRPO_PARTS.values(), "rest"]
        panels.append(Panel(f"{words}: CPU time of a step, the usual way is 100 %", rows, 100.0, legend))
        peaks = run["peak_mib"]
        rows = [Row(name, peaks[way], f"{peaks[way]:,} MiB", way == "ours") for way, name in WAYS.items()]
        panels.append(Panel(f"{words}: growth of memory", rows))
        gap = short(run["gap_of_the_first_gradients_norm"])
        ratios = f"{short(run['time_ratio'])} in time, {short(run['memory_ratio'])} in memory"
        said.append(f"- {words}, the usual way over ours: {ratios}; the norms of the first gradients differ by {gap}.")
    first = result["runs"][0]
    size = f"{first['prompts']} questions, {first['group']} answers each, {first['new_tokens']} tokens at most."
    return Figure("A GRPO step", panels, [size, f"{result['machine']}."], "\n".join(said))


def swift(result: Result) -> Figure:
    """Whole SFT and GRPO steps beside ms-swift's."""
    panels, said = [], []
    for name in ("sft", "grpo"):
        found = result[name]
        runs = {OURS: found["ours"], "ms-swift": found["ms-swift"]}
        ran = {who: run for who, run in runs.items() if "failed" not in run}
        said += [f"- {who} did not run {name.upper()}: {run['failed']}" for who, run in runs.items() if "failed" in run]
        for key, heading, unit in (("cpu_s", "CPU seconds of a step", "s"), ("mib", "growth of memory", "MiB")):
            rows = [Row(who, run[key], f"{short(run[key])} {unit}", who == OURS) for who, run in ran.items()]
            panels.append(Panel(f"{name.upper()}: {heading}, less is better", rows))
        if len(ran) == 2:
            losses = " and ".join(short(run["first loss"]) for run in ran.values())
            also = f"; first losses {losses}" if name == "sft" else ""
            said.append(
                f"- {name.upper()}, ms-swift over ours: {short(found['cpu_s ratio'])} in CPU time, "
                f"{short(found['mib ratio'])} in memory{also}."
            )
    names = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    answers = f"{result['group']} answers each of {result['new_tokens']} tokens at most"
    size = f"{result['batch']} questions a step; GRPO: {answers}."
    notes = ["The same tiny checkpoint, questions, rate; float32.", size, f"{result['machine']}; {names}."]
    return Figure("Whole steps beside ms-swift", panels, notes, "\n".join(said))


def labels(result: Result) -> Figure:
    """How often labels agree with the planted truth, by how voters are asked."""
    panels = []
    for corpus, manners in result.items():
        rows = []
        for manner, found in manners.items():
            share, low, high = (100 * value for value in found["agreement"])
            text = f"{share:.1f} % [{low:.1f}, {high:.1f}]"
            rows.append(Row(manner, share, text, True, (low, high)))
        count = next(iter(manners.values()))["questions"]
        panels.append(Panel(f"{corpus}: agreement with the planted truth, {count:,} questions", rows, 100.0))
    notes = ["Three voters, asked in four ways; intervals of 95 %. Counts, not times."]
    return Figure("Labels beside the planted truth", panels, notes)
