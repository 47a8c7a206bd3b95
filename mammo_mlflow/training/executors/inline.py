"""Jobs one after another in the coordinator itself: for tests and debuggers; memory is not given back between folds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from mammo_mlflow.training.executors.target import resolve
from mammo_mlflow.training.jobs import Event, Job


class InlineExecutor:
    """Runs each job by a plain call."""

    def run(
        self, jobs: Sequence[Job], on_event: Callable[[Job, Event], None], on_idle: Callable[[], None]
    ) -> Iterator[tuple[Job, object]]:
        """See `Executor.run`. An exception of the job itself comes through as it is."""
        for job in jobs:
            yield job, resolve(job.target)(job.argument, partial(on_event, job))
            on_idle()

    def close(self) -> None:
        """Nothing outlives a call."""
