import os
import socket
import time
from pathlib import Path

from mlflow.utils.file_utils import local_file_uri_to_path
from support import unused_pid

from mammo_mlflow.processes import this_host, this_process
from mammo_mlflow.tracking import orphans, runs
from mammo_mlflow.tracking.orphans import close_orphaned_runs, orphaned_runs, writer_alive
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


def test_a_model_that_was_registered_before_its_process_died_keeps_its_files(writer, client, experiment, tmp_path):
    (tmp_path / "MLmodel").write_text("flavors: {}")
    run = make(client, experiment, "key", "RUNNING", mammo_process=gone())
    registered, other = (client.create_logged_model(experiment, name=one, source_run_id=run) for one in ("a", "b"))
    for model in (registered, other):
        client.log_model_artifacts(model.model_id, str(tmp_path))
    client.create_registered_model("mammo-kept")
    client.create_model_version("mammo-kept", f"models:/{registered.model_id}", run, model_id=registered.model_id)
    assert close_orphaned_runs(client, experiment, "new", ()) == 1
    assert [model.model_id for model in client.search_logged_models([experiment])] == [registered.model_id]
    there = [Path(local_file_uri_to_path(model.artifact_location)) / "MLmodel" for model in (registered, other)]
    assert [path.exists() for path in there] == [True, False]


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
    monkeypatch.setattr(orphans, "DEAD_SECONDS", 100.0)
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
    clock = [time.monotonic()]
    writer = Writer(client, experiment, {})
    first = writer.start_run("first", parent=None, tags={}, params={})
    second = writer.start_run("second", parent=first, tags={}, params={})
    begun = int(client.get_run(first.id).data.tags["mammo.heartbeat"])
    assert abs(begun - time.time()) < 10
    first.close()
    assert "mammo.heartbeat" not in client.get_run(second.id).data.tags
    monkeypatch.setattr(runs.time, "monotonic", lambda: clock[0])
    clock[0] += runs.HEARTBEAT_SECONDS + 1
    writer.flush()
    clock[0] += runs.BATCH_SECONDS + 1
    writer.flush()
    assert int(client.get_run(second.id).data.tags["mammo.heartbeat"]) >= begun
