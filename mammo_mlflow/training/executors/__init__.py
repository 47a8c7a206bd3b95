"""Where jobs run. Every executor keeps one contract: `run(jobs, on_event)` yields (job, answer) as each ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from mammo_mlflow.errors import unknown_name
from mammo_mlflow.training.executors.inline import InlineExecutor
from mammo_mlflow.training.executors.process import JobFailed, ProcessExecutor
from mammo_mlflow.training.jobs import Event, Job

__all__ = ["Executor", "JobFailed", "OnEvent", "make_executor"]

OnEvent = Callable[[Job, Event], None]


class Executor(Protocol):
    """Runs jobs. `on_event` is called in the coordinator for each event, `on_idle` each second while it waits."""

    def run(self, jobs: Sequence[Job], on_event: OnEvent, on_idle: Callable[[], None]) -> Iterator[tuple[Job, object]]:
        """Yield each job with its answer as it ends. Raises `UserError` or `JobFailed` for the first that fails."""
        ...

    def close(self) -> None:
        """End whatever still runs."""
        ...


def make_executor(name: str, workers: int) -> Executor:
    """The executor of that name. Raises `UserError` for an unknown one."""
    if name == "inline":
        return InlineExecutor()
    if name == "process":
        return ProcessExecutor(workers)
    raise unknown_name("executor", name, ("inline", "process"))
