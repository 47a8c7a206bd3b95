"""Architectures that a study searches, as the coordinator sees them: without Keras and KerasTuner.

A child draws an architecture (`engine/hypermodels.py`). Each hyperparameter it asks for comes as a dictionary that
JSON can hold, answered from the trial: architecture and training are then parameters of one and the same study.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from mammo_mlflow.errors import unknown_name
from mammo_mlflow.models.drawn import (
    CONVOLUTIONS,
    DROPOUTS,
    HEAD_WIDTHS,
    L1,
    L2,
    LAYERS,
    POOL_DROPOUTS,
    SCRATCH_WIDTHS,
    filters,
)

DISTRIBUTIONS: dict[str, type[BaseDistribution]] = {
    "categorical": CategoricalDistribution,
    "int": IntDistribution,
    "float": FloatDistribution,
}


def distribution(facts: Mapping[str, Any]) -> BaseDistribution:
    """Optuna's distribution of a hyperparameter.

    `facts` is {"kind": "categorical", "choices": […]} or {"kind": "int" or "float", "low", "high", "step", "log"}.
    Raises `UserError` for another kind.
    """
    kind, rest = _split(facts)
    return DISTRIBUTIONS[kind](**rest)


def suggest(trial: BaseTrial, name: str, facts: Mapping[str, Any]) -> Any:
    """The trial's value for a hyperparameter; `facts` as for `distribution`, and so are the errors."""
    kind, rest = _split(facts)
    return getattr(trial, f"suggest_{kind}")(name, **rest)


def _split(facts: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    rest = dict(facts)
    kind = rest.pop("kind")
    if kind not in DISTRIBUTIONS:
        raise unknown_name("distribution", kind, DISTRIBUTIONS)
    return kind, rest


def start_draws(architecture: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The draws that give a known setting, to start a study from: `values` by the names of `ModelSpec`.

    Values that the architecture cannot draw are left out. Raises `UserError` for an unknown architecture.
    """
    if architecture not in STARTS:
        raise unknown_name("architecture", architecture, STARTS)
    return STARTS[architecture](values)


def _start_head(values: Mapping[str, Any]) -> dict[str, Any]:
    return _start_dense(values, HEAD_WIDTHS) | _as_drawn(values, "batch_norm")


def _start_scratch(values: Mapping[str, Any]) -> dict[str, Any]:
    draws = _start_dense(values, SCRATCH_WIDTHS) | _as_drawn(values, "convolution_batch_norm", "dense_batch_norm")
    if values.get("pool_dropout") in POOL_DROPOUTS:
        draws["pool_dropout"] = values["pool_dropout"]
    if "blocks" in values:
        draws |= _start_blocks(values["blocks"])
    if "l1" in values and "l2" in values:
        l1, l2 = values["l1"], values["l2"]
        if l1 == l2 == 0:
            draws["regularised"] = False
        elif L1[0] <= l1 <= L1[1] and L2[0] <= l2 <= L2[1]:
            draws |= {"regularised": True, "l1": l1, "l2": l2}
    return draws


def _start_dense(values: Mapping[str, Any], known: Sequence[int]) -> dict[str, Any]:
    draws: dict[str, Any] = {}
    widths = [width for width in str(values.get("dense", "")).split("-") if width.isdecimal()]
    if 1 <= len(widths) <= LAYERS and {int(width) for width in widths} <= set(known):
        draws["dense_layers"] = len(widths)
        draws |= {f"dense_{number}": int(width) for number, width in enumerate(widths, 1)}
    if values.get("dropout") in DROPOUTS:
        draws["dropout"] = values["dropout"]
    return draws


def _start_blocks(blocks: str) -> dict[str, Any]:
    """Draws of blocks of equal filters, without strides but the first; none where they are others."""
    draws: dict[str, Any] = {}
    without_stride = re.sub(r"^(\d+)/\d+", r"\1", blocks)
    for number, block in enumerate(without_stride.split(","), 1):
        found = block.split("-")
        if len(set(found)) > 1 or len(found) > CONVOLUTIONS or found[0] not in map(str, filters(number)):
            return {}
        draws |= {"block_count": number, f"filters_{number}": int(found[0]), f"convolutions_{number}": len(found)}
    return draws


def _as_drawn(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


STARTS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"head": _start_head, "scratch": _start_scratch}
