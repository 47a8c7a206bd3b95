"""What Keras's backends compute with, by a name of its own: their types are not importable without importing them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

Tensor = Any
"""A tensor of any backend, symbolic or not."""

Input = TypeVar("Input")


def fed(inputs: Mapping[str, Input]) -> Input | dict[str, Input]:
    """What a model takes: its inputs by name, a lone one as it is."""
    return dict(inputs) if len(inputs) > 1 else next(iter(inputs.values()))
