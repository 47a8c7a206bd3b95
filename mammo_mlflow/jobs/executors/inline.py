"""Run jobs one after another in the coordinator, for tests and debuggers; their memory is not freed in between."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mammo_mlflow.jobs.executors.base import Answered, AnyJob, Executor, OnEvent
from mammo_mlflow.jobs.executors.target import attempt


class InlineExecutor(Executor):
    """Runs each job by a function call; `run` raises the exception of a failed job itself."""

    def stream(
        self, next_job: Callable[[], AnyJob | None], on_event: OnEvent[AnyJob], on_idle: Callable[[], None]
    ) -> Answered[AnyJob]:
        """Yield each job with its answer or `Failure` as it ends; see `Executor.stream`."""
        while (job := next_job()) is not None:
            yield job, attempt(job, partial(on_event, job))
            on_idle()
