import os
import socket
import time

from support import unused_pid

from mammo_mlflow.processes import this_host, this_process
from mammo_mlflow.tracking import run_queries, runs
from mammo_mlflow.tracking.run_queries import (
    close_orphaned_runs,
    fetch_artifacts,
    finished_runs,
    orphaned_runs,
    writer_alive,
)
from mammo_mlflow.tracking.runs import Writer


def make(client, experiment, key, status="FINISHED", **tags):
    tags = {"mammo.key": key, **{name.replace("_", "."): value for name, value in tags.items()}}
    run = client.create_run(experiment, tags=tags)
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status)
    return run.info.run_id


def gone():
    """Who a process was that is no more."""
    return f"{socket.gethostname()}:{unused_pid()}:{int(time.time())}"


def test_only_finished_runs_count(client, experiment):
    done = make(client, experiment, "resume a")
    for status in ("FAILED", "KILLED", "RUNNING"):
        make(client, experiment, "resume b", status)
    assert finished_runs(client, ["resume a", "resume b", "resume c"]) == {"resume a": done}


def test_deleted_runs_do_not_count(client, experiment):
    client.delete_run(make(client, experiment, "resume deleted"))
    assert finished_runs(client, ["resume deleted"]) == {}


def test_the_original_is_found_before_its_copies(client, experiment):
    original = make(client, experiment, "resume d")
    tags = {"mammo.key": "resume d", "mammo.reused_from": original}
    copy = client.create_run(experiment, tags=tags).info.run_id
    client.set_terminated(copy, "FINISHED")
    assert finished_runs(client, ["resume d"]) == {"resume d": original}
    client.delete_run(original)
    assert finished_runs(client, ["resume d"]) == {"resume d": copy}


def test_another_experiment_is_searched_too(client, experiment):
    other = client.create_experiment(f"other {time.time()}")
    assert finished_runs(client, ["resume e"]) == {}
    done = make(client, other, "resume e")
    assert finished_runs(client, ["resume e"]) == {"resume e": done}


def test_artifacts_come_back_or_none_do(client, experiment, tmp_path):
    run = make(client, experiment, "resume f")
    client.log_text(run, "text", "fit/a.txt")
    assert (fetch_artifacts(client, run, "fit", tmp_path / "one") / "a.txt").read_text() == "text"
    assert fetch_artifacts(client, "0" * 32, "fit", tmp_path / "two") is None


def test_the_dead_are_buried_and_the_living_are_not(client, experiment):
    dead = make(client, experiment, "key", "RUNNING", mammo_process=gone())
    child = make(client, experiment, "fold", "RUNNING", mammo_process=gone())
    alive = make(client, experiment, "key", "RUNNING", mammo_process=this_process())
    elsewhere = make(client, experiment, "key", "RUNNING", mammo_process="elsewhere:1:1")
    unknown = make(client, experiment, "key", "RUNNING")
    new = make(client, experiment, "key", "RUNNING", mammo_process=gone())
    assert close_orphaned_runs(client, experiment, new, {"key"}) == 2
    status = {run: client.get_run(run).info.status for run in (dead, child, alive, elsewhere, unknown, new)}
    assert [run for run, found in status.items() if found == "KILLED"] == [dead, child]
    assert client.get_run(dead).data.tags["mammo.continued_by"] == new
    assert "mammo.continued_by" not in client.get_run(child).data.tags


def test_another_process_of_the_same_number_is_not_the_writer(client, experiment):
    host = socket.gethostname()
    reused = make(client, experiment, "key", "RUNNING", mammo_process=f"{host}:{os.getpid()}:1000")
    assert close_orphaned_runs(client, experiment, "new", ()) == 1
    assert client.get_run(reused).info.status == "KILLED"


def test_a_clock_that_was_set_kills_nobody(client, experiment):
    host, pid, born = this_process().rsplit(":", 2)
    make(client, experiment, "key", "RUNNING", mammo_process=f"{host}:{pid}:{int(born) + 1}")
    assert close_orphaned_runs(client, experiment, "new", ()) == 0


def test_a_process_of_another_host_lives_as_long_as_it_says_so(client, experiment, monkeypatch):
    monkeypatch.setattr(run_queries, "DEAD_SECONDS", 100.0)
    here, now = this_process(), time.time()
    place = this_host().rpartition("#")[2]
    silent, beating = (f"elsewhere#0123abcd:{number}:1" for number in (1, 2))
    same = f"another-name#{place}:{here.split(':', 1)[1]}"
    for process, beat in ((silent, now - 150), (silent, now - 400), (beating, now - 400), (beating, now - 50)):
        marks = {"mammo.process": process, "mammo.heartbeat": str(int(beat))}
        client.create_run(experiment, start_time=int((now - 500) * 1000), tags=marks)
    assert not writer_alive(client, silent, now - 500)
    assert writer_alive(client, silent, now - 50)  # it has just begun
    assert writer_alive(client, beating, now - 500)
    assert not writer_alive(client, f"elsewhere#0123abcd:{3}:1", now - 500)  # it died before its first heartbeat
    assert writer_alive(client, same, 0.0)  # by another name, with the same processes: asked of the system
    assert not writer_alive(client, f"another-name#{place}:{unused_pid()}:1", now)
    assert {run.data.tags["mammo.process"] for run in orphaned_runs(client, [experiment])} == {silent}


def test_a_writer_says_that_it_lives_on_a_run_that_is_open(client, experiment, monkeypatch):
    writer = Writer(client, experiment, {})
    first = writer.start_run("first", parent=None, tags={}, params={})
    second = writer.start_run("second", parent=first, tags={}, params={})
    writer.flush()
    writer.drain()
    begun = int(client.get_run(first.id).data.tags["mammo.heartbeat"])
    assert abs(begun - time.time()) < 10
    first.close()
    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr(writer, "_next_beat", 0.0)
    writer.drain()
    second.log_metrics({"loss": 1.0})
    writer.drain()
    assert int(client.get_run(second.id).data.tags["mammo.heartbeat"]) >= begun
