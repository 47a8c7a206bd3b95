"""Commands whose folds, disks and servers fail, and what the next command makes of it."""

import signal
import subprocess
import sys

import psutil
import pytest
from mlflow.tracking import MlflowClient
from support import SMALL, Running, Store, wait_for

from mammo_mlflow.errors import UserError
from mammo_mlflow.testing.scripted import Script

LONG = ["--task", "mass_calc", *SMALL, "--epochs", "60", "--workers", "2"]


@pytest.fixture
def start(tmp_path, cache, kill):
    """Start a command in the test's folder; none outlives the test."""
    started = []

    def begin(*arguments, **surroundings):
        started.append(Running(tmp_path, cache, *arguments, **surroundings))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            kill(one.process)
            one.process.wait()


def steps(store, run, metric="loss"):
    return [point.step for point in store.client.get_metric_history(run.info.run_id, metric)]


def test_a_fold_that_fails_says_why_and_the_others_are_trained(pretend, tmp_path):
    arguments = ["--task", "mass_calc", *SMALL, "--seed", "71"]
    script = Script(fail={"fold 2": UserError("training diverged: loss nan in epoch 3 (head)")})
    outcome = pretend(tmp_path, *arguments, script=script)
    assert (outcome.code, outcome.complaints) == (2, ["mammo_mlflow: training diverged: loss nan in epoch 3 (head)"])
    assert "vgg16 fold 2 failed: training diverged" in outcome.err
    store = Store(tmp_path)
    (top,) = store.tops()
    fits = {run.data.tags["mammo.fit"]: run for run in store.children(top)}
    assert {name: run.info.status for name, run in fits.items()} == {
        **dict.fromkeys(["fold 1", "fold 3", "fold 4", "refit"], "FINISHED"),
        "fold 2": "FAILED",
    }
    assert fits["fold 2"].data.tags["mammo.reason"] == "training diverged: loss nan in epoch 3 (head)"
    assert top.info.status == "FAILED"
    script = Script()
    assert pretend(tmp_path, *arguments, script=script).code == 0
    assert script.fits == ["vgg16 fold 2"]


def folds_at_work(running):
    """The worker processes: those of the fork server."""
    servers = [one for one in running.family() if one.ppid() == running.process.pid]
    return [child for one in servers for child in one.children()]


def test_a_fold_that_is_killed_is_trained_again_and_no_other_is_harmed(start, tmp_path, kill):
    running = start(*LONG, "--seed", "72", "--epochs", "150")
    store = None

    def trains():
        nonlocal store
        if store is None and (tmp_path / "mlflow.db").exists() and len(folds_at_work(running)) == 2:
            store = Store(tmp_path)
        return store is not None and any(len(steps(store, run)) > 5 for run in store.runs(fit="fold 1"))

    wait_for(trains)
    kill(folds_at_work(running)[0])
    assert running.process.wait(240) == 0, running.log.read_text()
    assert running.log.read_text().count("is started again") == 1
    (top,) = store.tops()
    folds = [run for run in store.children(top) if run.data.tags["mammo.fit"].startswith(("fold", "refit"))]
    assert {run.data.tags["mammo.fit"]: run.info.status for run in folds} == {
        **{f"fold {number}": "FINISHED" for number in range(1, 5)},
        "refit": "FINISHED",
    }
    assert [steps(store, run) for run in folds] == [list(range(1, 151))] * 5


SLEEPER = "import time; from mammo_mlflow.processes import end_with_parent; end_with_parent(); print(1); time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}])"


@pytest.fixture
def parents_end_is_told(kill):
    """Skip the test where the system does not kill a process whose parent ends, though it was asked to."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        children = psutil.Process(parent.pid).children()
        kill(parent)
    _, alive = psutil.wait_procs(children, timeout=5)
    for one in alive:
        kill(one)
    if alive:
        pytest.skip("this system sends no signal when a parent ends (PR_SET_PDEATHSIG)")


@pytest.mark.usefixtures("parents_end_is_told")
def test_nobody_outlives_the_coordinator_not_even_who_is_stopped(start, kill):
    running = start(*LONG, "--seed", "73", "--epochs", "2000")
    wait_for(lambda: len(folds_at_work(running)) == 2)
    family = running.family()
    folds_at_work(running)[0].send_signal(signal.SIGSTOP)
    kill(running.process)
    running.process.wait()
    _, alive = psutil.wait_procs(family, timeout=5)
    told = [(one, one.ppid(), one.cmdline()[1:3], "MAMMO_COORDINATOR_PID" in one.environ()) for one in alive]
    for one in alive:
        kill(one)
    assert told == []


@pytest.fixture
def small_store(tmp_path, system):
    """A function that mounts a file system of so many megabytes, or gives it another size."""
    place = tmp_path / "store"
    place.mkdir()

    def resize(megabytes):
        how = "remount," if place.is_mount() else ""
        line = ["mount", "-t", "tmpfs", "-o", f"{how}size={megabytes}m", "tmpfs", str(place)]
        if subprocess.run(line, capture_output=True).returncode:
            pytest.skip("a small file system cannot be mounted here")
        return place

    yield resize
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("megabytes", [2, 30])
def test_a_store_on_a_full_disk_is_one_line_and_the_next_command_ends_it(small_store, cache, run_command, megabytes):
    """Full while folds are logged, and while the final model of 59 MB is."""
    where, arguments = small_store(megabytes), ["--task", "mass_calc", *SMALL, "--seed", str(megabytes)]
    outcome = run_command(where, cache, *arguments)
    assert outcome.code == 2
    assert len(outcome.complaints) == 1, outcome.err
    assert "room" in outcome.complaints[0]
    assert "Traceback" not in outcome.err
    store = Store(where)
    assert store.runs("RUNNING") == []
    assert store.tops()[0].info.status == "FAILED"
    assert not list(where.glob("mlruns/*/models/*/artifacts/data/*"))
    small_store(200)
    assert run_command(where, cache, *arguments).code == 0
    assert not list((cache / "undelivered").glob("*"))
    assert len(list(where.glob("mlruns/*/models/**/model.keras"))) == 1
    final = store.tops()[-1]
    assert final.info.status == "FINISHED"


def test_a_server_that_is_gone_for_good_gets_everything_once_by_the_next_command(
    server, start, tmp_path, cache, run_command, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    arguments = [*LONG, "--seed", "74"]
    surroundings = {"MLFLOW_TRACKING_URI": server.uri, "MAMMO_SERVER_PATIENCE": "3", "MLFLOW_EXPERIMENT_NAME": "gone"}
    running = start(*arguments, **surroundings)
    wait_for(lambda: running.said("fold 1: done"))
    server.stop()
    assert running.process.wait(240) == 2
    log = running.log.read_text()
    assert log.count("tracking server away") <= 3
    assert "fold 4: done" in log  # training went on
    assert "Traceback" not in log
    server.start()
    outcome = run_command(tmp_path, cache, *arguments, **surroundings)
    assert outcome.code == 0, outcome.err
    assert "5 of 5 fits were finished before" in outcome.err
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("gone").experiment_id
    runs = client.search_runs([experiment])
    assert {run.info.status for run in runs} <= {"FINISHED", "FAILED"}
    folds = [run for run in runs if run.data.tags.get("mammo.fit", "").startswith(("fold", "refit"))]
    assert len(folds) == 10  # five, and their copies below the new parent
    for run in folds:
        assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == list(range(1, 61))
