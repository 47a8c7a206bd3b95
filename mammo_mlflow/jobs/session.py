"""What a coordinator holds while it works: the writer, the executor, the cache, and who to tell of progress."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.jobs.contracts import Answer, Event, Job, StepsDone
from mammo_mlflow.jobs.executors import AnyJob, Executor, OnEvent
from mammo_mlflow.tracking.runs import Writer


class Progress(Protocol):
    """Shows how far things are."""

    def update(self, name: str, done: int, total: int) -> None:
        """`name` is at `done` of `total`; it is over when both are equal."""
        ...


@dataclass(frozen=True)
class Session:
    """Everything a workflow needs beside its plan."""

    writer: Writer
    executor: Executor
    cache: Cache
    progress: Progress
    scratch: Path
    resume: bool
    cores: int

    def run(self, jobs: Sequence[AnyJob], on_event: OnEvent | None = None) -> Iterator[tuple[AnyJob, Any]]:
        """Run jobs, writing to the tracker meanwhile; `progress` events are shown under the job's name."""
        return self.executor.run(jobs, self._handler(on_event), self.writer.flush)

    def stream(
        self, next_job: Callable[[], AnyJob | None], on_event: OnEvent
    ) -> Generator[tuple[AnyJob, Any], None, None]:
        """The same for jobs that are asked for while a worker is free; a failed job's answer is its `Failure`."""
        return self.executor.stream(next_job, self._handler(on_event), self.writer.flush)

    def _handler(self, on_event: OnEvent | None) -> OnEvent:
        def handle(job: Job[Any], event: Event) -> Any:
            answer = None
            if isinstance(event, StepsDone):
                self.progress.update(job.name, event.done, event.total)
            elif on_event is not None:
                answer = on_event(job, event)
            self.writer.flush()
            return answer

        return handle

    def run_one(self, job: Job[Answer], on_event: OnEvent | None = None) -> Answer:
        """Run a single job and return its answer."""
        ((_, answer),) = self.run([job], on_event)
        return answer
