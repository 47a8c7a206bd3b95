"""A run as the coordinator writes it: metrics, tags, parameters, files and its end, each a write in the queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient

from mammo_mlflow.names import Artifact
from mammo_mlflow.tracking.run_batch import RunBatch
from mammo_mlflow.tracking.writes import LogBytes, LogDataset, LogFile, RunHandle, RunStart, Write, milliseconds
from mammo_mlflow.wording import scrubbed


class RunWriter(Protocol):
    """The protocol of what a run's writes are handed to (`runs.Writer`)."""

    client: MlflowClient

    def add(self, operation: Write, run: Any) -> None:
        """Queue a write to a run."""

    def batch(self, run: Any) -> RunBatch:
        """What is collected of a run, to be added to."""

    def end_run(self, run: Any, status: str) -> None:
        """Queue the end of a run."""

    def ask_at_once(self, request: Callable[[], None]) -> None:
        """Send a request ahead of what is queued."""

    def drain(self) -> None:
        """Send all queued writes now."""


class TrackedRun(RunHandle):
    """An MLflow run that this process writes: every method queues a write, and writes are sent in order."""

    def __init__(self, writer: RunWriter, name: str, run_id: str = "", new: RunStart | None = None) -> None:
        super().__init__(run_id, new)
        self._writer, self.name = writer, name
        self.finished = self._tried = False
        self.logged: Mapping[str, float] = {}

    @property
    def id(self) -> str:
        """The run's id; a run that has not been made yet is made now."""
        if not self.known:
            self._writer.ask_at_once(self.make_known)
        return self.known

    def __str__(self) -> str:
        return self.id

    def make_known(self) -> None:
        """Make the run, unless that has been done, also by a request to which no answer came."""
        if not self.known and self.new is not None:
            found = self.new.find(self._writer.client) if self._tried else ""
            self._tried = True
            self.known = found or self.new.make(self._writer.client)

    def log_metrics(self, values: Mapping[str, float], step: int = 0, at: float | None = None) -> None:
        """Queue metric values; NaN is left out. `at` is their time in seconds since 1970, by default now."""
        stamp = milliseconds(at)
        if step == 0:
            values = {key: value for key, value in values.items() if self.logged.get(key) != value}
        points = [(key, float(value), stamp, step) for key, value in values.items() if value == value]
        self._writer.batch(self).metrics.extend(points)

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Queue tags."""
        self._writer.batch(self).tags.update({key: scrubbed(str(value)) for key, value in tags.items()})

    def set_params(self, params: Mapping[str, object]) -> None:
        """Queue parameters, which MLflow takes once."""
        self._writer.batch(self).params.update({key: scrubbed(str(value)) for key, value in params.items()})

    def log_dataset(self, *, name: str, digest: str, source: str, profile: str, context: str) -> None:
        """Queue a data set as an input of the run; the first 36 characters of `digest` are kept."""
        self._writer.add(LogDataset(name, digest[:36], source, profile, context), self)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Queue a file as an artifact; it must stay until the queue is drained."""
        self._writer.add(LogFile(str(path), folder), self)

    def log_folder(self, folder: Path) -> None:
        """Queue the files below a folder as artifacts of the same names; they must stay until the queue is drained."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                parent = str(path.parent.relative_to(folder))
                self.log_file(path, None if parent == "." else parent)

    def log_text(self, text: str, name: str) -> None:
        """Queue a text as an artifact of a name, which may begin with a folder."""
        self._log_bytes(scrubbed(text).encode(), name)

    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Queue a table as a Parquet artifact of a name, which may begin with a folder."""
        self._log_bytes(table.to_parquet(), name)

    def log_figure(self, figure: Figure, name: str, folder: str = Artifact.FIGURES) -> None:
        """Queue a figure as the artifact `folder/name.png`."""
        drawn = BytesIO()
        figure.savefig(drawn, format="png", dpi=150)
        self._log_bytes(drawn.getvalue(), f"{folder}/{name}.png")

    def _log_bytes(self, content: bytes, name: str) -> None:
        self._writer.add(LogBytes(content, name), self)

    def finish(self, status: str = "FINISHED") -> None:
        """Queue the end of the run: FINISHED, FAILED or KILLED."""
        if not self.finished:
            self.finished = True
            self._writer.end_run(self, status)

    def close(self) -> None:
        """End the run as FINISHED, and wait until all queued writes are sent."""
        self.finish()
        self._writer.drain()
