"""A type for the tensors of any Keras backend, whose own types cannot be imported without the backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

Tensor = Any
"""A tensor of any backend, symbolic or not."""

Input = TypeVar("Input")


def as_model_input(inputs: Mapping[str, Input]) -> Input | dict[str, Input]:
    """Inputs by name as a Keras model takes them: a dictionary, or the only one as it is."""
    return dict(inputs) if len(inputs) > 1 else next(iter(inputs.values()))
