"""Read search spaces from YAML files (docs/search_spaces.md), and check them.

All faults of a file are reported at once, each a line `FILE: KEY PATH: expected …, found …`. The type, the default and
the check of a parameter are those of the experiment's field.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mammo_mlflow.checks import OneOf, Value, one_of
from mammo_mlflow.errors import Faults, UserError, expected, unknown_name
from mammo_mlflow.experiment import FAMILIES, NETWORKS, convert, network_of, parameters, that_move
from mammo_mlflow.search.parameters import ARCHITECTURES, Condition, Parameter, SearchSpace, architectures, idle
from mammo_mlflow.search.yaml_tree import FOLDERS, KEYS, Tree, read_tree, value_in_words

_SHARED = {"task", "seeds"}  # of all families, and no fields of an experiment
_COMMAND_LINE = {"backbone", *_SHARED, *that_move("judging", "final", "source")}
_FIXED_ONLY = that_move("place")  # they trade exactness for time, and trials have to compare
_RANGE_KEYS = ("low", "high", "log", "step")


def find_space(given: str, family: str, backbone: str) -> Path:
    """Choose the path of a search space: `given`, a path or a name, else the backbone's file, else the family's.

    A name is a word without a folder or a suffix that is no file here. NAME finds FAMILY-BACKBONE-NAME.yaml,
    FAMILY-NAME.yaml or NAME.yaml. Raises `UserError` for a name that finds none. Of a path the file need not exist:
    `read_space` then raises an error that lists the files there are.
    """
    stems = [f"{family}-{backbone}", family]
    if given:
        path = Path(given).expanduser()
        if given != path.stem or (path.exists() and not path.is_dir()):
            return path
        stems = [*(f"{stem}-{given}" for stem in stems), given]
    paths = [folder / f"{stem}.yaml" for folder in FOLDERS for stem in stems]
    found = next((path for path in paths if path.exists()), None)
    if found is None and given:
        raise unknown_name("space", given, _names(family, backbone))
    return found or FOLDERS[0] / f"{family}.yaml"


def _names(family: str, backbone: str) -> list[str]:
    """The names by which a network's search spaces are found; what is for other networks is left out."""
    stems = {path.stem for folder in FOLDERS for path in folder.glob("*.yaml")}
    others = [name for name in FAMILIES if name != family]
    others += [f"{family}-{name}" for name in NETWORKS[family] if name != backbone]
    own = [stem for stem in stems if not any(f"{stem}-".startswith(f"{other}-") for other in others)]
    return sorted({stem.removeprefix(f"{family}-").removeprefix(f"{backbone}-") for stem in own} - {backbone})


def read_space(path: Path, family: str, backbone: str) -> SearchSpace:
    """Read the search space of a family and backbone from a file. Raises `Faults` with all faults of the file."""
    return _Reader(path, family, backbone).read()


class _Reader:
    """Reads one file and collects its faults; a faulty value is read as None, so that reading goes on."""

    def __init__(self, path: Path, family: str, backbone: str) -> None:
        self._path, self._family, self._backbone = path, family, backbone
        self._faults: list[str] = []
        self._names = tuple(item.name for item in parameters(family))
        self._checks = {item.name: item.metadata["check"] for item in parameters()}
        self._checks["backbone"] = self._network = network_of(family)
        self._idle = idle(family, backbone)
        self._built: Collection[str] = ()  # what the architecture draws
        self._several = False  # whether trials draw the backbone

    def read(self) -> SearchSpace:
        """The space of the file. Raises `Faults`."""
        tree, family = read_tree(self._path, self._faults), self._family
        self._only(tree, KEYS, "")
        if "family" not in tree:
            self._fault("family", f"'{family}'", "nothing")
        self._name(tree, "family", one_of(*FAMILIES), family)
        if tree.get("family", family) in [name for name in FAMILIES if name != family]:
            raise Faults(self._faults)  # the rest is for another family, and would be at fault throughout
        backbone = self._name(tree, "backbone", self._network, self._backbone)
        architecture = self._name(tree, "architecture", one_of(*ARCHITECTURES))
        possible = architectures(family, self._backbone)
        if architecture is not None and architecture not in possible:
            names = " or ".join(f"'{name}'" for name in possible)
            self._fault("architecture", f"{names}, which {family} {self._backbone} can have", f"'{architecture}'")
        self._built = ARCHITECTURES.get(architecture or "", ())
        if backbone is None and isinstance(listed := tree.get("parameters"), dict):
            self._several = isinstance(listed.get("backbone"), dict)
        drawn, fixed = self._parameters(tree.get("parameters", ""))
        self._check_conditions(drawn, fixed, backbone)
        ordered = self._ordered(drawn)
        if not self._faults and not drawn and architecture is None:
            self._fault("parameters", "something to search", "nothing but fixed values")
        if self._faults:
            raise Faults(self._faults)
        return SearchSpace(
            path=self._path,
            family=family,
            backbone=backbone,
            architecture=architecture,
            parameters=ordered,
            fixed=fixed,
        )

    def _at(self, key: str) -> str:
        """The file and the path of a key, as messages begin."""
        return f"{self._path}: {key}" if key else str(self._path)

    def _fault(self, key: str, wanted: str, found: object) -> None:
        """Add a fault: what was expected at a key, and what was found."""
        self._faults.append(str(expected(self._at(key), wanted, found)))

    def _unknown(self, key: str, name: str, choices: Iterable[str]) -> None:
        """Add a fault: a name that is none of the choices."""
        self._faults.append(str(unknown_name(self._at(key), name, choices)))

    def _only(self, given: Mapping[str, Tree], known: Iterable[str], key: str) -> None:
        """Add a fault for each key of a mapping that is not known."""
        for name in given:
            if name not in known:
                self._unknown(key, name, known)

    def _name(self, tree: Mapping[str, Tree], key: str, check: OneOf, asked: str | None = None) -> str | None:
        """The name at a top-level key, None where it is missing, fails its check, or is not the one `asked` for."""
        given = tree.get(key)
        if given is None:
            return None
        if not isinstance(given, str):
            self._fault(key, "a name", value_in_words(given))
        elif self._passes(key, given, check):
            if asked in (None, given):
                return given
            self._fault(key, f"'{asked}', which is asked for", f"'{given}'")
        return None

    def _passes(self, key: str, name: str, check: OneOf) -> bool:
        """Whether a name passes a check; else its fault is added."""
        try:
            check(self._at(key), name)
        except UserError as problem:
            self._faults.append(str(problem))
            return False
        return True

    def _parameters(self, listed: Tree) -> tuple[dict[str, Parameter], dict[str, Value]]:
        """The parameters that are drawn, and the values that are fixed, by name."""
        fixed: dict[str, Value] = {}
        drawn: dict[str, Parameter] = {}
        if not isinstance(listed, dict) or not listed:
            self._fault("parameters", "a mapping of parameters to values, choices or ranges", value_in_words(listed))
            return drawn, fixed
        for listed_as, given in listed.items():
            key = f"parameters.{listed_as}"
            name, _, case = listed_as.partition(".")
            if case and not self._passes(f"parameters.{name}", case, self._network):
                continue
            if case and name in listed:
                self._fault(key, f"'{name}' either for all networks or for each by itself", "both")
            elif case and not isinstance(given, dict):
                self._fault(key, "choices or a range, for it is one network's", value_in_words(given))
            elif name == "backbone" and self._several:
                drawn |= self._backbones(key, given)
            elif name in _COMMAND_LINE and name in {*_SHARED, *self._names}:
                wanted = f"--{name.replace('_', '-')} on the command line, where it belongs"
                self._fault(key, wanted, "it in a search space")
            elif name not in self._names:
                others = {*_COMMAND_LINE, *self._built, *self._idle}
                self._unknown("parameters", name, [known for known in self._names if known not in others])
            elif name in self._built:
                self._fault(key, "nothing, for the architecture draws it", value_in_words(given))
            elif isinstance(given, str):
                fixed[name] = self._value(key, name, given)
            elif name in _FIXED_ONLY:
                self._fault(key, "one value, for it may be fixed but not searched", value_in_words(given))
            elif isinstance(given, list):
                self._fault(key, "one value, or a mapping such as {choices: […]}", "a list")
            elif (item := self._parameter(key, name, given, case)) and all(
                one.name != "backbone" or self._several or one.holds(self._backbone)  # else it is left to others
                for one in item.when
            ):
                drawn[item.label] = item
        for name in self._idle:
            if name in fixed or name in {item.name for item in drawn.values()}:
                wanted = f"nothing, for {self._family} {self._backbone} has no use for it"
                self._fault(f"parameters.{name}", wanted, "it listed")
        return drawn, fixed

    def _value(self, key: str, name: str, given: Tree, check: bool = True) -> Any:
        """A text converted to the type of a parameter; with `check` it is also checked as an experiment's value."""
        if not isinstance(given, str):
            self._fault(key, "one value", value_in_words(given))
            return None
        try:
            value = convert(self._at(key), given, Parameter(name=name).kind)
            if isinstance(value, float) and not math.isfinite(value):
                raise expected(self._at(key), "a finite number", value)
            if check:
                self._checks[name](self._at(key), value)
        except UserError as problem:
            self._faults.append(str(problem))
            return None
        return value

    def _backbones(self, key: str, given: Tree) -> dict[str, Parameter]:
        """The parameter `backbone`; empty where it has a fault. All its networks have to use the same parameters."""
        item = self._parameter(key, "backbone", given) if isinstance(given, dict) else None
        unlike = [one for one in (item.choices or () if item else ()) if idle(self._family, str(one)) != self._idle]
        if unlike:
            self._fault(f"{key}.choices", f"networks that use what {self._backbone} uses", f"'{unlike[0]}'")
        return {"backbone": item} if item else {}

    def _parameter(self, key: str, name: str, given: Mapping[str, Tree], case: str = "") -> Parameter | None:
        """A parameter with choices or a range, of one network where there is a `case`; None where it has a fault."""
        before = len(self._faults)
        self._only(given, ("choices", *_RANGE_KEYS, "when"), key)
        when = self._when(f"{key}.when", given["when"]) if "when" in given else ()
        own = (Condition("backbone", (case,)),) if case else ()
        item = Parameter(name=name, when=(*own, *when), case=case)
        if "choices" in given:
            for other in _RANGE_KEYS:
                if other in given:
                    self._fault(f"{key}.{other}", "nothing beside choices", value_in_words(given[other]))
            item = replace(item, choices=self._choices(f"{key}.choices", name, given["choices"]))
        elif item.kind not in (int, float):
            self._fault(key, "choices, for it is no number", ", ".join(given) or "nothing")
        else:
            item = self._range(key, item, given)
        return item if len(self._faults) == before else None

    def _choices(self, key: str, name: str, given: Tree) -> tuple[Value, ...]:
        """The choices of a parameter, empty where they are no list."""
        if not isinstance(given, list) or not given:
            self._fault(key, "a list of one or more values", value_in_words(given))
            return ()
        found: list[Value] = []
        for item in given:
            value = self._value(key, name, item)
            if value in found and value is not None:
                self._fault(key, "each choice once", f"'{item}' again")
            found.append(value)
        return tuple(found)

    def _range(self, key: str, item: Parameter, given: Mapping[str, Tree]) -> Parameter:
        """The parameter with its range: low, high, log and step."""
        name = item.name
        missing = [end for end in ("low", "high") if end not in given]
        if missing:
            self._fault(key, "choices, or low and high", f"no {' and no '.join(missing)}")
        low, high = (self._value(f"{key}.{e}", name, given[e]) if e in given else None for e in ("low", "high"))
        width = None if low is None or high is None else high - low
        if width is not None and width < 0:
            self._fault(key, "low below high", f"{low} and {high}")
        elif width == 0:
            self._fault(key, "low below high", f"{low} for both: to fix it write a bare value, {name}: {given['low']}")
        log = self._flag(f"{key}.log", given.get("log", "false"))
        if log and low is not None and low <= 0:
            self._fault(f"{key}.low", "a number above 0, for the scale is logarithmic", low)
        step = self._value(f"{key}.step", name, given["step"], check=False) if "step" in given else None
        if step is not None and step <= 0:
            self._fault(f"{key}.step", "a number above 0", step)
        elif step is not None and log:
            self._fault(f"{key}.step", "nothing beside log", step)
        elif step is not None and width is not None and 0 < width < step:
            self._fault(f"{key}.step", f"at most high - low, {width}", step)
        return replace(item, low=low, high=high, log=log, step=step)

    def _flag(self, key: str, given: Tree) -> bool:
        """`true` or `false` as a bool."""
        if isinstance(given, str) and given.lower() in ("true", "false"):
            return given.lower() == "true"
        self._fault(key, "true or false", value_in_words(given))
        return False

    def _when(self, key: str, given: Tree) -> tuple[Condition, ...]:
        """The conditions of a parameter, without faulty ones."""
        if not isinstance(given, dict) or not given:
            self._fault(key, "a mapping of parameters to values", value_in_words(given))
            return ()
        found = [self._condition(f"{key}.{name}", name, wanted) for name, wanted in given.items()]
        return tuple(condition for condition in found if condition is not None)

    def _condition(self, key: str, name: str, given: Tree) -> Condition | None:
        """The condition on the parameter `name`; None where it has a fault."""
        if name not in self._names:
            self._unknown(key.rpartition(".")[0], name, self._names)
        elif name in self._built:
            self._fault(key, "another parameter, for the architecture draws this one later", value_in_words(given))
        elif not isinstance(given, dict):
            values = [self._value(key, name, item) for item in (given if isinstance(given, list) else [given])]
            if not values:
                self._fault(key, "one or more values", "none")
            return Condition(name, tuple(values)) if values and None not in values else None
        elif Parameter(name=name).kind not in (int, float):
            self._fault(key, "a value or a list of values, for it is no number", "a mapping")
        else:
            self._only(given, ("low", "high"), key)
            ends = {e: self._value(f"{key}.{e}", name, given[e], check=False) for e in ("low", "high") if e in given}
            if not ends:
                self._fault(key, "low, high or both", "neither")
            elif None not in ends.values():
                if len(ends) == 1 or ends["low"] <= ends["high"]:
                    return Condition(name, **ends)
                self._fault(key, "low at most high", f"{ends['low']} and {ends['high']}")
        return None

    def _check_conditions(
        self, drawn: Mapping[str, Parameter], fixed: Mapping[str, Value], backbone: str | None
    ) -> None:
        """Add a fault for each condition that the parameter it is on, as drawn or fixed here, can never fulfil."""
        unused = {name: Parameter(name=name).default for name in self._idle if name not in drawn}
        known = {k: value for k, value in {**unused, **fixed, "backbone": backbone}.items() if value is not None}
        others = {name: Parameter(name=name, choices=(value,)) for name, value in known.items()}
        others = {**drawn, **others}
        # of others what the preset or the command line says decides, which the file does not know
        asked = [(item, one) for item in drawn.values() for one in item.when if one.name in others]
        for item, condition in asked:
            other = others[condition.name]
            never = [f"'{value}'" for value in condition.values or () if not other.contains(value)]
            if condition.values is None and not other.reaches(condition):
                ends = {"low": condition.low, "high": condition.high}
                never = [" and ".join(f"{end} {value}" for end, value in ends.items() if value is not None)]
            for found in never:
                key = f"parameters.{item.name}.when.{condition.name}"
                self._fault(key, f"what it can be, {other.extent}", found)

    def _ordered(self, drawn: Mapping[str, Parameter]) -> tuple[Parameter, ...]:
        """The parameters in the file's order, but each after those its conditions name; a circle is a fault."""
        found: list[Parameter] = []
        waiting = dict(drawn)
        while waiting:
            names = {
                label: [other.label for c in item.when for other in waiting.values() if other.name == c.name]
                for label, item in waiting.items()
            }
            ready = next((name for name in names if not names[name]), None)
            if ready is not None:
                found.append(waiting.pop(ready))
                continue
            chain = [next(iter(names))]
            while chain[-1] not in chain[:-1]:
                chain.append(names[chain[-1]][0])
            circle = chain[chain.index(chain[-1]) :]
            self._fault(f"parameters.{circle[0]}.when", "conditions that end", f"a circle: {' → '.join(circle)}")
            for name in circle[1:]:
                del waiting[name]
        return tuple(found)
