"""Architectures that a study searches, as the coordinator sees them: without Keras and KerasTuner.

A child draws an architecture (`hypermodels.py`). Each hyperparameter it asks for comes as a dictionary that JSON can
hold, answered from the trial: architecture and training are then parameters of one and the same study.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from mammo_mlflow.errors import unknown_name
from mammo_mlflow.experiment import ModelSpec

HEAD_LAYERS = 3
HEAD_WIDTHS = (64, 128, 256, 512)
HEAD_DROPOUTS = tuple(tenths / 10 for tenths in range(6))

DISTRIBUTIONS: dict[str, type[BaseDistribution]] = {
    "categorical": CategoricalDistribution,
    "int": IntDistribution,
    "float": FloatDistribution,
}


@dataclass(frozen=True)
class DrawJob:
    """Ask a child for one draw of an architecture over features of `feature_shape`; `model` holds what is not drawn."""

    architecture: str
    feature_shape: tuple[int, ...]
    model: ModelSpec


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
    draws: dict[str, Any] = {}
    if "dense" in values:
        widths = [int(width) for width in str(values["dense"]).split("-")]
        if len(widths) <= HEAD_LAYERS and set(widths) <= set(HEAD_WIDTHS):
            draws["dense_layers"] = len(widths)
            draws |= {f"dense_{number}": width for number, width in enumerate(widths, 1)}
    if values.get("dropout") in HEAD_DROPOUTS:
        draws["dropout"] = values["dropout"]
    if "batch_norm" in values:
        draws["batch_norm"] = values["batch_norm"]
    return draws


STARTS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"head": _start_head}
