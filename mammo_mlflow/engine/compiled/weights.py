"""The weights of networks as arrays: of one on the card, of many stacked on the host, and written back.

Heads of one program are stacked in the shapes of the network that it traces: that has dropout layers where a head has
none, and wider hidden layers. A unit that is filled up has weights of 0, and keeps them under every optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np

from mammo_mlflow.models.tensors import Tensor

HEADS = "heads"
"""The name of the axis of heads within a program of many."""


class Variables(NamedTuple):
    """The variables of a network: trained ones, and others, such as moving statistics and the state of dropout."""

    trained: list[Tensor]
    others: list[Tensor]


class VectorDropout(keras.layers.Layer):
    """Dropout whose rate is a variable, so that heads of one program can differ in it; draws as Keras's `Dropout`."""

    def __init__(self, rate: float, name: str) -> None:
        super().__init__(name=name)
        self.kept = self.add_weight(shape=(), trainable=False, name="kept")
        self.kept.assign(1.0 - rate)
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """The inputs, of which in training the share `kept` is kept, each divided by it."""
        if not training:
            return inputs
        key, kept = self.seed_generator.next(), self.kept.value

        def drop(inputs: Tensor) -> Tensor:
            return jnp.where(jax.random.bernoulli(key, kept, inputs.shape), inputs / kept, 0.0)

        if jax.default_backend() != "cpu":  # where a branch costs more than what it spares
            return drop(inputs)
        return jax.lax.cond(jax.lax.pmin(kept, HEADS) < 1, drop, lambda inputs: inputs, inputs)


def read_weights(network: keras.Model) -> Variables:
    """The weights of a network as arrays of the card."""
    return Variables(*([jnp.array(one.value) for one in group] for group in _variables(network)))


def stack_weights(traced: keras.Model, networks: Sequence[keras.Model]) -> Variables:
    """The weights of networks as arrays of the host, (networks, …), in the shapes of the one that is `traced`.

    NumPy stacks them, since JAX compiles a program anew for each number of arrays.
    """
    members = [_members(traced, network) for network in networks]
    values = jax.device_get([[[_value(one) for one in group] for group in each] for each in members])
    return Variables(
        *(
            [_stack(variable, each) for variable, each in zip(group, zip(*own, strict=True), strict=True)]
            for group, own in zip(_variables(traced), zip(*values, strict=True), strict=True)
        )
    )


def write_weights(traced: keras.Model, network: keras.Model, weights: Variables) -> None:
    """Give a network its weights of those of the network that is `traced`, arrays of the host."""
    for group, values in zip(_members(traced, network), weights, strict=True):
        for one, value in zip(group, values, strict=True):
            if isinstance(one, keras.Variable):
                one.assign(np.array(value[_part(one.shape)]))  # a copy, lest it share memory with the others


def _members(traced: keras.Model, network: keras.Model) -> tuple[list[keras.Variable], list[keras.Variable | float]]:
    """What each variable of the traced network is in another: a variable, or the share that a dropout layer keeps.

    A dropout layer that the other has not keeps all, whatever its state.
    """
    own = {layer.name: layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.Dropout)}
    given: dict[int, keras.Variable | float] = {}
    for layer in traced._flatten_layers():
        if isinstance(layer, VectorDropout):
            state, found = layer.seed_generator.state, own.get(layer.name)
            given[id(layer.kept)] = 1.0 - found.rate if found else 1.0
            given[id(state)] = found.seed_generator.state if found else 0.0
    states = {id(one) for one in given.values()}
    trained, others = _variables(network)
    rest = iter([one for one in others if id(one) not in states])
    return trained, [given[id(one)] if id(one) in given else next(rest) for one in _variables(traced)[1]]


def _variables(network: keras.Model) -> tuple[list[keras.Variable], list[keras.Variable]]:
    return network.trainable_variables, network.non_trainable_variables


def _value(one: keras.Variable | float) -> Tensor:
    return one.value if isinstance(one, keras.Variable) else np.asarray(one)


def _part(shape: Iterable[int]) -> tuple[slice, ...]:
    return tuple(slice(length) for length in shape)


def _stack(variable: keras.Variable, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The arrays as one with a first axis, each filled up by zeros to a variable's shape, in its dtype."""
    stacked = np.zeros((len(arrays), *variable.shape), variable.dtype)
    for number, array in enumerate(arrays):
        place: tuple[int | slice, ...] = (number, *_part(array.shape))
        stacked[place] = array
    return stacked
