"""Artifacts, wherever they go: checked before a run is made, and errors of object stores as those of a server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED, TEMPORARILY_UNAVAILABLE
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from mammo_mlflow.databases import Unusable, check_folder_writable
from mammo_mlflow.errors import expected, how_to_install
from mammo_mlflow.servers import in_time
from mammo_mlflow.tracking.requests import DENIED_CODES
from mammo_mlflow.wording import first_line, scrubbed

PACKAGES = {"boto3": "mammo-mlflow[s3]", "google": "google-cloud-storage", "azure": "azure-storage-blob"}
"""The packages of object stores' modules."""
TRIED = "written-to-try.txt"
"""The file that is written and deleted again where artifacts go to a server."""


def check_artifacts(experiment: Experiment, tracking_uri: str) -> None:
    """Check that artifacts of an MLflow experiment can be written, in seconds. Raises `UserError`.

    On a server a small file is written, and deleted where that is allowed.
    """
    where = experiment.artifact_location or ""
    field = f"artifacts of experiment '{experiment.name}'"
    if is_local_uri(where):
        folder = Path(local_file_uri_to_path(where))
        there = next((one for one in (folder, *folder.parents) if one.exists()), folder)
        try:
            check_folder_writable(there)
        except Unusable as problem:
            raise expected(field, "a folder to write to", problem) from None
        return
    try:
        in_time(lambda: _write(where, tracking_uri))
    except Exception as problem:  # each object store has errors of its own
        raise expected(f"{field} in {scrubbed(where)}", "a place to write to", _said(problem)) from None


def _write(where: str, tracking_uri: str) -> None:
    repository = get_artifact_repository(where, tracking_uri=tracking_uri)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TRIED
        path.write_text("written to try whether artifacts can be, before a run is made\n")
        repository.list_artifacts()  # by this thread itself: uploads may have threads that the command's end waits for
        repository.log_artifact(str(path))
    with suppress(Exception):  # who may write may not always delete
        repository.delete_artifacts(TRIED)


def _said(problem: Exception) -> str:
    """What an object store's library says, in one line; which package is missing."""
    if isinstance(problem, ImportError) and problem.name:
        module = problem.name.partition(".")[0]
        return f"no {module}: {how_to_install(PACKAGES.get(module, module))}"
    return first_line(problem)


class StoreClient(MlflowClient):
    """MLflow's client, where artifacts that go straight into S3 fail as those that go through a server do."""

    def log_artifact(self, *given: Any, **named: Any) -> None:
        """Write a file, as MLflow's client does."""
        with _as_mlflow_says():
            super().log_artifact(*given, **named)

    def log_model_artifacts(self, *given: Any, **named: Any) -> None:
        """Write a model's folder, as MLflow's client does."""
        with _as_mlflow_says():
            super().log_model_artifacts(*given, **named)

    def download_artifacts(self, *given: Any, **named: Any) -> str:
        """Read a file or folder, as MLflow's client does."""
        with _as_mlflow_says():
            return super().download_artifacts(*given, **named)

    def list_artifacts(self, *given: Any, **named: Any) -> Any:
        """List a folder, as MLflow's client does."""
        with _as_mlflow_says():
            return super().list_artifacts(*given, **named)


@contextmanager
def _as_mlflow_says() -> Iterator[None]:
    """Turn what boto3 raises into an `MlflowException`; without an answer, or with one of 500 on, out of reach."""
    try:
        yield
    except Exception as problem:
        if type(problem).__module__.partition(".")[0] not in ("boto3", "botocore", "s3transfer"):
            raise
        status = _status(problem)
        code = TEMPORARILY_UNAVAILABLE if status is None or status >= 500 else INVALID_PARAMETER_VALUE
        raise MlflowException(first_line(problem), PERMISSION_DENIED if status in DENIED_CODES else code) from None


def _status(problem: BaseException | None) -> int | None:
    """The status of the object store's answer below an exception; None where there was none."""
    while problem is not None:
        answer = getattr(problem, "response", None)
        if isinstance(answer, dict):
            return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
        problem = problem.__cause__ or problem.__context__
    return None
