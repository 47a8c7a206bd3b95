"""Parameters of a search space: their values, and the conditions under which they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from itertools import islice
from pathlib import Path

from mammo_mlflow.checks import Value
from mammo_mlflow.errors import Faults, expected
from mammo_mlflow.experiment import DEFAULTS, build, parameters
from mammo_mlflow.models.architecture_ranges import DROPOUTS, HEAD_WIDTHS, POOL_DROPOUTS, SCRATCH_WIDTHS
from mammo_mlflow.names import plain_name

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
"""By the `architecture` of a space the parameters that its hypermodel draws, each with its choices.

No choices: the parameter is no choice from a list. `dense`: the widths that its layers may have.
"""


def idle(family: str, backbone: str) -> tuple[str, ...]:
    """The names of a family's parameters that do not affect a network."""
    network = build("benign_malignant", {"backbone": backbone}, family)  # the task of every family
    used_by = (None, network.trained_whole)
    return tuple(item.name for item in parameters(family) if item.metadata["users"].whole not in used_by)


def architectures(family: str, backbone: str) -> tuple[str, ...]:
    """The names of the architectures that can be searched for a network: all their parameters affect it."""
    used = {item.name for item in parameters(family)} - set(idle(family, backbone))
    return tuple(name for name, drawn in ARCHITECTURES.items() if used.issuperset(drawn))


@dataclass(frozen=True)
class Condition:
    """A condition on another parameter, `name`: to be one of `values`, or from `low` to `high` (None: no end)."""

    name: str
    values: tuple[Value, ...] | None = None
    low: float | None = None
    high: float | None = None

    def holds(self, value: Value) -> bool:
        """Whether a value of the other parameter fulfils the condition."""
        if self.values is not None or isinstance(value, str):
            return value in (self.values or ())
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of a search space: one of `choices`, or a number from `low` to `high`.

    It is drawn where all conditions `when` hold. `log`: drawn on a logarithmic scale; `step`: the distance between two
    values, None for any. `case` is the network that this range is for, where networks have ranges of their own.
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] | None = None
    when: tuple[Condition, ...] = ()
    case: str = ""

    @property
    def label(self) -> str:
        """What a study calls the parameter: its name, with the network behind it where the range is that network's."""
        return f"{self.name}.{plain_name(self.case)}" if self.case else self.name

    def contains(self, value: Value) -> bool:
        """Whether a value can be drawn, conditions aside."""
        if self.low is None or self.high is None:
            return value in (self.choices or ())
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        if self.grid is None:
            return True
        steps = (value - self.low) / self.grid
        return abs(steps - round(steps)) < 1e-8  # as Optuna tells a value on the grid

    def reaches(self, condition: Condition) -> bool:
        """Whether some value that can be drawn fulfils a condition on this parameter."""
        if self.low is None or self.high is None:
            return any(condition.holds(value) for value in self.choices or ())
        first = self.low if condition.low is None else max(self.low, condition.low)
        if self.grid is not None:
            first = self.low - (self.low - first) // self.grid * self.grid  # the first on the grid from there
        return first <= (self.high if condition.high is None else min(self.high, condition.high))

    def drawn(self, values: Mapping[str, Value]) -> bool:
        """Whether the parameter's conditions hold for these values of others; those not given have their defaults."""
        return all(item.holds(values.get(item.name, DEFAULTS[item.name])) for item in self.when)

    def values(self, limit: int) -> list[Value] | None:
        """All values that can be drawn, ascending or as listed; None where they are infinite or more than `limit`."""
        if self.low is None or self.high is None:
            return list(self.choices or ())
        if self.grid is None:
            return None
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.grid))  # 0.1 + 0.2 is 0.3
        count = int((high - low) / step) + 1
        return None if count > limit else [self.kind(low + step * i) for i in range(count)]

    @property
    def default(self) -> Value:
        """The parameter's default in an experiment."""
        return DEFAULTS[self.name]

    @property
    def kind(self) -> type:
        """The Python type of the parameter's values: int, float, bool or str."""
        return type(self.default)

    @property
    def extent(self) -> str:
        """The parameter's range or choices, in words for messages."""
        if self.choices is not None:
            return " or ".join(f"'{choice}'" for choice in self.choices)
        return f"{self.low} to {self.high}" + (f" in steps of {self.step}" if self.step else "")

    @property
    def grid(self) -> float | None:
        """The distance between two values, 1 for integers without a `step`; None where values are continuous."""
        return 1 if self.step is None and self.kind is int else self.step


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The search space of one family: the parameters that are drawn, and the values that are `fixed`.

    Each parameter stands after those that its conditions name. `backbone` and `architecture` are None where the file
    names none.
    """

    path: Path
    family: str
    backbone: str | None
    architecture: str | None
    parameters: tuple[Parameter, ...]
    fixed: dict[str, Value]

    @property
    def backbones(self) -> tuple[Value, ...]:
        """The networks that trials draw from; none where all trials have one."""
        return next((item.choices or () for item in self.parameters if item.name == "backbone"), ())

    def narrowed(self, given: Mapping[str, Value]) -> SearchSpace:
        """The space with the values given on the command line fixed instead of drawn.

        Parameters whose conditions these values rule out are left out. Raises `Faults` for a value of what the
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
        """The parameter values of a trial: `start`, overridden by what is fixed and by what is drawn.

        `suggest(parameter)` gives the value of each parameter whose conditions hold.
        """
        values = {**start, **self.fixed}
        for item in self.parameters:
            if item.drawn(values):
                values[item.name] = suggest(item)
        return values

    def points(self, start: Mapping[str, Value], limit: int = 10_000) -> list[dict[str, Value]] | None:
        """All distinct sets of drawn values, by label; None where they are infinite or more than `limit`.

        A float parameter without a step has infinitely many values; those of an architecture cannot be listed.
        """
        if self.architecture is not None:
            return None
        base = {**start, **self.fixed}
        points: list[dict[str, Value]] = [{}]
        names = {item.label: item.name for item in self.parameters}

        def drawn(item: Parameter, point: dict[str, Value]) -> bool:
            return item.drawn(base | {names[label]: value for label, value in point.items()})

        for item in self.parameters:
            values = item.values(limit)
            if values is None and any(drawn(item, point) for point in points):
                return None
            own: list[dict[str, Value]] = [{item.label: value} for value in values or ()]
            grown = (point | one for point in points for one in (own if drawn(item, point) else [{}]))
            points = list(islice(grown, limit + 1))
            if len(points) > limit:
                return None
        return points

    def facts(self) -> dict[str, object]:
        """The space as a dictionary for JSON, from which a study's key is made. The path is left out."""
        drawn = [asdict(item) | {"kind": item.kind.__name__} for item in self.parameters]
        for one in drawn:
            if not one["case"]:
                del one["case"]  # as it was in the keys of studies before there were cases
        return {name: getattr(self, name) for name in ("family", "backbone", "architecture", "fixed")} | {
            "parameters": drawn
        }
