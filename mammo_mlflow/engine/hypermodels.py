"""Draw architectures from KerasTuner hypermodels, in a worker process, with values suggested by an Optuna trial.

`DrawnHyperParameters` is a KerasTuner `HyperParameters` whose values come from a callback, so that Optuna can search
any `HyperModel`, with its scopes and conditions. The trial is in the coordinator; the callback sends it `Suggestion`s.
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
from mammo_mlflow.models import architecture_ranges as ranges
from mammo_mlflow.models.encoders import build_encoder
from mammo_mlflow.models.network import build_head, build_whole
from mammo_mlflow.models.siamese import joined_shape

Suggest = Callable[[str, Mapping[str, object]], Reply]
"""Gives a value for a hyperparameter, by its name and distribution."""


class DrawnHyperParameters(keras_tuner.HyperParameters):
    """KerasTuner hyperparameters whose values are given by `suggest(name, distribution)`, called once for each name.

    Scopes, conditions, fixed and inactive hyperparameters (None, never suggested) work as in KerasTuner. Reading one
    raises `UserError` where Optuna has no such distribution (`distribution_of`).
    """

    def __init__(self, suggest: Suggest) -> None:
        super().__init__()
        self._suggest = suggest

    def _retrieve(self, hp: HyperParameter) -> Reply:
        if hp.name not in self.values and self.is_active(hp) and not isinstance(hp, Fixed):
            self.values[hp.name] = self._suggest(hp.name, distribution_of(hp))
        return super()._retrieve(hp)


def distribution_of(hp: HyperParameter) -> dict[str, object]:
    """Convert a KerasTuner hyperparameter's distribution to the form of `search.architectures.distribution_from`.

    KerasTuner's logarithmic steps multiply, which Optuna cannot do: such a range becomes a choice of its values. Raises
    `UserError` for a reversed logarithm without steps and for an unknown kind of hyperparameter.
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
    """A hypermodel that draws some values of `ModelSpec`; the others are those of the job's network."""

    def __init__(self, job: DrawJob) -> None:
        super().__init__(name=job.architecture)
        self._job = job

    def values(self, hp: keras_tuner.HyperParameters) -> dict[str, Value]:
        """The values that were drawn, by the names of `ModelSpec`'s fields."""
        raise NotImplementedError

    def spec(self, hp: keras_tuner.HyperParameters) -> ModelSpec:
        """The parameters of the model, with the drawn values in place of the job's."""
        values: dict[str, Any] = {**self.values(hp)}
        return replace(self._job.network.model, **values)


class HeadHyperModel(DrawnModel):
    """A hypermodel of heads: one to three dense layers, with or without dropout and batch normalisation."""

    def values(self, hp: keras_tuner.HyperParameters) -> dict[str, Value]:
        """The values that were drawn, by the names of `ModelSpec`'s fields."""
        return _draw_head(hp, ranges.HEAD_WIDTHS) | {"batch_norm": hp.Boolean("batch_norm")}

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Build the head, not compiled: features in, probability (n, 1) out."""
        return build_head(self._job.head, self.spec(hp))


class ScratchHyperModel(DrawnModel):
    """A hypermodel of networks trained from scratch: blocks of convolutions, dense layers, dropout and penalties.

    Each block has its own filters and number of convolutions; the patch size limits the number of blocks.
    """

    def values(self, hp: keras_tuner.HyperParameters) -> dict[str, Value]:
        """The values that were drawn, by the names of `ModelSpec`'s fields."""
        values = {
            "blocks": self._blocks(hp),
            "convolution_batch_norm": hp.Boolean("convolution_batch_norm", default=True),
            "pool_dropout": _draw_rate(hp, "pool_dropout", ranges.POOL_DROPOUTS),
            **_draw_head(hp, ranges.SCRATCH_WIDTHS),
            "dense_batch_norm": hp.Boolean("dense_batch_norm", default=True),
        }
        hp.Boolean("regularised")
        with hp.conditional_scope("regularised", [True]):
            penalties = {
                name: hp.Float(name, *ends, sampling="log") for name, ends in (("l1", ranges.L1), ("l2", ranges.L2))
            }
        return values | {name: penalty or 0.0 for name, penalty in penalties.items()}

    def _blocks(self, hp: keras_tuner.HyperParameters) -> str:
        """Draw the blocks, in the form of `ModelSpec.blocks`."""
        network = self._job.network
        fewest, most = ranges.block_counts(network.image_size, ranges.STRIDE)
        most = max(most, hp.Int("block_count", fewest, most))  # a study may start from a preset with more blocks
        blocks = []
        for number in range(1, most + 1):
            with hp.conditional_scope("block_count", list(range(number, most + 1))):
                width = hp.Choice(f"filters_{number}", list(ranges.filters(number)))
                length = hp.Int(f"convolutions_{number}", 1, ranges.CONVOLUTIONS)
            if width is not None:
                blocks.append([str(width)] * length)
        blocks[0][0] += f"/{ranges.STRIDE}"
        return ",".join("-".join(block) for block in blocks)

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Build the whole network, not compiled: raw patches of each side in, probability (n, 1) out."""
        network, spec = self._job.network, self.spec(hp)
        encoder = build_encoder(network.family, spec, network.image_size, network.precision)
        head = build_head(joined_shape(encoder.output_shape[1:], network.sides, spec.difference), spec)
        return build_whole(encoder, head, network.sides, spec.difference)


def _draw_head(hp: keras_tuner.HyperParameters, widths: Sequence[int]) -> dict[str, Value]:
    """Draw a head's number of hidden layers, the units of each, and its dropout rate."""
    hp.Int("dense_layers", 1, ranges.LAYERS)
    found = []
    for number in range(1, ranges.LAYERS + 1):
        with hp.conditional_scope("dense_layers", list(range(number, ranges.LAYERS + 1))):
            found.append(hp.Choice(f"dense_{number}", list(widths), default=256))
    dense = "-".join(str(width) for width in found if width is not None)
    return {"dense": dense, "dropout": _draw_rate(hp, "dropout", ranges.DROPOUTS)}


def _draw_rate(hp: keras_tuner.HyperParameters, name: str, rates: Sequence[float]) -> float:
    """Draw a dropout rate, in tenths."""
    return round(hp.Float(name, rates[0], rates[-1], step=0.1), 1)  # 3 * 0.1 is not 0.3, and would be another key


HYPERMODELS: dict[str, type[DrawnModel]] = {"head": HeadHyperModel, "scratch": ScratchHyperModel}


def draw_architecture(job: DrawJob, emit: Emit) -> dict[str, Value]:
    """Draw an architecture: values of `ModelSpec`, such as {"dense": "256-64", "dropout": 0.2, …}.

    `emit` returns a value for each `Suggestion`. The model is built once, so that an impossible one is found before it
    is trained. Raises `UserError` for such a one and for an unknown architecture.
    """
    if job.architecture not in HYPERMODELS:
        raise unknown_name("architecture", job.architecture, HYPERMODELS)
    hypermodel = HYPERMODELS[job.architecture](job)
    hp = DrawnHyperParameters(lambda name, distribution: emit(Suggestion(name, distribution)))
    values = hypermodel.values(hp)  # outside the `try`: an error of `suggest` is not the architecture's
    try:
        hypermodel.build(hp)
    except UserError:
        raise
    except Exception as problem:
        reason = f"{type(problem).__name__}: {problem}"
        raise expected(f"architecture {job.architecture}", "a model that can be built", reason) from problem
    return values
