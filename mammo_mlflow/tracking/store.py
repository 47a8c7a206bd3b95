"""Opening the tracking store: once, under a lock, before anything fans out."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path

import mlflow
from filelock import FileLock
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mammo_mlflow.errors import UserError

DEFAULT_EXPERIMENT = "mammo"

TrackingError = MlflowException
"""What the store raises for a request it refuses."""


def open_store() -> tuple[MlflowClient, str]:
    """A client of the tracking store and the id of the experiment that runs go to.

    The store is `MLFLOW_TRACKING_URI` or MLflow's default, `sqlite:///mlflow.db`. The experiment is that of the run
    that `mlflow run` made, if any, else `MLFLOW_EXPERIMENT_NAME`, else `mammo`. Raises `UserError` where the store
    does not answer.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the writer buffers and tries again itself
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # the command shows its own progress
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store").setLevel(logging.WARNING)
    uri = mlflow.get_tracking_uri()
    name = hashlib.sha256(store_id(uri).encode()).hexdigest()[:16]
    try:
        with FileLock(Path(tempfile.gettempdir()) / f"mammo-store-{name}.lock", mode=0o666):
            client = MlflowClient(uri)
            given = os.environ.get("MLFLOW_RUN_ID")
            if given:
                return client, client.get_run(given).info.experiment_id
            wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", DEFAULT_EXPERIMENT)
            found = client.get_experiment_by_name(wanted)
            if found is None:
                return client, client.create_experiment(wanted)
    except MlflowException as problem:
        raise UserError(f"tracking store {uri}: expected an answer, found: {_first_line(problem)}") from None
    if found.lifecycle_stage != LifecycleStage.ACTIVE:
        raise UserError(f"MLFLOW_EXPERIMENT_NAME: expected an active experiment, found '{wanted}' deleted (restore it)")
    return client, found.experiment_id


def store_id(uri: str) -> str:
    """A store by one name, however its SQLite file was spelled."""
    file = uri.removeprefix("sqlite:///")
    return uri if file == uri else f"sqlite:///{Path(file).resolve()}"


def _first_line(problem: Exception) -> str:
    return str(problem).strip().splitlines()[0]
