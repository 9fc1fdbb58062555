"""A run keeps what it is beside its log, and no secret; TensorBoard gets what the CSV file gets."""

from __future__ import annotations

import csv
import stat
import sys
from types import ModuleType, SimpleNamespace

import pytest
from omegaconf import OmegaConf

from earwitness.commands.cli import main
from earwitness.commands.training.run_facts import masked, secrets_of
from earwitness.tests.commands.test_launch import write_config

SECRET = "s3cret-0451"


def test_secrets_are_known_by_the_names_of_their_variables() -> None:
    texts = [
        "a: ${oc.env:LAB_API_KEY}",
        "--x=${oc.env:HF_TOKEN,none} ${oc.env:HOME} ${oc.env:MONKEY}",
        "${oc.env:NO_KEY}",
    ]
    environment = {"LAB_API_KEY": "abc", "HF_TOKEN": "abcdef", "HOME": "/root", "MONKEY": "ape", "OTHER_KEY": "unused"}
    assert secrets_of(texts, environment) == ["abcdef", "abc"]


def test_a_secret_is_hidden_wherever_it_stands_and_nothing_else_is() -> None:
    given = {
        "url": "https://me:abc@host/abcdef",
        "api_key": "literal",
        "hub_token": "written out",
        "max_new_tokens": 64,
        "stop_token": None,
        "keys": ["abc", 1, 0.5, True, None],
        "cells": {"key": "source", "abc": 1},
    }
    assert masked(given, ["abcdef", "abc"]) == {
        "url": "https://me:***@host/***",
        "api_key": "***",
        "hub_token": "***",
        "max_new_tokens": 64,
        "stop_token": None,
        "keys": ["***", 1, 0.5, True, None],
        "cells": {"key": "source", "***": 1},
    }
    assert masked({"seed": 451}, ["451"]) == {"seed": "***"}


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    """Of a run of two steps, one of whose paths holds a secret of the environment."""
    out = tmp_path_factory.mktemp("facts") / "run"
    config = write_config(small, out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_API_KEY", SECRET)
        main(["fit", "--config", config, "--trainer.default_root_dir", f"{out.parent}/${{oc.env:LAB_API_KEY}}"])
    return out


def test_configuration_curriculum_and_versions_are_kept(folder) -> None:
    (path,) = folder.glob("log/version_*/run.yaml")
    facts = OmegaConf.to_container(OmegaConf.load(path))
    assert facts["configuration"]["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.05
    assert facts["configuration"]["trainer"]["default_root_dir"].endswith("/***")
    assert facts["curriculum"]["stages"][0]["budget"]["samples"] == 7
    assert {"torch", "lightning", "transformers", "earwitness", "python"} <= set(facts["versions"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_file_of_the_run_holds_the_secret(folder) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 4
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_tensorboard_has_what_the_csv_has(folder) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (version,) = folder.glob("log/version_*")
    events = accumulator.EventAccumulator(str(version))
    events.Reload()
    rows = list(csv.DictReader((version / "metrics.csv").open()))
    for name in ("train/loss", "speed/tokens_per_s"):
        written = [event.value for event in events.Scalars(name)]
        assert written == [pytest.approx(float(row[name]), rel=1e-5) for row in rows if row.get(name)]
        assert len(written) == 2


def test_other_loggers_get_the_facts_as_hyperparameters(small, tmp_path, monkeypatch) -> None:
    """As W&B and MLflow do: they are loggers of Lightning's, and asked by `log_hyperparams`."""
    from lightning.pytorch.loggers import CSVLogger

    seen = []
    monkeypatch.setattr(CSVLogger, "log_hyperparams", lambda self, params, *_: seen.append(params))
    main(["fit", "--config", write_config(small, tmp_path / "run")])
    assert [set(each) for each in seen] == [{"configuration", "curriculum", "versions", "command"}]


def test_mlflow_goes_on_in_its_run_and_is_told_only_what_is_new(monkeypatch) -> None:
    """It would refuse another value for what it knows, and end the run that goes on."""
    from lightning.pytorch.loggers import MLFlowLogger

    from earwitness.lightning_modules.checkpoints.logs import continued, tell, versions_of

    known = {"command": "fit", "configuration/trainer/devices": "1"}
    sent: list[tuple[str, dict[str, str]]] = []
    client = SimpleNamespace(
        get_run=lambda run: SimpleNamespace(data=SimpleNamespace(params=known)),
        log_batch=lambda run_id, params: sent.append((run_id, {each.key: each.value for each in params})),
    )
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.entities", SimpleNamespace(Param=SimpleNamespace))
    logger = MLFlowLogger.__new__(MLFlowLogger)
    vars(logger).update(_run_id=None, _initialized=True, _mlflow_client=client, _log_batch_kwargs={})
    continued([logger], {"MLFlowLogger:0": "run-7"}, 4)
    assert versions_of([logger]) == {"MLFlowLogger:0": "run-7"}
    tell(logger, {"command": "fit --fresh", "configuration": {"trainer": {"devices": 2, "precision": None}}})
    assert sent == [("run-7", {"configuration/trainer/precision": "None"})]
