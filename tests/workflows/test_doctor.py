"""The command that looks after stores, cache and machine."""

import shutil
import sqlite3
import time

import pytest
from mlflow.tracking import MlflowClient
from support import unused_pid
from support_store import Models

from mammo_mlflow.processes import this_process
from mammo_mlflow.tracking.runs import Writer
from mammo_mlflow.tracking.undelivered import keep_writes
from mammo_mlflow.tracking.writes import LogBatch


@pytest.fixture
def doctor(cli, tmp_path, monkeypatch):
    """The lines that the command prints about what is not in order, and its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAMMO_CACHE_DIR", str(tmp_path / "cache"))

    def call(*arguments):
        outcome = cli(*arguments, command="doctor")
        assert outcome.complaints == []
        lines = outcome.out.splitlines()
        assert all(len(line) < 400 for line in lines)
        return [line for line in lines[:-1] if not line.startswith(("ok", "odd     weights"))], outcome.code

    return call


@pytest.fixture
def store(tmp_path, empty_stores):
    """A store with a finished, registered model."""
    for name in ("mlflow.db", "optuna.db"):
        shutil.copy(empty_stores / name, tmp_path)
    models = Models(tmp_path)
    models.client.create_registered_model("mammo-mass_calc-pretrained-vgg16")
    run = models.model()
    (fold,) = models.client.search_runs([models.experiment], "tags.`mammo.fit` = 'fold 1'")
    models.client.log_text(fold.info.run_id, "{}", "fit/fit.json")
    made = models.client.create_logged_model(models.experiment, name="final", source_run_id=run)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}")
    models.client.log_model_artifacts(made.model_id, str(tmp_path / "model"))
    models.client.create_model_version(
        "mammo-mass_calc-pretrained-vgg16", f"models:/{made.model_id}", run, model_id=made.model_id
    )
    return models


def test_where_there_is_nothing_it_makes_nothing(doctor, tmp_path):
    assert doctor() == ([], 0)
    assert list(tmp_path.iterdir()) == []


def test_all_in_order(doctor, store):
    assert doctor() == ([], 0)


def test_what_dead_commands_left_is_said_and_mended(doctor, store, tmp_path):
    host = this_process().rsplit(":", 2)[0]
    dead = {"mammo.process": f"{host}:{unused_pid()}:{int(time.time())}"}
    run = store.client.create_run(store.experiment, tags=dead).info.run_id
    model = store.client.create_logged_model(store.experiment, name="half", source_run_id=run)
    store.client.log_model_artifacts(model.model_id, str(tmp_path / "model"))
    failed = store.client.create_run(store.experiment, tags=dead).info.run_id
    store.client.set_terminated(failed, "FAILED")
    other = store.client.create_logged_model(store.experiment, name="unused", source_run_id=failed)
    (tmp_path / "cache" / "activations" / "abc.partial").mkdir(parents=True)
    (tmp_path / "cache" / "scratch-1").mkdir()
    (tmp_path / "cache" / "scratch-1.lock").touch()
    writer = Writer(store.client, store.experiment, {})
    batch = LogBatch((("late", 1.0, 1000, 0),), {}, {})
    keep_writes(tmp_path / "cache" / "undelivered", store.uri, [(writer.attach(failed), batch)])

    lines, code = doctor()
    assert code == 0
    assert [line.split(": ", 1)[1].split(" -> ")[0] for line in lines] == [
        "1 entries half made",
        "scratch-1 was left by a killed command",
        "what 1 commands could not deliver to a tracking server",
        "1 are RUNNING though their process is gone",
        "those of 1 runs that did not end well are registered nowhere",
    ]
    assert all(" -> " in line for line in lines)
    mended, code = doctor("--fix")
    assert code == 0
    assert [line.split()[0] for line in mended] == ["mended"] * 5
    assert doctor() == ([], 0)
    assert store.client.get_run(run).info.status == "KILLED"
    assert store.client.get_run(failed).data.metrics == {"late": 1.0}
    left = {one.model_id for one in store.client.search_logged_models([store.experiment])}
    assert len(left) == 1
    assert not left & {model.model_id, other.model_id}
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["activations", "locks", "undelivered"]


def test_it_asks_no_more_of_a_store_with_more_runs_and_versions(doctor, store, monkeypatch):
    (version,) = store.client.search_model_versions("")
    asked = []
    for name, method in list(vars(MlflowClient).items()):
        if not name.startswith("_") and callable(method):
            monkeypatch.setattr(MlflowClient, name, counting(asked, method))
    counts = []
    for _ in range(2):
        for status in ("KILLED", "FAILED"):
            store.client.set_terminated(store.client.create_run(store.experiment).info.run_id, status)
        store.client.create_model_version(version.name, version.source, version.run_id)
        asked.clear()
        assert doctor() == ([], 0)
        counts.append(len(asked))
    assert counts[0] == counts[1]


def counting(asked, method):
    def call(*given, **named):
        asked.append(method)
        return method(*given, **named)

    return call


def test_artifacts_that_are_gone_are_broken(doctor, store, tmp_path):
    (tmp_path / "artifacts").rename(tmp_path / "elsewhere")
    lines, code = doctor()
    assert code == 1
    assert [line.split()[0] for line in lines] == ["broken", "broken"]
    assert f"those of 2 finished runs are gone from {tmp_path / 'artifacts'}" in lines[0]
    assert "the files of 1 of 1 versions are gone (mammo-mass_calc-pretrained-vgg16 v1)" in lines[1]
    assert doctor("--fix")[1] == 1


def test_a_damaged_and_a_locked_store_are_broken(doctor, store, tmp_path):
    holder = sqlite3.connect(tmp_path / "mlflow.db")
    holder.execute("BEGIN IMMEDIATE")
    lines, code = doctor()
    assert (code, len(lines)) == (1, 1)
    assert "database is locked" in lines[0]
    holder.close()
    content = bytearray((tmp_path / "optuna.db").read_bytes())
    content[4096 * 3 : 4096 * 5] = b"x" * 8192
    (tmp_path / "optuna.db").write_bytes(content)
    (tmp_path / "mlflow.db").write_text("no database")
    lines, code = doctor()
    assert (code, [line.split()[0] for line in lines]) == (1, ["broken", "broken"])
    assert "no SQLite database" in lines[0]


def test_a_server_that_does_not_answer_is_broken(doctor, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:geheim@127.0.0.1:9")
    lines, code = doctor()
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith("broken  tracking store http://127.0.0.1:9: expected an MLflow server, found")
    assert "geheim" not in lines[0]
