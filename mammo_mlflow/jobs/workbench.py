"""The workbench of a command: executors, cache, progress display and the store, which is opened at its first use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.jobs.contracts import Answer, Event, Job, Reply, StepsDone
from mammo_mlflow.jobs.executors import Answered, AnyJob, Executor, OnEvent
from mammo_mlflow.jobs.failure import Failure
from mammo_mlflow.tracking.runs import Writer


class Progress(Protocol):
    """The protocol of a progress display."""

    def update(self, name: str, done: int, total: int) -> None:
        """Display that `name` has done `done` of `total` steps; it has ended when both are equal."""
        ...


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """Everything that a command needs to run its plans.

    `executor` runs lists and streams of jobs, `side` runs single jobs, also meanwhile. `open_store` opens the store at
    its first call, and gives the writer and a directory for files to be uploaded; planning alone does not call it, and
    a command that writes to no store has none. `cores` is the number of threads of a single job, `workers` that of
    simultaneous jobs. With `resume`, finished fits and models are reused.
    """

    executor: Executor
    side: Executor
    cache: Cache
    progress: Progress
    workers: int
    cores: int
    resume: bool
    open_store: Callable[[], tuple[Writer, Path]] | None

    @property
    def writer(self) -> Writer:
        """The writer of the tracking store, the only one; opens the store at its first use."""
        return self._opened()[0]

    @property
    def scratch(self) -> Path:
        """A directory for files that are to be uploaded to the store."""
        return self._opened()[1]

    def _opened(self) -> tuple[Writer, Path]:
        if self.open_store is None:
            raise RuntimeError("this command writes to no store")
        return self.open_store()

    def run(
        self,
        jobs: Sequence[AnyJob],
        on_event: OnEvent[AnyJob] | None = None,
        on_failure: Callable[[AnyJob, Failure], None] = lambda job, failure: None,
    ) -> Answered[AnyJob]:
        """Run jobs and yield each with its answer; meanwhile display `StepsDone` events and write to the store.

        Failures are handled as by `Executor.run`.
        """
        return self.executor.run(jobs, self._handler(on_event), self._on_idle, on_failure)

    def stream(self, next_job: Callable[[], AnyJob | None], on_event: OnEvent[AnyJob]) -> Answered[AnyJob]:
        """Run the jobs that `next_job` gives while a worker is free; the answer of a failed one is its `Failure`."""
        return self.executor.stream(next_job, self._handler(on_event), self._on_idle)

    def _on_idle(self) -> bool:
        """Write to the store, and keep the cache's leases; see `executors.base.OnIdle`."""
        self.cache.renew()
        return self.open_store is not None and self.writer.flush()

    def _handler(self, on_event: OnEvent[AnyJob] | None) -> OnEvent[AnyJob]:
        """A handler that displays `StepsDone` events and gives all others to `on_event`."""

        def handle(job: AnyJob, event: Event) -> Reply:
            if not isinstance(event, StepsDone):
                return None if on_event is None else on_event(job, event)
            self.progress.update(job.name, event.done, event.total)
            return None

        return handle

    def run_one(self, job: Job[Answer], on_event: OnEvent[Job[Answer]] | None = None) -> Answer:
        """Run a single job and return its answer, also while `executor` is busy."""
        ((_, answer),) = self.side.run([job], self._handler(on_event), self._on_idle)
        return answer
