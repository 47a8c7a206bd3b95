"""Log the models of runs, and remove those that are of no use."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from mammo_mlflow.files import tree_sha256
from mammo_mlflow.names import Tag
from mammo_mlflow.tracking.requests import is_away, pages
from mammo_mlflow.tracking.runs import Writer

DOWNLOAD_NOTE = "registered_model_meta"
"""The file with name and version that MLflow adds to a registered model that it downloads."""


@dataclass(frozen=True)
class Logged:
    """A model logged in the store: its id and address, its files downloaded to `path`, and their sha256."""

    model_id: str
    uri: str
    path: Path
    sha256: str


def log_model(
    writer: Writer, run_id: str, name: str, directory: Path, tags: Mapping[str, str], fetched: Path
) -> Logged:
    """Log an MLflow model directory as a model of a run, and download it again into the folder `fetched`.

    Nothing of it stays in the store where that fails or is interrupted.
    """
    import mlflow.artifacts

    client = writer.client
    sha256 = tree_sha256(directory, DOWNLOAD_NOTE)
    all_tags = {**tags, Tag.FILES_SHA256: sha256}
    model = writer.ask(
        lambda: client.create_logged_model(
            writer.experiment_id, name=name, source_run_id=run_id, tags=all_tags, model_type="keras"
        ),
        lambda: next(iter(logged_models(client, writer.experiment_id, run_id)), None),
    )
    uri = f"models:/{model.model_id}"
    try:
        writer.ask(lambda: client.log_model_artifacts(model.model_id, str(directory)))
        writer.ask(lambda: client.finalize_logged_model(model.model_id, "READY"))
        writer.ask(lambda: client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)]))
        fetched.mkdir(parents=True, exist_ok=True)
        path = writer.ask(lambda: mlflow.artifacts.download_artifacts(uri, dst_path=str(fetched)))
    except BaseException:
        with suppress(MlflowException, OSError):
            remove_model(client, model)
        raise
    return Logged(model.model_id, uri, Path(path), sha256)


def logged_models(client: MlflowClient, experiment_id: str, run_id: str) -> list[LoggedModel]:
    """Find the logged models of a run."""
    query = f"source_run_id = '{run_id}'"
    return list(pages(lambda token: client.search_logged_models([experiment_id], query, page_token=token)))


def remove_unregistered(client: MlflowClient, experiment_id: str, run_id: str) -> int:
    """Remove the logged models of a run that no registered version is made of; returns how many."""
    models = logged_models(client, experiment_id, run_id)
    # by their sources: databases keep no `model_id` of a version
    used = {version.source for version in client.search_model_versions(f"run_id = '{run_id}'")} if models else set()
    unused = [model for model in models if f"models:/{model.model_id}" not in used]
    for model in unused:
        remove_model(client, model)
    return len(unused)


def remove_model(client: MlflowClient, model: LoggedModel) -> None:
    """Remove a logged model, its files first. Raises what MLflow raises."""
    try:
        get_artifact_repository(model.artifact_location, client.tracking_uri).delete_artifacts()
    except (MlflowException, OSError, NotImplementedError) as problem:  # its files are gone, or stay for `mlflow gc`
        if isinstance(problem, MlflowException) and is_away(problem):
            raise
    client.delete_logged_model(model.model_id)
