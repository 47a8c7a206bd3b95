"""The compiled programs of a stage: an epoch of training, and predictions, of one network or of many heads at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import keras

from mammo_mlflow.engine.compiled.feed import Selection
from mammo_mlflow.engine.contract import OPTIMIZERS, StageFit
from mammo_mlflow.models.tensors import Tensor

Pick = Callable[[Mapping[str, Tensor], Tensor, Selection], Tensor]


class Variables(NamedTuple):
    """The variables of a network: trained ones, and others, such as moving statistics and the state of dropout."""

    trained: list[Tensor]
    others: list[Tensor]


class State(NamedTuple):
    """Everything that a step of training changes: the weights of a network, and the optimizer's variables."""

    weights: Variables
    optimizer: list[Tensor]


class Steps(NamedTuple):
    """The steps of an epoch, on the first axis of each array: what picks the inputs, labels, weights of the loss.

    Labels and `importance` are float32 (steps, m); `taken` says whether there is such a step, bool (steps,).
    """

    drawn: Selection
    labels: Tensor
    importance: Tensor
    taken: Tensor


class Sums(NamedTuple):
    """Sums over the steps of an epoch: of the loss, and of the share of right answers."""

    loss: Tensor
    accuracy: Tensor


class SGD(keras.optimizers.SGD):
    """SGD with Nesterov momentum whose momentum is a variable, so that fits of one program can differ in it.

    With momentum 0 it is plain SGD. Formula: Keras's own.
    """

    def build(self, variables: list[keras.Variable]) -> None:
        """Make the optimizer's variables."""
        if not self.built:
            super().build(variables)
            self.momentum_rate = self.add_variable((), initializer="zeros", name="momentum_rate")

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        """Update a variable."""
        rate, momentum = (keras.ops.cast(one, variable.dtype) for one in (learning_rate, self.momentum_rate))
        moved = self.momentums[self._get_variable_index(variable)]
        step = keras.ops.cast(gradient, variable.dtype) * rate
        self.assign(moved, moved * momentum - step)
        self.assign_add(variable, moved * momentum - step)


class Program:
    """The programs of a stage, compiled at their first use; `model` is a network of the structure they are for.

    With `many`, every array of states, steps and rows has a first axis of fits (in steps it is the second), which
    the card computes at once.
    """

    def __init__(self, fit: StageFit, pick: Pick, many: bool) -> None:
        self._model, self._pick, self._many = fit.network, pick, many
        spec = fit.spec
        self._optimizer = (
            SGD(momentum=0.5, nesterov=True) if spec.optimizer == "sgd" else OPTIMIZERS[spec.optimizer](1e-3, 0)
        )
        self._optimizer.build(self._model.trainable_variables)
        self._loss = keras.losses.BinaryCrossentropy()
        self.epoch = jax.jit(self._epoch, donate_argnums=0)
        self.predict = jax.jit(self._predict)

    def start(self, fits: Sequence[StageFit]) -> State:
        """The state of fits before their first step: their networks' weights and their own rates."""
        each = [self._start(fit) for fit in fits]
        return jax.tree.map(lambda *arrays: jnp.stack(arrays), *each) if self._many else each[0]

    def _start(self, fit: StageFit) -> State:
        own = {id(self._optimizer._learning_rate): fit.stage.learning_rate}
        if isinstance(self._optimizer, SGD):
            own[id(self._optimizer.momentum_rate)] = fit.spec.momentum
        variables = self._optimizer.variables
        optimizer = [jnp.array(own.get(id(variable), variable.value), variable.dtype) for variable in variables]
        return State(read_weights(fit.network), optimizer)

    def _epoch(
        self, state: State, data: Mapping[str, Tensor], source: Tensor, steps: Steps, count: Tensor
    ) -> tuple[State, Sums]:
        """Take the first `count` steps; those that a fit has not are without effect on it."""

        def body(number: Tensor, carried: tuple[State, Sums]) -> tuple[State, Sums]:
            state, sums = carried
            now = jax.tree.map(lambda array: array[number], steps)
            if not self._many:  # all steps are taken
                after, found = self._step(state, data, source, now)
                return after, _add(sums, found)
            after, found = jax.vmap(self._step, in_axes=(0, None, 0, 0))(state, data, source, now)
            keep = partial(_select, now.taken)
            return jax.tree.map(keep, after, state), jax.tree.map(keep, _add(sums, found), sums)

        nothing = jnp.zeros(source.shape, jnp.float32)
        return jax.lax.fori_loop(0, count, body, (state, Sums(nothing, nothing)))

    def _step(self, state: State, data: Mapping[str, Tensor], source: Tensor, now: Steps) -> tuple[State, Sums]:
        """Take one step of training, as Keras's trainer does."""
        inputs = self._pick(data, source, now.drawn)

        def total_loss(trained: list[Tensor]) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
            answers, others, penalties = self._model.stateless_call(
                trained, state.weights.others, inputs, training=True, return_losses=True
            )
            loss = self._loss(now.labels[:, None], answers, sample_weight=now.importance)
            return loss + sum(penalties), (answers, others)

        (loss, (answers, others)), gradients = jax.value_and_grad(total_loss, has_aux=True)(state.weights.trained)
        trained, optimizer = self._optimizer.stateless_apply(state.optimizer, gradients, state.weights.trained)
        right = jnp.mean((answers[:, 0] > 0.5) == (now.labels > 0.5))
        return State(Variables(trained, others), optimizer), Sums(loss, right)

    def _predict(
        self, weights: Variables, data: Mapping[str, Tensor], source: Tensor, drawn: Selection, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict the first `count` batches of rows: probabilities (batches, [fits,] m), penalties ([fits])."""

        def one(weights: Variables, source: Tensor, now: Selection) -> tuple[Tensor, Tensor]:
            inputs = self._pick(data, source, now)
            answers, _, penalties = self._model.stateless_call(*weights, inputs, training=False, return_losses=True)
            return answers[:, 0].astype(jnp.float32), jnp.asarray(sum(penalties), jnp.float32)

        def body(number: Tensor, carried: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            now = jax.tree.map(lambda array: array[number], drawn)
            answers, penalties = (jax.vmap(one) if self._many else one)(weights, source, now)
            return carried[0].at[number].set(answers), penalties

        nothing = jnp.zeros(drawn.rows.shape, jnp.float32), jnp.zeros(source.shape, jnp.float32)
        return jax.lax.fori_loop(0, count, body, nothing)


@partial(jax.jit, donate_argnums=1)
def keep_better(better: Tensor, best: Variables, now: Variables) -> Variables:
    """The weights of `now` of fits that are better, bool (fits,), and the best ones until now of the others."""
    return jax.tree.map(partial(_select, better), now, best)


def read_weights(network: keras.Model) -> Variables:
    """The weights of a network as arrays of the card."""
    return Variables(*([jnp.array(one.value) for one in group] for group in _variables(network)))


def write_weights(network: keras.Model, weights: Variables) -> None:
    """Give a network these weights."""
    for group, values in zip(_variables(network), weights, strict=True):
        for variable, value in zip(group, values, strict=True):
            variable.assign(value)


def _variables(network: keras.Model) -> tuple[list[keras.Variable], list[keras.Variable]]:
    return network.trainable_variables, network.non_trainable_variables


def _add(sums: Sums, found: Sums) -> Sums:
    return jax.tree.map(jnp.add, sums, found)


def _select(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """The values of `one` for the chosen fits, bool (fits,), of `other` for the rest."""
    return jnp.where(chosen.reshape(-1, *[1] * (one.ndim - 1)), one, other)
