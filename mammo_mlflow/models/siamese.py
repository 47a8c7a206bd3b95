"""Join the features of baseline and abnormality, which the one encoder of a Siamese network gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
from keras import layers

from mammo_mlflow.experiment import BASELINE, PATCH
from mammo_mlflow.models.tensors import Tensor

JOINED = "difference"
"""The name of the layer that joins both sides; its output is the head's input."""


def _absolute(baseline: Tensor, patch: Tensor, name: str = JOINED) -> Tensor:
    """|a - b| as max(a, b) - min(a, b), by Keras layers, which are saved without our code."""
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
"""Each `difference`: from the features of both sides (n, f) to the head's input, (n, f), of the last two (n, 2 f)."""


def join_sides(features: Mapping[str, Tensor], form: str) -> Tensor:
    """Join the features (n, f) of both sides into the head's input, by one of `FORMS`; keep those of one side."""
    if len(features) == 1:
        return next(iter(features.values()))
    return FORMS[form](features[BASELINE], features[PATCH])


def joined_shape(shape: tuple[int, ...], sides: int, form: str) -> tuple[int, ...]:
    """The shape of the head's input, without the batch, from that of one side's features."""
    return (2 * shape[0],) if sides > 1 and form in ("concatenate", "absolute_product") else shape


def before_head(tail: keras.Model) -> keras.Model:
    """A tail without its head, from the tail's inputs to the head's; the identity where the tail is a head alone."""
    if tail.name == "head":
        features = layers.Input(tail.input.shape[1:], dtype="float32", name="features")
        return keras.Model(features, layers.Identity(dtype="float32")(features), name="before_head")
    (head,) = [layer for layer in tail.layers if layer.name == "head"]
    return keras.Model(tail.input, head._inbound_nodes[-1].input_tensors[0], name="before_head")
