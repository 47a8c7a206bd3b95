"""What is collected of a run that is written to MLflow, to go in the fewest calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Metric, Param, RunTag

ENTITIES_A_CALL, TEXTS_A_CALL = 1000, 100
"""MLflow's limits of a call: of all that it holds, and of parameters or tags."""


@dataclass
class RunBatch:
    """Metric points, parameters and tags of a run that are sent together; the first came at `begun`."""

    metrics: list[Metric] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    operations: list[Callable[[], object]] = field(default_factory=list)
    """Those that wait for the run to be made."""
    begun: float = field(default_factory=time.monotonic)

    def parts(self) -> Iterator[dict[str, Any]]:
        """What goes in each call: all in one where MLflow's limits allow that."""
        params = [Param(*item) for item in self.params.items()]
        tags = [RunTag(*item) for item in self.tags.items()]
        points = self.metrics
        while points or params or tags:
            most = ENTITIES_A_CALL - len(params[:TEXTS_A_CALL]) - len(tags[:TEXTS_A_CALL])
            yield {"metrics": points[:most], "params": params[:TEXTS_A_CALL], "tags": tags[:TEXTS_A_CALL]}
            points, params, tags = points[most:], params[TEXTS_A_CALL:], tags[TEXTS_A_CALL:]
