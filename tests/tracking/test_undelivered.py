import resource
import signal
import time

import pytest
from mlflow.tracking import MlflowClient

from mammo_mlflow.errors import UserError
from mammo_mlflow.tracking.runs import Writer
from mammo_mlflow.tracking.undelivered import deliver_writes, kept_writes


@pytest.fixture
def begun(server, tmp_path, monkeypatch):
    """A writer with an open run on a real server, and the folder for what is not delivered."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MAMMO_SERVER_PATIENCE", "1")
    client = MlflowClient(server.uri)
    writer = Writer(client, client.create_experiment(f"kept {time.time()}"), {}, tmp_path / "undelivered")
    run = writer.start_run("top", parent=None, tags={}, params={"epochs": 3})
    run.log_metrics({"loss": 0.0}, 0)
    writer.drain()
    return writer, run


def steps(client, run_id):
    return sorted(point.step for point in client.get_metric_history(run_id, "loss"))


def test_what_was_not_delivered_is_delivered_once_by_the_next_command(server, begun, tmp_path, caplog):
    writer, run = begun
    client, kept = writer.client, tmp_path / "undelivered"
    server.stop()
    fold = writer.start_run("fold", parent=run, tags={"mammo.cv_run_id": run}, params={"fold": 1}, later=True)
    (tmp_path / "tail.bin").write_bytes(b"tail")
    for step in range(1, 5):
        run.log_metrics({"loss": step}, step)
        fold.log_metrics({"loss": step}, step, at=100.0 + step)
    fold.log_dataset(name="phantom", digest="0" * 64, source="{}", profile="{}", context="training")
    fold.log_file(tmp_path / "tail.bin", "fit")
    fold.log_text("{}", "fit/facts.json")
    fold.finish()
    begun_at = time.monotonic()
    with pytest.raises(UserError, match=r"^tracking server: expected an answer within 1 s, found none$"):
        writer.drain()
    writer.abandon("FAILED", "the server was away")
    assert time.monotonic() - begun_at < 10
    assert caplog.text.count("tracking server away") == 1
    (tmp_path / "tail.bin").unlink()  # as the command's folder of temporary files
    server.start()
    for _ in range(2):
        deliver_writes(client, server.uri, kept)
        assert kept_writes(kept) == []
        assert list(kept.iterdir()) == []
    found = {one.info.run_name: one for one in client.search_runs([writer.experiment_id])}
    assert {name: one.info.status for name, one in found.items()} == {"top": "FAILED", "fold": "FINISHED"}
    assert found["top"].data.tags["mammo.reason"] == "the server was away"
    late = found["fold"]
    assert late.data.tags["mlflow.parentRunId"] == late.data.tags["mammo.cv_run_id"] == run.id
    assert (steps(client, run.id), steps(client, late.info.run_id)) == ([0, 1, 2, 3, 4], [1, 2, 3, 4])
    assert client.get_metric_history(late.info.run_id, "loss")[0].timestamp == 101_000
    files = [item.path for item in client.list_artifacts(late.info.run_id, "fit")]
    assert files == ["fit/facts.json", "fit/tail.bin"]
    assert late.inputs.dataset_inputs[0].dataset.name == "phantom"


def test_a_delivery_that_is_cut_off_is_done_again(server, begun, tmp_path, monkeypatch):
    writer, run = begun
    client, kept = writer.client, tmp_path / "undelivered"
    server.stop()
    writer.start_run("fold", parent=run, tags={}, params={}, later=True).log_metrics({"loss": 1.0}, 1)
    with pytest.raises(UserError):
        writer.drain()
    writer.abandon("KILLED", "interrupted")
    deliver_writes(client, server.uri, kept)  # it is away still
    assert len(kept_writes(kept)) == 1
    server.start()
    ended = client.set_terminated
    monkeypatch.setattr(client, "set_terminated", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        deliver_writes(client, server.uri, kept)
    monkeypatch.setattr(client, "set_terminated", ended)
    deliver_writes(client, "http://127.0.0.1:9", kept)  # another store's command
    assert len(kept_writes(kept)) == 1
    deliver_writes(client, server.uri, kept)
    found = {one.info.run_name: one for one in client.search_runs([writer.experiment_id])}
    assert {name: one.info.status for name, one in found.items()} == {"top": "KILLED", "fold": "KILLED"}
    assert len(client.search_runs([writer.experiment_id])) == 2
    assert steps(client, found["fold"].info.run_id) == [1]


def test_a_run_that_was_made_though_no_answer_came_is_not_made_again(server, begun):
    """A server that is stopped in the midst of a request may have done what it was asked."""
    writer, top = begun
    make, lost = writer.client.create_run, []

    def make_and_lose(*arguments, **keywords):
        made = make(*arguments, **keywords)
        if not lost:
            lost.append(made)
            raise ConnectionError("no answer")
        return made

    writer.client.create_run = make_and_lose
    run = writer.start_run("fold", parent=top, tags={}, params={})
    assert [run.id] == [one.info.run_id for one in lost]
    assert len(writer.client.search_runs([writer.experiment_id])) == 2


def test_a_server_that_hangs_does_not_hold_up_who_ends_the_command(server, begun, tmp_path):
    writer, run = begun
    for process in server.family:
        process.send_signal(signal.SIGSTOP)
    try:
        run.log_metrics({"loss": 1.0}, 1)
        begun_at = time.monotonic()
        writer.abandon("KILLED", "interrupted")
        assert time.monotonic() - begun_at < 8
        assert len(kept_writes(tmp_path / "undelivered")) == 1
    finally:
        for process in server.family:
            process.send_signal(signal.SIGCONT)
    deliver_writes(writer.client, server.uri, tmp_path / "undelivered")
    assert writer.client.get_run(run.id).info.status == "KILLED"
    assert steps(writer.client, run.id) == [0, 1]


def test_what_finds_no_room_leaves_no_part_of_it_and_is_delivered_later(client, experiment, tmp_path):
    kept = tmp_path / "undelivered"
    writer = Writer(client, experiment, {}, kept)
    run = writer.start_run("top", parent=None, tags={}, params={})
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(8_000_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, before[1]))
    try:
        run.log_file(large, "fit")
        run.log_metrics({"loss": 1.0})
        with pytest.raises(OSError, match="File too large"):
            run.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000_000, before[1]))  # for what is kept, on another disk
        writer.abandon("FAILED", "no room")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (client.get_run(run.id).info.status, client.get_run(run.id).data.metrics) == ("FINISHED", {"loss": 1.0})
    assert client.list_artifacts(run.id, "fit") == []
    deliver_writes(client, client.tracking_uri, kept)
    assert [(item.path, item.file_size) for item in client.list_artifacts(run.id, "fit")] == [
        ("fit/large.bin", 8_000_000)
    ]
