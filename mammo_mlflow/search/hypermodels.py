"""Architectures as KerasTuner hypermodels, drawn by somebody else: in a child, by the trial its coordinator holds.

`DrawnHyperParameters` is a KerasTuner `HyperParameters` whose values come from a callback, so that any `HyperModel`
(with its scopes and conditions) can be searched by Optuna.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.hyperparameters import Boolean, Choice, Fixed, Float, HyperParameter, Int

from mammo_mlflow.errors import UserError, expected, unknown_name
from mammo_mlflow.experiment import ModelSpec
from mammo_mlflow.models.network import build_head
from mammo_mlflow.search.architectures import HEAD_DROPOUTS, HEAD_LAYERS, HEAD_WIDTHS, DrawJob
from mammo_mlflow.training.jobs import Emit

Suggest = Callable[[str, dict[str, Any]], Any]


class DrawnHyperParameters(keras_tuner.HyperParameters):
    """Hyperparameters whose values `suggest(name, distribution)` gives, each asked for once.

    Scopes, conditions, fixed and inactive ones (None, and never suggested) are KerasTuner's own. Asking for one raises
    `UserError` where its distribution has no counterpart (`distribution_of`).
    """

    def __init__(self, suggest: Suggest) -> None:
        super().__init__()
        self._suggest = suggest

    def _retrieve(self, hp: HyperParameter) -> Any:
        if hp.name not in self.values and self.is_active(hp) and not isinstance(hp, Fixed):
            self.values[hp.name] = self._suggest(hp.name, distribution_of(hp))
        return super()._retrieve(hp)


def distribution_of(hp: HyperParameter) -> dict[str, Any]:
    """The distribution of a KerasTuner hyperparameter, in the form of `architectures.distribution`.

    Logarithmic steps multiply in KerasTuner, which Optuna has not: such a range becomes a choice of its values. Raises
    `UserError` for a reversed logarithm without steps.
    """
    if isinstance(hp, Boolean):
        return {"kind": "categorical", "choices": [False, True]}
    if isinstance(hp, Choice):
        return {"kind": "categorical", "choices": list(hp.values)}
    if not isinstance(hp, (Int, Float)):
        raise expected(hp.name, "an Int, Float, Choice, Boolean or Fixed", type(hp).__name__)
    kind, number = ("int", int) if isinstance(hp, Int) else ("float", float)
    if hp.sampling != "linear" and hp.step is not None:
        return {"kind": "categorical", "choices": [number(value) for value in hp.values]}
    if hp.sampling == "reverse_log":
        raise expected(hp.name, "sampling 'linear' or 'log', or a step", "'reverse_log' without a step")
    # an Int without a step still steps by one
    step = 1 if kind == "int" and hp.step is None else hp.step
    return {"kind": kind, "low": hp.min_value, "high": hp.max_value, "step": step, "log": hp.sampling == "log"}


class HeadHyperModel(keras_tuner.HyperModel):
    """Heads of one to three dense layers, with or without dropout and batch normalisation.

    The head stands on features of `feature_shape` (without the batch); what is not drawn is taken from `spec`.
    """

    def __init__(self, feature_shape: tuple[int, ...], spec: ModelSpec) -> None:
        super().__init__(name="head")
        self._feature_shape, self._spec = feature_shape, spec

    def values(self, hp: keras_tuner.HyperParameters) -> dict[str, Any]:
        """The values drawn, by the names of `ModelSpec`."""
        hp.Int("dense_layers", 1, HEAD_LAYERS)
        widths = []
        for number in range(1, HEAD_LAYERS + 1):
            with hp.conditional_scope("dense_layers", list(range(number, HEAD_LAYERS + 1))):
                widths.append(hp.Choice(f"dense_{number}", list(HEAD_WIDTHS), default=256))
        dropout = hp.Float("dropout", HEAD_DROPOUTS[0], HEAD_DROPOUTS[-1], step=HEAD_DROPOUTS[1])
        return {
            "dense": "-".join(str(width) for width in widths if width is not None),
            "dropout": round(dropout, 1),  # 3 * 0.1 is not 0.3, and would be another key
            "batch_norm": hp.Boolean("batch_norm"),
        }

    def spec(self, hp: keras_tuner.HyperParameters) -> ModelSpec:
        """The model's description with the values drawn."""
        return replace(self._spec, **self.values(hp))

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The head, not compiled: features in, probability (n, 1) out."""
        return build_head(self._feature_shape, self.spec(hp))


HYPERMODELS = {"head": HeadHyperModel}


def draw(job: DrawJob, emit: Emit) -> dict[str, Any]:
    """Draw an architecture: the values of `ModelSpec`, such as {"dense": "256-64", "dropout": 0.2, …}.

    `emit` answers {"kind": "suggest", "name", "distribution"} events with a value. The model is built, so that what
    cannot be is known before it is trained. Raises `UserError` for that, and for an unknown architecture.
    """
    if job.architecture not in HYPERMODELS:
        raise unknown_name("architecture", job.architecture, HYPERMODELS)
    hypermodel = HYPERMODELS[job.architecture](job.feature_shape, job.model)
    hp = DrawnHyperParameters(
        lambda name, distribution: emit({"kind": "suggest", "name": name, "distribution": distribution})
    )
    values = hypermodel.values(hp)  # before the build: an error of the answers is not one of the architecture
    try:
        hypermodel.build(hp)
    except UserError:
        raise
    except Exception as problem:
        reason = f"{type(problem).__name__}: {problem}"
        raise expected(f"architecture {job.architecture}", "a model that can be built", reason) from problem
    return values
