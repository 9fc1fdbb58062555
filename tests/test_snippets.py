"""What README, CONTRIBUTING and docs show runs: Python in a process of its own, curricula, command lines, targets.

A stand-in of what a reader has: `index.arrow` and `labels.arrow` of sixteen questions in the working folder, and a
package `my_lab` whose modules hold what the texts name in it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import soundfile
import torch
import yaml

from earwitness.commands.cli import COMMANDS, TRAINER_COMMANDS, _parser, main
from earwitness.commands.experiments.comparing import prepare
from earwitness.commands.recipes.recipe import load_recipe
from earwitness.commands.training.trainer import check
from earwitness.curriculum.plan.plan import Plan
from earwitness.curriculum.preview.synthetic import audiomcq_table
from earwitness.curriculum.schedule.stages import parse_curriculum
from earwitness.datamodules.questions.answers import verdict
from earwitness.datamodules.questions.layouts import layout_named
from earwitness.datamodules.questions.prompts import prompt_text
from earwitness.errors import InputError
from earwitness.lightning_modules.objectives.advantages import compute_advantages
from earwitness.lightning_modules.objectives.kl import kl
from earwitness.lightning_modules.objectives.losses import loss_named
from earwitness.lightning_modules.objectives.rewards import Rewards
from earwitness.tests.architecture import FOLDERS
from earwitness.tests.places import ROOT, TESTS

PAGES = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
TEXTS = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", *PAGES)}
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def blocks(language):
    """Every fenced block of that language in the texts."""
    return [body for text in TEXTS.values() for kind, body in FENCED.findall(text) if kind == language]


def inline(text):
    """Code between single marks, as it stands in a sentence or a table; `|` of a table is written with a backslash."""
    return [code.replace("\\|", "|") for code in re.findall(r"`([^`\n]+)`", FENCED.sub("", text))]


def curricula():
    return [mapping["curriculum"] for mapping in map(yaml.safe_load, blocks("yaml")) if "curriculum" in mapping]


@pytest.fixture
def reader(tmp_path):
    """A folder as a reader of the texts has it."""
    shutil.copytree(TESTS / "stored" / "shards", tmp_path, dirs_exist_ok=True)
    shutil.copy(TESTS / "stored" / "labels.arrow", tmp_path)
    shutil.copytree(TESTS / "stored" / "tiny", tmp_path / "runs" / "grpo" / "model")
    soundfile.write(tmp_path / "clip.wav", np.sin(np.arange(8_000) / 5).astype("f4"), 16_000)
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "__init__.py").touch()
    return tmp_path


def ran(code, folder):
    """What the code prints in a fresh process."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_a_block_of_python_runs_as_it_stands(number, reader):
    ran(blocks("python")[number], reader)


def test_the_datasets_that_are_shown_give_every_question(reader):
    """Sixteen pairs in any order, recordings of 0.3 s, then rows 3, 1 and 2 of the index."""
    (code,) = [block for block in blocks("python") if "QuestionDataset" in block]
    shown = ran(code, reader).splitlines()
    keys = ran("from earwitness import ShardReader as R; r = R('index.arrow'); print(*map(r.key, range(16)))", reader)
    assert len(shown) == 16 + 3 and all(line.startswith("0.3 Which pitch") for line in shown[:16])
    assert [line.split()[0] for line in shown[16:]] == [keys.split()[row] for row in (3, 1, 2)]


def test_the_weight_that_is_shown_is_one(reader):
    """As `my_lab.curricula`, under the name and with the arguments that its comment shows."""
    (code,) = [block for block in blocks("python") if "def heard_but_hard" in block]
    (reader / "my_lab" / "curricula.py").write_text(code)
    (weight,) = re.findall(r"# weight: (\{.*\})", code)
    stage = {"name": "s", "algorithm": "grpo", "batch_size": 2, "budget": {"steps": 3}, "window": 1}
    stage |= {"feedback": {"contribution": {"silence": 0.25}}, "weight": yaml.safe_load(weight)}
    assert "my_lab.curricula." in weight
    said = ran(
        "from earwitness import Plan, parse_curriculum, read_table\n"
        f"plan = Plan(parse_curriculum({{'stages': [{stage!r}]}}), read_table('index.arrow', 'labels.arrow'))\n"
        "from earwitness.curriculum.online.cursor import Cursor\n"
        "Cursor(plan, 's')\nprint(len(set(plan.batch('s', 0)[0].tolist())))",
        reader,
    )
    assert said == "2\n"


def shown(name):
    """What the block that defines this function defines, with its places in a configuration: the comments."""
    (code,) = [block for block in blocks("python") if f"def {name}(" in block]
    scope = {}
    exec(code, scope)
    return scope


def test_the_parts_of_a_loss_that_are_shown_are_taken(monkeypatch):
    """By hand: two completions of two tokens in one group, rewards 1 and 0; -(1 * -1 + 1 * -2) of three tokens."""
    scope = shown("reinforce")
    lab = types.ModuleType("losses_of_the_lab")
    lab.__dict__.update(scope)
    monkeypatch.setitem(sys.modules, "losses_of_the_lab", lab)
    loss = loss_named("losses_of_the_lab.reinforce")
    logprob = torch.tensor([[-1.0, -2.0], [-3.0, -9.0]], requires_grad=True)
    mask = torch.tensor([[1, 1], [1, 0]])
    group, rewards = torch.tensor([0, 0]), torch.tensor([1.0, 0.0])
    advantages = compute_advantages("losses_of_the_lab.best_of_group", rewards, group, parts=rewards[None], weights=[1])
    assert advantages.tolist() == [1.0, 0.0] and loss.denominator == "tokens"
    value = loss.function(logprob, logprob.detach(), advantages, mask, denominator=3.0, clip=None, weights=None)
    assert value.item() == pytest.approx(1.0)
    estimate = kl(logprob, logprob.detach() - 2, mask, estimator="losses_of_the_lab.half_squared")
    assert estimate.tolist() == [[2.0, 2.0], [2.0, 0.0]]


def test_the_judging_that_is_shown_judges(monkeypatch):
    lab = types.ModuleType("judging_of_the_lab")
    lab.__dict__.update(shown("last_word"))
    monkeypatch.setitem(sys.modules, "judging_of_the_lab", lab)
    said = [
        verdict("judging_of_the_lab.last_word", text, "Rain", ["Rain", "A dog"]) for text in ("It is rain.", "dog", "")
    ]
    assert said == ["right", "wrong", "unreadable"]
    assert prompt_text("judging_of_the_lab.plainly", "Which?", ["a", "b"]) == "Which? (a / b)"
    record = {"nr": 7, "q": "Which?", "options": ["a", "b"], "right": 1}
    assert layout_named("judging_of_the_lab.our_layout")(record)["answer"] == "b"


def test_the_reward_that_is_shown_runs(monkeypatch):
    lab = types.ModuleType("rewards_of_the_lab")
    lab.__dict__.update(shown("brevity"))
    monkeypatch.setitem(sys.modules, "rewards_of_the_lab", lab)
    rewards = Rewards({"rewards_of_the_lab.brevity": {"weight": 0.5, "limit": 32}})
    assert rewards(["a", "b"], {"num_tokens": [32, 33]}, ["q", "q"]).total.tolist() == [0.5, 0.0]


def test_the_recipe_that_is_shown_runs_and_is_then_done(reader):
    """With its function, over questions of which it drops one."""
    (code,) = [block for block in blocks("python") if "def clean(" in block]
    (recipe,) = [block for block in blocks("yaml") if "my_lab.steps.clean" in block]
    (reader / "my_lab" / "steps.py").write_text(code)
    (reader / "ours.yaml").write_text(recipe)
    asked = {"source_dataset": "s", "choices": ["a", "b"], "answer": "a", "audio_path": "clip.wav"}
    lines = [
        json.dumps(asked | {"id": str(n), "question": text}) for n, text in enumerate(("Which?", "Which one?", "?"))
    ]
    (reader / "questions.jsonl").write_text("\n".join(lines))
    command = "from earwitness.commands.cli import main; main(['run', 'ours.yaml'%s])"
    assert "questions 2" in ran(command % "", reader)
    assert ran(command % ", '--dry-run'", reader).endswith("0 of 2 steps would run\n")


def test_what_errors_say_is_said_somewhere():
    """Every sentence of the page stands in the code."""
    sources = "".join(path.read_text() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    rows = re.findall(r"^\| `([^`]+)` \|", TEXTS["docs/errors.md"], re.MULTILINE)
    assert len(rows) > 8 and [row for row in rows if row not in sources] == []


def test_every_logged_name_is_explained(small, tmp_path):
    """Each column of a GRPO run's log is in the table of training, LABEL and the like standing for what varies."""
    cells = re.findall(r"^\| (`.*?) \|", TEXTS["docs/train.md"].split("## What is logged")[1], re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    base = {name.split("/")[0] for name in names} | {"epoch", "step"}
    words = ["fit", "--config", "grpo", "--paths.data", str(small.root), "--paths.labels", small.labels]
    words += ["--paths.model", small.tiny, "--paths.out", str(tmp_path), "--trainer.max_steps", "1"]
    main([*words, "--trainer.accelerator", "cpu"])
    columns = (tmp_path / "log" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")

    def explained(column):
        for name in names:
            pattern = re.escape(name).replace("LABEL", "(all|weak|strong|unlabelled)").replace(r"\.\.\.", ".+")
            pattern = re.sub("NAME|CELL|CONDITION|PART|COLUMN|PACE", ".+", pattern)
            if re.fullmatch(f"{pattern}(/(all|weak|strong|unlabelled))?", column):
                return True
        return column in ("epoch", "step")

    assert base and [column for column in columns if not explained(column)] == []


def test_the_curricula_that_are_shown_are_planned():
    assert curricula()
    for spec in curricula():
        plan = Plan(parse_curriculum(spec), audiomcq_table())
        assert all(taken.rows > 0 for taken in plan.stages.values())


def test_the_experiments_that_are_shown_are_prepared(tmp_path):
    shown = [spec for spec in map(yaml.safe_load, blocks("yaml")) if "arms" in spec]
    assert shown
    for number, spec in enumerate(shown):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(spec))
        prepared = prepare(str(tmp_path / f"{number}.yaml"))
        assert prepared.expansion.steps and [one.key for one in prepared.found if one.by is None] == []


def test_values_of_a_stage_in_sentences_and_tables_are_ones():
    """`pool: {...}` and the like, each in a stage of its own; `on_short: error, stop` lists choices."""
    stage = {"name": "s", "algorithm": "grpo", "batch_size": 2, "budget": {"steps": 3}}
    keys = (
        "pool",
        "budget",
        "weight",
        "window",
        "lag",
        "feedback",
        "probe",
        "claim",
        "on_zero_advantage",
        "interleave",
    )
    seen = set()
    for code in inline(TEXTS["docs/curricula.md"] + TEXTS["docs/labels.md"]):
        key, mark, text = code.partition(": ")
        if key not in keys or not mark:
            continue
        seen.add(key)
        value = yaml.safe_load(text)
        adaptive = (
            {"window": 25, "feedback": {"contribution": {}}} if key in ("window", "lag", "feedback", "probe") else {}
        )
        whole = stage | adaptive | {key: value}
        if key == "interleave":
            members = [{"name": name, "algorithm": name, "batch_size": 2} for name in ("sft", "grpo")]
            whole = {"name": "s", "interleave": value, "stages": members}
        parse_curriculum({"stages": [whole]})
    assert {"pool", "budget", "window", "lag", "feedback", "probe", "claim", "interleave"} <= seen


def command_lines():
    """(words after `earwitness`, whether they are a whole command) of blocks, tables and sentences."""
    found = []
    lines = [line for body in blocks("") for line in body.replace("\\\n", " ").splitlines()]
    for line in lines + [code for text in TEXTS.values() for code in inline(text)]:
        line = re.sub(r"\s+#.*", "", line)
        launched = re.match(r"(lightning|torchrun|fabric|srun)\b.*?\b(fit .*)", line)
        if launched or line.startswith("earwitness "):
            words = shlex.split(launched[2] if launched else re.sub(r"\[(.*?)( \.\.\.)?\]", r"\1", line)[11:])
            found.append(([words[0].split("|")[0], *(word.removesuffix("...") for word in words[1:])], line in lines))
    return found


def test_command_lines_are_found():
    lines = [" ".join(words) for words, _ in command_lines()]
    wanted = ["run RECIPE key=value", "shard ANNOTATIONS OUT", "fit --config FILE", "serve CHECKPOINT"]
    assert len(lines) > 30 and [one for one in wanted if one not in lines] == []
    assert any("stages.grpo.budget.steps=50" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "whole"), command_lines(), ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_command_line_is_understood(words, whole, capsys, monkeypatch):
    """By the real parsers; in a sentence a command may stand without its arguments, but its options are there."""
    monkeypatch.chdir(ROOT)
    command = words[0]
    assert command in COMMANDS
    if command in TRAINER_COMMANDS:
        if "FILE" not in words and len(words) > 1:
            config = check(words)
            assert config["model"]
        return
    if command == "run" and "key=value" not in words and len(words) > 1:
        overrides = [word for word in words[2:] if "=" in word and not word.startswith("--")]
        assert load_recipe(words[1], overrides)[0]["steps"]
    try:
        _, rest = _parser().parse_known_args(words)
    except SystemExit:
        said = capsys.readouterr().err
        assert not whole and re.search("the following arguments are required|expected one argument", said)
        options = {
            name
            for action in _parser()._subparsers._group_actions
            for name in action.choices[command].format_help().split()
        }
        assert {word for word in words if word.startswith("--")} <= {name.strip("[],") for name in options}
        return
    assert not [word for word in rest if command not in ("run", "plan") or word.startswith("-")]


def test_the_plans_of_a_block_are_shown(reader, monkeypatch, capsys):
    """Over the made-up table, which is as large as the amounts that they name."""
    monkeypatch.chdir(reader)
    shown = [words for words, whole in command_lines() if whole and words[0] == "plan" and "--memory" not in words]
    assert len(shown) >= 2
    for words in shown:
        table = {"--index", "--labels", "--synthetic"}
        kept = [word for before, word in zip(["", *words], words, strict=False) if not {before, word} & table]
        main([*kept, "--synthetic"])
    assert "50 steps of 8" in capsys.readouterr().out


def test_a_wrong_command_line_is_seen():
    with pytest.raises(InputError):
        check(
            ["fit", "--config", str(ROOT / "configs" / "sft.yaml"), "--data.init_args.training.curriculum", "no_such"]
        )
    with pytest.raises(SystemExit):
        _parser().parse_known_args(["plan", "--indx"])


def test_make_has_the_targets_that_are_named():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = [line for text in TEXTS.values() for line in inline(text)] + [
        line for b in blocks("") for line in b.splitlines()
    ]
    named = {found[1] for line in code if (found := re.match(r"make ([\w-]+)", line))}
    assert {"demo", "test", "bench", "gpu", "check"} <= named <= targets
