"""What of a recipe runs again, and why; steps side by side; kills at random moments.

Most recipes here are of one function, `lab_work.work`, which writes one file and notes when it starts and ends.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from earwitness.commands.recipes.graph import Graph
from earwitness.commands.recipes.recipe import run_recipe
from earwitness.errors import InputError

WORK = "earwitness.tests.commands.recipes.lab_work.work"


class Lab:
    """A folder with a recipe of `work` steps; step -> what it is given, `from` naming steps whose files it reads."""

    def __init__(self, folder: Path, **steps: dict) -> None:
        self.folder, self.out = folder, folder / "out"
        self.steps = {name: self.spec(name, **given) for name, given in steps.items()}

    def spec(self, name: str, **given: object) -> dict:
        """A step that declares what it reads and writes."""
        sources = [str(self.file(each)) for each in given.pop("of", ())] + list(given.pop("source", ()))
        spec = {"do": WORK, "out": str(self.file(name)), "count": str(self.folder / "count"), "source": sources}
        return spec | {"inputs": sources, "outputs": [str(self.file(name))]} | given

    def file(self, name: str) -> Path:
        return self.out / f"{name}.txt"

    def graph(self, **changes: dict) -> Graph:
        for name, given in changes.items():
            self.steps[name] = self.steps[name] | given
        return Graph(self.steps, self.out, "lab.yaml")

    def runs(self, **changes: dict) -> dict[str, str]:
        """Step -> why, of those that would run."""
        return {name: why for name, what, why in self.graph(**changes).explain() if what == "runs"}

    def run(self, jobs: int = 1, **changes: dict) -> list[str]:
        """Runs it; returns which steps started, in the order of their names."""
        before = self.noted("start")
        self.graph(**changes).run(jobs)
        return sorted((Counter(self.noted("start")) - Counter(before)).elements())

    def noted(self, what: str) -> list[str]:
        count = self.folder / "count"
        lines = count.read_text().splitlines() if count.exists() else []
        return [line.split()[1].removesuffix(".txt") for line in lines if line.split()[0] == what]

    def recorded(self) -> set[str]:
        records = (self.out / ".steps").glob("*.json")
        return {path.stem for path in records if "fingerprint" in path.read_text()}


@pytest.fixture
def lab(tmp_path) -> Lab:
    """Two branches that meet: data -> left -> report <- right <- data."""
    (tmp_path / "raw.txt").write_text("raw ")
    return Lab(
        tmp_path,
        data={"source": [str(tmp_path / "raw.txt")], "text": "data "},
        left={"of": ["data"], "text": "left "},
        right={"of": ["data"], "text": "right "},
        report={"of": ["left", "right"], "text": "title"},
    )


def test_a_step_runs_again_only_where_something_it_depends_on_is_another(lab):
    assert lab.runs() == dict.fromkeys(lab.steps, "it has not run yet") and not lab.out.exists()
    assert lab.run() == ["data", "left", "report", "right"]
    assert lab.file("report").read_text() == "raw data left raw data right title"
    assert lab.run() == [] and lab.runs() == {}
    assert lab.runs(report={"text": "another title"}) == {"report": "its argument text changed: title -> another title"}
    assert lab.run() == ["report"]
    assert lab.runs(left={"text": "LEFT ", "seconds": 0.0}) == {
        "left": "its argument text changed: left  -> LEFT  (and 1 more)".replace("  ", " "),
        "report": "because left runs",
    }
    assert lab.run() == ["left", "report"]
    assert lab.file("report").read_text() == "raw data LEFT raw data right another title"


def test_a_replaced_input_is_noticed_and_a_touched_one_is_not(lab):
    lab.run()
    raw = lab.folder / "raw.txt"
    os.utime(raw, (1, 1))
    assert lab.runs() == {}
    raw.write_text("RAW ")
    os.utime(raw, (1, 1))
    reasons = lab.runs()
    assert list(reasons) == ["data", "left", "right", "report"]
    assert re.fullmatch(r"its input .*raw\.txt was replaced", reasons["data"])
    assert reasons["left"] == "because data runs" and reasons["report"] == "because left runs"
    assert lab.run() == ["data", "left", "report", "right"]
    raw.unlink()
    assert lab.runs() == {}, "what was read may be gone"


def test_an_output_that_is_gone_or_altered_is_made_again_and_the_same_bytes_go_no_further(lab):
    lab.run()
    lab.file("data").unlink()
    assert re.fullmatch(r"its output .*data\.txt is missing", lab.runs()["data"])
    assert lab.run() == ["data"]
    lab.file("left").write_text("by hand")
    assert re.fullmatch(r"its output .*left\.txt was changed", lab.runs()["left"])
    assert lab.run() == ["left"]
    assert lab.run(data={"seconds": 0.001}) == ["data"], "another argument, the same bytes"


def test_steps_that_come_after_another_without_reading_it_follow_its_runs(lab):
    lab.steps["told"] = lab.spec("told", text="told", after=["data"])
    lab.run()
    assert lab.run(data={"seconds": 0.001}) == ["data", "told"]
    assert lab.runs(left={"seconds": 0.001}).keys() == {"left", "report"}
    with pytest.raises(InputError, match="step 'left': after: no step 'dta' before it; did you mean 'data'"):
        lab.graph(left={"after": ["dta"]})
    with pytest.raises(InputError, match="step 'left': inputs must be a list of texts, got 3"):
        lab.graph(left={"after": [], "inputs": 3})


def test_a_function_that_declares_nothing_depends_on_all_before_it(lab):
    """Its files are found among its arguments: others' files, what lies in the folder, what comes from elsewhere."""
    (lab.folder / "note.txt").write_text("note")
    own = {"do": WORK, "out": str(lab.file("own")), "count": str(lab.folder / "count")}
    lab.steps["own"] = own | {"source": [str(lab.folder / "note.txt")]}
    lab.steps["next"] = lab.spec("next", of=["own"])
    del lab.steps["own"]["count"]
    lab.run()
    assert lab.runs() == {}
    assert lab.runs(left={"seconds": 0.001}) == {
        "left": "its argument seconds is new: 0.001",
        "report": "because left runs",
        "own": "because left runs",
        "next": "because own runs",
    }
    assert lab.run() == ["left"] and lab.runs() == {}, "the same bytes"
    lab.file("own").unlink()
    assert "own.txt is missing" in lab.runs()["own"]
    lab.run()
    (lab.folder / "note.txt").write_text("NOTE")
    assert "note.txt was replaced" in lab.runs()["own"]
    assert lab.run() == ["next"] and lab.file("next").read_text() == "NOTE"


def test_a_module_of_the_users_and_a_curriculum_file_are_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "parts_of_a_lab.py"
    module.write_text("from pathlib import Path\n\ndef copy(source, out):\n    Path(out).write_text(source)\n")
    steps = {"copy": {"do": "parts_of_a_lab.copy", "source": "x", "out": "out/x", "inputs": [], "outputs": ["out/x"]}}
    Path("out").mkdir()
    Graph(steps, "out", "lab.yaml").run()
    assert Graph(steps, "out", "lab.yaml").explain() == [("copy", "done", "")]
    module.write_text(module.read_text() + "# another\n")
    assert Graph(steps, "out", "lab.yaml").explain() == [("copy", "runs", "its input parts_of_a_lab.py was replaced")]


def test_a_declared_output_that_is_not_written_ends_the_run(lab):
    with pytest.raises(InputError, match="step 'report': it ended without its output nowhere"):
        lab.run(report={"outputs": ["nowhere"]})
    assert lab.recorded() == {"data", "left", "right"}


def test_what_earlier_code_recorded_is_taken_as_done(lab):
    """Its fingerprint was of all steps up to this one; what came before a change stays done."""
    import hashlib

    from earwitness import __version__

    lab.run()
    chain = hashlib.blake2b(__version__.encode(), digest_size=8)
    for name, spec in lab.steps.items():
        chain.update(json.dumps([name, spec], sort_keys=True).encode())
        record = {"fingerprint": chain.hexdigest(), "seconds": 1.5, "result": {"wrote": name}}
        (lab.out / ".steps" / f"{name}.json").write_text(json.dumps(record))
    assert lab.runs() == {}
    changed = lab.runs(right={"text": "RIGHT"})
    assert changed == dict.fromkeys(
        ["right", "report"], "its record is of an earlier form, and it or a step before it has changed since"
    )
    lab.steps["right"]["text"] = "right "
    assert lab.run() == [] and lab.runs(right={"text": "RIGHT "}).keys() == {"right", "report"}
    assert lab.runs()["report"] == "because right runs"


def test_the_lines_of_a_dry_run(lab, capsys):
    recipe = lab.folder / "lab.yaml"
    recipe.write_text(yaml.safe_dump({"out": str(lab.out), "steps": lab.steps}, sort_keys=False))
    run_recipe(str(recipe))
    (lab.folder / "out" / "left.txt").unlink()
    capsys.readouterr()
    run_recipe(str(recipe), ["steps.report.text=other"], dry_run=True)
    said = capsys.readouterr().out.splitlines()
    assert said[1] == f"  data: {WORK}    done"
    assert re.fullmatch(rf"  left: {WORK}    runs: its output .*left\.txt is missing", said[2])
    assert said[4:] == [
        f"  report: {WORK}  runs: its argument text changed: title -> other",
        "2 of 4 steps would run",
    ]


def test_one_folder_takes_one_run_at_a_time(lab):
    from earwitness.boundary.files import alone_in

    code = (
        "import time\nfrom earwitness.boundary.files import alone_in\n"
        f"with alone_in({str(lab.out)!r}, 'running'):\n    print('in', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(InputError, match="another process is running there"):
            lab.run()
        other.kill()
    assert len(lab.run()) == 4
    with alone_in(lab.out, "running"):
        pass


def test_what_was_hashed_is_not_read_again(tmp_path):
    from earwitness.commands.recipes.hashes import Hashes

    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / "data" / name).write_text(name * 1000)
        os.utime(tmp_path / "data" / name, (1, 1))
    first = Hashes(tmp_path / "hashes.json")
    found = first.of(str(tmp_path / "data"))
    first.save()
    second = Hashes(tmp_path / "hashes.json")
    assert second.of(str(tmp_path / "data")) == found and (first.read, second.read) == (2000, 0)
    (tmp_path / "data" / "a").write_text("c" * 1000)
    assert second.of(str(tmp_path / "data")) != found and second.read == 1000
    assert second.of(str(tmp_path / "none")) == "" and second.of("s3://bucket/x") == "s3://bucket/x"
    large = second.of(str(tmp_path / "data"), most=1999)
    os.utime(tmp_path / "data" / "b", (2, 2))
    assert second.of(str(tmp_path / "data"), most=1999) != large, "known by its time of change"


def test_a_file_of_the_same_size_and_time_and_one_behind_a_link_are_read(tmp_path):
    from earwitness.commands.recipes.hashes import Hashes

    (tmp_path / "far").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "near").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "round").symlink_to(tmp_path / "data")
    file, hashes, found = tmp_path / "far" / "labels", Hashes(tmp_path / "hashes.json"), set()
    for text in ("weak  ", "strong"):
        file.write_text(text)
        os.utime(file, (1, 1))
        found.add(hashes.of(str(tmp_path / "data")))
    assert len(found) == 2


def test_what_a_named_curriculum_extends_and_names_is_read_by_the_step(tmp_path, monkeypatch):
    from earwitness.commands.recipes.steps import Step

    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("")
    Path("base.yaml").write_text("cells: [label]\nstages: [{name: sft, weight: {mine.falling: {}}}]\n")
    Path("c.yaml").write_text("extends: base\nseed: 2\n")
    spec = {"do": "fit", "data": {"init_args": {"training": {"curriculum": "c.yaml"}}}}
    assert Step("sft", spec, tmp_path, "r.yaml").named() == ["c.yaml", "base.yaml", "mine.py"]


def test_a_value_of_the_environment_in_a_named_curriculum_is_part_of_the_step(tmp_path, monkeypatch):
    """Also by way of `extends`; a variable that is gone changes nothing that is done, and no value is recorded."""
    from earwitness.commands.recipes import verbs

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("part_of_ours.py").write_text(
        "from pathlib import Path\nfrom earwitness.configs.files import read_curriculum\n"
        "def deal(curriculum, out):\n    Path(out).write_text(str(read_curriculum(curriculum)['seed']))\n"
    )
    monkeypatch.setitem(verbs.FUNCTIONS, "deal", "part_of_ours")
    Path("base.yaml").write_text("seed: ${oc.env:LAB_SEED}\nstages: []\n")
    Path("c.yaml").write_text("extends: base\ncells: [label]\n")
    steps = {"deal": {"do": "deal", "curriculum": "c.yaml", "out": "out/seed"}}

    def why() -> list[tuple[str, str, str]]:
        return Graph(steps, "out", "r.yaml").explain()

    monkeypatch.setenv("LAB_SEED", "20417")
    Graph(steps, "out", "r.yaml").run()
    assert why() == [("deal", "done", "")] and Path("out/seed").read_text() == "20417"
    record = Path("out/.steps/deal.json")
    assert "20417" not in record.read_text()
    monkeypatch.delenv("LAB_SEED")
    assert why() == [("deal", "done", "")]
    monkeypatch.setenv("LAB_SEED", "5")
    assert why() == [("deal", "runs", "a value of the environment in its curriculum changed")]
    kept = json.loads(record.read_text())
    del kept["inputs"]["resolved"]
    record.write_text(json.dumps(kept))
    assert why() == [("deal", "done", "")], "as earlier code recorded it"
    Path("base.yaml").write_text("seed: ${oc.env:LAB_SEED}\nstages: [] # more\n")
    assert why() == [("deal", "runs", "its input base.yaml was replaced")]
    Graph(steps, "out", "r.yaml").run()
    assert why() == [("deal", "done", "")] and Path("out/seed").read_text() == "5"
    monkeypatch.setenv("LAB_SEED", "6")
    assert [what for _, what, _ in why()] == ["runs"]


def test_a_record_leads_to_nothing_but_what_its_step_mentions(lab, monkeypatch):
    """Somebody's record names the folder above, in every list that is looked at; none of what lies there is read."""
    from earwitness.commands.recipes.hashes import Hashes

    lab.run()
    (lab.folder / "secret.txt").write_text("elsewhere")
    seen, of = [], Hashes.of_all
    monkeypatch.setattr(Hashes, "of_all", lambda self, paths, most=None: seen.extend(paths) or of(self, paths, most))
    record = lab.out / ".steps" / "data.json"
    before = record.read_text()
    own = {str(lab.folder / "raw.txt"), *(str(lab.file(name)) for name in lab.steps)}
    for place in ("..", "../secret.txt", "/", str(lab.folder)):
        for key in ("reads", "needs", "exact", "below"):
            kept = json.loads(before)
            kept["places"][key].append(place)
            kept["outputs"][place] = "0" * 24
            record.write_text(json.dumps(kept))
            lab.run()
            assert {path for path in map(os.path.abspath, seen) if os.path.exists(path)} <= own, (place, key)
            record.write_text(before)


@pytest.mark.parametrize("what", ["a link that leads nowhere", "no folder"])
def test_a_folder_of_records_that_cannot_be_is_one_sentence(lab, what):
    lab.out.mkdir()
    place = lab.out / ".steps"
    place.symlink_to(lab.folder / "nowhere") if "link" in what else place.write_text("")
    with pytest.raises(InputError, match=rf"{place}: the folder cannot be made, {place} is {what}; move that away"):
        lab.run()
    assert lab.noted("start") == [] and not (lab.folder / "nowhere").exists()


def test_shards_that_are_added_are_indexed(tmp_path, small):
    source = next(Path(small.index).parent.glob("*.tar"))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.tar").write_bytes(source.read_bytes())
    steps = {"index": {"do": "build_index", "shards": str(tmp_path / "shards"), "out": str(tmp_path / "i.arrow")}}
    Graph(steps, tmp_path / "out", "r.yaml").run()
    assert [what for _, what, _ in Graph(steps, tmp_path / "out", "r.yaml").explain()] == ["done"]
    (tmp_path / "shards" / "b.tar").write_bytes(source.read_bytes())
    assert "b.tar is new" in Graph(steps, tmp_path / "out", "r.yaml").explain()[0][2]


@pytest.mark.parametrize("places", [{}, {"reads": 5}, {"reads": [5, None]}, {"exact": [[1]]}], ids=str)
def test_a_record_whose_places_are_no_places_is_one_without(lab, places):
    lab.run()
    record = lab.out / ".steps" / "data.json"
    kept = json.loads(record.read_text())
    kept["places"] = {"by": kept["places"]["by"]} | ({} if not places else kept["places"] | places)
    record.write_text(json.dumps(kept))
    assert lab.runs() == {}


def test_a_log_that_is_a_pipe_or_a_link_is_refused(lab):
    folder = lab.out / ".steps"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "data.log")
    with pytest.raises(InputError, match=r"data\.log: what a step prints is kept here"):
        lab.run()
    (folder / "data.log").unlink()
    (folder / "data.log").symlink_to(lab.folder / "elsewhere")
    with pytest.raises(InputError, match=r"data\.log: what a step prints is kept here"):
        lab.run()
    assert not (lab.folder / "elsewhere").exists()


# Side by side.


def test_independent_steps_overlap_and_leave_the_same(lab, tmp_path, capsys):
    """`left` and `right` each wait for the other one's file."""
    lab.run()
    alone = {path.name: path.read_text() for path in lab.out.glob("*.txt")}
    meeting = [str(tmp_path / "l"), str(tmp_path / "r")]
    started = lab.run(2, left={"meet": meeting}, right={"meet": meeting[::-1]})
    assert started == ["left", "right"]
    assert {path.name: path.read_text() for path in lab.out.glob("*.txt")} == alone
    said = capsys.readouterr().out
    assert "left | working on left.txt\n" in said and re.search(r"\[ 2/4\] left +\d+\.\d s +wrote left.txt\n", said)
    assert (lab.out / ".steps" / "left.log").read_text().count("working on left.txt\n") == 2
    assert lab.run(2) == []


def test_no_two_steps_have_the_same_gpu(tmp_path, monkeypatch):
    """`a` and `b` take one each and wait for each other, `c` takes both, `d` none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    meeting = [str(tmp_path / "a"), str(tmp_path / "b")]
    given = {"text": "$CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS"}
    lab = Lab(
        tmp_path,
        c=given | {"devices": 2},
        a=given | {"devices": 1, "meet": meeting},
        b=given | {"devices": 1, "meet": meeting[::-1]},
        d=given,
    )
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    lab.run(3)
    threads = max(1, len(os.sched_getaffinity(0)) // 3)
    texts = {name: lab.file(name).read_text() for name in lab.steps}
    assert texts == {"c": f"5,7 {threads}", "a": f"5 {threads}", "b": f"7 {threads}", "d": f" {threads}"}
    order = (tmp_path / "count").read_text().splitlines()
    assert order.index("end c.txt") < order.index("start a.txt")


def test_a_failing_branch_lets_the_others_end_and_starts_no_more(lab, capsys):
    with pytest.raises(InputError, match=r"lab.yaml: step 'left': ended with code 1; its messages are in .*left\.log"):
        lab.run(2, left={"fail": True}, right={"seconds": 0.5})
    said = capsys.readouterr().out
    assert "left | ValueError: a fault of the lab's\n" in said
    assert "left failed: no step is started any more, waiting for right\n" in said
    assert lab.recorded() == {"data", "right"}
    assert lab.run(2, left={"fail": False}) == ["left", "report"]


def alive(pid: int) -> bool:
    """Whether a process runs; not for one that has ended and was not waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def started(lab: Lab, jobs: int) -> subprocess.Popen:
    recipe = lab.folder / "lab.yaml"
    recipe.write_text(yaml.safe_dump({"out": str(lab.out), "steps": lab.steps}, sort_keys=False))
    words = [sys.executable, "-m", "earwitness", "run", str(recipe), "--jobs", str(jobs)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=lab.folder)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_signal_ends_all_processes_of_a_run(lab, number, code):
    """Also one that a step started in a session of its own, and left."""
    strays = [lab.folder / "stray-left", lab.folder / "stray-right"]
    for stray, name in zip(strays, ("left", "right"), strict=True):
        lab.steps[name] |= {"seconds": 60, "stray": str(stray)}
    run = started(lab, 2)
    end = time.monotonic() + 60
    while not all(stray.exists() and stray.read_text() for stray in strays) and time.monotonic() < end:
        time.sleep(0.02)
    pids = [int(stray.read_text()) for stray in strays]
    assert all(map(alive, pids))
    run.send_signal(number)
    assert run.wait(30) == code, run.stderr.read()
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(alive, pids)) and lab.recorded() == {"data"}


@pytest.mark.slow
def test_ten_kills_at_random_moments(tmp_path):
    """Six steps, two at a time: in the end what an undisturbed run leaves, and nothing that was recorded ran again."""
    reads = {"one": [], "two": [], "three": [], "four": ["one", "two"], "five": ["three"], "six": ["four", "five"]}
    labs = []
    for part in ("straight", "killed"):
        (tmp_path / part).mkdir()
        labs.append(Lab(tmp_path / part, **{n: {"of": of, "text": n, "seconds": 0.3} for n, of in reads.items()}))
    straight, killed = labs
    straight.run()
    draw, kills = random.Random(1), 0
    while kills < 10:
        done, before = set(reads) - set(killed.runs()), Counter(killed.noted("start"))
        run = started(killed, 2)
        deadline = time.monotonic() + draw.uniform(0.3, 3.0)
        while run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if run.poll() is not None:  # it came to its end: once more from the beginning, with other texts
            assert run.returncode == 0, run.stderr.read()
            for name in killed.steps:
                killed.steps[name]["seconds"] += 0.001
            continue
        run.kill()
        run.wait()
        kills += 1
        assert not done & set(Counter(killed.noted("start")) - before)
    killed.run(2)
    same = [{path.name: path.read_text() for path in each.out.glob("*.txt")} for each in (straight, killed)]
    assert same[0] == same[1] and killed.recorded() == set(reads)


@pytest.mark.slow
def test_trainers_side_by_side_answer_as_they_do_alone(small, tmp_path, monkeypatch):
    """And no value of the environment is kept of them."""
    monkeypatch.setenv("LAB_VALUE", "s3cret-0451")
    tables = []
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        asked = {"class_path": "earwitness.AudioQuestions"}
        asked["init_args"] = {
            "index": small.index,
            "evaluation": {"conditions": ["silence:1"], "pool": {"split": "val"}},
        }
        policy = {"policy": {"class_path": "earwitness.OmniPolicy", "init_args": {"checkpoint": small.tiny}}}
        steps = {}
        for name, temperature in (("cold", 0.0), ("warm", 1.0)):
            table = {"class_path": "earwitness.AnswerTable", "init_args": {"file": f"{out}/{name}.arrow"}}
            trainer = {"accelerator": "cpu", "devices": 1, "logger": False, "limit_predict_batches": 2}
            trainer |= {"callbacks": [table], "default_root_dir": "${out}/${oc.env:LAB_VALUE}"}
            model = {"class_path": "earwitness.PolicyModule", "init_args": policy | {"temperature": temperature}}
            steps[name] = {"do": "predict", "threads": 1, "trainer": trainer, "model": model, "data": asked}
        recipe = tmp_path / f"{jobs}.yaml"
        recipe.write_text(yaml.safe_dump({"out": str(out), "steps": steps}, sort_keys=False))
        run_recipe(str(recipe), jobs=jobs)
        tables.append([(out / f"{name}.arrow").read_bytes() for name in steps])
        kept = [path for path in out.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
        assert kept == [] and "${oc.env:LAB_VALUE}" in (out / "warm" / "config.yaml").read_text()
    assert tables[0] == tables[1] and tables[0][0] != tables[0][1]
