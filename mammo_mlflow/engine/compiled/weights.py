"""The weights of networks as arrays: of one on the card, of many stacked on the host, and written back.

Heads of one program are stacked in the shapes of the network that the program traces, which may have more than they.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np

from mammo_mlflow.models.tensors import Tensor


class Variables(NamedTuple):
    """The variables of a network: trained ones, and others, such as moving statistics and the state of dropout."""

    trained: list[Tensor]
    others: list[Tensor]


def read_weights(network: keras.Model) -> Variables:
    """The weights of a network as arrays of the card."""
    return Variables(*([jnp.array(one.value) for one in group] for group in _variables(network)))


def stack_weights(networks: Sequence[keras.Model]) -> Variables:
    """The weights of networks of one structure as arrays of the host, (networks, …).

    NumPy stacks them, since JAX compiles a program anew for each number of arrays.
    """
    values = jax.device_get([[[one.value for one in group] for group in _variables(each)] for each in networks])
    return Variables(*([np.stack(each) for each in zip(*group, strict=True)] for group in zip(*values, strict=True)))


def write_weights(network: keras.Model, weights: Variables) -> None:
    """Give a network these weights."""
    for group, values in zip(_variables(network), weights, strict=True):
        for variable, value in zip(group, values, strict=True):
            variable.assign(value)


def _variables(network: keras.Model) -> tuple[list[keras.Variable], list[keras.Variable]]:
    return network.trainable_variables, network.non_trainable_variables
