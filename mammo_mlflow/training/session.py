"""What a coordinator holds while it works: the writer, the executor, the cache, and who to tell of progress."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mammo_mlflow.tracking.runs import Writer
from mammo_mlflow.training.cache import Cache
from mammo_mlflow.training.executors import Executor, OnEvent
from mammo_mlflow.training.jobs import Event, Job


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

    def run(self, jobs: Sequence[Job], on_event: OnEvent | None = None) -> Iterator[tuple[Job, Any]]:
        """Run jobs, writing to the tracker meanwhile; `progress` events are shown under the job's name."""
        return self.executor.run(jobs, self._handler(on_event), self.writer.flush)

    def stream(self, next_job: Callable[[], Job | None], on_event: OnEvent) -> Generator[tuple[Job, Any], None, None]:
        """The same for jobs that are asked for while a worker is free; a failed job's answer is its `Failure`."""
        return self.executor.stream(next_job, self._handler(on_event), self.writer.flush)

    def _handler(self, on_event: OnEvent | None) -> OnEvent:
        def handle(job: Job, event: Event) -> Any:
            answer = None
            if event["kind"] == "progress":
                self.progress.update(job.name, event["done"], event["total"])
            elif on_event is not None:
                answer = on_event(job, event)
            self.writer.flush()
            return answer

        return handle

    def run_one(self, name: str, target: str, argument: Any, on_event: OnEvent | None = None) -> Any:
        """Run a single job and return its answer."""
        return next(answer for _, answer in list(self.run([Job(name, target, argument)], on_event)))
