"""An evaluation's results, and a comparison of two, as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...curriculum.evaluation.benchmark_report import OWN

_FACETS = 12  # values of a grouping that are printed; results.json has all


def evaluation_text(results: Mapping[str, Any]) -> str:
    """The results of `run_evaluation` as lines: of each benchmark its scores, baselines, contribution and notes."""
    blocks = [_benchmark(found, results["tests"]) for found in results["benchmarks"]]
    return "\n\n".join(blocks)


def comparison_text(compared: Mapping[str, Any]) -> str:
    """A comparison of `compare_results` as lines."""
    lines = [f"warning: {warning}" for warning in compared["warnings"]]
    for one in compared["comparisons"]:
        lines.append(
            f"{one['benchmark']}, {one['condition']}, {one['rule']}: {_percent(one['before'])} to "
            f"{_percent(one['after'])} of {one['questions']:,} questions, {_points(one['difference'])}; gained "
            f"{one['gained']:,}, lost {one['lost']:,}, p {_p(one['p'])}, of {compared['tests']} tests "
            f"{_p(one['p_holm'])}"
        )
    return "\n".join(lines)


def _benchmark(found: Mapping[str, Any], tests: int) -> str:
    lines = [f"{found['name']}: {found['questions']:,} questions about {found['recordings']:,} recordings"]
    lines.append(f"  {found['file']}, questions {found['question_hash']}, audio {found['audio_hash']}")
    if "scores" in found:
        lines += _scores(found) + _baselines(found["baselines"]) + _contribution(found, tests) + _orders(found)
        lines += _groups(found)
    missing = found["missing"]
    if missing["records"]:
        lines.append(f"  {missing['records']:,} records are no questions that can be asked; they count as wrong")
    lines += [f"  {count:,} answers under {name} are missing" for name, count in missing["tasks"].items()]
    lines += [f"  missing: {reason}" for reason in missing["reasons"][:3]]
    if found["left_out"]:
        lines.append(f"  {found['left_out']:,} records are of other kinds, and are not counted")
    lines += [f"  warning: {text}" for text in found["warnings"]]
    lines += [f"  note: {text}" for text in found["facts"]]
    for one in found.get("overlap", ()):
        lines.append(
            f"  overlap with {one['index']}: {one['any']:,} of {one['of']:,} questions ({one['recordings']:,} by "
            f"recording, {one['questions']:,} by question, {one['ids']:,} by id)"
        )
    for condition, files in found["predictions"].items():
        lines.append(f"  predictions under {condition}: {', '.join(files)}")
    return "\n".join(lines)


def _scores(found: Mapping[str, Any]) -> list[str]:
    scores = found["scores"]
    conditions = list(scores)
    width = max(24, *(len(name) + 2 for name in conditions))
    lines = [" " * 14 + "".join(name.rjust(width) for name in conditions)]
    for rule in scores[conditions[0]]:
        cells = []
        for condition in conditions:
            score = scores[condition][rule]
            share = score["accuracy"][0]
            text = "none" if share is None else f"{_percent(share)} ({score['right']:,}/{score['of']:,})"
            cells.append(text.rjust(width))
        no_official = rule == "official" and any(fact.startswith("no official number") for fact in found["facts"])
        if not no_official:
            lines.append(f"  {rule:<12}" + "".join(cells))
    for kind in ("unfinished", "unreadable", "missing"):
        counts = [scores[name][found["rule"]]["answers"][kind] for name in conditions]
        lines.append(f"  {kind:<12}" + "".join(f"{count:,}".rjust(width) for count in counts))
    dropped = [scores[name]["official"]["dropped"] for name in conditions]
    if any(dropped):
        lines.append(f"  {'dropped':<12}" + "".join(f"{count:,}".rjust(width) for count in dropped))
        lines.append("  (dropped: left out of the official denominator by the published scorer)")
    return lines


def _baselines(base: Mapping[str, Any]) -> list[str]:
    if not base:
        return []
    return [
        f"  without knowing anything: chance {100 * base['chance']:.2f} %, always first {_percent(base['first'])}, "
        f"longest option {_percent(base['longest'])}, best place {base['place']} {_percent(base['best_place'])}"
    ]


def _contribution(found: Mapping[str, Any], tests: int) -> list[str]:
    lines = []
    for name, one in found["contribution"].items():
        if name == "S":
            lines.append(f"  audio less the mean of silence and mismatched (S): {_points(one)}")
            continue
        lines.append(
            f"  audio contributes {_points(one['difference'])} over {name} ({found['rule']}): both right "
            f"{one['both']:,}, only with audio {one['only_with']:,}, only without {one['only_without']:,}, neither "
            f"{one['neither']:,}; "
            f"McNemar p {_p(one['p'])}, of {tests} tests {_p(one['p_holm'])}"
        )
    for origin, parts in found["subsets"].items():
        for label, part in parts.items():
            shares = ", ".join(f"{name} {_percent(share[0])}" for name, share in part["accuracy"].items())
            lines.append(f"  {label} by {origin} ({part['questions']:,}): {shares}")
        if origin == OWN:
            lines.append(
                "  (such labels are chosen by the answers they are measured on: luck in silence counts as weak)"
            )
    return lines


def _orders(found: Mapping[str, Any]) -> list[str]:
    return [
        f"  {one['orders']} orders of the options, {name}: mean {_percent(one['mean'][0])}, same option in all "
        f"{_percent(one['consistent'][0])}, majority {_percent(one['majority'][0])}, right in all "
        f"{_percent(one['all'])}"
        for name, one in found["orders"].items()
    ]


def _groups(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for facet, values in found["groups"].items():
        if len(values) > _FACETS:
            continue
        condition = next(iter(found["scores"]))
        parts = [f"{name} {_percent(one[condition][0])} ({one['questions']:,})" for name, one in values.items()]
        lines.append(f"  {facet}, {condition}: {', '.join(parts)}")
    return lines


def _percent(share: float | Sequence[float] | None) -> str:
    return "none" if share is None else f"{100 * (share if isinstance(share, float | int) else share[0]):.1f} %"


def _points(values: Sequence[float | None]) -> str:
    mean, low, high = (100 * (value if value is not None else float("nan")) for value in values)
    return f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
