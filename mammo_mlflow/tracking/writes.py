"""Writes to a run as plain data, so that those that were not delivered can be kept in a file."""

from __future__ import annotations

import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from mammo_mlflow.names import Tag
from mammo_mlflow.wording import scrubbed

Point = tuple[str, float, int, int]
"""A metric's name, value, time in milliseconds since 1970, and step."""


def milliseconds(seconds: float | None = None) -> int:
    """A time since 1970, by default now, in milliseconds."""
    return int((time.time() if seconds is None else seconds) * 1000)


@dataclass(frozen=True)
class RunStart:
    """A run to be made: `begun` in milliseconds since 1970; a run as the value of a tag stands for its id."""

    experiment_id: str
    begun: int
    name: str
    tags: Mapping[str, object]

    def make(self, client: MlflowClient) -> str:
        """Make the run and return its id; with its tags from the first moment, so that no kill leaves it unknown."""
        texts = {key: scrubbed(str(value)) for key, value in self.tags.items()}
        return client.create_run(self.experiment_id, self.begun, texts, self.name).info.run_id

    def find(self, client: MlflowClient) -> str:
        """The id of the run if it was made though no answer came; "" if not."""
        query = f"attributes.start_time = {self.begun} and tags.`{Tag.PROCESS}` = '{self.tags[Tag.PROCESS]}'"
        found = client.search_runs([self.experiment_id], query)
        return next((run.info.run_id for run in found if run.info.run_name == self.name), "")


class RunHandle:
    """A run that is written to: its id, `known` once it is made, else how it is to be made, `new`."""

    def __init__(self, known: str = "", new: RunStart | None = None) -> None:
        self.known, self.new = known, new


class Write(ABC):
    """A write to a run. Sending one twice is safe."""

    @abstractmethod
    def send(self, client: MlflowClient, run_id: str) -> None:
        """Send it. Raises what MLflow raises."""


@dataclass(frozen=True)
class LogBatch(Write):
    """Metric points, parameters and tags, as many as fit one call."""

    metrics: tuple[Point, ...]
    params: Mapping[str, str]
    tags: Mapping[str, str]

    def send(self, client: MlflowClient, run_id: str) -> None:
        """Send it."""
        points = [Metric(*point) for point in self.metrics]
        texts = [Param(*item) for item in self.params.items()], [RunTag(*item) for item in self.tags.items()]
        client.log_batch(run_id, metrics=points, params=texts[0], tags=texts[1])


@dataclass(frozen=True)
class LogDataset(Write):
    """A data set, as an input of the run."""

    name: str
    digest: str
    source: str
    profile: str
    context: str

    def send(self, client: MlflowClient, run_id: str) -> None:
        """Send it."""
        dataset = Dataset(self.name, self.digest, "local", self.source, None, self.profile)
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", self.context)])])


@dataclass(frozen=True)
class LogFile(Write):
    """A file, as an artifact in `folder`; `name` where it is not that of the file."""

    path: str
    folder: str | None
    name: str = ""

    def send(self, client: MlflowClient, run_id: str) -> None:
        """Send it."""
        if not self.name:
            _log_artifact(client, run_id, Path(self.path), self.folder)
            return
        LogBytes(Path(self.path).read_bytes(), f"{self.folder or ''}/{self.name}".lstrip("/")).send(client, run_id)


@dataclass(frozen=True)
class LogBytes(Write):
    """An artifact of a name, which may begin with a folder."""

    content: bytes
    name: str

    def send(self, client: MlflowClient, run_id: str) -> None:
        """Send it."""
        folder, _, file = self.name.rpartition("/")
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / file
            path.write_bytes(self.content)
            _log_artifact(client, run_id, path, folder or None)


@dataclass(frozen=True)
class RunEnd(Write):
    """The end of a run; `ended` in milliseconds since 1970."""

    status: str
    ended: int

    def send(self, client: MlflowClient, run_id: str) -> None:
        """Send it."""
        client.set_terminated(run_id, self.status, self.ended)


def _log_artifact(client: MlflowClient, run_id: str, path: Path, folder: str | None) -> None:
    """Log a file; on this machine's disk MLflow would leave part of it under its name where there is no room."""
    try:
        client.log_artifact(run_id, str(path), folder)
    except OSError:
        where = client.get_run(run_id).info.artifact_uri
        if is_local_uri(where):
            (Path(local_file_uri_to_path(where)) / (folder or "") / path.name).unlink(missing_ok=True)
        raise
