"""Join the features of several frozen backbones in front of one head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
from keras import layers

from mammo_mlflow.experiment import PATCH
from mammo_mlflow.models.network import average_tails


def build_joined(shapes: Mapping[str, Sequence[int]], head: keras.Model) -> keras.Model:
    """Build the tail: the features (n, f) of each backbone by name in, probability (n, 1) out of the head on all."""
    inputs = {name: layers.Input(tuple(shape), dtype="float32", name=name) for name, shape in shapes.items()}
    joined = layers.Concatenate(dtype="float32", name="joined_features")(list(inputs.values()))
    return keras.Model(inputs, head(joined), name="tail")


def join_backbones(backbones: Sequence[keras.Model], tails: Sequence[keras.Model], image_size: int) -> keras.Model:
    """Join backbones and tails into the whole model: raw patches (n, size, size, 1) in, probability (n, 1) out.

    Each backbone scales the patches for itself. The probabilities of several tails (one a fold) are averaged.
    """
    patch = layers.Input((image_size, image_size, 1), dtype="float32", name=PATCH)
    features = {one.name: one(patch) for one in backbones}
    return keras.Model(patch, average_tails(tails, features), name="_".join(features))
