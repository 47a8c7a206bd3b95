"""Numbers with their 95 % intervals: logged on an MLflow run, read back from one, and formatted as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

from mammo_mlflow.names import Tag

LOW, HIGH = "_low", "_high"
"""The endings of the metrics that hold the ends of an interval."""


class Run(Protocol):
    """The protocol of an MLflow run that estimates are logged on; `tracking.runs.TrackedRun` implements it."""

    def log_metrics(self, metrics: Mapping[str, float], /) -> None:
        """Log numbers by name."""

    def set_tags(self, tags: Mapping[str, str], /) -> None:
        """Set tags by name."""


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of its 95 % interval: NaN ends for no interval, a NaN value for an undefined number.

    `reason`: why there is no interval, or no value, where that is known.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str = field(default="", kw_only=True)

    @classmethod
    def read(cls, name: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> Self:
        """Read the estimate `name` from a run's metrics and tags; undefined where none was logged."""
        reasons = dict(part.split(": ", 1) for part in tags.get(Tag.NO_INTERVAL, "").split("; ") if ": " in part)
        found = (metrics.get(f"{name}{end}", math.nan) for end in ("", LOW, HIGH))
        return cls(*found, reason=reasons.get(name, ""))

    def metrics(self, name: str) -> dict[str, float]:
        """The MLflow metrics that log the estimate as `name`: the value and the ends of the interval."""
        return {name: self.value, f"{name}{LOW}": self.low, f"{name}{HIGH}": self.high}

    @property
    def bounded(self) -> bool:
        """Whether the estimate has an interval."""
        return not math.isnan(self.low) and not math.isnan(self.high)

    def interval(self, spec: str = ".3f") -> str:
        """The interval as text, `[0.771, 0.850]`."""
        return f"[{self.low:{spec}}, {self.high:{spec}}]"

    def __format__(self, spec: str) -> str:
        """`0.812 [0.771, 0.850]`; `spec` formats each number (default `.3f`). An undefined value says so, or why."""
        spec = spec or ".3f"
        if math.isnan(self.value):
            return f"- ({self.reason})" if self.reason else "undefined"
        if self.bounded:
            return f"{self.value:{spec}} {self.interval(spec)}"
        return f"{self.value:{spec}}" + (f" (no interval: {self.reason})" if self.reason else "")

    def __str__(self) -> str:
        """The default format."""
        return format(self)


@dataclass(frozen=True)
class Difference(Estimate):
    """A difference of two numbers; `error` is the standard deviation of its resamples, NaN with fewer than two."""

    error: float = math.nan


def log_estimates(run: Run, estimates: Mapping[str, Estimate], assumed: str = "") -> None:
    """Log estimates on a run by name, with what their intervals assume, and why some have none, or no value.

    The reasons are one tag: `test_roc_auc: reason; …`.
    """
    for name, one in estimates.items():
        run.log_metrics(one.metrics(name))
    missing = "; ".join(f"{name}: {one.reason}" for name, one in estimates.items() if one.reason)
    if tags := {tag: said for tag, said in ((Tag.INTERVALS, assumed), (Tag.NO_INTERVAL, missing)) if said}:
        run.set_tags(tags)
