"""How a Siamese network joins what its one encoder makes of the baseline and of the abnormality."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
from keras import layers

from mammo_mlflow.experiment import BASELINE, PATCH
from mammo_mlflow.models.tensors import Tensor

JOINED = "difference"
"""The name of the layer whose output the head stands on."""


def _absolute(baseline: Tensor, patch: Tensor, name: str = JOINED) -> Tensor:
    """|a - b| = max(a, b) - min(a, b): of layers that every saved model can hold."""
    larger = layers.Maximum(dtype="float32", name="larger")([baseline, patch])
    smaller = layers.Minimum(dtype="float32", name="smaller")([baseline, patch])
    return layers.Subtract(dtype="float32", name=name)([larger, smaller])


def _absolute_product(baseline: Tensor, patch: Tensor) -> Tensor:
    product = layers.Multiply(dtype="float32", name="product")([baseline, patch])
    return layers.Concatenate(dtype="float32", name=JOINED)([_absolute(baseline, patch, "absolute"), product])


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "subtract": lambda baseline, patch: layers.Subtract(dtype="float32", name=JOINED)([baseline, patch]),
    "absolute": _absolute,
    "concatenate": lambda baseline, patch: layers.Concatenate(dtype="float32", name=JOINED)([baseline, patch]),
    "absolute_product": _absolute_product,
}
"""From the features of both (n, f) to what the head stands on: (n, f), or (n, 2 f) for the last two."""


def join_sides(features: Mapping[str, Tensor], form: str) -> Tensor:
    """The features of the sides as one tensor: those of a lone side as they are."""
    if len(features) == 1:
        return next(iter(features.values()))
    return FORMS[form](features[BASELINE], features[PATCH])


def joined_shape(shape: tuple[int, ...], sides: int, form: str) -> tuple[int, ...]:
    """The shape that the head stands on, from that of one side's features."""
    return (2 * shape[0],) if sides > 1 and form in ("concatenate", "absolute_product") else shape


def before_head(tail: keras.Model) -> keras.Model:
    """A tail cut before its head: from its inputs to what its head stands on; the identity where it is a head."""
    if tail.name == "head":
        features = layers.Input(tail.input.shape[1:], dtype="float32", name="features")
        return keras.Model(features, layers.Identity(dtype="float32")(features), name="before_head")
    (head,) = [layer for layer in tail.layers if layer.name == "head"]
    return keras.Model(tail.input, head._inbound_nodes[-1].input_tensors[0], name="before_head")
