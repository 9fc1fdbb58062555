"""What `earwitness compare` does: the control sheet, the runs of the arms, and the table of what they brought."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ... import __version__
from ...boundary.files import write_text
from ...boundary.words import say
from ...curriculum.evaluation.arms import compared, in_silence
from ...curriculum.preview.compare import compare, comparison_lines
from ...curriculum.preview.control import (
    Difference,
    configuration_differences,
    planned_differences,
    sheet_lines,
)
from ...curriculum.preview.synthetic import audiomcq_table
from ...curriculum.table import Table, read_table
from ...errors import InputError
from ..evaluation.results import finite
from ..recipes.records import Record
from .arms import Arm, arms_of_experiment, data_of, trained_by, with_curriculum, with_seeds
from .columns import check_arm
from .expansion import Expansion, RunOf, expanded
from .experiment import Experiment, read_experiment
from .leaving_out import absent_stages, without
from .results import asked_of

SHARED = "shared"
_PAGES = ("build_report",)  # of single runs; `earwitness report` writes one


class UndeclaredError(InputError):
    """Arms that differ in what they are not meant to; the command line ends with 2."""

    exit_code = 2


@dataclass
class Prepared:
    """An experiment that may run: its arms, its steps, and what the control sheet found.

    sheet: of `compare`, None while there is no table to plan over. stood_in: whether that table is made up.
    """

    experiment: Experiment
    path: Path
    out: Path
    arms: dict[str, Arm]
    expansion: Expansion
    sheet: dict[str, Any] | None = None
    found: list[Difference] = field(default_factory=list)
    stood_in: bool = False

    @property
    def declared(self) -> dict[str, list[str]]:
        """Arm -> the keys in which it may differ."""
        return {name: [*self.experiment.declared(name), *arm.declared] for name, arm in self.arms.items()}

    @property
    def curricula(self) -> dict[str, dict[str, Any]]:
        """Arm -> its curriculum, with the first seed of the draw."""
        draw = self.experiment.pairs[0][1]
        return {name: arm.curriculum | {"seed": draw} for name, arm in self.arms.items()}

    def file(self, kind: str) -> Path:
        """A file of this experiment in its folder, which others may share; kind: its ending."""
        return self.out / f"{self.experiment.name or self.path.stem}.{kind}"

    @property
    def reference(self) -> str:
        """The arm that the others are compared with."""
        return self.experiment.reference or next(iter(self.arms))


def prepare(name: str, words: Sequence[str] = (), out: str | None = None, synthetic: bool = False) -> Prepared:
    """The experiment with its control sheet, as far as the table to plan over is there.

    Raises InputError for a file, an arm or a key that is wrong.
    """
    experiment, path = read_experiment(name, words)
    folder = Path(out or experiment.out or f"runs/experiments/{experiment.name or path.stem}")
    arms = arms_of_experiment(experiment, path)
    prepared = Prepared(experiment, path, folder, arms, expansion_of(experiment, arms, folder))
    steps = {name: {"curriculum": arm.curriculum, "steps": arm.recipe["steps"]} for name, arm in arms.items()}
    prepared.found = configuration_differences(steps, prepared.declared)
    plan_arms(prepared, synthetic)
    return prepared


def plan_arms(prepared: Prepared, synthetic: bool = False) -> None:
    """Adds to the control sheet what follows from the table, and matches budgets, where the table is there."""
    experiment = prepared.experiment
    table, prepared.stood_in = _table(prepared, synthetic)
    if table is None or prepared.stood_in:
        _check_columns(prepared)
    if table is None:
        return
    asked = "--synthetic" if synthetic else "stand_in"
    way = f"leave out {asked}, and the recipe's own questions are planned over once they are there"
    sheet = compare(prepared.curricula, table, experiment.match, way if prepared.stood_in else None)
    if experiment.match != "none":
        prepared.arms = {name: _rescaled(arm, sheet["budgets"][name]) for name, arm in prepared.arms.items()}
        prepared.expansion = expansion_of(experiment, prepared.arms, prepared.out)
    prepared.sheet = sheet
    prepared.found += planned_differences(sheet, prepared.curricula, prepared.declared)


def _check_columns(prepared: Prepared) -> None:
    """Raises InputError for an arm whose table, which is still to be made, will lack a column that it decides by."""
    first = {run.arm: places for run, places in reversed(prepared.expansion.places.items())}
    for name, arm in prepared.arms.items():
        steps = {step: prepared.expansion.steps[place] for step, place in first[name].items()}
        trained = [step for step in steps if trained_by(arm.recipe["steps"][step], arm.curriculum) is not None]
        for step in trained:
            check_arm(arm.curriculum, data_of(steps[step]), steps, f"{prepared.path}: arm {name!r}")


def expansion_of(experiment: Experiment, arms: Mapping[str, Arm], out: Path) -> Expansion:
    """The steps of all runs; those that write pages of single runs are left out."""
    runs: dict[RunOf, dict[str, Any]] = {}
    base = next(iter(arms.values())).recipe["steps"]
    for name, arm in arms.items():
        gone = absent_stages(arm.recipe["steps"], arm.curriculum)
        for train, draw in experiment.pairs:
            run = RunOf(name, train, draw)
            steps = without(with_seeds(arm, train, draw)["steps"], gone, base)
            runs[run] = {key: _titled(step, run) for key, step in steps.items() if step.get("do") not in _PAGES}
    return expanded(runs, str(out))


def _titled(step: Any, run: RunOf) -> Any:
    """A step with a title, which says of which run it is."""
    return step | {"title": run.name} if isinstance(step, dict) and isinstance(step.get("title"), str) else step


def _rescaled(arm: Arm, budgets: Mapping[str, Any]) -> Arm:
    """The arm with the budgets that it is matched by."""
    stages = []
    for stage in arm.curriculum["stages"]:
        budget = budgets[stage.get("name", "+".join(str(one["name"]) for one in stage.get("stages", ())))]
        if "interleave" in stage:
            stages.append(stage | {"interleave": stage["interleave"] | {"steps": budget["steps"]}})
        else:
            stages.append(stage | {"budget": dict(budget)})
    return with_curriculum(arm, arm.curriculum | {"stages": stages})


def _table(prepared: Prepared, synthetic: bool) -> tuple[Table | None, bool]:
    """The rows that arms train on, and whether they are made up; None where they are still to be made."""
    data = _data(prepared)
    labels = data.get("labels")
    files = [data["index"], *([labels] if isinstance(labels, str) else labels or [])]
    if not synthetic and all(Path(file).is_file() for file in files):
        table = read_table(data["index"], labels)
        pool = (data.get("training") or {}).get("pool") or {"split": "train"}
        return table.take(table.where(pool)), False
    if synthetic or prepared.experiment.stand_in:
        return audiomcq_table(), True
    return None, False


def _data(prepared: Prepared) -> dict[str, Any]:
    """What the data module of the first trained step is given."""
    for run, places in prepared.expansion.places.items():
        for name, step in prepared.arms[run.arm].recipe["steps"].items():
            if name in places and trained_by(step, prepared.arms[run.arm].curriculum) is not None:
                return data_of(prepared.expansion.steps[places[name]])
    raise InputError(f"{prepared.path}: no step of the recipe trains on its `curriculum`; there is nothing to compare")


def table_steps(prepared: Prepared) -> dict[str, dict[str, Any]]:
    """The steps that make the table that arms are planned over."""
    data = _data(prepared)
    files = json.dumps([data["index"], data.get("labels")])
    return prepared.expansion.needed({name for name in prepared.expansion.steps if f"/{name}/" in files})


def show_sheet(prepared: Prepared) -> None:
    """Prints the control sheet; raises UndeclaredError where arms differ unintentionally."""
    if prepared.sheet is not None:
        if prepared.stood_in:
            say("planned over a made-up table with AudioMCQ's published counts, as the recipe's own is not there")
        overlap = [one for one in prepared.sheet["overlap"] if prepared.reference in one["arms"]]
        say("\n".join(comparison_lines(prepared.sheet | {"differences": {}, "overlap": overlap})))
    planned = prepared.sheet is not None
    say("\n".join(sheet_lines(prepared.found, prepared.declared, list(prepared.arms), planned)), flush=True)
    undeclared = [one for one in prepared.found if one.by is None]
    if undeclared:
        more = f" ({len(undeclared) - 1} more are listed above)" if len(undeclared) > 1 else ""
        raise UndeclaredError(undeclared[0].refused(str(prepared.path)) + more)


def write_table(prepared: Prepared) -> dict[str, Any]:
    """Compares what the runs answered; writes NAME.json, .csv and .html, and returns the content of the first."""
    experiment, expansion = prepared.experiment, prepared.expansion
    asked = asked_of(expansion, experiment.cluster)
    if not asked:
        raise InputError(f"{experiment.recipe}: no step `evaluate` or `score_table` says what its models answered")
    results = compared(asked, prepared.reference, experiment.family)
    quiet = asked_of(expansion, experiment.cluster, "silence")
    results["silence"] = compared(quiet, prepared.reference)["accuracy"] if quiet else []
    whole: dict[str, Any] = {
        "title": experiment.title or f"Experiment {experiment.name or prepared.path.stem}",
        "experiment": str(prepared.path),
        "arms": list(prepared.arms),
        "seeds": [{"train": train, "draw": draw} for train, draw in experiment.pairs],
        "declared": sorted({key for keys in prepared.declared.values() for key in keys}),
        "match": experiment.match,
        "cluster": experiment.cluster,
        "results": results,
        "differences": [one._asdict() for one in prepared.found],
        "sheet": prepared.sheet,
        "runs": [{**run._asdict(), "steps": places} for run, places in expansion.places.items()],
        "versions": _versions(prepared),
        "made": {"earwitness": __version__, "set": experiment.set, "seeds": asdict(experiment.seeds)},
    }
    whole = dict(finite(whole))
    from ...reports.experiment_page import build_experiment_page

    write_text(prepared.file("json"), json.dumps(whole, indent=1, default=str) + "\n")
    write_text(prepared.file("csv"), _csv(whole["results"]))
    build_experiment_page(whole, prepared.file("html"))
    return whole


def _versions(prepared: Prepared) -> list[str]:
    """The versions of earwitness by which the steps were run."""
    folder = prepared.out / ".steps"
    return sorted({Record.read(folder / f"{name}.json").version for name in prepared.expansion.steps} - {""})


def _csv(results: Mapping[str, Any]) -> str:
    """Long form: one number with its interval a line."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["what", "arm", "benchmark", "label", "questions", "value", "low", "high", "p", "p_holm"])
    for row in results["accuracy"]:
        key = [row["arm"], row["benchmark"], row["label"], row["questions"]]
        for what in ("before", "after"):
            rows.writerow([what, *key, *row[what], "", ""])
        rows.writerow(["change", *key, *row["gain"], row["p"], row["p_holm"]])
        if quiet := in_silence(results, row):
            for what in ("before", "after"):
                rows.writerow([f"{what}, in silence", *key, *quiet[what], "", ""])
        for axis, found in row["spread"]["after"].items():
            rows.writerow([f"sd of after over seeds of {axis}", *key, found["sd"], "", "", "", ""])
    for row in results["stages"]:
        key = [row["arm"], row["benchmark"], row["label"], row["questions"]]
        rows.writerow([f"change from {row['from']} to {row['to']}", *key, *row["gain"], row["p"], row["p_holm"]])
    for row in results["contrasts"]:
        key = [row["arm"], row["benchmark"], row["label"], row["questions"]]
        rows.writerow([f"after minus {row['reference']}", *key, *row["difference"], row["p"], row["p_holm"]])
    for row in results["interactions"]:
        key = [row["arm"], row["benchmark"], "strong minus weak", sum(row["questions"])]
        rows.writerow(["change", *key, *row["interaction"], row["p"], row["p_holm"]])
    return text.getvalue()


def words_of(prepared: Prepared, given: str, overrides: Sequence[str], part: str) -> list[str]:
    """The command that runs one arm, or the shared steps; given: name of the experiment as it was given."""
    name = str(prepared.path.resolve()) if Path(given).is_file() else given
    return ["earwitness", "compare", name, *overrides, "--out", str(prepared.out), "--only", part]
