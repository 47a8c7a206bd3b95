"""Write runs, metrics and artifacts to MLflow in order, from one process; kept while the server is away, sent after.

Sending twice is safe: MLflow stores the same metric point, parameter or tag once.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME, MLFLOW_USER

from mammo_mlflow.errors import UserError
from mammo_mlflow.names import Tag
from mammo_mlflow.processes import this_process
from mammo_mlflow.tracking.absence import Absence, hasty_requests, patience_seconds
from mammo_mlflow.tracking.requests import given_run, is_away, is_full, uninterrupted, was_deleted
from mammo_mlflow.tracking.run_batch import RunBatch
from mammo_mlflow.tracking.run_queries import run_link
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.tracking.undelivered import keep_writes
from mammo_mlflow.tracking.writes import (
    RunEnd,
    RunStart,
    Write,
    milliseconds,
)
from mammo_mlflow.wording import first_line, scrubbed

FLUSH_SECONDS = 1.0
BATCH_SECONDS = 5.0
"""How long what is collected of a run that goes on is held back, for it to go in few calls."""
HEARTBEAT_SECONDS = 30.0
"""How often a process that writes runs says that it lives."""
ANONYMOUS = {MLFLOW_USER: "unknown", MLFLOW_SOURCE_NAME: "mammo_mlflow"}
"""What `mlflow run` itself writes of the user and the project's folder, replaced."""
SLICE_SECONDS = 0.25
"""How long writes may keep the coordinator from listening to its workers."""

T = TypeVar("T")
Operation = Write | Callable[[], object]

_log = logging.getLogger(__name__)


class Writer:
    """Sends writes to MLflow in the order in which they were queued; those that fail are kept and tried again.

    Metrics, parameters and tags of a run are collected, and go in one call when their turn comes or when the run ends.
    What cannot be delivered in the end is kept in the folder `kept` (`undelivered`), if there is one. `reserve` is a
    file whose room the last writes may need where the disk is full.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        tags: Mapping[str, str],
        kept: Path | None = None,
        reserve: IO[bytes] | None = None,
    ) -> None:
        self.client = client
        self.experiment_id = experiment_id
        self._tags = {**tags, Tag.PROCESS: this_process()}
        self._kept, self._reserve = kept, reserve
        self._patience = patience_seconds()
        self._open: dict[TrackedRun, None] = {}  # in the order in which they were opened
        self._queue: deque[tuple[TrackedRun | None, Operation]] = deque()
        self._gone: set[str] = set()
        self._refused: list[tuple[TrackedRun | None, Operation]] = []  # for want of room
        self._batches: dict[TrackedRun, RunBatch] = {}
        self._unmade: set[TrackedRun] = set()
        self._absence = Absence()
        self._next_try = self._next_beat = 0.0
        self.seconds = 0.0

    def add(self, operation: Operation, run: TrackedRun | None = None) -> None:
        """Queue an operation, behind the making of `run`; it is left out if that was deleted meanwhile."""
        if run is not None and run in self._unmade:
            self.batch(run).operations.append(operation)
        else:
            self._queue.append((run, operation))

    def batch(self, run: TrackedRun) -> RunBatch:
        """What is collected of a run, to be added to."""
        return self._batches.setdefault(run, RunBatch())

    def flush(self, seconds: float = SLICE_SECONDS, held: float = BATCH_SECONDS) -> bool:
        """Send what is queued for so many seconds; return whether some is left. Meant to be called often.

        Nothing is sent while the server is away, and what is collected of a run that goes on when it is `held` seconds
        old.
        """
        now = time.monotonic()
        if now < self._next_try:
            return False
        self._beat(now)
        if not self._queue:
            self._queue_batches(*(run for run, batch in self._batches.items() if now - batch.begun > held))
        try:
            while self._queue and time.monotonic() - now < seconds:
                self._send_first()
            self._next_try = 0.0 if self._queue else time.monotonic() + FLUSH_SECONDS
        except (MlflowException, OSError) as problem:
            if not is_away(problem):
                raise
            self._next_try = time.monotonic() + self._absence.noted(problem, len(self._queue) + len(self._batches))
            return False
        finally:
            self.seconds += time.monotonic() - now
        return bool(self._queue)

    @property
    def away(self) -> bool:
        """Whether the server did not answer the last time."""
        return bool(self._absence)

    def _beat(self, now: float) -> None:
        """Say now and then, on one of this process's open runs, that it lives: the store's other hosts read it."""
        if now > self._next_beat:
            run = next((run for run in self._open if run.known), None)
            if run is not None:
                run.set_tags(self._heartbeat())

    def _heartbeat(self) -> dict[str, object]:
        self._next_beat = time.monotonic() + HEARTBEAT_SECONDS
        return {Tag.HEARTBEAT: int(time.time())}

    def _send_first(self) -> None:
        """Do the first queued operation, unless its run was deleted meanwhile: the others' runs go on without it."""
        run, operation = self._queue[0]
        try:
            if run is None or run.known not in self._gone:
                self._do(partial(self._carry_out, operation, run))
        except Exception as problem:
            if is_away(problem):
                raise
            self._queue.popleft()  # refused for good: what is queued behind it, the runs' ends above all, still goes
            self._refused += [(run, operation)] if is_full(problem) else []
            if run is None or not run.known or not isinstance(problem, MlflowException | OSError):
                raise
            if not was_deleted(self.client, run.known):
                raise
            self._gone.add(run.known)
            _log.warning("run %s was deleted meanwhile: what it would have held is not written", run.known)
        else:
            self._queue.popleft()

    def _carry_out(self, operation: Operation, run: TrackedRun | None) -> None:
        if isinstance(operation, Write) and run is not None:
            operation.send(self.client, run.id)
        elif not isinstance(operation, Write):
            operation()

    def _do(self, request: Callable[[], T]) -> T:
        """Send a request; one to a store on this machine is not interrupted, one to a server may take long."""
        if self.client.tracking_uri.startswith("http"):
            answer = request()
        else:
            with uninterrupted():
                answer = request()
        self._absence.ended()
        return answer

    def send(self) -> None:
        """Send all queued writes now, unless the server is away."""
        while (self._queue or self._batches) and not self.away:
            self._next_try = 0.0
            self.flush(math.inf, held=-1.0)

    def drain(self) -> None:
        """Send all queued writes now, waiting for a server that is away. Raises `UserError` when patience ends."""
        deadline = time.monotonic() + self._patience
        while self._queue or self._batches:
            late = time.monotonic() > deadline
            self._next_try = 0.0 if late else self._next_try
            self.flush(math.inf, held=-1.0)
            self.send()
            if self.away and late:
                raise self._no_answer()
            if self.away:
                time.sleep(min(0.5, self._patience))

    def ask(self, request: Callable[[], T], already: Callable[[], T | None] = lambda: None) -> T:
        """Send queued writes, then a request, and return its answer; repeated while the server is away.

        `already` looks for what a request that got no answer made. Raises `UserError` when patience ends.
        """
        self.drain()
        return self.ask_at_once(request, already)

    def ask_at_once(self, request: Callable[[], T], already: Callable[[], T | None] = lambda: None) -> T:
        """Send a request ahead of what is queued, and return its answer; otherwise as `ask`."""
        deadline, tried = time.monotonic() + self._patience, False
        while True:
            try:
                found = self._do(already) if tried else None
                tried = True
                return self._do(request) if found is None else found
            except (MlflowException, OSError) as problem:
                if not is_away(problem):
                    raise
                if time.monotonic() > deadline:
                    raise self._no_answer() from None
                time.sleep(min(FLUSH_SECONDS, self._absence.noted(problem, len(self._queue) + len(self._batches))))

    def ask_unless_away(self, request: Callable[[], T], otherwise: T) -> T:
        """Send a request ahead of what is queued, and return its answer; `otherwise` while the server is away."""
        if not self.away:
            try:
                return self._do(request)
            except (MlflowException, OSError) as problem:
                if not is_away(problem):
                    raise
                self._next_try = time.monotonic() + self._absence.noted(problem, len(self._queue) + len(self._batches))
        return otherwise

    def _no_answer(self) -> UserError:
        return UserError(f"tracking server: expected an answer within {self._patience:.0f} s, found none")

    def abandon(self, status: str, reason: str) -> None:
        """End every open run as `status`, innermost first, tagged with the reason.

        Does not wait for a server that is away: what it does not get is kept for the next command.
        """
        for run in list(reversed(self._open)):
            run.set_tags({Tag.REASON: scrubbed(reason)[:500]})
            run.finish(status)
        if self._reserve is not None:
            self._reserve.close()
        self._queue_batches(*self._batches)
        refused = list[str]()
        with hasty_requests():
            while self._queue and not self.away:
                self._next_try = 0.0
                try:
                    self.flush(math.inf, held=-1.0)
                except (MlflowException, OSError) as problem:
                    refused.append(first_line(problem, most=120))
        if refused:
            _log.warning("%d of the last writes were refused: %s", len(refused), refused[0])
        left = [(run, one) for run, one in (*self._refused, *self._queue) if run is not None and isinstance(one, Write)]
        if left and self._kept is not None:  # Optuna is not told: who goes on with a study finds what is done
            keep_writes(self._kept, self.client.tracking_uri, left)
        self._queue.clear()

    def _queue_batches(self, *runs: TrackedRun) -> None:
        """Queue what is collected of some runs."""
        for run in runs:
            if run in self._unmade:
                self._unmade.remove(run)
                self.add(run.make_known, run)
            if run in self._batches:
                batch = self._batches.pop(run)
                for operation in (*batch.parts(), *batch.operations):
                    self.add(operation, run)

    def end_run(self, run: TrackedRun, status: str) -> None:
        """Queue what is collected of a run, and then its end."""
        ended = milliseconds()
        self._open.pop(run, None)
        self._queue_batches(run)
        self.add(RunEnd(status, ended), run)

    def start_run(
        self,
        name: str,
        *,
        parent: TrackedRun | None,
        tags: Mapping[str, object],
        params: Mapping[str, object],
        later: bool = False,
    ) -> TrackedRun:
        """Start a run, nested in `parent` if there is one; with `later` it is made when it is first written to.

        A run as the value of a tag stands for its id. Without a parent, the run that `mlflow run` made for this
        process, if any, is taken over.
        """
        given = given_run() if parent is None else None
        known: Mapping[str, str] = {}
        if given is not None:
            del os.environ["MLFLOW_RUN_ID"]
            self.ask(lambda: self.client.update_run(given, name=name))
            known = self.ask(lambda: self.client.get_run(given)).data.params
            run = TrackedRun(self, name, given)
            run.set_tags({**self._all_tags(tags, parent), **ANONYMOUS})
        else:
            new = RunStart(self.experiment_id, milliseconds(), name, self._all_tags(tags, parent))
            run = TrackedRun(self, name, new=new)
            self._unmade.add(run)
        self._open[run] = None
        # `mlflow run` logs the strings it was given; another spelling of one would be refused
        run.set_params({key: value for key, value in params.items() if key not in known})
        if not later:
            self.drain()
        return run

    def reopen_run(self, run_id: str, parent: TrackedRun | None, tags: Mapping[str, object]) -> TrackedRun:
        """Open an earlier run again, as this process's own and nested in `parent`; it takes no metric twice."""
        self.ask(lambda: self.client.update_run(run_id, status="RUNNING"))
        run = self.attach(run_id)
        run.logged = self.ask(lambda: self.client.get_run(run_id)).data.metrics
        self._open[run] = None
        run.set_tags(self._all_tags(tags, parent))
        return run

    def _all_tags(self, tags: Mapping[str, object], parent: TrackedRun | None) -> dict[str, object]:
        return {**self._tags, **tags} | (self._heartbeat() if parent is None else {MLFLOW_PARENT_RUN_ID: parent})

    def attach(self, run_id: str) -> TrackedRun:
        """A handle on a run that another process writes and ends, in which runs can be nested."""
        return TrackedRun(self, "", run_id)

    def move_run(self, run_id: str, parent: TrackedRun) -> None:
        """Queue that an earlier run is nested in `parent`."""
        self.attach(run_id).set_tags({MLFLOW_PARENT_RUN_ID: parent})

    def link(self, run_id: str, experiment_id: str | None = None) -> str:
        """The URL of a run's page (`run_queries.run_link`)."""
        return run_link(self.client.tracking_uri, experiment_id or self.experiment_id, run_id)

    def how_to_look(self) -> str:
        """The words that open the table of all runs: its address, behind the command where no server serves it.

        Without the address's end MLflow shows another table, which is of language models.
        """
        first = "" if self.client.tracking_uri.startswith("http") else "mlflow ui, then "
        return f"{first}{self.link('').rstrip('/')}?workflowType=machine_learning"
