"""Convolutional networks trained from scratch: the paper's M1 and M2 (chapter 4), and its Siamese encoder (chapter 6).

`ModelSpec.blocks` describes them: `32/2-32-32,64-64` is three 3x3 convolutions of 32 filters, the first with stride 2,
a 2x2 maximum pool, two of 64 and a pool. `first_pool` is the size of the first pool, `pool_padding` the padding of all
pools.
"""

from __future__ import annotations

import keras
from keras import layers, regularizers

from mammo_mlflow.errors import expected
from mammo_mlflow.experiment import ModelSpec
from mammo_mlflow.models.precision import dtype_policy

POOLINGS = {
    "flatten": layers.Flatten,
    "average": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
}
"""The layer that turns the last maps into features, by the name of the pooling."""
BATCH_NORM_MOMENTUM = 0.9
"""The momentum of batch normalisation in hidden layers; that of convolutions is a parameter with the same default.

With Keras's 0.99 the moving statistics need some 500 steps to be of use, which are four epochs of the real data.
"""


def parse_blocks(blocks: str) -> list[list[tuple[int, int]]]:
    """Parse `ModelSpec.blocks` into the (filters, stride) of each convolution of each block."""
    return [
        [(int(filters), int(stride or 1)) for filters, _, stride in (one.partition("/") for one in block.split("-"))]
        for block in blocks.split(",")
    ]


def build_scratch(spec: ModelSpec, image_size: int, precision: str, batch_norm: type | None = None) -> keras.Model:
    """Build a trainable encoder: raw patches (n, size, size, 1) in, features out; weights from Keras's seed.

    A convolution has a bias only where no batch normalisation follows. `batch_norm` is the layer's class, Keras's own
    by default (`engine.backend` has one that trains faster). Raises `UserError` for patches too small for the pools.
    """
    normalise = batch_norm or layers.BatchNormalization
    penalty = kernel_penalty(spec)
    keras.utils.clear_session()  # as in `build_base`: layer names must not depend on what was built before
    patch = x = layers.Input((image_size, image_size, 1), dtype="float32", name="patch")
    with dtype_policy(precision):
        x = layers.Rescaling(1 / 65535, dtype="float32", name="input_scaling")(x)
        for number, block in enumerate(parse_blocks(spec.blocks), 1):
            side = spec.first_pool if number == 1 else 2
            for place, (filters, stride) in enumerate(block, 1):
                name = f"block{number}_conv{place}"
                x = layers.Conv2D(
                    filters,
                    3,
                    strides=stride,
                    padding="same",
                    use_bias=not spec.convolution_batch_norm,
                    kernel_initializer="he_normal",
                    kernel_regularizer=penalty,
                    name=name,
                )(x)
                if spec.convolution_batch_norm:
                    x = normalise(momentum=spec.convolution_batch_norm_momentum, name=f"{name}_batch_norm")(x)
                x = layers.ReLU(name=f"{name}_relu")(x)
            if min(x.shape[1:3]) < (side if spec.pool_padding == "valid" else 2):
                raise expected(
                    "blocks", f"at most {number - 1} pools for patches of {image_size} pixels", f"'{spec.blocks}'"
                )
            x = layers.MaxPooling2D(side, strides=2, padding=spec.pool_padding, name=f"block{number}_pool")(x)
            if spec.pool_dropout:
                x = layers.Dropout(spec.pool_dropout, name=f"block{number}_dropout")(x)
    return keras.Model(patch, POOLINGS[spec.pooling](dtype="float32", name="features")(x), name="scratch")


def kernel_penalty(spec: ModelSpec, hidden: bool = False) -> keras.regularizers.Regularizer | None:
    """The L1 and L2 penalty on kernels, of `hidden` dense layers or of all others; None where both are 0."""
    l2 = spec.l2 + spec.dense_l2 if hidden else spec.l2
    return regularizers.L1L2(spec.l1, l2) if spec.l1 or l2 else None
