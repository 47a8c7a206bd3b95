"""Artifacts in an object store, straight and through a tracking server: moto's S3, in an environment of its own."""

import os
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import MOTO
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from support import SMALL, Store
from support_servers import ObjectStore, Silent, TrackingServer

from mammo_mlflow.tracking.artifacts import StoreClient
from mammo_mlflow.tracking.requests import is_away

SETTING = ["--task", "mass_calc", *SMALL, "--folds", "2"]


@pytest.fixture(scope="module")
def objects(tmp_path_factory, system):
    """An object store, with its address and keys in this process's environment."""
    pytest.importorskip("boto3", reason="needs boto3: pip install 'mammo-mlflow[s3]'")
    if not Path(os.environ.get(MOTO, "none")).is_file():
        pytest.skip(f"no object store: {MOTO} names moto_server of an environment with moto[server]")
    with ObjectStore(tmp_path_factory.mktemp("objects")) as made, pytest.MonkeyPatch.context() as patch:
        for name, value in made.surroundings.items():
            patch.setenv(name, value)
        yield made


def keys(objects, bucket):
    with urllib.request.urlopen(f"{objects.uri}/{bucket.removeprefix('s3://')}?list-type=2", timeout=30) as answer:
        return answer.read().decode()


def make_experiment(where, bucket, empty_stores):
    """An MLflow experiment in a store in a folder, whose artifacts go to a bucket."""
    where.mkdir(exist_ok=True)
    (where / "mlflow.db").write_bytes((empty_stores / "mlflow.db").read_bytes())
    MlflowClient(f"sqlite:///{where}/mlflow.db").create_experiment("mammo", artifact_location=f"{bucket}/runs")


def test_artifacts_go_straight_into_a_bucket(objects, run_command, tmp_path, cache, phantom, empty_stores):
    bucket = objects.make_bucket("straight")
    make_experiment(tmp_path, bucket, empty_stores)
    outcome = run_command(tmp_path, cache, *SETTING, **objects.surroundings)
    assert outcome.code == 0, outcome.err
    assert outcome.complaints == []
    store = Store(tmp_path)
    (final,) = store.runs(fit="final")
    assert len(store.frame(final, "test.parquet")) == 24
    assert not (tmp_path / "mlruns").exists()
    assert "written-to-try.txt" not in keys(objects, bucket)
    used = ["--model", "models:/mammo-mass_calc-pretrained-vgg16@candidate", "--input", str(phantom)]
    used += ["--output", "out.csv"]
    predicted = run_command(tmp_path, cache, *used, name="predict", **objects.surroundings)
    assert predicted.code == 0, predicted.err


def test_artifacts_go_through_a_tracking_server_into_a_bucket(objects, run_command, tmp_path, cache):
    """The command has no keys of the object store, and knows nothing of it."""
    bucket = objects.make_bucket("proxied")
    server = TrackingServer(tmp_path, artifacts=bucket, **objects.surroundings)
    server.start()
    try:
        none = dict.fromkeys(objects.surroundings, "")
        (tmp_path / "w").mkdir()
        outcome = run_command(
            tmp_path / "w", cache, "--out", "page", name="report", MLFLOW_TRACKING_URI=server.uri, **none
        )
        assert outcome.code in (0, 2), outcome.err
        assert "Traceback" not in outcome.err
        client = MlflowClient(server.uri)
        run = client.create_run(client.get_experiment_by_name("mammo").experiment_id)
        client.log_text(run.info.run_id, "hello", "a.txt")
        assert "a.txt" in keys(objects, bucket)
        assert "written-to-try.txt" not in keys(objects, bucket)
    finally:
        server.stop()


def refused(outcome, *words):
    """One line with these words, and no run."""
    (line,) = [line for line in outcome.complaints if line.startswith("mammo_mlflow: ")]
    assert outcome.code == 2, outcome.err
    assert "artifacts of experiment 'mammo' in s3://" in line
    assert "of-the-tests" not in outcome.err
    for word in words:
        assert word in line
    return line


@pytest.fixture
def told(run_command, tmp_path, cache, empty_stores):
    """Runs `report` with an object store: told("s3://bucket", AWS_…=…) -> Outcome; no run is made."""

    def tell(bucket, **surroundings):
        make_experiment(tmp_path, bucket, empty_stores)
        began = time.monotonic()
        outcome = run_command(tmp_path, cache, "--out", "page", name="report", **surroundings)
        assert time.monotonic() - began < 60  # 30 on an idle machine; libraries alone would take minutes
        assert Store(tmp_path).runs() == []
        return outcome

    return tell


def test_an_object_store_that_is_away_is_a_line(told, objects):
    with Silent() as address:
        silent = objects.surroundings | {"MLFLOW_S3_ENDPOINT_URL": f"http://{address}"}
        refused(told("s3://nowhere", **silent), "no answer within")
    away = objects.surroundings | {"MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:1"}
    refused(told("s3://nowhere", **away), "127.0.0.1:1")


def test_a_bucket_that_is_missing_is_a_line(told, objects):
    refused(told("s3://no-such-bucket", **objects.surroundings), "bucket does not exist")


def test_keys_that_are_missing_are_a_line(told, objects, tmp_path):
    none = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
    home = {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    refused(told("s3://nowhere", **objects.surroundings | none | home), "credentials")


def test_a_package_that_is_missing_is_a_line(told, objects, tmp_path):
    (tmp_path / "boto3.py").write_text("raise ModuleNotFoundError(\"No module named 'boto3'\", name='boto3')\n")
    refused(told("s3://nowhere", **objects.surroundings), "[s3]'")


def test_an_object_store_that_fails_later_is_waited_for_unless_it_refuses(objects, tmp_path, empty_stores, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    bucket = objects.make_bucket("later")
    make_experiment(tmp_path, bucket, empty_stores)
    client = StoreClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.create_run(client.get_experiment_by_name("mammo").experiment_id).info.run_id
    (tmp_path / "a.txt").write_text("hello")
    client.log_artifact(run, str(tmp_path / "a.txt"))
    assert [one.path for one in client.list_artifacts(run)] == ["a.txt"]
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(MlflowException) as away:
        client.log_artifact(run, str(tmp_path / "a.txt"))
    assert is_away(away.value)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", objects.uri)
    make_experiment(tmp_path / "other", "s3://no-such-bucket", empty_stores)
    other = StoreClient(f"sqlite:///{tmp_path}/other/mlflow.db")
    run = other.create_run(other.get_experiment_by_name("mammo").experiment_id).info.run_id
    with pytest.raises(MlflowException, match="NoSuchBucket") as refused_for_good:
        other.log_artifact(run, str(tmp_path / "a.txt"))
    assert not is_away(refused_for_good.value)
