"""What the values of an experiment's parameters must be; each check raises `UserError`, a line about `name`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mammo_mlflow.errors import expected, unknown_name

Check = Callable[[str, Any], None]


def one_of(*choices: str) -> Check:
    """One of these names."""

    def check(name: str, value: Any) -> None:
        if value not in choices:
            raise unknown_name(name, value, choices)

    return check


def at_least(low: float) -> Check:
    """A number from `low`."""

    def check(name: str, value: Any) -> None:
        if not value >= low:
            raise expected(name, f"at least {low}", value)

    return check


def seed(name: str, value: Any) -> None:
    """What NumPy takes as a seed."""
    if not 0 <= value < 2**32:
        raise expected(name, "a whole number from 0 to 4294967295", value)


def positive(name: str, value: Any) -> None:
    """A finite number above 0."""
    if not 0 < value < float("inf"):
        raise expected(name, "a number above 0", value)


def share(name: str, value: Any) -> None:
    """A number from 0 up to, not including, 1."""
    if not 0 <= value < 1:
        raise expected(name, "a number from 0 up to, not including, 1", value)


def class_weights(name: str, value: Any) -> None:
    """`none`, `balanced` or a ratio of two numbers above 0."""
    if value in ("none", "balanced"):
        return
    match = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", value)
    if match is None or not all(float(part) > 0 for part in match.groups()):
        raise expected(name, "'none', 'balanced' or a ratio such as '1:1.3'", f"'{value}'")


def widths(name: str, value: Any) -> None:
    """`none`, or whole numbers with dashes between."""
    if not re.fullmatch(r"none|[1-9]\d*(-[1-9]\d*)*", str(value)):
        raise expected(name, "a width, several such as 256-64, or none", f"'{value}'")


def blocks(name: str, value: Any) -> None:
    """Blocks of convolutions as `models/scratch.py` reads them."""
    block = r"[1-9]\d*(/[1-9])?(-[1-9]\d*(/[1-9])?)*"
    if not re.fullmatch(rf"{block}(,{block})*", str(value)):
        raise expected(
            name, "filters of convolutions such as 32/2-32,64-64 (/2 a stride, a pool at a comma)", f"'{value}'"
        )


def anything(name: str, value: Any) -> None:
    """For booleans, and for values that another room checks (weights, threshold policies)."""


def at_least_zero(name: str, value: Any) -> None:
    """A finite number from 0."""
    if not 0 <= value < float("inf"):
        raise expected(name, "a number from 0", value)
