"""Checks of parameter values: each takes a name and a value, and raises `UserError`, one line about `name`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mammo_mlflow.errors import expected, unknown_name

Value = str | int | float | bool
"""The value of a parameter, as command lines, presets, search spaces and MLflow give it."""
Check = Callable[[str, Any], None]

LARGEST = 1_000_000_000


@dataclass(frozen=True)
class OneOf:
    """A check that a name is one of `choices`."""

    choices: tuple[str, ...]

    def __call__(self, name: str, value: object) -> None:
        """Raise `UserError` for another name, saying what was meant."""
        if value not in self.choices:
            raise unknown_name(name, value, self.choices)


JOIN = "+"
"""What stands between names that are joined."""


@dataclass(frozen=True)
class OneOrJoined(OneOf):
    """A check that a name is one of `choices`, or several of `joinable`, each once, with `+` between."""

    joinable: tuple[str, ...]

    def __call__(self, name: str, value: object) -> None:
        """Raise `UserError` for another name, saying what was meant."""
        parts = str(value).split(JOIN)
        if len(parts) == 1:
            super().__call__(name, value)
            return
        for part in parts:
            OneOf(self.joinable)(name, part)
        if len(set(parts)) < len(parts):
            raise expected(name, "each of the joined names once", f"'{value}'")


def one_of(*choices: str) -> OneOf:
    """Make a check that a value is one of these names."""
    return OneOf(choices)


def whole_number(low: int, high: int) -> Check:
    """Make a check for whole numbers from `low` to `high`; the bounds catch slips, such as a zero too many."""

    def check(name: str, value: float) -> None:
        if not low <= value <= high:
            raise expected(name, f"a whole number from {low} to {high}", value)

    return check


def auto_or(low: int, high: int) -> Check:
    """Make a check for the word `auto` or a whole number from `low` to `high`, as a text."""

    def check(name: str, value: str) -> None:
        number = int(value) if value.isascii() and value.isdecimal() else low - 1
        if value != "auto" and not low <= number <= high:
            raise expected(name, f"auto or a whole number from {low} to {high}", f"'{value}'")

    return check


seed = whole_number(0, 2**32 - 1)
"""Check for a seed that NumPy takes."""
epochs = whole_number(1, 100_000)
at_once = whole_number(0, 1024)
"""Check for a number of processes or threads; 0 leaves it to the command."""


def positive(name: str, value: float) -> None:
    """Check that a value is a number above 0, at most 1e9."""
    if not 0 < value <= LARGEST:
        raise expected(name, f"a number above 0, at most {LARGEST:,}", value)


def below_one(name: str, value: float) -> None:
    """Check that a value is a number from 0 up to, not including, 1."""
    if not 0 <= value < 1:
        raise expected(name, "a number from 0 up to, not including, 1", value)


def number_from(low: float, high: float) -> Check:
    """Make a check for numbers from `low` to `high`."""

    def check(name: str, value: float) -> None:
        if not low <= value <= high:
            raise expected(name, f"a number from {low:g} to {high:g}", value)

    return check


def spelled_class_weights(name: str, value: str) -> None:
    """Check the text of class weights: `none`, `balanced` or a ratio of two numbers above 0."""
    if value in ("none", "balanced"):
        return
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,18})?):(\d{1,9}(?:\.\d{1,18})?)", value, re.ASCII)
    if match is None or not all(float(part) > 0 for part in match.groups()):
        raise expected(name, "'none', 'balanced' or a ratio such as '1:1.3'", f"'{value}'")


def spelled_widths(name: str, value: str) -> None:
    """Check the text of hidden layers' widths: `none`, or whole numbers with dashes between."""
    if not re.fullmatch(r"none|[1-9]\d{0,4}(-[1-9]\d{0,4}){0,15}", str(value), re.ASCII):
        raise expected(name, "a width below 100000, up to 16 such as 256-64, or none", f"'{value}'")


def spelled_blocks(name: str, value: str) -> None:
    """Check the text of blocks of convolutions, as `models/scratch.py` parses it."""
    block = r"[1-9]\d{0,3}(/[1-9])?(-[1-9]\d{0,3}(/[1-9])?){0,15}"
    if not re.fullmatch(rf"{block}(,{block}){{0,7}}", str(value), re.ASCII):
        wanted = "filters of convolutions, each below 10000, such as 32/2-32,64-64 (/2 a stride, a pool at a comma)"
        raise expected(name, wanted, f"'{value}'")


def utf8(name: str, value: str) -> None:
    """Check for a text that can be written as UTF-8, which not all bytes of a command line are."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise expected(name, "text in UTF-8", ascii(value)) from None


def anything(name: str, value: object) -> None:
    """Accept any value: for booleans, and for values that are checked elsewhere (weights, threshold policies)."""


def at_least_zero(name: str, value: float) -> None:
    """Check that a value is a number from 0 to 1e9."""
    if not 0 <= value <= LARGEST:
        raise expected(name, f"a number from 0 to {LARGEST:,}", value)
