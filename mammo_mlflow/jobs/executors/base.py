"""What every executor does: `stream` jobs as they come, or `run` a list of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any, TypeVar

from mammo_mlflow.errors import UserError
from mammo_mlflow.jobs.contracts import Event, Failure, Job, Reply

AnyJob = TypeVar("AnyJob", bound=Job[object])
OnEvent = Callable[[AnyJob, Event], Reply]
Answered = Generator[tuple[AnyJob, Any], None, None]
"""Jobs of one class with their answers, which are of the type that the class tells."""


class JobFailed(Exception):  # noqa: N818 - what happened, as in KeyboardInterrupt
    """A job ended without an answer, for a reason that is not the user's to mend: its traceback, or the signal."""


class Executor(ABC):
    """Runs jobs. `on_event` is called in the coordinator for each event, `on_idle` each second while it waits.

    A job that emits a `Suggestion` waits for what `on_event` returns.
    """

    @abstractmethod
    def stream(
        self, next_job: Callable[[], AnyJob | None], on_event: OnEvent[AnyJob], on_idle: Callable[[], None]
    ) -> Answered[AnyJob]:
        """Yield each job with its answer, or its `Failure`, as it ends; `next_job` is asked while a worker is free.

        Ends when `next_job` has none and nothing runs. Closing the iterator ends whatever still runs.
        """

    def run(self, jobs: Sequence[AnyJob], on_event: OnEvent[AnyJob], on_idle: Callable[[], None]) -> Answered[AnyJob]:
        """Yield each job with its answer as it ends. Raises `UserError` or `JobFailed` for the first that fails."""
        waiting = deque(jobs)
        with closing(self.stream(lambda: waiting.popleft() if waiting else None, on_event, on_idle)) as ended:
            for job, answer in ended:
                if isinstance(answer, Failure):
                    raise_failure(job, answer)
                yield job, answer

    def close(self) -> None:
        """End whatever still runs."""
        return


def raise_failure(job: Job, failure: Failure) -> None:
    """Raise what a failed job means: its own exception where it is at hand, else `UserError` or `JobFailed`."""
    if failure.error is not None:
        raise failure.error
    raise UserError(failure.reason) if failure.user else JobFailed(f"{job.name}: {failure.reason}")
