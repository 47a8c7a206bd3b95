"""Finding a job's function, in the process that runs it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def resolve(target: str) -> Callable[[Any, Callable[[dict[str, Any]], None]], Any]:
    """The function that `module:function` names."""
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)
