"""A tracking store, opened for each question that is asked of it: its clients, and the artifacts of its runs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pandas as pd

from mammo_mlflow.api.host import as_before, errors_for_users
from mammo_mlflow.errors import expected
from mammo_mlflow.files import read_small
from mammo_mlflow.names import Artifact, Tag
from mammo_mlflow.tracking.registry import find_run
from mammo_mlflow.tracking.results import Client, fetch
from mammo_mlflow.tracking.run_queries import Run, nested_runs
from mammo_mlflow.tracking.store import (
    SQLITE,
    at_store,
    open_client,
    present_store,
    settle_requests,
    store_id,
)
from mammo_mlflow.wording import scrubbed

_LARGEST_FACTS = 20_000_000


class StoreReader:
    """Reads runs and artifacts of a tracking store; see `Store`. `uri` is its address."""

    def __init__(self, uri: str | os.PathLike[str] | None = None) -> None:
        given = "" if uri is None else os.fspath(uri)
        if given and "://" not in given:
            path = Path(given).expanduser().absolute()
            given = f"{SQLITE}{path / 'mlflow.db' if path.is_dir() else path}"
        self.uri = store_id(given) if given else present_store()
        self._client: Client | None = None

    @contextmanager
    def opened(self) -> Iterator[Client]:
        """Context: a client of the store, meanwhile MLflow's tracking store. Raises `UserError` without one."""
        with as_before(), errors_for_users(), at_store(self.uri):
            if self._client is None:
                self._client = open_client()
            settle_requests()
            yield self._client

    def run(self, run_id: str) -> Run:
        """The MLflow run of an id, as the store has it now. Raises `UserError` where it has none."""
        with self.opened() as client:
            found = find_run(client, run_id)
        if found is None:
            raise expected("run", "one that the store has", f"'{run_id}'")
        return found

    def history(self, run_id: str) -> pd.DataFrame:
        """The metrics of each epoch of each fit of a cross-validation: fit, epoch from 1, and a column for each metric.

        Examples:
            >>> store.history(model.run_id).groupby("fit")["epoch"].max().unique().tolist()
            [2]
        """
        parts = []
        with self.opened() as client, tempfile.TemporaryDirectory() as folder:
            for run in nested_runs(client, run_id):
                path = fetch(client, run.info.run_id, f"{Artifact.FIT}/{Artifact.FACTS}", Path(folder))
                if path is not None:
                    epochs = pd.DataFrame(json.loads(read_small(path, _LARGEST_FACTS))["history"])
                    epochs.insert(0, "fit", run.data.tags.get(Tag.FIT, ""))
                    parts.append(epochs)
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["fit", "epoch"])

    def read(self, run_id: str, name: str) -> bytes:
        """The content of an artifact of a run. Raises `UserError` where it cannot be had."""
        with self.opened() as client, tempfile.TemporaryDirectory() as folder:
            path = fetch(client, run_id, name, Path(folder))
            if path is None or not path.is_file():
                raise expected(name, f"an artifact of run {run_id}", "none")
            return path.read_bytes()

    def read_table(self, run_id: str, name: str) -> pd.DataFrame:
        """The table that an artifact of a run is, Parquet or CSV. Raises `UserError` where it cannot be had or read."""
        content = BytesIO(self.read(run_id, name))
        try:
            return pd.read_csv(content) if name.endswith(".csv") else pd.read_parquet(content)
        except (OSError, ValueError) as problem:
            raise expected(name, "a table", scrubbed(str(problem).splitlines()[0])) from None
