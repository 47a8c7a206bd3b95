"""Adam, RMSprop and SGD as one optimizer, whose kind and rates are variables: fits of one program can differ in them.

Formulas and constants are those of Keras's `Adam`, `RMSprop` and `SGD` with Nesterov momentum; `AdamW` is Adam with a
decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mammo_mlflow.engine.contract import StageFit
from mammo_mlflow.experiment import TrainingSpec
from mammo_mlflow.models.tensors import Tensor

ADAM, RMSPROP, SGD = range(3)
KINDS = {"adam": ADAM, "rmsprop": RMSPROP, "sgd": SGD, "adamw": ADAM}
"""The number that stands for each kind."""
BETA_1, BETA_2, RHO, EPSILON = 0.9, 0.999, 0.9, 1e-7


class OptimizerState(NamedTuple):
    """What an optimizer knows of a fit: its kind, int32, momentum, float32, the steps taken, int32, and two moments.

    The moments are arrays of the weights' shapes: Adam's, or in the first SGD's and in the second RMSprop's only one.
    `decay`, float32, is the weight decay; None where no fit has one, so that these are computed, and rounded, without.
    """

    kind: Tensor
    momentum: Tensor
    decay: Tensor | None
    steps: Tensor
    first: list[Tensor]
    second: list[Tensor]


def start_optimizers(fits: Sequence[StageFit], weights: Sequence[np.ndarray]) -> OptimizerState:
    """The state of fits before their first step, on the host, for their trained weights, (fits, …)."""
    specs = [fit.spec for fit in fits]
    decays = np.array([spec.weight_decay * decays_weights(spec) for spec in specs], np.float32)
    return OptimizerState(
        kind=np.array([KINDS[spec.optimizer] for spec in specs], np.int32),
        momentum=np.array([spec.momentum for spec in specs], np.float32),
        decay=decays if any(map(decays_weights, specs)) else None,
        steps=np.zeros(len(fits), np.int32),
        first=[np.zeros(one.shape, one.dtype) for one in weights],
        second=[np.zeros(one.shape, one.dtype) for one in weights],
    )


def decays_weights(spec: TrainingSpec) -> bool:
    """Whether an optimizer has a weight decay."""
    return spec.optimizer == "adamw"


def take_step(
    state: OptimizerState, rate: Tensor, gradients: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[list[Tensor], OptimizerState]:
    """Move the weights of one fit by their gradients, at a learning rate; return them with the state after the step."""
    steps = state.steps + 1
    number = steps.astype(jnp.float32)
    powers = jnp.power(jnp.float32(BETA_1), number), jnp.power(jnp.float32(BETA_2), number)
    alpha = rate * jnp.sqrt(1 - powers[1]) / (1 - powers[0])

    def chosen(adam: Tensor, rmsprop: Tensor, sgd: Tensor) -> Tensor:
        return jnp.where(state.kind == ADAM, adam, jnp.where(state.kind == RMSPROP, rmsprop, sgd))

    def move(weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        square, step = jnp.square(gradient), gradient * rate
        first = chosen(first + (gradient - first) * (1 - BETA_1), first, first * state.momentum - step)
        second = chosen(second + (square - second) * (1 - BETA_2), RHO * second + (1 - RHO) * square, second)
        change = chosen(
            -(first * alpha / (jnp.sqrt(second) + EPSILON)),
            -(step / jnp.sqrt(second + EPSILON)),
            first * state.momentum - step,
        )
        return weight + change, first, second

    moved = [move(*one) for one in zip(weights, gradients, state.first, state.second, strict=True)]
    new, first, second = ([one[place] for one in moved] for place in range(3))
    if state.decay is not None:
        new = [one - old * (state.decay * rate) for one, old in zip(new, weights, strict=True)]
    return new, state._replace(steps=steps, first=first, second=second)
