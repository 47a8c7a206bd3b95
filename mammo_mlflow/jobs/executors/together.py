"""Fits that share their compiled programs, as one job for one process."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mammo_mlflow.jobs.contracts import Event, FitJob, FitResult, FitsJob, FitsProgress, Job, Notice, Reply, StoreJob
from mammo_mlflow.jobs.executors.base import AnyJob, OnEvent
from mammo_mlflow.jobs.failure import Failure

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Work:
    """What a process is at work on: jobs that were `sent` as one, those that are not answered yet by their place."""

    sent: Job[object]
    open: dict[int, Any] = field(default_factory=dict)
    reply: Reply = None
    """What is replied to the last event."""

    @classmethod
    def on(cls, jobs: Sequence[Any], memory: int) -> Work:
        """The work on jobs that go together, and may take `memory` bytes of a card (0: as the card says)."""
        first, of_each = jobs[0], dict(enumerate(jobs))
        if isinstance(first, FitJob):
            size = max(job.together for job in jobs)
            return cls(FitsJob(name=first.name, fits=tuple(jobs), memory=memory, size=size), of_each)
        return cls(replace(first, memory=memory) if isinstance(first, StoreJob) else first, of_each)

    def happened(self, event: Event, on_event: OnEvent[AnyJob]) -> Iterator[tuple[AnyJob, Any]]:
        """Hand an event on; yield the fits that it answers."""
        if not isinstance(event, FitsProgress):
            self.reply = on_event(next(iter(self.open.values())), event)
            return
        for place, what in event.happened:
            if isinstance(what, FitResult | Failure):
                yield self.open.pop(place), what
            else:
                on_event(self.open[place], what)


class Waiting:
    """Jobs that wait for a process, of which fits that share their programs go together, at most `most` (0: all)."""

    def __init__(self, most: int = 0) -> None:
        self._jobs: deque[Any] = deque()
        self._most = most

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, next_job: Callable[[], AnyJob | None]) -> None:
        """Take all the jobs that there are, for any of them may share a program."""
        while (job := next_job()) is not None:
            self._jobs.append(job)

    def clear(self) -> None:
        """Forget them."""
        self._jobs.clear()

    def take(self, free: int) -> list[Any]:
        """The next job, with those that share its programs where it is a fit; their share of so many free processes."""
        first = self._jobs[0]
        if not isinstance(first, FitJob):
            return [self._jobs.popleft()]
        alike = [job for job in self._jobs if isinstance(job, FitJob) and job.program == first.program]
        share = -(-len(alike) // free)
        chosen = alike[: min(share, self._most or share)]
        self._jobs = deque(job for job in self._jobs if not any(job is one for one in chosen))
        return chosen


class Notices:
    """Logs what jobs have to say, each text once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, where: str, notice: Notice) -> None:
        """Log a notice of a job that runs at a place."""
        if notice.text not in self._told:
            _log.info("%s: %s", where, notice.text)
        self._told.add(notice.text)
