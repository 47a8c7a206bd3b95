"""What the values of an experiment's parameters must be; each check raises `UserError`, a line about `name`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mammo_mlflow.errors import expected, unknown_name

Value = str | int | float | bool
"""The value of a parameter, as a command line, a preset, a search space and MLflow give it."""
Check = Callable[[str, Any], None]

LARGEST = 1_000_000_000


@dataclass(frozen=True)
class OneOf:
    """The check of a name that is one of `choices`."""

    choices: tuple[str, ...]

    def __call__(self, name: str, value: object) -> None:
        """Raise `UserError` for another name, saying what was meant."""
        if value not in self.choices:
            raise unknown_name(name, value, self.choices)


def one_of(*choices: str) -> OneOf:
    """One of these names."""
    return OneOf(choices)


def whole(low: int, high: int) -> Check:
    """A whole number from `low` to `high`: one that nobody would miss, so that a slip ends at once and not never."""

    def check(name: str, value: float) -> None:
        if not low <= value <= high:
            raise expected(name, f"a whole number from {low} to {high}", value)

    return check


seed = whole(0, 2**32 - 1)
"""What NumPy takes as a seed."""
epochs = whole(1, 100_000)
at_once = whole(0, 1024)
"""Processes or threads; 0 leaves the number to the command."""


def positive(name: str, value: float) -> None:
    """A number above 0, within reason."""
    if not 0 < value <= LARGEST:
        raise expected(name, f"a number above 0, at most {LARGEST:,}", value)


def share(name: str, value: float) -> None:
    """A number from 0 up to, not including, 1."""
    if not 0 <= value < 1:
        raise expected(name, "a number from 0 up to, not including, 1", value)


def class_weights(name: str, value: str) -> None:
    """`none`, `balanced` or a ratio of two numbers above 0."""
    if value in ("none", "balanced"):
        return
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,18})?):(\d{1,9}(?:\.\d{1,18})?)", value, re.ASCII)
    if match is None or not all(float(part) > 0 for part in match.groups()):
        raise expected(name, "'none', 'balanced' or a ratio such as '1:1.3'", f"'{value}'")


def widths(name: str, value: str) -> None:
    """`none`, or whole numbers with dashes between."""
    if not re.fullmatch(r"none|[1-9]\d{0,4}(-[1-9]\d{0,4}){0,15}", str(value), re.ASCII):
        raise expected(name, "a width below 100000, up to 16 such as 256-64, or none", f"'{value}'")


def blocks(name: str, value: str) -> None:
    """Blocks of convolutions as `models/scratch.py` reads them."""
    block = r"[1-9]\d{0,3}(/[1-9])?(-[1-9]\d{0,3}(/[1-9])?){0,15}"
    if not re.fullmatch(rf"{block}(,{block}){{0,7}}", str(value), re.ASCII):
        wanted = "filters of convolutions, each below 10000, such as 32/2-32,64-64 (/2 a stride, a pool at a comma)"
        raise expected(name, wanted, f"'{value}'")


def anything(name: str, value: object) -> None:
    """For booleans, and for values that another room checks (weights, threshold policies)."""


def at_least_zero(name: str, value: float) -> None:
    """A number from 0, within reason."""
    if not 0 <= value <= LARGEST:
        raise expected(name, f"a number from 0 to {LARGEST:,}", value)
