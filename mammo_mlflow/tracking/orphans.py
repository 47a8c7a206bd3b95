"""Find the runs whose process is gone, and end them; tell which processes live."""

from __future__ import annotations

import time
from collections.abc import Collection

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mammo_mlflow.names import Tag
from mammo_mlflow.processes import is_here, process_alive
from mammo_mlflow.tracking.logged_models import remove_unregistered
from mammo_mlflow.tracking.requests import mlflow_experiments, pages

DEAD_SECONDS = 300.0
"""After what silence the process of another host is taken for dead."""


def close_orphaned_runs(client: MlflowClient, experiment_id: str, continued_by: str, keys: Collection[str]) -> int:
    """End the RUNNING runs whose process is gone as KILLED; returns how many.

    KILLED runs with one of `keys`, which the run that now starts will finish, are tagged `mammo.continued_by`.
    """
    dead = [run for run in orphaned_runs(client, [experiment_id]) if run.info.run_id != continued_by]
    for run in dead:
        bury(client, run)
    for key in keys:
        killed = client.search_runs([experiment_id], f"tags.`{Tag.KEY}` = '{key}' and attributes.status = 'KILLED'")
        for run in killed:
            if Tag.CONTINUED_BY not in run.data.tags:
                client.set_tag(run.info.run_id, Tag.CONTINUED_BY, continued_by)
    return len(dead)


def bury(client: MlflowClient, run: Run) -> None:
    """End a run whose process is gone as KILLED, and remove a model that it was logging or had not registered yet."""
    client.set_terminated(run.info.run_id, "KILLED")
    remove_unregistered(client, run.info.experiment_id, run.info.run_id)


def orphaned_runs(client: MlflowClient, experiments: list[str]) -> list[Run]:
    """Find the RUNNING runs of MLflow experiments whose process is gone."""
    query, alive = f"attributes.status = 'RUNNING' and tags.`{Tag.PROCESS}` LIKE '%:%'", dict[str, bool]()
    found = []
    for run in pages(lambda token: client.search_runs(experiments, query, page_token=token)):
        process = run.data.tags[Tag.PROCESS]
        if process not in alive:
            alive[process] = writer_alive(client, process, run.info.start_time / 1000)
        found += [] if alive[process] else [run]
    return found


def writer_alive(client: MlflowClient, process: str, lived: float) -> bool:
    """Whether the process named in the tag `mammo.process` still runs; of another host, by its heartbeats in the store.

    `lived` is a time, in seconds since 1970, at which it did. A process of an earlier version on another host, which
    has no heartbeats, is assumed to run.
    """
    host, pid, born = process.rsplit(":", 2)
    if is_here(host):
        return process_alive(int(pid), int(born))
    if "#" not in host:
        return True
    query = f"tags.`{Tag.PROCESS}` = '{process}' and tags.`{Tag.HEARTBEAT}` LIKE '%'"
    beats = pages(lambda token: client.search_runs(mlflow_experiments(client), query, page_token=token))
    newest = max([lived, *(float(run.data.tags[Tag.HEARTBEAT]) for run in beats)])
    return time.time() - newest < DEAD_SECONDS
