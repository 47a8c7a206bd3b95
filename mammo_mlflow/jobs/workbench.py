"""What a command works with: executors, cache, progress and, from its first use on, the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.jobs.contracts import Answer, Event, Job, Reply, StepsDone
from mammo_mlflow.jobs.executors import Answered, AnyJob, Executor, OnEvent
from mammo_mlflow.tracking.runs import Writer


class Progress(Protocol):
    """Shows how far things are."""

    def update(self, name: str, done: int, total: int) -> None:
        """`name` is at `done` of `total`; it is over when both are equal."""
        ...


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """Everything a command needs beside its plans.

    `executor` runs lists and streams of jobs, `side` single ones, which may be asked for meanwhile. `open_store` gives
    the writer and a directory for files on their way to the store, and is asked once: planning alone opens nothing.
    `cores` are for single jobs, `workers` the jobs at once. Where `resume`, finished fits and models are found again.
    """

    executor: Executor
    side: Executor
    cache: Cache
    progress: Progress
    workers: int
    cores: int
    resume: bool
    open_store: Callable[[], tuple[Writer, Path]]

    @property
    def writer(self) -> Writer:
        """The one that writes to the store."""
        return self.open_store()[0]

    @property
    def scratch(self) -> Path:
        """A directory for files on their way to the store."""
        return self.open_store()[1]

    def run(self, jobs: Sequence[AnyJob], on_event: OnEvent[AnyJob] | None = None) -> Answered[AnyJob]:
        """Run jobs, writing to the tracker meanwhile; `progress` events are shown under the job's name."""
        return self.executor.run(jobs, self._handler(on_event), self.writer.flush)

    def stream(self, next_job: Callable[[], AnyJob | None], on_event: OnEvent[AnyJob]) -> Answered[AnyJob]:
        """The same for jobs that are asked for while a worker is free; a failed job's answer is its `Failure`."""
        return self.executor.stream(next_job, self._handler(on_event), self.writer.flush)

    def _handler(self, on_event: OnEvent[AnyJob] | None) -> OnEvent[AnyJob]:
        def handle(job: AnyJob, event: Event) -> Reply:
            answer = None
            if isinstance(event, StepsDone):
                self.progress.update(job.name, event.done, event.total)
            elif on_event is not None:
                answer = on_event(job, event)
            self.writer.flush()
            return answer

        return handle

    def run_one(self, job: Job[Answer], on_event: OnEvent[Job[Answer]] | None = None) -> Answer:
        """Run a single job, beside whatever else runs, and return its answer."""
        ((_, answer),) = self.side.run([job], self._handler(on_event), self.writer.flush)
        return answer
