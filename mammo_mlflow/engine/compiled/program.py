"""The compiled programs of a stage: an epoch of training, and predictions, of one network or of many heads at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import keras

from mammo_mlflow.engine.averaging import batch_norms
from mammo_mlflow.engine.compiled.feed import Pick, Selection
from mammo_mlflow.engine.compiled.optimizer import OptimizerState, start_optimizers, take_step
from mammo_mlflow.engine.compiled.weights import HEADS, Variables, stack_weights
from mammo_mlflow.engine.contract import StageFit
from mammo_mlflow.engine.losses import make_loss
from mammo_mlflow.models.tensors import Tensor

LIMIT = 16
"""How many programs stay for a later job: those of a generation of trials of several shapes."""


class State(NamedTuple):
    """Everything that a step of training changes: the weights of a network, and what the optimizer knows."""

    weights: Variables
    optimizer: OptimizerState


class Steps(NamedTuple):
    """The steps of an epoch, on the first axis of each array: what picks the inputs, labels, weights of the loss.

    Labels, which may be smoothed, and `importance` are float32 (steps, m); `rate` is the learning rate, `gamma` the
    focal loss's, float32 (steps,); `taken` says whether there is such a step, bool (steps,).
    """

    drawn: Selection
    labels: Tensor
    importance: Tensor
    rate: Tensor
    gamma: Tensor
    taken: Tensor


class Sums(NamedTuple):
    """Sums over the steps of an epoch: of the loss, and of the share of right answers."""

    loss: Tensor
    accuracy: Tensor


class Program:
    """The programs of a stage, compiled at their first use; they trace `network`, which has room for the fits'.

    With `many`, every array of states, steps and rows has a first axis of fits (in steps it is the second), which
    the card computes at once. `loss` is the name of the one that is minimised.
    """

    def __init__(self, network: keras.Model, pick: Pick, many: bool, loss: str) -> None:
        self.network, self._pick, self._many, self._loss = network, pick, many, loss
        self.epoch = jax.jit(self._epoch, donate_argnums=0)
        self.predict = jax.jit(self._predict)
        self._measure = jax.jit(self._measure_batch_norm)

    def start(self, fits: Sequence[StageFit]) -> State:
        """The state of fits before their first step: their networks' weights and their optimizers'."""
        weights = stack_weights(self.network, [fit.network for fit in fits])
        state = State(weights, start_optimizers(fits, weights.trained))
        return jax.device_put(state if self._many else jax.tree.map(lambda array: array[0], state))

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
            after, found = jax.vmap(self._step, in_axes=(0, None, 0, 0), axis_name=HEADS)(state, data, source, now)
            keep = partial(_select, now.taken)
            return jax.tree.map(keep, after, state), jax.tree.map(keep, _add(sums, found), sums)

        nothing = jnp.zeros(source.shape, jnp.float32)
        return jax.lax.fori_loop(0, count, body, (state, Sums(nothing, nothing)))

    def _step(self, state: State, data: Mapping[str, Tensor], source: Tensor, now: Steps) -> tuple[State, Sums]:
        """Take one step of training, as Keras's trainer does."""
        inputs = self._pick(data, source, now.drawn)

        def total_loss(trained: list[Tensor]) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
            answers, others, penalties = self.network.stateless_call(
                trained, state.weights.others, inputs, training=True, return_losses=True
            )
            loss = make_loss(self._loss, now.gamma)(now.labels[:, None], answers, sample_weight=now.importance)
            return loss + sum(penalties), (answers, others)

        (loss, (answers, others)), gradients = jax.value_and_grad(total_loss, has_aux=True)(state.weights.trained)
        trained, optimizer = take_step(state.optimizer, now.rate, gradients, state.weights.trained)
        right = jnp.mean((answers[:, 0] > 0.5) == (now.labels > 0.5))
        return State(Variables(trained, others), optimizer), Sums(loss, right)

    def measured(
        self, weights: Variables, data: Mapping[str, Tensor], source: Tensor, steps: Steps, count: Tensor
    ) -> Variables:
        """The weights with the statistics that their batch normalisation has on the steps; see `StageFit.averages`."""
        return self._measure(weights, data, source, steps, count) if batch_norms(self.network) else weights

    def _measure_batch_norm(
        self, weights: Variables, data: Mapping[str, Tensor], source: Tensor, steps: Steps, count: Tensor
    ) -> Variables:
        """See `measured`; tracing, it makes the layers leave the statistics of a batch, without those before."""
        layers = batch_norms(self.network)
        momenta = [layer.momentum for layer in layers]
        measured = {id(one) for layer in layers for one in (layer.moving_mean, layer.moving_variance)}
        places = [at for at, one in enumerate(self.network.non_trainable_variables) if id(one) in measured]

        def passed(trained: list[Tensor], others: list[Tensor], source: Tensor, now: Steps) -> list[Tensor]:
            inputs = self._pick(data, source, now.drawn)
            return self.network.stateless_call(trained, others, inputs, training=True)[1]

        def body(number: Tensor, carried: tuple[list[Tensor], list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
            others, sums = carried
            now = jax.tree.map(lambda array: array[number], steps)
            run = jax.vmap(passed, axis_name=HEADS) if self._many else passed
            others = run(weights.trained, others, source, now)
            found = [total + others[place] for total, place in zip(sums, places, strict=True)]
            return others, jax.tree.map(partial(_select, now.taken), found, sums)

        nothing = [jnp.zeros_like(weights.others[place]) for place in places]
        for layer in layers:
            layer.momentum = 0.0
        _, sums = jax.lax.fori_loop(0, count, body, (weights.others, nothing))
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        others, number = list(weights.others), jnp.sum(steps.taken, axis=0)
        for place, total in zip(places, sums, strict=True):
            others[place] = total / _over(number, total)
        return Variables(weights.trained, others)

    def _predict(
        self, weights: Variables, data: Mapping[str, Tensor], source: Tensor, drawn: Selection, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict the first `count` batches of rows: probabilities (batches, [fits,] m), penalties ([fits])."""

        def one(weights: Variables, source: Tensor, now: Selection) -> tuple[Tensor, Tensor]:
            inputs = self._pick(data, source, now)
            answers, _, penalties = self.network.stateless_call(*weights, inputs, training=False, return_losses=True)
            return answers[:, 0].astype(jnp.float32), jnp.asarray(sum(penalties), jnp.float32)

        def body(number: Tensor, carried: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            now = jax.tree.map(lambda array: array[number], drawn)
            answers, penalties = (jax.vmap(one) if self._many else one)(weights, source, now)
            return carried[0].at[number].set(answers), penalties

        nothing = jnp.zeros(drawn.rows.shape, jnp.float32), jnp.zeros(source.shape, jnp.float32)
        return jax.lax.fori_loop(0, count, body, nothing)


class Programs:
    """The programs that were used last, at most `limit`, which hold their networks' weights on the card."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, Program] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Program]) -> Program:
        """The program of a key, made where there is none."""
        found = self._kept.pop(key, None) or make()
        self._kept[key] = found
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return found

    def clear(self) -> None:
        """Let go of all programs."""
        self._kept.clear()


PROGRAMS = Programs(LIMIT)
"""The programs of this process, which all of its jobs share."""


@partial(jax.jit, donate_argnums=1)
def keep_share(share: Tensor, kept: Variables, now: Variables) -> Variables:
    """The weights that are kept, moved by a share, float32 ([fits]), of the way to those of `now`; 1 takes these.

    Of the other variables those of `now` are taken where the share is not 0.
    """

    def move(old: Tensor, new: Tensor) -> Tensor:
        return _select(share == 1, new, old + (new - old) * _over(share, new))

    trained = [_select(share > 0, move(*pair), pair[0]) for pair in zip(kept.trained, now.trained, strict=True)]
    return Variables(trained, jax.tree.map(partial(_select, share > 0), now.others, kept.others))


def _add(sums: Sums, found: Sums) -> Sums:
    return jax.tree.map(jnp.add, sums, found)


def _select(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """The values of `one` for the chosen fits, bool ([fits]), of `other` for the rest."""
    return jnp.where(_over(chosen, one), one, other)


def _over(number: Tensor, array: Tensor) -> Tensor:
    """A number for each fit, ([fits]), with the axes of an array of fits, so that it stands beside each value."""
    return number.reshape(number.shape + (1,) * (array.ndim - number.ndim))
