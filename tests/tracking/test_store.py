"""The tracking store: whatever stands at its address is one line or a whole store, in seconds."""

import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import mlflow
import optuna
import pytest
from alembic import command
from mlflow.store.db.utils import InitialBase, _get_alembic_config
from mlflow.tracking import MlflowClient
from sqlalchemy import create_engine
from support import call_command, environment

from mammo_mlflow.cli import main
from mammo_mlflow.errors import UserError
from mammo_mlflow.tracking.store import check_store, open_client, open_store

OPEN = """
from mammo_mlflow.tracking.store import open_store
print("opening", flush=True)
print(*sorted(one.name for one in open_store()[0].search_experiments()), flush=True)
"""
FOREIGN = """
import mlflow.store.tracking.sqlalchemy_store
from mlflow.tracking import MlflowClient
print("opening", flush=True)
print(MlflowClient().create_experiment("theirs"), flush=True)
"""


@pytest.fixture
def uri(client, monkeypatch):
    """The shared store is the one that MLflow is told to use."""
    uri = client.tracking_uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    return uri


@pytest.mark.parametrize("what", ["a text", "a directory", "an address"])
def test_what_can_be_no_store_is_told_before_the_work_that_it_is_for(tmp_path, monkeypatch, capsys, what):
    file = tmp_path / "mlflow.db"
    if what == "a text":
        file.write_text("hello")
    elif what == "a directory":
        file.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:/x.db" if what == "an address" else f"sqlite:///{file}")
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    monkeypatch.chdir(tmp_path)
    handlers, on_term = logging.root.handlers[:], signal.getsignal(signal.SIGTERM)
    try:
        code = main(
            ["pretrained", "--task", "mass_calc", "--executor", "inline", "--cache-dir", str(tmp_path / "cache")]
        )
    finally:
        logging.root.handlers[:] = handlers
        signal.signal(signal.SIGTERM, on_term)
    assert code == 2
    assert capsys.readouterr().err.startswith("mammo_mlflow: tracking store ")
    assert not (tmp_path / "cache").exists()


def test_looking_makes_no_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new/mlflow.db")
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    check_store()
    assert list(tmp_path.iterdir()) == []


def test_the_experiment_is_made_once(uri):
    first, second = open_store()[1], open_store()[1]
    assert first == second == MlflowClient(uri).get_experiment_by_name("mammo").experiment_id


def test_the_experiment_can_be_named(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "my study")
    client, experiment = open_store()
    assert client.get_experiment(experiment).name == "my study"


def test_a_run_of_mlflow_run_says_where(uri, monkeypatch):
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("given"))
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    assert open_store()[1] == run.info.experiment_id


def test_a_deleted_experiment_is_told(uri, monkeypatch):
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("deleted"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "deleted")
    with pytest.raises(UserError, match="'deleted' deleted"):
        open_store()


def test_a_run_that_does_not_exist_is_told(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(UserError, match="tracking store"):
        open_store()


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Tells MLflow of a store: given(uri); an empty folder is the one that the command works in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    return lambda uri: monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)


def refused(*words):
    """One line with these words, within ten seconds, and no secret."""
    began = time.monotonic()
    with pytest.raises(UserError) as raised:
        open_store()
    line = str(raised.value)
    assert time.monotonic() - began < 10
    assert "\n" not in line
    assert "geheim" not in line
    for word in words:
        assert word in line
    return line


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sqlite:/mlflow.db", ["did you mean 'sqlite:///mlflow.db'?"]),
        ("sqlite://mlflow.db", ["did you mean 'sqlite:///mlflow.db'?"]),
        ("sqlite:/data/runs/mlflow.db", ["did you mean 'sqlite:////data/runs/mlflow.db'?"]),
        ("sqlite://", ["in memory"]),
        ("postgresql+psycopg2://me:geheim@127.0.0.1/runs", ["pip install psycopg2-binary"]),
        ("mysql://me:geheim@127.0.0.1/runs", ["pip install mysqlclient"]),
        ("mssql+pyodbc://me:geheim@127.0.0.1/runs", ["pip install pyodbc"]),
        ("postgres://me:geheim@127.0.0.1/runs", ["did you mean 'postgresql'?"]),
        ("htp://me:geheim@127.0.0.1:1", ["htp://127.0.0.1:1"]),
        ("file:///tmp/mlruns", ["sqlite:///mlflow.db"]),
    ],
)
def test_an_address_at_which_there_is_no_store(given, tmp_path, uri, words):
    given(uri)
    refused(*words)
    assert not list(tmp_path.iterdir())


def test_a_database_server_that_is_not_there(given, tmp_path):
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'mammo-mlflow[postgresql]'")
    test_an_address_at_which_there_is_no_store(given, tmp_path, "postgresql://me:geheim@127.0.0.1:1/runs", ["refused"])


def optunas(path):
    optuna.create_study(storage=f"sqlite:///{path}")


def strangers(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE birds (name)")


def newer(path):
    MlflowClient(f"sqlite:///{path}").create_experiment("mine")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")


FILES = {
    "a text": (lambda path: path.write_text("notes\n" * 1000), "no SQLite database"),
    "a folder": (lambda path: path.mkdir(), "a directory"),
    "a pipe": (os.mkfifo, "no file"),
    "a cut-off database": (lambda path: path.write_bytes(b"SQLite format 3\0" + b"\1" * 5000), ""),
    "Optuna's": (optunas, "Optuna's studies"),
    "a stranger's": (strangers, "another program"),
    "a newer MLflow's": (newer, "pip install -U mlflow"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_no_store_stays_as_it_is(given, tmp_path, what):
    make, words = FILES[what]
    path = tmp_path / "mlflow.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    given(f"sqlite:///{tmp_path}/mlflow.db")
    refused(words)
    assert [one.name for one in tmp_path.iterdir()] == ["mlflow.db"]
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(given, tmp_path):
    tmp_path.chmod(0o500)
    given(f"sqlite:///{tmp_path}/mlflow.db")
    refused(str(tmp_path), "Permission denied")


def test_artifacts_that_cannot_be_written_are_told_before_the_work(given, tmp_path):
    (tmp_path / "mlruns").write_text("")
    given(f"sqlite:///{tmp_path}/mlflow.db")
    refused("artifacts", "mlruns")


def test_an_empty_file_becomes_a_store(given, tmp_path):
    (tmp_path / "mlflow.db").touch()
    os.utime(tmp_path / "mlflow.db", (0, 0))
    given(f"sqlite:///{tmp_path}/mlflow.db")
    assert open_store()[0].get_experiment_by_name("mammo").artifact_location.startswith(f"{tmp_path}/mlruns/")
    assert [one.name for one in tmp_path.iterdir()] == ["mlflow.db"]


def tables_of(path, revision=None):
    """What MLflow makes first, or all tables as an older MLflow had them."""
    engine = create_engine(f"sqlite:///{path}")
    InitialBase.metadata.create_all(engine)
    if revision is not None:
        command.upgrade(_get_alembic_config(f"sqlite:///{path}"), revision)
    engine.dispose()


@pytest.mark.parametrize("revision", [None, "0a8213491aaa"])
def test_a_store_that_was_left_half_made_is_made_anew(given, tmp_path, caplog, revision):
    path = tmp_path / "mlflow.db"
    tables_of(path, revision)
    with sqlite3.connect(path) as connection:  # the step after the last one that was noted
        connection.execute("CREATE TABLE trace_info (key)")
        connection.execute("CREATE TABLE IF NOT EXISTS experiment_tags (key)")
    os.utime(path, (0, 0))
    given(f"sqlite:///{tmp_path}/mlflow.db")
    assert open_store()[0].get_experiment_by_name("mammo")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.half-made-1"]
    assert "half made" in caplog.text


def test_an_older_store_is_upgraded_and_kept(given, tmp_path, caplog):
    path = tmp_path / "mlflow.db"
    tables_of(path, "0a8213491aaa")
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO experiments VALUES (0, 'Default', 'mlruns/0', 'active')")
        connection.execute("INSERT INTO experiments VALUES (1, 'old', 'mlruns/1', 'active')")
        connection.execute(
            "INSERT INTO runs (run_uuid, name, user_id, status, start_time, lifecycle_stage, artifact_uri,"
            " experiment_id) VALUES ('abc', 'old', 'me', 'FINISHED', 1, 'active', 'mlruns/1/abc/artifacts', 1)"
        )
    before = path.read_bytes()
    given(f"sqlite:///{tmp_path}/mlflow.db")
    assert open_store()[0].get_run("abc").info.status == "FINISHED"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.revision-0a8213491aaa-1"]
    assert (tmp_path / "mlflow.db.revision-0a8213491aaa-1").read_bytes() == before
    assert "older MLflow" in caplog.text


def test_an_older_store_that_cannot_be_upgraded_stays_as_it_is(given, tmp_path):
    path = tmp_path / "mlflow.db"
    tables_of(path, "0a8213491aaa")
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO experiments VALUES (1, 'old', 'mlruns/1', 'active')")
        connection.execute("CREATE TABLE trace_info (key)")
    before = path.read_bytes()
    given(f"sqlite:///{tmp_path}/mlflow.db")
    refused("cannot be upgraded", "trace_info")
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.fixture
def opening(tmp_path, cache, kill):
    """Starts a process that opens the store of the folder, and is about to when this returns."""
    started = []

    def start(code):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment(cache),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "opening\n"
        return process

    yield start
    for process in started:
        kill(process)
        process.communicate()


@pytest.mark.parametrize("seconds", [0.05, 0.6, 1.2, 1.8])
def test_a_command_killed_while_it_makes_the_store(given, tmp_path, opening, seconds):
    killed = opening(OPEN)
    time.sleep(seconds)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    given(f"sqlite:///{tmp_path}/mlflow.db")
    client, experiment = open_store()
    assert client.create_run(experiment)
    assert [one.name for one in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.2])
def test_another_client_killed_while_it_makes_the_store(given, tmp_path, opening, seconds):
    killed = opening(FOREIGN)
    time.sleep(seconds)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    given(f"sqlite:///{tmp_path}/mlflow.db")
    client, experiment = open_store()
    assert client.create_run(experiment)


@pytest.mark.parametrize("second", [OPEN, FOREIGN], ids=["ours", "another client"])
def test_two_first_clients_at_once(opening, second):
    first = opening(OPEN)
    other = opening(second)
    for process in (first, other):
        said, problems = process.communicate(timeout=120)
        assert process.returncode == 0, problems
        assert said.strip()


def test_a_disk_that_is_full_while_the_store_is_made(system, tmp_path, cache):
    if shutil.which("unshare") is None:
        pytest.skip("no unshare to mount a small disk with")
    (disk := tmp_path / "disk").mkdir()
    code = "from mammo_mlflow.tracking.store import open_store\ntry: open_store()\nexcept Exception as p: print(p)"
    mount = f'mount -t tmpfs -o size=700k none {disk} 2>/dev/null || exit 77; cd {disk}; "$0" -c "$1" && ls -A'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, sys.executable, code],
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode in (1, 77) and "full" not in done.stdout:
        pytest.skip("no small disk may be mounted here")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout  # nothing was left on it
    assert "full" in lines[0]


def test_an_experiment_by_its_id(uri, monkeypatch):
    wanted = MlflowClient(uri).create_experiment("by id")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", wanted)
    assert open_store()[1] == wanted
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    refused("MLFLOW_EXPERIMENT_NAME", "'by id'", "'another'")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    MlflowClient(uri).delete_experiment(wanted)
    refused("MLFLOW_EXPERIMENT_ID", "'by id' deleted")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "777")
    refused("777")


def test_blank_settings_are_none(uri, monkeypatch):
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.setenv(name, " ")
    client, experiment = open_store()
    assert client.get_experiment(experiment).name == "mammo"


def test_a_run_of_mlflow_run_that_was_deleted(uri, monkeypatch):
    client = MlflowClient(uri)
    run = client.create_run("0").info.run_id
    client.delete_run(run)
    monkeypatch.setenv("MLFLOW_RUN_ID", run)
    refused("MLFLOW_RUN_ID", "deleted")


@pytest.mark.parametrize("empty_file", [False, True])
def test_reading_makes_no_store(given, tmp_path, empty_file):
    given(f"sqlite:///{tmp_path}/mlflow.db")
    if empty_file:
        (tmp_path / "mlflow.db").touch()
    with pytest.raises(UserError, match=f"^store: expected one that a command has made .* found nothing at {tmp_path}"):
        open_client()
    assert [one.stat().st_size for one in tmp_path.iterdir()] == [0] * empty_file


@pytest.mark.parametrize(
    "line",
    [
        "predict --model a/1 --input phantom --output p.csv",
        "serve --model a/1",
        "compare a/1 b/1",
        "publish --model a/1 --out paper",
    ],
)
def test_a_command_that_reads_makes_no_store(given, tmp_path, line):
    given(f"sqlite:///{tmp_path}/mlflow.db")
    (said,) = call_command(*line.split(), code=2).complaints
    assert said.startswith("mammo_mlflow: store: expected one that a command has made")
    assert not list(tmp_path.iterdir())


def test_a_store_may_be_read_without_an_experiment(given, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    MlflowClient(uri).search_experiments()  # which makes its tables
    given(uri)
    assert [one.name for one in open_client().search_experiments()] == ["Default"]
