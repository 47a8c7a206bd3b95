"""What a coordinator holds while it works: the writer, the executor, the cache, and who to tell of progress."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mammo_mlflow.tracking.runs import Writer
from mammo_mlflow.training.cache import Cache
from mammo_mlflow.training.executors import Executor, OnEvent
from mammo_mlflow.training.jobs import Job


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

        def handle(job: Job, event: dict[str, Any]) -> None:
            if event["kind"] == "progress":
                self.progress.update(job.name, event["done"], event["total"])
            elif on_event is not None:
                on_event(job, event)
            self.writer.flush()

        return self.executor.run(jobs, handle, self.writer.flush)

    def run_one(self, name: str, target: str, argument: Any) -> Any:
        """Run a single job and return its answer."""
        return next(answer for _, answer in list(self.run([Job(name, target, argument)])))
