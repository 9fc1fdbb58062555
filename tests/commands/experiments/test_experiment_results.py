"""What runs answered of benchmarks: the same questions alone count, and labels must agree."""

from __future__ import annotations

import pyarrow as pa
import pytest

from earwitness.commands.experiments.expansion import Expansion, RunOf
from earwitness.commands.experiments.results import asked_of
from earwitness.curriculum.table import write_arrow
from earwitness.errors import InputError


def outcomes(folder, right, labels=None, first=0):
    """A folder of results with a benchmark `quiz`: questions from `first` on, two on a recording, `right` as given."""
    rows = range(first, first + len(right))
    table = {
        "uid": pa.array(rows, pa.uint64()),
        "key": [f"s{n % 3}/{n}" for n in rows],
        "clip": pa.array([n // 2 for n in rows], pa.uint64()),
        "condition": ["audio"] * len(right),
        "rotation": [0] * len(right),
        "official": [1] * len(right),
        "option": [0] * len(right),
        "strict": ["right" if one == "1" else "wrong" for one in right],
    }
    if labels:
        table["label"] = [{"w": "weak", "s": "strong", "-": None}[one] for one in labels]
    (folder / "outcomes").mkdir(parents=True)
    write_arrow(pa.table(table), folder / "outcomes" / "quiz.arrow")
    return str(folder)


def experiment(*folders):
    """One run per pair of folders, before and after training."""
    steps = {f"table-{n}": {"do": "score_table", "results": {"start": a, "end": b}} for n, (a, b) in enumerate(folders)}
    places = {RunOf(f"arm{n}", 1, 1): {"table": f"table-{n}"} for n in range(len(folders))}
    return Expansion(steps, places)


def test_runs_are_compared_on_the_questions_that_all_of_them_answered(tmp_path, capsys):
    """The second arm answered 2 to 7 of 0 to 5; questions 2 to 5 are left."""
    before = outcomes(tmp_path / "a", "000000", "wwss--")
    after = outcomes(tmp_path / "b", "101010", "wwss--")
    later = [outcomes(tmp_path / name, right, "ss--ww", 2) for name, right in (("c", "000000"), ("d", "111100"))]
    (found,) = asked_of(experiment((before, after), tuple(later)), "clip")
    assert (found.benchmark, len(found.label), found.left_out) == ("quiz", 4, 4)
    assert found.label.tolist() == ["strong", "strong", "", ""] and found.cluster.tolist() == [1, 1, 2, 2]
    assert [trial.after.tolist() for trial in found.trials] == [[1, 0, 1, 0], [1, 1, 1, 1]]
    assert "4 of 8 questions were not answered by all runs" in capsys.readouterr().out


def test_answers_may_depend_on_each_other_by_source(tmp_path):
    pair = [outcomes(tmp_path / name, "010101") for name in "ab"]
    (found,) = asked_of(experiment(tuple(pair)), "source")
    assert found.cluster[0] == found.cluster[3] != found.cluster[1]


def test_what_cannot_be_compared_is_refused(tmp_path):
    first = tuple(outcomes(tmp_path / name, "0101", "wwss") for name in "ab")
    others = tuple(outcomes(tmp_path / name, "0101", "wwss", 10) for name in "cd")
    with pytest.raises(InputError, match="quiz: the runs share no question"):
        asked_of(experiment(first, others), "clip")
    relabelled = tuple(outcomes(tmp_path / name, "0101", "wsss") for name in "ef")
    with pytest.raises(InputError, match="quiz: arm1, train 1, draw 1 was judged by other labels"):
        asked_of(experiment(first, relabelled), "clip")
    some = experiment(first, first)
    some.places[RunOf("arm1", 1, 1)] = {}
    with pytest.raises(InputError, match="quiz: arm1, train 1, draw 1 has no answers to it"):
        asked_of(some, "clip")
