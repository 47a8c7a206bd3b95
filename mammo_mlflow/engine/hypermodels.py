"""Architectures as KerasTuner hypermodels, drawn by somebody else: in a child, by the trial its coordinator holds.

`DrawnHyperParameters` is a KerasTuner `HyperParameters` whose values come from a callback, so that any `HyperModel`
(with its scopes and conditions) can be searched by Optuna.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.hyperparameters import Boolean, Choice, Fixed, Float, HyperParameter, Int

from mammo_mlflow.checks import Value
from mammo_mlflow.errors import UserError, expected, unknown_name
from mammo_mlflow.experiment import ModelSpec
from mammo_mlflow.jobs.contracts import DrawJob, Emit, Reply, Suggestion
from mammo_mlflow.models import drawn
from mammo_mlflow.models.encoders import build_encoder
from mammo_mlflow.models.network import build_head, build_whole
from mammo_mlflow.models.siamese import joined_shape

Suggest = Callable[[str, Mapping[str, object]], Reply]


class DrawnHyperParameters(keras_tuner.HyperParameters):
    """Hyperparameters whose values `suggest(name, distribution)` gives, each asked for once.

    Scopes, conditions, fixed and inactive ones (None, and never suggested) are KerasTuner's own. Asking for one raises
    `UserError` where its distribution has no counterpart (`distribution_of`).
    """

    def __init__(self, suggest: Suggest) -> None:
        super().__init__()
        self._suggest = suggest

    def _retrieve(self, hp: HyperParameter) -> Reply:
        if hp.name not in self.values and self.is_active(hp) and not isinstance(hp, Fixed):
            self.values[hp.name] = self._suggest(hp.name, distribution_of(hp))
        return super()._retrieve(hp)


def distribution_of(hp: HyperParameter) -> dict[str, object]:
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


class DrawnModel(keras_tuner.HyperModel):
    """An architecture as `values` of `ModelSpec`; what is not drawn is taken from the job's network."""

    def __init__(self, job: DrawJob) -> None:
        super().__init__(name=job.architecture)
        self._job = job

    def values(self, hp: keras_tuner.HyperParameters) -> dict[str, Value]:
        """The values drawn, by the names of `ModelSpec`."""
        raise NotImplementedError

    def spec(self, hp: keras_tuner.HyperParameters) -> ModelSpec:
        """The model's description with the values drawn."""
        values: dict[str, Any] = {**self.values(hp)}
        return replace(self._job.network.model, **values)


class HeadHyperModel(DrawnModel):
    """Heads of one to three dense layers, with or without dropout and batch normalisation."""

    def values(self, hp: keras_tuner.HyperParameters) -> dict[str, Value]:
        """The values drawn, by the names of `ModelSpec`."""
        return _dense(hp, drawn.HEAD_WIDTHS) | {"batch_norm": hp.Boolean("batch_norm")}

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The head, not compiled: features in, probability (n, 1) out."""
        return build_head(self._job.head, self.spec(hp))


class ScratchHyperModel(DrawnModel):
    """Networks trained from scratch: blocks of convolutions, dense layers, dropout, normalisation and penalties.

    Each block has its own filters and number of convolutions; the patches decide how many blocks there may be.
    """

    def values(self, hp: keras_tuner.HyperParameters) -> dict[str, Value]:
        """The values drawn, by the names of `ModelSpec`."""
        values = {
            "blocks": self._blocks(hp),
            "convolution_batch_norm": hp.Boolean("convolution_batch_norm", default=True),
            "pool_dropout": _tenths(hp, "pool_dropout", drawn.POOL_DROPOUTS),
            **_dense(hp, drawn.SCRATCH_WIDTHS),
            "dense_batch_norm": hp.Boolean("dense_batch_norm", default=True),
        }
        hp.Boolean("regularised")
        with hp.conditional_scope("regularised", [True]):
            penalties = {
                name: hp.Float(name, *ends, sampling="log") for name, ends in (("l1", drawn.L1), ("l2", drawn.L2))
            }
        return values | {name: penalty or 0.0 for name, penalty in penalties.items()}

    def _blocks(self, hp: keras_tuner.HyperParameters) -> str:
        network = self._job.network
        fewest, most = drawn.block_counts(network.image_size, drawn.STRIDE)
        most = max(most, hp.Int("block_count", fewest, most))  # a known setting may have more than is ever drawn
        blocks = []
        for number in range(1, most + 1):
            with hp.conditional_scope("block_count", list(range(number, most + 1))):
                width = hp.Choice(f"filters_{number}", list(drawn.filters(number)))
                length = hp.Int(f"convolutions_{number}", 1, drawn.CONVOLUTIONS)
            if width is not None:
                blocks.append([str(width)] * length)
        blocks[0][0] += f"/{drawn.STRIDE}"
        return ",".join("-".join(block) for block in blocks)

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The whole network, not compiled: raw patches of each side in, probability (n, 1) out."""
        network, spec = self._job.network, self.spec(hp)
        encoder = build_encoder(network.family, spec, network.image_size, network.precision)
        head = build_head(joined_shape(encoder.output_shape[1:], len(network.sides), spec.difference), spec)
        return build_whole(encoder, head, network.sides, spec.difference)


def _dense(hp: keras_tuner.HyperParameters, widths: Sequence[int]) -> dict[str, Value]:
    """The hidden layers of a head, each one's width asked for only where it is there, and their dropout."""
    hp.Int("dense_layers", 1, drawn.LAYERS)
    found = []
    for number in range(1, drawn.LAYERS + 1):
        with hp.conditional_scope("dense_layers", list(range(number, drawn.LAYERS + 1))):
            found.append(hp.Choice(f"dense_{number}", list(widths), default=256))
    dense = "-".join(str(width) for width in found if width is not None)
    return {"dense": dense, "dropout": _tenths(hp, "dropout", drawn.DROPOUTS)}


def _tenths(hp: keras_tuner.HyperParameters, name: str, rates: Sequence[float]) -> float:
    return round(hp.Float(name, rates[0], rates[-1], step=0.1), 1)  # 3 * 0.1 is not 0.3, and would be another key


HYPERMODELS: dict[str, type[DrawnModel]] = {"head": HeadHyperModel, "scratch": ScratchHyperModel}


def draw(job: DrawJob, emit: Emit) -> dict[str, Value]:
    """Draw an architecture: the values of `ModelSpec`, such as {"dense": "256-64", "dropout": 0.2, …}.

    `emit` answers each `Suggestion` with a value. The model is built, so that what
    cannot be is known before it is trained. Raises `UserError` for that, and for an unknown architecture.
    """
    if job.architecture not in HYPERMODELS:
        raise unknown_name("architecture", job.architecture, HYPERMODELS)
    hypermodel = HYPERMODELS[job.architecture](job)
    hp = DrawnHyperParameters(lambda name, distribution: emit(Suggestion(name, distribution)))
    values = hypermodel.values(hp)  # before the build: an error of the answers is not one of the architecture
    try:
        hypermodel.build(hp)
    except UserError:
        raise
    except Exception as problem:
        reason = f"{type(problem).__name__}: {problem}"
        raise expected(f"architecture {job.architecture}", "a model that can be built", reason) from problem
    return values
