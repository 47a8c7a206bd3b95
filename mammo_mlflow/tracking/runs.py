"""Write runs, metrics and artifacts to MLflow in order, from one process; kept while the server is away, sent after.

Sending twice is safe: MLflow stores the same metric point, parameter or tag once.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import pandas as pd
import psutil
from matplotlib.figure import Figure
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mammo_mlflow.errors import UserError
from mammo_mlflow.names import Artifact, Tag
from mammo_mlflow.wording import first_line, scrubbed

FLUSH_SECONDS = 1.0
PATIENCE_SECONDS = 600.0
METRICS_A_CALL = 1000
AWAY_CODES = (502, 503, 504)

T = TypeVar("T")

_log = logging.getLogger(__name__)


def given_run() -> str | None:
    """The id of the run that `mlflow run` made for this process; None without one."""
    return os.environ.get("MLFLOW_RUN_ID", "").strip() or None


def this_process() -> str:
    """This process as text for the tag `mammo.process`: `host:pid:start`, the start in seconds since 1970."""
    return f"{socket.gethostname()}:{os.getpid()}:{int(psutil.Process().create_time())}"


class Writer:
    """Sends writes to MLflow in the order in which they were queued; those that fail are kept and tried again."""

    def __init__(self, client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> None:
        self.client = client
        self.experiment_id = experiment_id
        self._tags = {**tags, Tag.PROCESS: this_process()}
        self._runs: list[TrackedRun] = []
        self._queue: list[tuple[str | None, Callable[[], object]]] = []
        self._gone: set[str] = set()
        self._metrics: dict[str, list[Metric]] = {}
        self._next_try = 0.0
        self._wait = FLUSH_SECONDS
        self.seconds = 0.0

    def add(self, operation: Callable[[], object], run_id: str | None = None) -> None:
        """Queue a write behind all metrics queued so far; it is left out if the run `run_id` was deleted meanwhile."""
        self._queue_metrics()
        self._queue.append((run_id, operation))

    def add_metrics(self, run_id: str, metrics: list[Metric]) -> None:
        """Queue metric points of a run; they are sent together with others at the next flush."""
        self._metrics.setdefault(run_id, []).extend(metrics)

    def flush(self) -> None:
        """Send queued writes, at most once a second and not while the server is away. Meant to be called often."""
        now = time.monotonic()
        if now < self._next_try:
            return
        self._next_try = now + FLUSH_SECONDS
        self._queue_metrics()
        try:
            while self._queue:
                self._send(*self._queue[0])
                self._queue.pop(0)
            self._wait = FLUSH_SECONDS
        except (MlflowException, OSError) as problem:
            if not is_away(problem):
                self._queue.pop(0)  # refused for good: what is queued behind it, the runs' ends above all, still goes
                raise
            self._wait = min(2 * self._wait, 30.0)
            self._next_try = time.monotonic() + self._wait
            _log.warning("tracking server away, %d writes kept: %s", len(self._queue), first_line(problem, most=120))
        finally:
            self.seconds += time.monotonic() - now

    def _send(self, run_id: str | None, operation: Callable[[], object]) -> None:
        """Do a queued operation, unless its run was deleted meanwhile: the others' runs go on without it."""
        if run_id in self._gone:
            return
        try:
            operation()
        except (MlflowException, OSError) as problem:
            if run_id is None or is_away(problem) or not self._was_deleted(run_id):
                raise
            self._gone.add(run_id)
            _log.warning("run %s was deleted meanwhile: what it would have held is not written", run_id)

    def _was_deleted(self, run_id: str) -> bool:
        try:
            return self.client.get_run(run_id).info.lifecycle_stage != LifecycleStage.ACTIVE
        except MlflowException as problem:
            return problem.error_code == "RESOURCE_DOES_NOT_EXIST"

    def drain(self) -> None:
        """Send all queued writes now, waiting up to ten minutes for the server. Raises `UserError` after that."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._queue or self._metrics:
            if time.monotonic() > deadline:
                raise _no_answer()
            if self._wait == FLUSH_SECONDS:
                self._next_try = 0.0
            self.flush()
            if self._queue:
                time.sleep(0.5)

    def ask(self, request: Callable[[], T]) -> T:
        """Send queued writes, then a request, and return its answer; repeated while the server is away.

        Raises `UserError` after ten minutes.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.drain()
            try:
                return request()
            except (MlflowException, OSError) as problem:
                if not is_away(problem):
                    raise
                if time.monotonic() > deadline:
                    raise _no_answer() from None
                _log.warning("tracking server away: %s", first_line(problem, most=120))
                time.sleep(FLUSH_SECONDS)

    def abandon(self, status: str, reason: str) -> None:
        """End every open run as `status`, innermost first, tagged with the reason.

        Does not wait for a server that is away.
        """
        for run in reversed(self._runs):
            if not run.finished:
                run.set_tags({Tag.REASON: scrubbed(reason)[:500]})
                run.finish(status)
        refused = []
        while True:
            self._next_try = 0.0
            try:
                self.flush()
            except (MlflowException, OSError) as problem:
                refused.append(first_line(problem, most=120))
                continue
            break
        if refused:
            _log.warning("%d of the last writes were refused: %s", len(refused), refused[0])

    def _queue_metrics(self) -> None:
        for run_id, points in self._metrics.items():
            for start in range(0, len(points), METRICS_A_CALL):
                part = points[start : start + METRICS_A_CALL]
                self._queue.append((run_id, partial(self.client.log_batch, run_id, metrics=part)))
        self._metrics = {}

    def start_run(
        self, name: str, *, parent: TrackedRun | None, tags: Mapping[str, str], params: Mapping[str, object]
    ) -> TrackedRun:
        """Start a run, nested in `parent` if there is one.

        Without a parent, the run that `mlflow run` made for this process, if any, is taken over.
        """
        given = given_run() if parent is None else None
        all_tags = self._all_tags(tags, parent)
        if given is not None:
            del os.environ["MLFLOW_RUN_ID"]
            self.ask(lambda: self.client.update_run(given, name=name))
            found = self.ask(lambda: self.client.get_run(given))
        else:  # with its tags from the first moment, so that no kill leaves a run that nobody can bury
            texts = {key: scrubbed(str(value)) for key, value in all_tags.items()}
            found = self.ask(lambda: self.client.create_run(self.experiment_id, tags=texts, run_name=name))
        run = TrackedRun(self, found)
        self._runs.append(run)
        if given is not None:
            run.set_tags(all_tags)
        # `mlflow run` logs the strings it was given; another spelling of one would be refused
        new = [Param(key, scrubbed(str(value))) for key, value in params.items() if key not in found.data.params]
        self.add(lambda: self.client.log_batch(run.id, params=new), run.id)
        self._next_try = 0.0
        self.flush()
        return run

    def reopen_run(self, run_id: str, parent: TrackedRun | None, tags: Mapping[str, str]) -> TrackedRun:
        """Open an earlier run again, as this process's own and nested in `parent`."""
        self.ask(lambda: self.client.update_run(run_id, status="RUNNING"))
        run = self.attach(run_id)
        self._runs.append(run)
        run.set_tags(self._all_tags(tags, parent))
        return run

    def _all_tags(self, tags: Mapping[str, str], parent: TrackedRun | None) -> dict[str, str]:
        return {**self._tags, **tags} | ({} if parent is None else {MLFLOW_PARENT_RUN_ID: parent.id})

    def attach(self, run_id: str) -> TrackedRun:
        """A handle on a run that another process writes and ends, in which runs can be nested."""
        return TrackedRun(self, self.ask(lambda: self.client.get_run(run_id)))

    def move_run(self, run_id: str, parent: TrackedRun) -> None:
        """Queue that an earlier run is nested in `parent`."""
        self.add(lambda: self.client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent.id), run_id)

    def link(self, run_id: str, experiment_id: str | None = None) -> str:
        """The URL of a run's page: on the tracking server, without its user, or where `mlflow ui` serves by default."""
        uri = scrubbed(self.client.tracking_uri)
        base = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
        return f"{base}/#/experiments/{experiment_id or self.experiment_id}/runs/{run_id}"


class TrackedRun:
    """An MLflow run that this process writes: every method queues a write, and writes are sent in order."""

    def __init__(self, writer: Writer, run: Run) -> None:
        self._writer = writer
        self.id: str = run.info.run_id
        self.name: str = run.info.run_name or ""
        self.finished = False

    def log_metrics(self, values: Mapping[str, float], step: int = 0, at: float | None = None) -> None:
        """Queue metric values; NaN is left out. `at` is their time in seconds since 1970, by default now."""
        stamp = int((time.time() if at is None else at) * 1000)
        points = [Metric(key, float(value), stamp, step) for key, value in values.items() if value == value]
        self._writer.add_metrics(self.id, points)

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Queue tags."""
        items = [RunTag(key, scrubbed(str(value))) for key, value in tags.items()]
        self._add(lambda: self._writer.client.log_batch(self.id, tags=items))

    def log_dataset(self, *, name: str, digest: str, source: str, profile: str, context: str) -> None:
        """Queue a data set as an input of the run; the first 36 characters of `digest` are kept."""
        dataset = Dataset(name, digest[:36], "local", source, None, profile)
        entry = DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
        self._add(lambda: self._writer.client.log_inputs(self.id, [entry]))

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Queue a file as an artifact; it must stay until the queue is drained."""
        self._add(lambda: self._writer.client.log_artifact(self.id, str(path), folder))

    def log_folder(self, folder: Path) -> None:
        """Queue the files below a folder as artifacts of the same names; they must stay until the queue is drained."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                parent = str(path.parent.relative_to(folder))
                self.log_file(path, None if parent == "." else parent)

    def log_text(self, text: str, name: str) -> None:
        """Queue a text as an artifact."""
        self._add(lambda: self._writer.client.log_text(self.id, scrubbed(text), name))

    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Queue a table as a Parquet artifact."""
        self._log_bytes(table.to_parquet(), name)

    def log_figure(self, figure: Figure, name: str, folder: str = Artifact.FIGURES) -> None:
        """Queue a figure as the artifact `folder/name.png`."""
        drawn = BytesIO()
        figure.savefig(drawn, format="png", dpi=150)
        self._log_bytes(drawn.getvalue(), f"{name}.png", folder)

    def _log_bytes(self, content: bytes, name: str, folder: str | None = None) -> None:
        def send() -> None:
            with tempfile.TemporaryDirectory() as place:
                path = Path(place) / name
                path.write_bytes(content)
                self._writer.client.log_artifact(self.id, str(path), folder)

        self._add(send)

    def finish(self, status: str = "FINISHED") -> None:
        """Queue the end of the run: FINISHED, FAILED or KILLED."""
        if not self.finished:
            self.finished = True
            self._add(lambda: self._writer.client.set_terminated(self.id, status))

    def close(self) -> None:
        """End the run as FINISHED, and wait until all queued writes are sent."""
        self.finish()
        self._writer.drain()

    def _add(self, operation: Callable[[], object]) -> None:
        self._writer.add(operation, self.id)


def _no_answer() -> UserError:
    return UserError(f"tracking server: expected an answer within {PATIENCE_SECONDS:.0f} s, found none")


def or_none(request: Callable[[], T]) -> T | None:
    """Send a request for something by its name; return the answer, None where the store has nothing of that name."""
    try:
        return request()
    except MlflowException as problem:
        if is_away(problem):
            raise
        return None


def pages(request: Callable[[str | None], PagedList[T]]) -> Iterator[T]:
    """Collect all items of a paged request; `request` takes the token of a page, None for the first."""
    page = request(None)
    yield from page
    while page.token:
        page = request(page.token)
        yield from page


def mlflow_experiments(client: MlflowClient, kind: int = ViewType.ACTIVE_ONLY) -> list[str]:
    """Find the ids of MLflow experiments, by default of those that were not deleted."""
    return [found.experiment_id for found in client.search_experiments(view_type=kind)]


def is_away(problem: MlflowException | OSError) -> bool:
    """Whether an error means that the server was out of reach or SQLite busy, not that a request was refused."""
    if isinstance(problem, MlflowException):
        text = str(problem)
        if "(sqlite3." in text:  # a full disk, say: waiting does not help
            return any(words in text for words in ("database is locked", "database table is locked"))
        known = ("failed with exception", "failed with timeout", "Max retries", "database is locked")
        return any(words in text for words in known) or problem.get_http_status_code() in AWAY_CODES
    answer = getattr(problem, "response", None)  # artifacts go through requests, whose errors are `OSError`s
    return isinstance(problem, ConnectionError) or getattr(answer, "status_code", None) in AWAY_CODES
