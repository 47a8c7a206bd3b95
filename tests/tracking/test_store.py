import mlflow
import pytest
from mlflow.tracking import MlflowClient

from mammo_mlflow.errors import UserError
from mammo_mlflow.tracking.store import open_store


@pytest.fixture
def uri(client, monkeypatch):
    """The shared store is the one that MLflow is told to use."""
    uri = client.tracking_uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    return uri


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
