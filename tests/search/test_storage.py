"""The database of studies: every bad one is a line without a password, and one coordinator at a time holds it."""

import os
import sqlite3
import subprocess
import sys
import time

import pytest
from mlflow.tracking import MlflowClient
from optuna.study import StudyDirection
from support import environment

from mammo_mlflow.errors import UserError, how_to_install
from mammo_mlflow.search.storage import Storage, check_address

HOLD = """
import sys, time
from mammo_mlflow.search.storage import Storage
with Storage(sys.argv[1]).alone():
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def refused(url):
    with pytest.raises(UserError) as raised:
        Storage(url)
    line = str(raised.value)
    if "another program" not in line and "written" not in line:  # which is known once a file is opened
        with pytest.raises(UserError) as early:
            check_address(url)
        assert str(early.value) == line
    assert "\n" not in line
    assert line.startswith("storage: expected a database ")
    assert "geheim" not in line
    return line


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "",
        "postgresql:/me:geheim@localhost/studies",
        "postgresql://me:geheim@localhost:port/studies",
    ],
)
def test_what_is_no_url(url):
    assert "such as sqlite:///optuna.db" in refused(url)


def test_a_server_that_does_not_answer():
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'mammo-mlflow[postgresql]'")
    assert "localhost" in refused("postgresql://me:geheim@localhost:1/studies")


def test_a_kind_of_database_that_nobody_knows():
    assert "kitchensink" in refused("kitchensink://me:geheim@localhost/studies")


def test_a_missing_driver_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert how_to_install("mammo-mlflow[postgresql]") in refused("postgresql://me:geheim@localhost/studies")
    assert "pymysql" in refused("mysql+pymysql://me:geheim@localhost/studies")


def test_files_that_are_no_database(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be taken for one" * 100)
    assert "notes.txt" in refused(f"sqlite:///{tmp_path}/notes.txt")
    assert "nowhere" in refused(f"sqlite:///{tmp_path}/nowhere/optuna.db")
    assert "a directory" in refused(f"sqlite:///{tmp_path}")
    assert "did you mean 'sqlite:///optuna.db'" in refused("sqlite:/optuna.db")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["notes.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    refused(f"sqlite:///{tmp_path}/optuna.db")


def test_mlflow_and_studies_do_not_share_a_database(tmp_path):
    url = f"sqlite:///{tmp_path}/mlflow.db"
    MlflowClient(url).create_experiment("mine")
    assert "MLflow" in refused(url)
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "studies" not in tables  # nothing was added before it was refused


@pytest.mark.parametrize("seconds", [0.05, 0.1, 0.2])
def test_a_command_killed_while_it_makes_the_database(kill, tmp_path, cache, seconds):
    url = f"sqlite:///{tmp_path}/optuna.db"
    code = "import sys; from mammo_mlflow.search.storage import Storage; print('x', flush=True); Storage(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", code, url], env=environment(cache), stdout=subprocess.PIPE)
    process.stdout.readline()
    time.sleep(seconds)
    kill(process)
    process.communicate()
    assert Storage(url).rdb.get_all_studies() == []
    assert [one.name for one in tmp_path.iterdir()] == ["optuna.db"]


def test_studies_are_opened_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Storage("sqlite:///optuna.db").rdb.create_new_study([StudyDirection.MINIMIZE], "mine")
    again = Storage(f"sqlite:///{tmp_path}/optuna.db")
    assert [study.study_name for study in again.rdb.get_all_studies()] == ["mine"]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path, system):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/optuna.db"
    return request.getfixturevalue("postgresql")()


@pytest.fixture
def holder(system, cache):
    """Another process that holds a database alone for some seconds."""
    processes = []

    def start(url, seconds):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, url, str(seconds)], env=environment(cache), stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_one_coordinator_at_a_time(url, holder):
    process = holder(url, 2)
    began = time.monotonic()
    storage = Storage(url)  # making the tables waits as well
    with storage.alone():
        assert time.monotonic() - began > 1
    assert process.wait(60) == 0


def test_a_killed_coordinator_holds_nothing(url, holder, kill):
    storage = Storage(url)
    process = holder(url, 100)
    kill(process)
    process.wait()
    began = time.monotonic()
    with storage.alone():
        assert time.monotonic() - began < 5


def test_an_error_while_alone_holds_nothing(url):
    storage = Storage(url)
    with pytest.raises(KeyError), storage.alone():
        raise KeyError
    with storage.alone():
        pass
