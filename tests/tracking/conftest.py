import shutil

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from mammo_mlflow.tracking.runs import Writer


@pytest.fixture(scope="session")
def client(tmp_path_factory, empty_stores):
    """A SQLite tracking store."""
    where = tmp_path_factory.mktemp("store")
    shutil.copy(empty_stores / "mlflow.db", where)
    made = MlflowClient(f"sqlite:///{where}/mlflow.db")
    made.where = where
    return made


@pytest.fixture
def experiment(client, request):
    """An experiment of the test's own."""
    where = client.where / request.node.name.replace("[", "-").replace("]", "")
    return client.create_experiment(request.node.name, artifact_location=where.as_uri())


@pytest.fixture
def writer(client, experiment):
    """A writer to the store that MLflow itself is told to use, as in a command."""
    mlflow.set_tracking_uri(client.tracking_uri)
    yield Writer(client, experiment, {"mammo.preset": "quick"})
    mlflow.set_tracking_uri(None)
