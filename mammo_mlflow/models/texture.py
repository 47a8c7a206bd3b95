"""Simple texture features without trained weights, a control that a pretrained backbone has to beat.

Laws' texture energies (K. I. Laws, "Rapid texture identification", Proc. SPIE 0238, 1980) and three first-order
statistics, as a Keras model, so that activations, heads and saving work as for a backbone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations_with_replacement

import keras
import numpy as np
from keras import layers

from mammo_mlflow.errors import expected
from mammo_mlflow.models.tensors import Tensor

VECTORS = {
    "L5": (1, 4, 6, 4, 1),
    "E5": (-1, -2, 0, 2, 1),
    "S5": (-1, 0, 2, 0, -1),
    "R5": (1, -4, 6, -4, 1),
}
"""Laws' one-dimensional masks of length 5: level, edge, spot, ripple."""

PAIRS = tuple(pair for pair in combinations_with_replacement(VECTORS, 2) if pair != ("L5", "L5"))
"""The pairs of vectors whose products are the masks, without L5L5, the only one that does not sum to zero."""

FEATURES = (*(first + second for first, second in PAIRS), "mean", "deviation", "centre_contrast")
"""The names of the features, in the order of the model's output."""

WINDOW = 15
"""The side, in pixels, of the square whose mean is subtracted from its central pixel."""

MINIMUM_SIZE = WINDOW + 4
"""The side, in pixels, of the smallest patch with a place where a 5 x 5 mask and its windows lie within it."""


def _masks() -> np.ndarray:
    """The 5 x 5 masks, then their transposes: float32 (5, 5, 1, 2 * len(PAIRS)), as a depthwise kernel."""
    upright = np.stack([np.outer(VECTORS[first], VECTORS[second]) for first, second in PAIRS], axis=-1)
    return np.concatenate([upright, upright.transpose(1, 0, 2)], axis=-1)[:, :, None].astype(np.float32)


def _as_layer(operation: Callable[[Tensor], Tensor], like: Tensor, name: str) -> keras.Model:
    """Wrap an operation of `keras.ops` as a layer for tensors shaped `like` the given one, of any batch size.

    A bare operation is not in `model.layers`, where `cut_points` looks.
    """
    x = layers.Input(like.shape[1:], dtype="float32")
    return keras.Model(x, operation(x), name=name)


def build_texture(image_size: int) -> keras.Model:
    """Build the texture model: raw patches, float32 (n, size, size, 1), in, `FEATURES`, float32 (n, 12), out.

    It has no weights to train or load. An energy is log(1 + e), e being the mean absolute response to a mask and to its
    transpose, over all places where the mask and the 15 x 15 windows of the local means lie in the patch, for grey
    values on a scale of 0 to 255. `mean` and `deviation` (square root of the mean squared distance from the mean) are
    those of the patch on a scale of 0 to 1; `centre_contrast` is, on that scale, the mean of the patch's middle half by
    half less the mean of the rest.

    Raises `UserError` where the patch is smaller than `MINIMUM_SIZE`.
    """
    if image_size < MINIMUM_SIZE:
        needs = f"a {WINDOW} x {WINDOW} mean and 5 x 5 masks"
        raise expected("image_size", f"at least {MINIMUM_SIZE} pixels for Laws' texture energies ({needs})", image_size)
    keras.utils.clear_session()  # as in `build_base`: layer names must not depend on what was built before
    patch = layers.Input((image_size, image_size, 1), dtype="float32", name="patch")

    # The local mean is subtracted first, from the raw values: sums of 225 integers below 65,536 are exact in float32,
    # so that a constant added to a patch changes no feature but the mean.
    local_mean = layers.AveragePooling2D(WINDOW, strides=1, dtype="float32", name="local_mean")(patch)
    inner = layers.Cropping2D(WINDOW // 2, dtype="float32", name="inner")(patch)
    detail = layers.Subtract(dtype="float32", name="detail")([inner, local_mean])
    detail = layers.Rescaling(1 / 257, dtype="float32", name="detail_scaling")(detail)
    masks = layers.DepthwiseConv2D(
        5, depth_multiplier=2 * len(PAIRS), use_bias=False, trainable=False, dtype="float32", name="laws_masks"
    )
    answers = masks(detail)
    answers = _as_layer(keras.ops.absolute, answers, "absolute")(answers)
    energies = layers.GlobalAveragePooling2D(dtype="float32", name="mask_energies")(answers)
    energies = layers.Reshape((2, len(PAIRS)), dtype="float32", name="mask_and_transpose")(energies)
    energies = layers.GlobalAveragePooling1D(dtype="float32", name="merged_energies")(energies)
    energies = _as_layer(keras.ops.log1p, energies, "log_energies")(energies)

    scaled = layers.Rescaling(1 / 65535, dtype="float32", name="input_scaling")(patch)
    mean = layers.GlobalAveragePooling2D(keepdims=True, dtype="float32", name="mean")(scaled)
    distance = layers.Subtract(dtype="float32", name="distance")([scaled, mean])
    squares = layers.Multiply(dtype="float32", name="squares")([distance, distance])
    variance = layers.GlobalAveragePooling2D(dtype="float32", name="variance")(squares)
    deviation = _as_layer(keras.ops.sqrt, variance, "deviation")(variance)
    # The centre's mean distance from the mean of the patch is the contrast times the area fraction of the rest.
    margin = image_size // 4
    rest = 1 - ((image_size - 2 * margin) / image_size) ** 2
    centre = layers.Cropping2D(margin, dtype="float32", name="centre")(distance)
    centre = layers.GlobalAveragePooling2D(dtype="float32", name="centre_distance")(centre)
    contrast = layers.Rescaling(1 / rest, dtype="float32", name="centre_contrast")(centre)

    flat_mean = layers.Flatten(dtype="float32", name="flat_mean")(mean)
    features = layers.Concatenate(dtype="float32", name="features")([energies, flat_mean, deviation, contrast])
    base = keras.Model(patch, features, name="laws")
    masks.set_weights([_masks()])
    base.trainable = False
    return base
