"""Run jobs one after another in the coordinator, for tests and debuggers; their memory is not freed in between."""

from __future__ import annotations

from collections.abc import Callable

from mammo_mlflow.jobs.contracts import Event, Reply
from mammo_mlflow.jobs.executors.base import Answered, AnyJob, Executor, OnEvent, OnIdle
from mammo_mlflow.jobs.executors.target import attempt


class InlineExecutor(Executor):
    """Runs each job by a function call; `run` raises the exception of a failed job itself."""

    def attempts(
        self, next_job: Callable[[], AnyJob | None], on_event: OnEvent[AnyJob], on_idle: OnIdle
    ) -> Answered[AnyJob]:
        """Yield each job with its answer or `Failure` as it ends; see `Executor.attempts`."""
        while (job := next_job()) is not None:

            def hand_on(event: Event, job: AnyJob = job) -> Reply:
                on_idle()
                return on_event(job, event)

            yield job, attempt(job, hand_on)
            on_idle()
