import time

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode
from mlflow.tracking import MlflowClient

from mammo_mlflow.tracking.requests import or_none
from mammo_mlflow.tracking.run_queries import all_finished, fetch_artifacts, find_runs, finished_runs, finished_under


def make(client, experiment, key, status="FINISHED", **tags):
    tags = {"mammo.key": key, **{name.replace("_", "."): value for name, value in tags.items()}}
    run = client.create_run(experiment, tags=tags)
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status)
    return run.info.run_id


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


def test_whether_all_are_finished_is_asked_as_far_as_needed(client, experiment, monkeypatch):
    make(client, experiment, "resume h0")
    asked, whole = [], MlflowClient.search_runs
    monkeypatch.setattr(
        MlflowClient, "search_runs", lambda *given, **named: asked.append(given) or whole(*given, **named)
    )
    assert not all_finished(client, [f"resume h{n}" for n in range(100)])
    assert len(asked) == 2
    make(client, experiment, "resume h1")
    assert all_finished(client, ["resume h0", "resume h1"])


@pytest.mark.parametrize("code", ["RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED"])
def test_what_a_store_has_not_is_none(code):
    assert or_none(lambda: failing(MlflowException("no", ErrorCode.Value(code)))) is None


@pytest.mark.parametrize("code", ["INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED", "TEMPORARILY_UNAVAILABLE"])
def test_a_store_that_fails_does_not_say_that_there_is_none(code):
    with pytest.raises(MlflowException, match="broken"):
        or_none(lambda: failing(MlflowException("broken", ErrorCode.Value(code))))


def failing(problem):
    raise problem


def test_artifacts_come_back_or_none_do(client, experiment, tmp_path):
    run = make(client, experiment, "resume f")
    client.log_text(run, "text", "fit/a.txt")
    assert (fetch_artifacts(client, run, "fit", tmp_path / "one") / "a.txt").read_text() == "text"
    assert fetch_artifacts(client, "0" * 32, "fit", tmp_path / "two") is None


def test_all_runs_are_found_however_many_pages_they_are(client, experiment, monkeypatch):
    parent = make(client, experiment, "resume g")
    made = {f"resume g{n}": make(client, experiment, f"resume g{n}", mlflow_parentRunId=parent) for n in range(7)}
    whole = MlflowClient.search_runs
    monkeypatch.setattr(
        MlflowClient, "search_runs", lambda self, *given, **named: whole(self, *given, max_results=3, **named)
    )
    assert finished_under(client, experiment, parent) == made
    assert {run.info.run_id for run in find_runs(client, {"mlflow.parentRunId": parent})} == set(made.values())
