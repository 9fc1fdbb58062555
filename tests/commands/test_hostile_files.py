"""Recipes, jobs and folders that somebody else wrote: no file lands elsewhere, and no secret lands in one.

What may hang runs in a forked process.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from earwitness.commands.cli import main
from earwitness.commands.labelling.job import load_job
from earwitness.commands.labelling.run import run_job
from earwitness.commands.recipes.recipe import run_recipe
from earwitness.configs.files import read_yaml, resolved
from earwitness.datamodules.questions.annotations import read_annotations
from earwitness.datamodules.shards.packing import shard
from earwitness.datamodules.shards.reader import ShardReader
from earwitness.datamodules.storage.cache import ShardCache
from earwitness.errors import InputError
from earwitness.lightning_modules.checkpoints import folders, shards
from earwitness.lightning_modules.checkpoints.run_record import read_record, record_of, write_record
from earwitness.lightning_modules.policy.files import written_beside
from earwitness.tests.chat_server import serving
from earwitness.tests.limits import limited

SECRET = "s3cret-0451"


def files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def recipe(folder: Path, step: str, **more: object) -> str:
    path = folder / "recipe.yaml"
    spec = {"out": str(folder / "out"), "steps": {step: {"do": "label", "votes": ["v.arrow"], "out": "l.arrow"}}}
    path.write_text(json.dumps(spec | more))
    return str(path)


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", ".", "..", ".steps", "a\nb", ""])
def test_a_step_is_named_in_its_folder(tmp_path, name):
    with pytest.raises(InputError, match="a step's name is letters, digits, - _ and ."):
        run_recipe(recipe(tmp_path, name), dry_run=True)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_dry_run_writes_nothing_and_a_run_writes_no_value_of_the_environment(small, tmp_path, monkeypatch):
    """The configuration of a step is resolved again by the step itself."""
    monkeypatch.setenv("LAB_VALUE", SECRET)
    monkeypatch.setenv("LAB_STEPS", "4")
    spec = OmegaConf.create(
        {
            "out": str(tmp_path / "out"),
            "seed": 3,
            "steps": {
                "votes-1.a": {
                    "do": "predict",
                    "seed_everything": "${seed}",
                    "trainer": {
                        "limit_predict_batches": "${oc.decode:${oc.env:LAB_STEPS}}",
                        "default_root_dir": "${out}/${oc.env:LAB_VALUE}",
                        "callbacks": [
                            {"class_path": "earwitness.AnswerTable", "init_args": {"file": "${out}/answers.arrow"}}
                        ],
                    },
                    "model": {
                        "class_path": "earwitness.PolicyModule",
                        "init_args": {
                            "policy": {
                                "class_path": "earwitness.OmniPolicy",
                                "init_args": {"checkpoint": small.tiny},
                            }
                        },
                    },
                    "data": {
                        "class_path": "earwitness.AudioQuestions",
                        "init_args": {
                            "index": small.index,
                            "checkpoint": small.tiny,
                            "evaluation": {"conditions": ["silence:1"], "pool": {"split": "val"}},
                        },
                    },
                }
            },
        }
    )
    path = tmp_path / "recipe.yaml"
    OmegaConf.save(spec, path)
    run_recipe(str(path), dry_run=True)
    assert not (tmp_path / "out").exists()
    run_recipe(str(path))
    config = tmp_path / "out" / "votes-1.a" / "config.yaml"
    held = OmegaConf.load(config)
    assert held.trainer.default_root_dir.endswith(f"/{SECRET}") and held.seed_everything == 3
    assert "${oc.env:LAB_VALUE}" in config.read_text() and held.trainer.limit_predict_batches == 4
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert (tmp_path / "out" / "answers.arrow").is_file() and files_with(tmp_path / "out", SECRET) == []


def test_a_labelling_job_keeps_and_shows_no_value_of_the_environment(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_KEY", SECRET)
    monkeypatch.setenv("LAB_NOTE", "note-of-the-lab")
    with serving() as server:
        server.say = lambda asked: "A"
        endpoint = {"url": server.url, "model": "m", "key_env": "LAB_KEY", "system": "${oc.env:LAB_NOTE}"}
        job = {"index": small.index, "out": str(tmp_path / "out"), "bootstrap": 50, "title": "by ${oc.env:LAB_KEY}"}
        job |= {"conditions": ["silence:0.1"], "condition": "silence:0.1", "pool": {"split": "val"}}
        job |= {"voters": [{"name": "one", "endpoint": endpoint, "style": "letters", "rule": "letter", "rotations": 1}]}
        (tmp_path / "job.yaml").write_text(json.dumps(job | {"max_unreadable": 1.0}))
        run_job(load_job(str(tmp_path / "job.yaml")), dry_run=True)
        said = capsys.readouterr().out
        assert f"; sends questions and recordings to {server.url}, with the key in LAB_KEY" in said
        assert "of the environment it reads LAB_KEY, LAB_NOTE" in said and not (tmp_path / "out").exists()
        run_job(load_job(str(tmp_path / "job.yaml")))
        run_job(load_job(str(tmp_path / "job.yaml")))  # what was hidden is not a change
    assert files_with(tmp_path / "out", SECRET) + files_with(tmp_path / "out", "note-of-the-lab") == []
    asked = json.loads((tmp_path / "out" / "answers" / "one.asked" / "asked.json").read_text())
    assert asked["system"] == "${oc.env:LAB_NOTE}"
    assert SECRET not in "".join(capsys.readouterr())


def test_the_record_of_a_run_names_the_variable_and_an_older_one_still_fits(tmp_path, monkeypatch):
    from earwitness.lightning_modules.checkpoints.run_record import refuse_other_configuration

    monkeypatch.setenv("LAB_VALUE", SECRET)
    (tmp_path / "c.yaml").write_text("model: {init_args: {lr: 1, note: 'of ${oc.env:LAB_VALUE}'}}")
    record = record_of(resolved(read_yaml(tmp_path / "c.yaml"), tmp_path))
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "run.json").write_text(json.dumps(record))
    write_record(tmp_path / "new", record)
    assert files_with(tmp_path / "new", SECRET) == []
    for folder in ("older", "new"):
        assert refuse_other_configuration(tmp_path, read_record(tmp_path / folder), record) == []


@pytest.mark.parametrize("text", ["&a [x, x, x, x, x, x, x, x, x, x]", "[" * 3_000, "a: 1\n" * 900_000 + "b: ["])
def test_a_yaml_bomb_is_refused(tmp_path, text):
    bomb = (
        text
        if not text.startswith("&")
        else "a0: "
        + text
        + "\n"
        + "".join(f"a{n}: &b{n} [{', '.join(['*' + ('a' if n == 1 else f'b{n - 1}')] * 10)}]\n" for n in range(1, 9))
    )
    (tmp_path / "bomb.yaml").write_text(bomb)

    def act() -> str:
        with pytest.raises(InputError) as refused:
            read_yaml(tmp_path / "bomb.yaml")
        return str(refused.value)

    assert "not a YAML mapping" in limited(act, grows=1 << 30, seconds=60)


class TestLinks:
    def test_what_a_neighbour_links_in_a_cache_is_left_alone(self, tmp_path):
        (tmp_path / "precious").write_text("mine")
        cache = tmp_path / "cache"
        cache.mkdir()
        (cache / "room.lock").symlink_to(tmp_path / "precious")
        with pytest.raises(InputError, match="cannot hold copies of shards"):
            ShardCache(str(cache), 1.0)
        assert (tmp_path / "precious").read_text() == "mine"

    def test_what_a_neighbour_links_in_a_folder_is_replaced(self, small, tmp_path):
        """Shards, index and their scratch files; then the recording that `inspect` writes."""
        out, precious = tmp_path / "out", tmp_path / "precious"
        out.mkdir()
        precious.write_text("mine")
        names = ["questions.spool", "shard-000000.tar", "shard-000000.tar.partial", "packing.partial", "index.arrow"]
        for name in [*names, "index.arrow.partial", "packing.arrow.partial", "packing.json"]:
            (out / name).symlink_to(precious)
        shard(small.annotations, str(out))
        key = ShardReader(out / "index.arrow").key(0)
        (tmp_path / "seen").mkdir()
        wave = re.sub(r"[^\w.-]", "-", key)[:60] + ".flac"
        (tmp_path / "seen" / wave).symlink_to(precious)
        main(["inspect", str(out / "index.arrow"), "--sample", key, "--out", str(tmp_path / "seen")])
        assert (tmp_path / "seen" / wave).read_bytes().startswith(b"fLaC")
        assert precious.read_text() == "mine"

    def test_what_a_neighbour_links_where_checkpoints_are_written_is_replaced(self, tmp_path):
        victim = tmp_path / "victim"
        victim.mkdir()
        (victim / "kept").write_text("mine")
        for name in ("step-00000005.partial", "shards.partial", ".model.partial"):
            (tmp_path / name).symlink_to(victim)
        folders.begun(tmp_path, 5)
        shards.begun(tmp_path / "shards")
        with written_beside(tmp_path / "model") as folder:
            (folder / "config.json").write_text("{}")
        assert [each.name for each in victim.iterdir()] == ["kept"]
        assert (tmp_path / "model" / "config.json").is_file()

    def test_a_pipe_is_no_shard_and_no_table(self, small, tmp_path):
        os.mkfifo(tmp_path / "x.tar")
        os.mkfifo(tmp_path / "x.arrow")
        os.mkfifo(tmp_path / "x.jsonl")

        def act() -> list[str]:
            said = []
            for words in (["index", str(tmp_path / "x.tar")], ["inspect", str(tmp_path / "x.arrow")]):
                with pytest.raises(SystemExit):
                    main(words)
            with pytest.raises(InputError) as refused:
                read_annotations(tmp_path / "x.jsonl")
            return [*said, str(refused.value)]

        assert limited(act, grows=2 << 30, seconds=30)

    def test_of_two_runs_in_one_folder_the_second_is_told(self, small, tmp_path):
        from earwitness.boundary.files import alone_in

        code = "import sys; from earwitness.datamodules.shards.packing import shard; shard(*sys.argv[1:])"
        with alone_in(tmp_path, "packing"):
            ended = subprocess.run(
                [sys.executable, "-c", code, small.annotations, str(tmp_path)], capture_output=True, text=True
            )
        assert ended.returncode and "another process is packing there" in ended.stderr
        assert list(tmp_path.iterdir()) == []


def test_a_member_with_holes_takes_no_memory(tmp_path):
    """A shard of 3 GiB that lies on the disk as a few blocks."""
    import tarfile

    path = tmp_path / "x.tar"
    with open(path, "wb") as file:
        for name, size in (("a.json", 3 << 30), ("a.flac", 1024)):
            member = tarfile.TarInfo(name)
            member.size = size
            file.write(member.tobuf(tarfile.USTAR_FORMAT))
            file.seek(-(-size // 512) * 512, 1)
        file.truncate(file.tell() + 1024)

    def act() -> str:
        from earwitness.datamodules.shards.index import build_index

        with pytest.raises(InputError) as refused:
            build_index(str(path))
        return str(refused.value)

    assert "x.tar:a.json: 3221225472 bytes is more than the 1048576 allowed" in limited(act, grows=1 << 29, seconds=60)
