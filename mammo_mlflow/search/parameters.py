"""What a search draws: a parameter of an experiment, from where, and while which conditions hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from itertools import islice
from pathlib import Path

from mammo_mlflow.checks import Value
from mammo_mlflow.errors import Faults, expected
from mammo_mlflow.experiment import PARTS, build, parameters
from mammo_mlflow.models.architecture_ranges import DROPOUTS, HEAD_WIDTHS, POOL_DROPOUTS, SCRATCH_WIDTHS

DEFAULTS: dict[str, Value] = {name: value for part in PARTS.values() for name, value in vars(part()).items()}
"""Of the parameters of all families' experiments."""

EITHER = (False, True)
ARCHITECTURES: dict[str, Mapping[str, Sequence[Value]]] = {
    "head": {"dense": HEAD_WIDTHS, "dropout": DROPOUTS, "batch_norm": EITHER},
    "scratch": {
        "blocks": (),
        "convolution_batch_norm": EITHER,
        "pool_dropout": POOL_DROPOUTS,
        "dense": SCRATCH_WIDTHS,
        "dense_batch_norm": EITHER,
        "dropout": DROPOUTS,
        "l1": (),
        "l2": (),
    },
}
"""What a file's `architecture` may be, and the parameters that its hypermodel draws: from what, where that is a list.

`dense` is made of such widths.
"""


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
    values: tuple[Value, ...] | None = None
    low: float | None = None
    high: float | None = None

    def holds(self, value: Value) -> bool:
        """Whether the other parameter, at this value, is as it has to be."""
        if self.values is not None or isinstance(value, str):
            return value in (self.values or ())
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter that is drawn while all of `when` holds: one of `choices`, or a number from `low` to `high`."""

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] | None = None
    when: tuple[Condition, ...] = ()

    def contains(self, value: Value) -> bool:
        """Whether this value could be drawn."""
        if self.low is None or self.high is None:
            return value in (self.choices or ())
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        if self.grid is None:
            return True
        steps = (value - self.low) / self.grid
        return abs(steps - round(steps)) < 1e-8  # as Optuna tells a value on the grid

    def reaches(self, condition: Condition) -> bool:
        """Whether some value that could be drawn lies within the ends of a condition on this parameter."""
        if self.low is None or self.high is None:
            return any(condition.holds(value) for value in self.choices or ())
        first = self.low if condition.low is None else max(self.low, condition.low)
        if self.grid is not None:
            first = self.low - (self.low - first) // self.grid * self.grid  # the first on the grid from there
        return first <= (self.high if condition.high is None else min(self.high, condition.high))

    def drawn(self, values: Mapping[str, Value]) -> bool:
        """Whether it is drawn beside these values; what they leave out has the experiment's default."""
        return all(item.holds(values.get(item.name, DEFAULTS[item.name])) for item in self.when)

    def values(self, limit: int) -> list[Value] | None:
        """Everything that could be drawn, in order; None where that is infinite or more than `limit`."""
        if self.low is None or self.high is None:
            return list(self.choices or ())
        if self.grid is None:
            return None
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.grid))  # 0.1 + 0.2 is 0.3
        count = int((high - low) / step) + 1
        return None if count > limit else [self.kind(low + step * i) for i in range(count)]

    @property
    def default(self) -> Value:
        """An experiment's own value of it."""
        return DEFAULTS[self.name]

    @property
    def kind(self) -> type:
        """The type of its values."""
        return type(self.default)

    @property
    def extent(self) -> str:
        """What could be drawn, in words."""
        if self.choices is not None:
            return " or ".join(f"'{choice}'" for choice in self.choices)
        return f"{self.low} to {self.high}" + (f" in steps of {self.step}" if self.step else "")

    @property
    def grid(self) -> float | None:
        """The step between two values; None where there is none."""
        return 1 if self.step is None and self.kind is int else self.step


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A checked file: what is drawn, each parameter after those its conditions name, and what is `fixed`."""

    path: Path
    family: str
    backbone: str | None
    architecture: str | None
    parameters: tuple[Parameter, ...]
    fixed: dict[str, Value]

    def narrowed(self, given: Mapping[str, Value]) -> SearchSpace:
        """The space in which the values given on the command line are fixed, and no longer drawn.

        A parameter goes too where a given value rules its conditions out. Raises `Faults` for a value of what the
        architecture draws, and where nothing is left to search.
        """
        taken = [name for name in ARCHITECTURES.get(self.architecture or "", ()) if name in given]
        if taken:
            raise Faults(
                str(expected(name, f"nothing: architecture '{self.architecture}' of {self.path} draws it", given[name]))
                for name in taken
            )
        fixed = self.fixed | dict(given)
        left = tuple(
            item
            for item in self.parameters
            if item.name not in fixed and all(c.holds(fixed[c.name]) for c in item.when if c.name in fixed)
        )
        if not left and self.architecture is None:
            raise Faults([f"{self.path}: expected something left to search, found that the command line fixes it all"])
        return replace(self, parameters=left, fixed=fixed)

    def draw(self, start: Mapping[str, Value], suggest: Callable[[Parameter], Value]) -> dict[str, Value]:
        """A trial's values: `start`, then what is fixed, then `suggest(parameter)` for each whose conditions hold."""
        values = {**start, **self.fixed}
        for item in self.parameters:
            if item.drawn(values):
                values[item.name] = suggest(item)
        return values

    def points(self, start: Mapping[str, Value], limit: int = 10_000) -> list[dict[str, Value]] | None:
        """Every distinct set of drawn values; None where there is no end to them, or more than `limit`.

        Numbers with a fraction are endless unless they have a step, and so is an architecture.
        """
        if self.architecture is not None:
            return None
        base = {**start, **self.fixed}
        points: list[dict[str, Value]] = [{}]
        for item in self.parameters:
            values = item.values(limit)
            if values is None and any(item.drawn(base | point) for point in points):
                return None
            own: list[dict[str, Value]] = [{item.name: value} for value in values or ()]
            grown = (point | one for point in points for one in (own if item.drawn(base | point) else [{}]))
            points = list(islice(grown, limit + 1))
            if len(points) > limit:
                return None
        return points

    def facts(self) -> dict[str, object]:
        """All that decides what is drawn, ready for JSON. The path does not, and is left out."""
        drawn = [asdict(item) | {"kind": item.kind.__name__} for item in self.parameters]
        return {name: getattr(self, name) for name in ("family", "backbone", "architecture", "fixed")} | {
            "parameters": drawn
        }
