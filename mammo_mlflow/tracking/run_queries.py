"""Find finished runs and their artifacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mammo_mlflow.names import Artifact, Tag
from mammo_mlflow.tracking.requests import is_away, mlflow_experiments, pages
from mammo_mlflow.wording import scrubbed

LEFT_OUT = "left out"
"""The value of `mammo.tail` of a fit whose tail was not kept."""
TRIED = 50
"""How many runs of one key are looked through for one with its tail."""


def finished_runs(client: MlflowClient, keys: Sequence[str], need_tails: bool = True) -> dict[str, str]:
    """Find FINISHED runs by their `mammo.key` tags: ids by key; of several with one key the oldest.

    With `need_tails` fits whose tail was not kept are passed over. Each key is a request.
    """
    return {key: run_id for key, run_id in _finished(client, keys, need_tails) if run_id}


def all_finished(client: MlflowClient, keys: Sequence[str]) -> bool:
    """Whether each of `keys` has a run as of `finished_runs`; nothing is asked behind the first that has none."""
    return all(run_id for _, run_id in _finished(client, keys, need_tails=True))


def _finished(client: MlflowClient, keys: Sequence[str], need_tails: bool) -> Iterator[tuple[str, str]]:
    """Each key with the id of its oldest finished run, "" without one; asked for as they are taken."""
    experiments = mlflow_experiments(client)
    for key in keys:
        runs = client.search_runs(
            experiments,
            f"tags.`{Tag.KEY}` = '{key}' and attributes.status = 'FINISHED'",
            max_results=TRIED if need_tails else 1,
            order_by=["attributes.start_time ASC"],  # the first is the original, later ones reuse it
        )
        complete = [run.info.run_id for run in runs if not (need_tails and run.data.tags.get(Tag.TAIL) == LEFT_OUT)]
        yield key, next(iter(complete), "")


def finished_under(client: MlflowClient, experiment_id: str, parent: str, need_tails: bool = True) -> dict[str, str]:
    """Find the FINISHED runs nested in the run `parent`: ids by `mammo.key` tag; `need_tails` as in `finished_runs`."""
    query = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'FINISHED'"
    runs = pages(lambda token: client.search_runs([experiment_id], query, page_token=token))
    return {
        run.data.tags[Tag.KEY]: run.info.run_id
        for run in runs
        if Tag.KEY in run.data.tags and not (need_tails and run.data.tags.get(Tag.TAIL) == LEFT_OUT)
    }


def find_runs(client: MlflowClient, tags: Mapping[str, str]) -> list[Run]:
    """Find the runs with all the given tags, in any active MLflow experiment, newest first."""
    query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    experiments, order = mlflow_experiments(client), ["attributes.start_time DESC"]
    return list(pages(lambda token: client.search_runs(experiments, query, order_by=order, page_token=token)))


def nested_runs(client: MlflowClient, parent: str) -> list[Run]:
    """Find the runs nested in the run `parent`, oldest first."""
    return find_runs(client, {"mlflow.parentRunId": parent})[::-1]


def figures_of(client: MlflowClient, run_id: str) -> dict[str, str]:
    """The paths of a run's figures by their names."""
    found = client.list_artifacts(run_id, Artifact.FIGURES)
    return {Path(item.path).stem: item.path for item in found if item.path.endswith(".png")}


def run_link(tracking_uri: str, experiment_id: str, run_id: str) -> str:
    """The URL of a run's page: on the tracking server, without its user, or where `mlflow ui` serves by default."""
    uri = scrubbed(tracking_uri)
    base = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}"


def metric_by_step(client: MlflowClient, run_id: str, name: str) -> dict[int, float]:
    """The values of a run's metric by step, of several at one step the last; empty where it has none."""
    points = client.get_metric_history(run_id, name)
    return {point.step: point.value for point in sorted(points, key=lambda point: point.timestamp)}


def fetch_artifacts(client: MlflowClient, run_id: str, folder: str, target: Path) -> Path | None:
    """Download an artifact folder of a run ("" for all of them) into `target`; None where it cannot be had."""
    target.mkdir(parents=True, exist_ok=True)
    try:
        return Path(client.download_artifacts(run_id, folder, str(target)))
    except (MlflowException, OSError) as problem:
        if is_away(problem):
            raise
        return None
