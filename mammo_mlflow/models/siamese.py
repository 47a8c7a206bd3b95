"""Join the features of two patches, which one encoder gives: baseline and abnormality, or a lesion's two views."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import keras
from keras import layers

from mammo_mlflow.experiment import BASELINE, OTHER_VIEW, PATCH
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


def _sorted(first: Tensor, second: Tensor) -> Tensor:
    """The larger of each feature, then the smaller: (n, 2 f); all that there is of two views but their order."""
    larger = layers.Maximum(dtype="float32", name="larger")([first, second])
    smaller = layers.Minimum(dtype="float32", name="smaller")([first, second])
    return layers.Concatenate(dtype="float32", name=JOINED)([larger, smaller])


def join_sides(features: Mapping[str, Tensor], form: str) -> Tensor:
    """Join the features (n, f) of both sides into the head's input; keep those of one side.

    Baseline and abnormality are joined by one of `FORMS`. Two views, of which neither is the first, are joined in one
    way, which swapping them does not change.
    """
    if len(features) == 1:
        return next(iter(features.values()))
    if OTHER_VIEW in features:
        return _sorted(features[PATCH], features[OTHER_VIEW])
    return FORMS[form](features[BASELINE], features[PATCH])


def joined_shape(shape: tuple[int, ...], sides: Collection[str], form: str) -> tuple[int, ...]:
    """The shape of the head's input, without the batch, from that of one side's features."""
    twice = OTHER_VIEW in sides or (len(sides) > 1 and form in ("concatenate", "absolute_product"))
    return (2 * shape[0],) if twice else shape


def before_head(tail: keras.Model) -> keras.Model:
    """A tail without its head, from the tail's inputs to the head's; the identity where the tail is a head alone."""
    if tail.name == "head":
        features = layers.Input(tail.input.shape[1:], dtype="float32", name="features")
        return keras.Model(features, layers.Identity(dtype="float32")(features), name="before_head")
    (head,) = [layer for layer in tail.layers if layer.name == "head"]
    return keras.Model(tail.input, head._inbound_nodes[-1].input_tensors[0], name="before_head")
