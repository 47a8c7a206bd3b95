"""Requests to the tracking store: all pages of an answer, answers that may be missing, and what a failure means."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mlflow.entities import LifecycleStage, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient

from mammo_mlflow.ending import SIGNALS
from mammo_mlflow.errors import FULL_DISK

AWAY_CODES = (502, 503, 504)
DENIED_CODES = (401, 403)
FAILED_CODES = (429, 500)
"""The codes of answers that do not say whether there is what was asked for."""
NO_ROOM = ("database or disk is full", "disk I/O error", "No space left on device", "File too large")
"""What the messages of SQLite, PostgreSQL and servers say on a full disk."""

T = TypeVar("T")


def given_run() -> str | None:
    """The id of the run that `mlflow run` made for this process; None without one."""
    return os.environ.get("MLFLOW_RUN_ID", "").strip() or None


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Context: what would end the command waits until the block has ended.

    SQLAlchemy leaves a transaction open that is interrupted in its midst, and with it SQLite's file locked.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    held: list[int] = []
    before = {one: signal.signal(one, lambda number, frame: held.append(number)) for one in SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)
        for number in held[:1]:
            os.kill(os.getpid(), number)


def or_none(request: Callable[[], T]) -> T | None:
    """Send a request for something by its name; return the answer, None where the store has nothing of that name."""
    try:
        return request()
    except MlflowException as problem:
        if is_away(problem) or is_full(problem) or problem.get_http_status_code() in FAILED_CODES:
            raise
        return None


def was_deleted(client: MlflowClient, run_id: str) -> bool:
    """Whether a run was deleted, or the store has none of that id."""
    try:
        return client.get_run(run_id).info.lifecycle_stage != LifecycleStage.ACTIVE
    except MlflowException as problem:
        return problem.error_code == "RESOURCE_DOES_NOT_EXIST"


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


def is_full(problem: BaseException) -> bool:
    """Whether an error means that a disk, a quota or a file has no room left."""
    full = isinstance(problem, OSError) and problem.errno in FULL_DISK
    return full or any(words in str(problem) for words in NO_ROOM)


def is_away(problem: Exception) -> bool:
    """Whether an error means that the server was out of reach or SQLite busy, not that a request was refused."""
    if isinstance(problem, MlflowException):
        text = str(problem)
        if is_full(problem):  # waiting does not help
            return False
        if "(sqlite3." in text:
            return any(words in text for words in ("database is locked", "database table is locked"))
        known = ("failed with exception", "failed with timeout", "Max retries", "database is locked")
        return any(words in text for words in known) or problem.get_http_status_code() in AWAY_CODES
    answer = getattr(problem, "response", None)  # artifacts go through requests, whose errors are `OSError`s
    return isinstance(problem, ConnectionError) or getattr(answer, "status_code", None) in AWAY_CODES


def broke_off(problem: Exception) -> bool:
    """Whether an error means that a server ended in the midst of its answer, which may have been done or not."""
    return isinstance(problem, MlflowException) and "IncompleteRead" in str(problem)


def not_allowed(problem: Exception) -> bool:
    """Whether an error means that a server refused a request for who sent it."""
    if isinstance(problem, MlflowException):
        return problem.get_http_status_code() in DENIED_CODES
    return getattr(getattr(problem, "response", None), "status_code", None) in DENIED_CODES
