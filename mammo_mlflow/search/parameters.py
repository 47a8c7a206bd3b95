"""What a search draws: a parameter of an experiment, from where, and while which conditions hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from mammo_mlflow.experiment import build, parameters

FIELDS = {item.name: item for item in parameters()}
"""The parameters of all families' experiments by name, with their defaults and checks."""

ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "head": ("dense", "dropout", "batch_norm"),
    "scratch": (
        "blocks",
        "convolution_batch_norm",
        "pool_dropout",
        "dense",
        "dense_batch_norm",
        "dropout",
        "l1",
        "l2",
    ),
}
"""What a file's `architecture` may be, and the parameters that its hypermodel draws."""


def idle(family: str, backbone: str) -> tuple[str, ...]:
    """The parameters of a family that this network of it has no use for."""
    network = build("benign_malignant", {"backbone": backbone}, family)  # the task of every family
    used_by = (None, network.trained_whole)
    return tuple(item.name for item in parameters(family) if item.metadata["users"].whole not in used_by)


def architectures(family: str, backbone: str) -> tuple[str, ...]:
    """The architectures that this network can have: those of which it uses every parameter."""
    used = {item.name for item in parameters(family)} - set(idle(family, backbone))
    return tuple(name for name, drawn in ARCHITECTURES.items() if used.issuperset(drawn))


@dataclass(frozen=True)
class Condition:
    """What another parameter has to be: one of `values`, or from `low` to `high`, either of which may be open."""

    name: str
    values: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None

    def holds(self, value: Any) -> bool:
        """Whether the other parameter, at this value, is as it has to be."""
        if self.values is not None:
            return value in self.values
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class Parameter:
    """A parameter that is drawn while all of `when` holds: one of `choices`, or a number from `low` to `high`."""

    name: str
    kind: type
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] | None = None
    when: tuple[Condition, ...] = ()

    def contains(self, value: Any) -> bool:
        """Whether this value could be drawn."""
        if self.low is None or self.high is None:
            return value in (self.choices or ())
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        if self._step is None:
            return True
        steps = (value - self.low) / self._step
        return abs(steps - round(steps)) < 1e-8  # as Optuna tells a value on the grid

    def reaches(self, condition: Condition) -> bool:
        """Whether some value that could be drawn lies within the ends of a condition on this parameter."""
        if self.low is None or self.high is None:
            return any(condition.holds(value) for value in self.choices or ())
        first = self.low if condition.low is None else max(self.low, condition.low)
        if self._step is not None:
            first = self.low - (self.low - first) // self._step * self._step  # the first on the grid from there
        return first <= (self.high if condition.high is None else min(self.high, condition.high))

    def drawn(self, values: Mapping[str, Any]) -> bool:
        """Whether it is drawn beside these values; what they leave out has the experiment's default."""
        return all(item.holds(values.get(item.name, FIELDS[item.name].default)) for item in self.when)

    def values(self, limit: int) -> list[Any] | None:
        """Everything that could be drawn, in order; None where that is infinite or more than `limit`."""
        if self.low is None or self.high is None:
            return list(self.choices or ())
        if self._step is None:
            return None
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self._step))  # 0.1 + 0.2 is 0.3
        count = int((high - low) / step) + 1
        return None if count > limit else [self.kind(low + step * i) for i in range(count)]

    @property
    def extent(self) -> str:
        """What could be drawn, in words."""
        if self.choices is not None:
            return " or ".join(f"'{choice}'" for choice in self.choices)
        return f"{self.low} to {self.high}" + (f" in steps of {self.step}" if self.step else "")

    @property
    def _step(self) -> float | None:
        return 1 if self.step is None and self.kind is int else self.step
