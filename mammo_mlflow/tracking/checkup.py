"""Look at the tracking store and what lies in it, for the command `doctor`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModel, Run, RunInfo
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from mammo_mlflow.databases import examine
from mammo_mlflow.errors import UserError
from mammo_mlflow.findings import BROKEN, FINE, ODD, Finding
from mammo_mlflow.names import Tag
from mammo_mlflow.tracking.local import newest_revision
from mammo_mlflow.tracking.logged_models import remove_unregistered
from mammo_mlflow.tracking.orphans import bury, orphaned_runs
from mammo_mlflow.tracking.registry import registered_names
from mammo_mlflow.tracking.requests import mlflow_experiments, pages
from mammo_mlflow.tracking.store import open_client
from mammo_mlflow.wording import scrubbed

RUNS = "runs"
ARTIFACTS = "artifacts"
MODELS = "registered models"
MODELS_A_PAGE = 1000
"""Logged models in one request."""
MOVED = "restore the folder, or move it back to where the store says that it is"


def check_tracking() -> Iterator[Finding]:
    """Look at the tracking store: whether it can be used, what dead commands left in it, and what is gone."""
    uri = mlflow.get_tracking_uri()
    where = f"tracking store {scrubbed(uri)}"
    if uri.startswith("sqlite"):
        found = examine(where, uri, newest_revision())
        yield found
        if found.advice:
            return
    try:
        client = open_client()
    except UserError as problem:
        yield Finding(BROKEN, where, str(problem).partition(": ")[2], "start the server, or set MLFLOW_TRACKING_URI")
        return
    if not uri.startswith("sqlite"):
        yield Finding(FINE, where, "answers")
    yield from _check_runs(client)
    yield from _check_models(client)


def _check_runs(client: MlflowClient) -> Iterator[Finding]:
    """Look for runs that dead processes left, and for runs whose files are gone."""
    experiments = mlflow_experiments(client)
    orphans = orphaned_runs(client, experiments)
    if orphans:
        found = f"{len(orphans)} are RUNNING though their process is gone"
        advice = "the next command ends them as KILLED; doctor --fix does so now"
        yield Finding(ODD, RUNS, found, advice, partial(_bury_all, client, orphans))
    count, gone, left = 0, list[str](), list[RunInfo]()
    dead = {run.info.run_id for run in orphans}
    for run in pages(lambda token: client.search_runs(experiments, page_token=token)):
        count += 1
        where = _local(run.info.artifact_uri)
        if run.info.status == "FINISHED" and where is not None and Tag.FIT in run.data.tags and not where.is_dir():
            gone.append(str(where))
        if run.info.status in ("FAILED", "KILLED") and run.info.run_id not in dead:
            left.append(run.info)
    if not orphans:
        yield Finding(FINE, RUNS, f"{count}, none left RUNNING by a dead process")
    if gone:
        folder = os.path.commonpath([str(Path(one).parents[1]) for one in gone])
        yield Finding(BROKEN, ARTIFACTS, f"those of {len(gone)} finished runs are gone from {folder}", MOVED)
    unused = _unregistered(client, experiments, left)
    if unused:
        advice = "doctor --fix removes them"
        found = f"those of {len(unused)} runs that did not end well are registered nowhere"
        yield Finding(ODD, "logged models", found, advice, partial(_remove_all, client, unused))


def _check_models(client: MlflowClient) -> Iterator[Finding]:
    """Look for registered versions whose files are gone."""
    count, gone = 0, list[str]()
    names = registered_names(client)
    logged = _logged(client, mlflow_experiments(client)) if names else ()
    places = {f"models:/{model.model_id}": model.artifact_location for model in logged}
    for name in names:
        for version in pages(partial(_versions, client, name)):
            count += 1
            try:  # without its logged model a version is asked for by itself
                place = places.get(str(version.source))
                where = _local(place or client.get_model_version_download_uri(name, version.version))
            except MlflowException:
                where = Path("/nowhere")
            if where is not None and not any(where.glob("*")):
                gone.append(f"{name} v{version.version}")
    if gone:
        shown = ", ".join(gone[:3]) + (", …" if len(gone) > 3 else "")
        advice = f"{MOVED}; after `mlflow gc` delete the version, or train it again with resume=false"
        yield Finding(BROKEN, MODELS, f"the files of {len(gone)} of {count} versions are gone ({shown})", advice)
    elif count:
        yield Finding(FINE, MODELS, f"{count} versions, all with their files")


def _versions(client: MlflowClient, name: str, token: str | None) -> PagedList[ModelVersion]:
    return client.search_model_versions(f"name = '{name}'", page_token=token)


def _local(uri: str) -> Path | None:
    return Path(local_file_uri_to_path(uri)) if uri and is_local_uri(uri) else None


def _unregistered(client: MlflowClient, experiments: list[str], runs: list[RunInfo]) -> list[RunInfo]:
    """The runs that have logged models and no registered version; all logged models are asked for at once."""
    logged = {model.source_run_id for model in _logged(client, experiments)} if runs else set()
    return [
        run for run in runs if run.run_id in logged and not client.search_model_versions(f"run_id = '{run.run_id}'")
    ]


def _logged(client: MlflowClient, experiments: list[str]) -> Iterator[LoggedModel]:
    return pages(lambda token: client.search_logged_models(experiments, max_results=MODELS_A_PAGE, page_token=token))


def _bury_all(client: MlflowClient, runs: list[Run]) -> None:
    for run in runs:
        bury(client, run)


def _remove_all(client: MlflowClient, runs: list[RunInfo]) -> None:
    for run in runs:
        remove_unregistered(client, run.experiment_id, run.run_id)
