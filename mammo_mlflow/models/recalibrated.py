"""Put a recalibrating map behind a network's probability, of Keras's own layers alone, so that it is saved with it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import keras
from keras import layers, ops

from mammo_mlflow.models.tensors import Tensor

FIRST = "before_recalibration"
"""The name of the layer that a map begins with."""


def append_platt(model: keras.Model, slope: float, intercept: float, least: float) -> keras.Model:
    """A model that answers with sigmoid(slope · logit(p) + intercept), p kept `least` away from 0 and 1.

    `model` answers with probabilities p (n, 1); inputs stay the same.
    """
    p = ops.clip(_begin(model), least, 1 - least)
    logit = layers.Subtract(dtype="float32")([ops.log(p), ops.log(_affine(-1.0, 1.0)(p))])
    return _ended(model, layers.Activation("sigmoid", dtype="float32")(_affine(slope, intercept)(logit)))


def append_isotonic(model: keras.Model, x: Sequence[float], y: Sequence[float]) -> keras.Model:
    """A model that answers with what lies over its probability (n, 1) on the line through the knots (x, y), ascending.

    Beyond the first and the last knot the line is constant. It is the first knot's y and, of each piece, the rise times
    the share of the piece that lies below the probability. Only sums of a row's own numbers are taken, since a product
    of matrices may be rounded to fewer digits on a card.
    """
    p = _begin(model)
    pieces = len(x) - 1
    if not pieces:
        return _ended(model, _affine(0.0, y[0])(p))
    repeated = layers.Flatten(dtype="float32")(layers.RepeatVector(pieces, dtype="float32")(p))
    # in two steps: the difference is exact where a piece is short
    above = _affine(1.0, [-start for start in x[:-1]])(repeated)
    shares = layers.ReLU(max_value=1.0, dtype="float32")(
        _affine([1 / (after - before) for before, after in pairwise(x)], 0.0)(above)
    )
    rises = _affine([after - before for before, after in pairwise(y)], 0.0)(shares)
    return _ended(model, _affine(1.0, y[0])(ops.sum(rises, axis=-1, keepdims=True)))


def before_map(model: keras.Model) -> keras.Model:
    """The model without the map that one of the functions above put behind it; any other model as it is."""
    first = next((layer for layer in model.layers if layer.name == FIRST), None)
    return model if first is None else keras.Model(model.input, first.input)


def _begin(model: keras.Model) -> Tensor:
    return layers.Identity(dtype="float32", name=FIRST)(model.output)


def _affine(scale: float | list[float], offset: float | list[float]) -> keras.Layer:
    return layers.Rescaling(scale, offset=offset, dtype="float32")


def _ended(model: keras.Model, output: Tensor) -> keras.Model:
    return keras.Model(model.input, output, name=f"{model.name}_recalibrated")
