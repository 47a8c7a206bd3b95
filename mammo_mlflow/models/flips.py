"""Average a network's answers over the eight flips and quarter turns of its patches, inside the network."""

from __future__ import annotations

import keras
from keras import layers, ops

from mammo_mlflow.experiment import FLIPS
from mammo_mlflow.models.tensors import Tensor


def average_flips(model: keras.Model) -> keras.Model:
    """A model of the same inputs that answers with the mean over `FLIPS` of its patches; one call computes them all.

    Patches are (n, size, size, 1), those of two sides flipped alike; other inputs, numbers (n, 1), are repeated. The
    first n of the 8 n rows that `model` sees are the patches as they are.
    """
    inputs = model.input if isinstance(model.input, dict) else {model.input.name: model.input}
    given = {name: layers.Input(one.shape[1:], dtype=one.dtype, name=name) for name, one in inputs.items()}
    turned = {name: all_turns(one) for name, one in given.items()}
    alone = not isinstance(model.input, dict)
    (first, *_) = given.values()
    answers = model(turned[first.name] if alone else turned)
    return keras.Model(first if alone else given, mean_of_turns(answers), name=f"{model.name}_flips")


def mean_of_turns(answers: Tensor) -> Tensor:
    """The mean (n, 1) of the answers (8 n, 1) to `all_turns` of n patches."""
    return ops.mean(ops.reshape(answers, (len(FLIPS), -1, 1)), axis=0)


def all_turns(one: Tensor) -> Tensor:
    """All turns of patches (n, size, size, 1), or a number (n, 1) as often: (8 n, ...)."""
    each = []
    for transposed, *axes in FLIPS:
        turned = one
        if len(one.shape) == 4:
            turned = layers.Permute((2, 1, 3))(turned) if transposed else turned
            for axis, flipped in zip((1, 2), axes, strict=True):
                turned = ops.flip(turned, axis) if flipped else turned
        each.append(turned)
    return layers.Concatenate(axis=0)(each)
