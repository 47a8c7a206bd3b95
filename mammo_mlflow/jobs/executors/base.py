"""The interface of executors: `run` a list of jobs, or `stream` jobs as they are made."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any, TypeVar

from mammo_mlflow.errors import UserError
from mammo_mlflow.jobs.contracts import Event, Job, Reply
from mammo_mlflow.jobs.failure import Failure

AnyJob = TypeVar("AnyJob", bound=Job[object])
OnEvent = Callable[[AnyJob, Event], Reply]
"""Handles an event of a job, in the coordinator."""
OnIdle = Callable[[], object]
"""Does work of the coordinator between messages, a little each time; returns something true where some is left."""
Answered = Generator[tuple[AnyJob, Any], None, None]
"""Yields jobs of one class, each with its answer, whose type the class declares."""


RETRIES = 1
"""How often a job whose process died or hangs is started again, unless the command says."""

_log = logging.getLogger(__name__)


class JobFailed(Exception):  # noqa: N818 - names what happened
    """Raised where a job failed for no fault of the user's; the message is a traceback or the signal that ended it."""


class Executor(ABC):
    """Runs jobs. `on_event` is called in the coordinator for each event, `on_idle` again and again between them.

    A job that emits a `Suggestion` waits for the return value of `on_event`. A job whose process died or hangs is
    started again up to `retries` times; its events then come again.
    """

    retries = RETRIES

    @abstractmethod
    def attempts(
        self, next_job: Callable[[], AnyJob | None], on_event: OnEvent[AnyJob], on_idle: OnIdle
    ) -> Answered[AnyJob]:
        """Yield each job with its answer or `Failure` as it ends; `next_job` is called while a worker is free.

        Ends when `next_job` returns None and no job runs. Closing the iterator ends the jobs that still run.
        """

    def stream(
        self, next_job: Callable[[], AnyJob | None], on_event: OnEvent[AnyJob], on_idle: OnIdle
    ) -> Answered[AnyJob]:
        """Yield each job with its answer or `Failure` as it ends for good; otherwise as `attempts`."""
        again, tried = deque[AnyJob](), Counter[int]()

        def next_attempt() -> AnyJob | None:
            return again.popleft() if again else next_job()

        with closing(self.attempts(next_attempt, on_event, on_idle)) as ended:
            for job, answer in ended:
                if isinstance(answer, Failure) and answer.lost and tried[id(job)] < self.retries:
                    tried[id(job)] += 1
                    _log.warning("%s: %s; it is started again", job.name, answer.line)
                    again.append(job)
                else:
                    yield job, answer

    def run(
        self,
        jobs: Sequence[AnyJob],
        on_event: OnEvent[AnyJob],
        on_idle: OnIdle,
        on_failure: Callable[[AnyJob, Failure], None] = lambda job, failure: None,
    ) -> Answered[AnyJob]:
        """Yield each job with its answer as it ends, and call `on_failure` for each that fails.

        A failure does not end the other jobs, unless all would fail for its reason. Raises `UserError` or `JobFailed`
        for the first one in the end.
        """
        waiting, failed = deque(jobs), list[tuple[AnyJob, Failure]]()
        with closing(self.stream(lambda: waiting.popleft() if waiting else None, on_event, on_idle)) as ended:
            for job, answer in ended:
                if not isinstance(answer, Failure):
                    yield job, answer
                    continue
                on_failure(job, answer)
                failed.append((job, answer))
                if answer.fatal:
                    break
        if failed:
            raise_failure(*failed[0])

    def close(self) -> None:
        """End the jobs that still run."""
        return


def raise_failure(job: Job, failure: Failure) -> None:
    """Raise the error of a failed job: its own exception if it ran in this process, else `UserError` or `JobFailed`."""
    if failure.error is not None:
        raise failure.error
    raise UserError(failure.reason) if failure.user else JobFailed(f"{job.name}: {failure.reason}")
