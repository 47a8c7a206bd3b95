"""Search spaces: what a study draws its trials from, read from a YAML file (docs/search_spaces.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mammo_mlflow.errors import Faults, expected
from mammo_mlflow.search.parameters import ARCHITECTURES, Condition, Parameter
from mammo_mlflow.search.reader import Reader
from mammo_mlflow.search.tree import FOLDERS

__all__ = ["ARCHITECTURES", "Condition", "Parameter", "SearchSpace", "find_space", "read_space"]


@dataclass(frozen=True)
class SearchSpace:
    """A checked file: what is drawn, each parameter after those its conditions name, and what is `fixed`."""

    path: Path
    family: str
    backbone: str | None
    architecture: str | None
    parameters: tuple[Parameter, ...]
    fixed: dict[str, Any]

    def narrowed(self, given: Mapping[str, Any]) -> SearchSpace:
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

    def draw(self, start: Mapping[str, Any], suggest: Callable[[Parameter], Any]) -> dict[str, Any]:
        """A trial's values: `start`, then what is fixed, then `suggest(parameter)` for each whose conditions hold."""
        values = {**start, **self.fixed}
        for item in self.parameters:
            if item.drawn(values):
                values[item.name] = suggest(item)
        return values

    def points(self, start: Mapping[str, Any], limit: int = 10_000) -> list[dict[str, Any]] | None:
        """Every distinct set of drawn values; None where there is no end to them, or more than `limit`.

        Numbers with a fraction are endless unless they have a step, and so is an architecture.
        """
        if self.architecture is not None:
            return None
        base = {**start, **self.fixed}
        points: list[dict[str, Any]] = [{}]
        for item in self.parameters:
            grown: list[dict[str, Any]] = []
            for point in points:
                if not item.drawn(base | point):
                    grown.append(point)
                    continue
                values = item.values(limit)
                if values is None:
                    return None
                grown += [point | {item.name: value} for value in values]
                if len(grown) > limit:
                    return None
            points = grown
        return points

    def facts(self) -> dict[str, Any]:
        """All that decides what is drawn, ready for JSON. The path does not, and is left out."""
        drawn = [asdict(item) | {"kind": item.kind.__name__} for item in self.parameters]
        return {name: getattr(self, name) for name in ("family", "backbone", "architecture", "fixed")} | {
            "parameters": drawn
        }


def find_space(given: str, family: str, backbone: str) -> Path:
    """The file `given`, else the family's, the one for this backbone first.

    It need not exist: `read_space` then says which there are.
    """
    if given:
        return Path(given).expanduser()
    paths = [folder / name for folder in FOLDERS for name in (f"{family}-{backbone}.yaml", f"{family}.yaml")]
    return next((path for path in paths if path.exists()), FOLDERS[0] / f"{family}.yaml")


def read_space(path: Path, family: str, backbone: str) -> SearchSpace:
    """The space in a file, for this family and backbone. Raises `Faults` with every fault of the file."""
    found = Reader(path).read(family, backbone)
    return SearchSpace(path, family, found.backbone, found.architecture, found.parameters, found.fixed)
