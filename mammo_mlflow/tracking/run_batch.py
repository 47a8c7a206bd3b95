"""What is collected of a run that is written to MLflow, to go in the fewest calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from mammo_mlflow.tracking.writes import LogBatch, Point, Write

ENTITIES_A_CALL, TEXTS_A_CALL = 1000, 100
"""MLflow's limits of a call: of all that it holds, and of parameters or tags."""


@dataclass
class RunBatch:
    """Metric points, parameters and tags of a run that are sent together; the first came at `begun`."""

    metrics: list[Point] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    operations: list[Write | Callable[[], object]] = field(default_factory=list)
    """Those that wait for the run to be made."""
    begun: float = field(default_factory=time.monotonic)

    def parts(self) -> Iterator[LogBatch]:
        """What goes in each call: all in one where MLflow's limits allow that."""
        points, params, tags = iter(self.metrics), iter(self.params.items()), iter(self.tags.items())
        while True:
            some = dict(islice(params, TEXTS_A_CALL)), dict(islice(tags, TEXTS_A_CALL))
            part = LogBatch(tuple(islice(points, ENTITIES_A_CALL - len(some[0]) - len(some[1]))), *some)
            if not (part.metrics or part.params or part.tags):
                return
            yield part
