import gc
import os
import signal
import time
import weakref
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mammo_mlflow.processes import this_process
from mammo_mlflow.tracking import runs
from mammo_mlflow.tracking.runs import Writer


def start(writer, name="run", parent=None, **tags):
    return writer.start_run(name, parent=parent, tags=tags, params={"epochs": 2})


def test_a_run_has_its_tags_from_its_first_moment(writer, client, monkeypatch):
    """A kill between making a run and tagging it would leave a run that nobody can bury."""
    monkeypatch.setattr(client, "log_batch", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        start(writer, **{"mammo.key": "k"})
    found = client.search_runs([writer.experiment_id])[0]
    assert found.data.tags["mammo.process"] == this_process()
    assert found.data.tags["mammo.key"] == "k"


def test_runs_are_nested_and_carry_the_writers_tags(writer, client):
    parent = start(writer, "parent")
    child = start(writer, "child", parent, **{"mammo.fit": "fold 1"})
    child.finish()
    parent.finish("FAILED")
    writer.drain()
    found = client.get_run(child.id)
    assert found.data.tags["mlflow.parentRunId"] == parent.id
    assert found.data.tags["mammo.preset"] == "quick"
    assert found.data.params == {"epochs": "2"}
    assert (found.info.status, client.get_run(parent.id).info.status) == ("FINISHED", "FAILED")


def test_metrics_of_a_run_that_goes_on_go_out_together_and_soon(writer, client, monkeypatch):
    now = [time.monotonic()]
    monkeypatch.setattr(runs.time, "monotonic", lambda: now[0])
    run = start(writer)
    sent = []
    log_batch = client.log_batch
    monkeypatch.setattr(client, "log_batch", lambda *a, **k: (sent.append(k), log_batch(*a, **k)))
    for step in range(50):
        run.log_metrics({"loss": step, "accuracy": 1.0}, step)
        writer.flush()
    assert sent == []
    now[0] += 6
    writer.flush()
    assert len(sent) == 1
    assert len(client.get_metric_history(run.id, "loss")) == 50


def test_a_run_that_is_made_later_goes_in_the_fewest_calls(writer, client, monkeypatch):
    calls = []
    for name in ("create_run", "log_batch", "log_inputs", "set_terminated"):
        made = getattr(client, name)
        monkeypatch.setattr(client, name, lambda *a, name=name, made=made, **k: (calls.append(name), made(*a, **k))[1])
    parent = start(writer, "parent")
    calls.clear()
    run = writer.start_run("later", parent=parent, tags={"mammo.cv_run_id": parent}, params={"epochs": 2}, later=True)
    writer.flush()
    assert (calls, run.known) == ([], "")
    run.log_dataset(name="phantom", digest="0" * 64, source="{}", profile="{}", context="training")
    for step in range(40):
        run.log_metrics({"loss": step, "accuracy": 1.0}, step)
        writer.flush()
    run.set_tags({"mammo.tail": "kept"})
    run.finish()
    writer.drain()
    assert calls == ["create_run", "log_batch", "log_inputs", "set_terminated"]
    found = client.get_run(run.id)
    assert found.data.tags["mammo.cv_run_id"] == found.data.tags["mlflow.parentRunId"] == parent.id
    assert (found.data.params, found.info.status) == ({"epochs": "2"}, "FINISHED")
    assert len(client.get_metric_history(run.id, "loss")) == 40


def test_who_needs_the_id_of_a_run_that_is_made_later_has_it_at_once(writer, client):
    run = writer.start_run("later", parent=None, tags={}, params={"epochs": 2}, later=True)
    assert client.get_run(run.id).info.run_name == "later"
    run.log_metrics({"loss": 1.0})
    run.finish()
    writer.drain()
    assert [one.info.run_id for one in client.search_runs([writer.experiment_id])] == [run.id]
    assert client.get_run(run.id).data.metrics == {"loss": 1.0}


def test_writing_stops_in_between_for_whoever_has_to_listen(writer):
    done = []
    for number in range(5):
        writer.add(lambda number=number: (time.sleep(0.05), done.append(number)))
    assert writer.flush(seconds=0.08)
    assert 1 <= len(done) < 5
    writer.drain()
    assert done == list(range(5))
    assert not writer.flush()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_who_ends_the_command_in_the_midst_of_a_write_leaves_the_store_open(writer, client, monkeypatch, sent):
    """SQLAlchemy would leave its transaction open, and SQLite's file locked for what has to be written still."""

    def end(number, frame):
        raise SystemExit(128 + number)

    before = signal.signal(sent, end)
    run = start(writer)
    log_batch = client.log_batch
    monkeypatch.setattr(client, "log_batch", lambda *a, **k: (os.kill(os.getpid(), sent), log_batch(*a, **k)))
    try:
        run.log_metrics({"loss": 1.0})
        with pytest.raises(SystemExit):
            writer.drain()
        monkeypatch.undo()
        assert signal.getsignal(sent) is end
    finally:
        signal.signal(sent, before)
    assert client.get_run(run.id).data.metrics == {"loss": 1.0}
    writer.abandon("KILLED", "interrupted")
    assert client.get_run(run.id).info.status == "KILLED"


def test_what_fails_for_good_does_not_hold_up_the_rest(writer):
    done = []
    writer.add(lambda: {}["missing"])
    writer.add(lambda: done.append("next"))
    with pytest.raises(KeyError):
        writer.drain()
    writer.drain()
    assert done == ["next"]


def test_abandoned_runs_that_were_never_made_are_ended_too(writer, client):
    run = writer.start_run("later", parent=None, tags={}, params={"epochs": 2}, later=True)
    writer.abandon("KILLED", "interrupted")
    found = client.get_run(run.id)
    assert (found.info.status, found.data.tags["mammo.reason"]) == ("KILLED", "interrupted")


def test_many_points_and_numbers_that_are_none(writer, client):
    run = start(writer)
    for step in range(1200):
        run.log_metrics({"loss": step}, step)
    run.log_metrics({"empty": float("nan")})
    writer.drain()
    assert client.get_run(run.id).data.metrics == {"loss": 1199.0}


def test_points_keep_the_time_they_were_made_at(writer, client):
    run = start(writer)
    run.log_metrics({"loss": 1}, 1, at=1234.5)
    writer.drain()
    assert client.get_metric_history(run.id, "loss")[0].timestamp == 1_234_500


def test_files_texts_figures_and_data_sets(writer, client, tmp_path):
    run = start(writer)
    (tmp_path / "a.txt").write_text("a")
    run.log_file(tmp_path / "a.txt", "folder")
    run.log_text("{}", "b.json")
    run.log_figure(Figure(), "c")
    table = pd.DataFrame({"patch": [0, 1], "probability": [0.25, 0.5]})
    run.log_table(table, "d.parquet")
    (tmp_path / "all" / "below").mkdir(parents=True)
    for name in ("e.txt", "below/f.txt"):
        (tmp_path / "all" / name).write_text(name)
    run.log_folder(tmp_path / "all")
    run.log_dataset(name="phantom", digest="0" * 64, source="{}", profile="{}", context="training")
    writer.drain()
    assert {item.path for item in client.list_artifacts(run.id)} == {
        "folder",
        "b.json",
        "figures",
        "d.parquet",
        "e.txt",
        "below",
    }
    pd.testing.assert_frame_equal(pd.read_parquet(client.download_artifacts(run.id, "d.parquet")), table)
    assert [item.path for item in client.list_artifacts(run.id, "below")] == ["below/f.txt"]
    assert client.list_artifacts(run.id, "figures")[0].file_size > 0
    assert client.get_run(run.id).inputs.dataset_inputs[0].dataset.name == "phantom"


def test_abandoned_runs_end_and_say_why(writer, client):
    parent = start(writer, "parent")
    child, done = start(writer, "child", parent), start(writer, "done", parent)
    done.finish()
    writer.abandon("KILLED", "interrupted")
    found = {run.id: client.get_run(run.id) for run in (parent, child, done)}
    assert [found[run.id].info.status for run in (parent, child, done)] == ["KILLED", "KILLED", "FINISHED"]
    assert found[parent.id].data.tags["mammo.reason"] == "interrupted"
    assert "mammo.reason" not in found[done.id].data.tags


def test_a_run_that_has_ended_is_not_kept(writer):
    parent = start(writer, "parent")
    ended = [weakref.ref(start(writer, f"child {number}", parent)) for number in range(3)]
    for child in ended:
        child().finish()
    writer.drain()
    gc.collect()
    assert [child() for child in ended] == [None] * 3
    writer.abandon("FAILED", "interrupted")  # which ends the one that is open
    assert writer.client.get_run(parent.id).info.status == "FAILED"


def test_a_deleted_run_does_not_stop_its_sibling(writer, client, caplog):
    parent = start(writer, "parent")
    child, sibling = start(writer, "child", parent), start(writer, "sibling", parent)
    writer.drain()
    client.delete_run(child.id)
    for run in (child, sibling):
        run.log_metrics({"loss": 1.0})
        run.set_tags({"mammo.late": "yes"})
        run.log_text("text", "text.txt")
        run.finish()
    parent.finish()
    writer.drain()
    found = client.get_run(sibling.id)
    assert found.info.status == client.get_run(parent.id).info.status == "FINISHED"
    assert found.data.tags["mammo.late"] == "yes"
    assert found.data.metrics == {"loss": 1.0}
    assert caplog.text.count(f"run {child.id} was deleted meanwhile") == 1


def test_a_run_that_is_gone_altogether_does_not_stop_its_sibling(writer, client):
    run = start(writer)
    writer.add(lambda: client.set_tag("f" * 32, "a", "b"), writer.attach("f" * 32))
    run.finish()
    writer.drain()
    assert client.get_run(run.id).info.status == "FINISHED"


def test_nothing_that_is_stored_holds_a_password(writer, client, tmp_path):
    uri = "http://me:geheim@tracker:5000"
    run = start(writer, **{"mammo.where": uri})
    run.set_tags({"mammo.link": f"{uri}/#/experiments/1"})
    run.log_text(f"link,{uri}/a\n", "trials.csv")
    writer.abandon("FAILED", f"no answer from postgresql://me:geheim@tracker/db?password=geheim ({'x' * 500}")
    found = client.get_run(run.id)
    assert found.data.tags["mammo.where"] == "http://tracker:5000"
    assert found.data.tags["mammo.link"] == "http://tracker:5000/#/experiments/1"
    assert found.data.tags["mammo.reason"].startswith("no answer from postgresql://tracker/db?password=***")
    assert "geheim" not in Path(client.download_artifacts(run.id, "trials.csv", str(tmp_path))).read_text()
    assert Writer(MlflowClient(uri), "1", {}).link("abc") == "http://tracker:5000/#/experiments/1/runs/abc"


def test_a_refused_write_does_not_keep_runs_open(writer, client, tmp_path):
    run = start(writer)
    run.log_file(tmp_path / "gone.txt")
    with pytest.raises((MlflowException, OSError)):
        writer.drain()
    run.log_file(tmp_path / "gone too.txt")
    writer.abandon("FAILED", "its file is gone")
    assert client.get_run(run.id).info.status == "FAILED"


def test_the_run_of_mlflow_run_is_taken_over_once(writer, client, monkeypatch):
    given = client.create_run(
        writer.experiment_id,
        tags={"mlflow.project.entryPoint": "pretrained", "mlflow.user": "anna", "mlflow.source.name": "/home/anna/x"},
    )
    client.log_param(given.info.run_id, "epochs", "02")
    monkeypatch.setenv("MLFLOW_RUN_ID", given.info.run_id)
    top, other = start(writer, "top", **{"mammo.key": "k"}), start(writer, "other")
    writer.drain()
    assert top.id == given.info.run_id != other.id
    found = client.get_run(top.id)
    assert found.info.run_name == "top"
    assert found.data.params == {"epochs": "02"}
    assert (found.data.tags["mlflow.user"], found.data.tags["mlflow.source.name"]) == ("unknown", "mammo_mlflow")
    assert found.data.tags["mammo.process"] == this_process()
    assert found.data.tags["mammo.key"] == "k"


def test_nothing_is_lost_while_the_server_is_away(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = MlflowClient(server.uri)
    writer = Writer(client, client.create_experiment("away"), {})
    parent = start(writer, "parent")
    child = start(writer, "child", parent)
    child.log_metrics({"loss": 0}, 0)
    writer.drain()
    server.stop()
    (tmp_path / "a.txt").write_text("a")
    for step in range(1, 20):
        child.log_metrics({"loss": step}, step)
        writer.flush()
    time.sleep(1.1)
    writer.flush(held=0.0)
    assert "tracking server away" in caplog.text
    child.log_file(tmp_path / "a.txt", "fit")
    child.set_tags({"mammo.late": "yes"})
    child.finish()
    seen = []

    def back(seconds):
        seen.append(seconds)
        if len(seen) == 2:
            server.start()

    monkeypatch.setattr(runs.time, "sleep", lambda seconds, sleep=time.sleep: (back(seconds), sleep(seconds)))
    other = start(writer, "another, started while it is away", parent)  # waits for the server
    monkeypatch.undo()
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    other.finish()
    parent.finish()
    writer.drain()
    assert len(seen) >= 2
    assert sorted(point.step for point in client.get_metric_history(child.id, "loss")) == list(range(20))
    found = client.get_run(child.id)
    assert found.data.tags["mammo.late"] == "yes"
    assert found.info.status == "FINISHED"
    assert [item.path for item in client.list_artifacts(child.id, "fit")] == ["fit/a.txt"]
    names = [run.info.run_name for run in client.search_runs([writer.experiment_id])]
    assert sorted(names) == ["another, started while it is away", "child", "parent"]


def test_a_run_that_is_opened_again_takes_no_metric_twice(writer, client):
    run = start(writer)
    run.log_metrics({"fold_accuracy_mean": 0.75, "best_accuracy": 0.8})
    run.close()
    again = writer.reopen_run(run.id, None, {})
    again.log_metrics({"fold_accuracy_mean": 0.75, "best_accuracy": 0.9})
    again.close()
    points = {name: client.get_metric_history(run.id, name) for name in ("fold_accuracy_mean", "best_accuracy")}
    assert {name: [one.value for one in found] for name, found in points.items()} == {
        "fold_accuracy_mean": [0.75],
        "best_accuracy": [0.8, 0.9],
    }
