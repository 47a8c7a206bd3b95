"""The coordinator's side of architecture search: Optuna distributions for a child's KerasTuner hyperparameters.

A child process draws an architecture (`engine/hypermodels.py`). It asks the coordinator for each hyperparameter, as a
dictionary that JSON can hold, and is answered from the Optuna trial, so that architecture and training are parameters
of one study.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mammo_mlflow.checks import Value
from mammo_mlflow.errors import unknown_name
from mammo_mlflow.models.architecture_ranges import CONVOLUTIONS, L1, L2, LAYERS, filters
from mammo_mlflow.search.parameters import ARCHITECTURES

DISTRIBUTIONS: dict[str, Callable[..., BaseDistribution]] = {
    "categorical": CategoricalDistribution,
    "int": IntDistribution,
    "float": FloatDistribution,
}


def distribution_from(facts: Mapping[str, object]) -> BaseDistribution:
    """Make the Optuna distribution for a KerasTuner hyperparameter that a worker process asks for.

    `facts` is {"kind": "categorical", "choices": […]} or {"kind": "int" or "float", "low", "high", "step", "log"}.
    Raises `UserError` for another kind.
    """
    rest = dict(facts)
    kind = str(rest.pop("kind"))
    if kind not in DISTRIBUTIONS:
        raise unknown_name("distribution", kind, DISTRIBUTIONS)
    return DISTRIBUTIONS[kind](**rest)


def start_draws(architecture: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """Convert `values` of `ModelSpec` to an architecture's hyperparameters that give them, for a first trial.

    Values that the architecture cannot draw are left out. Raises `UserError` for an unknown architecture.
    """
    if architecture not in ARCHITECTURES:
        raise unknown_name("architecture", architecture, ARCHITECTURES)
    offered = ARCHITECTURES[architecture]
    draws = {name: values[name] for name, choices in offered.items() if values.get(name) in choices}
    draws |= _start_dense(str(values.get("dense", "")), offered.get("dense", ()))
    if "blocks" in offered:
        draws |= _start_blocks(str(values.get("blocks", "")))
    if "l1" in offered:
        l1, l2 = (float(values.get(name, math.nan)) for name in ("l1", "l2"))
        if l1 == l2 == 0:
            draws["regularised"] = False
        elif L1[0] <= l1 <= L1[1] and L2[0] <= l2 <= L2[1]:
            draws |= {"regularised": True, "l1": l1, "l2": l2}
    return draws


def _start_dense(dense: str, known: Sequence[Value]) -> dict[str, Value]:
    """The hyperparameters of dense layers such as `256-64`; none where a width is not in `known`."""
    widths = [int(width) for width in dense.split("-") if width.isdecimal()]
    if not 1 <= len(widths) <= LAYERS or not set(widths) <= set(known):
        return {}
    return {"dense_layers": len(widths), **{f"dense_{number}": width for number, width in enumerate(widths, 1)}}


def _start_blocks(blocks: str) -> dict[str, Value]:
    """The hyperparameters of convolutional blocks such as `32-32,64-64`; none for blocks that cannot be drawn.

    A block that can be drawn has equal filters throughout. A stride of the first convolution is left out.
    """
    draws: dict[str, Value] = {}
    without_stride = re.sub(r"^(\d+)/\d+", r"\1", blocks)
    for number, block in enumerate(without_stride.split(","), 1):
        found = block.split("-")
        if len(set(found)) > 1 or len(found) > CONVOLUTIONS or found[0] not in map(str, filters(number)):
            return {}
        draws |= {"block_count": number, f"filters_{number}": int(found[0]), f"convolutions_{number}": len(found)}
    return draws
