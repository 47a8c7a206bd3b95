"""The only module that uses TensorFlow itself: threads, input pipeline, faster layers. All others use Keras 3."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import keras
import numpy as np

from mammo_mlflow.engine.batches import Batches
from mammo_mlflow.errors import expected
from mammo_mlflow.jobs.devices import Card
from mammo_mlflow.models.tensors import Tensor

if TYPE_CHECKING:
    import tensorflow as tf

IN_MEMORY_BYTES = 256 * 2**20
"""The most bytes of activations that are held in memory during a fit."""


def set_threads(threads: int) -> None:
    """Set the number of processor threads of this process.

    Raises `UserError` where TensorFlow already runs with another number, as in a later job of `executor=inline`.
    """
    if keras.backend.backend() != "tensorflow":
        os.environ["OMP_NUM_THREADS"] = str(threads)
        return
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # it warns of retracing, which a new model for each fold cannot avoid
    if tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        held = f"{tf.config.threading.get_intra_op_parallelism_threads()}, which TensorFlow has in this process already"
        raise expected("threads", held, f"{threads} (executor=process gives each fold its own)") from None


def tensorflow_cards() -> list[Card]:
    """The cards that TensorFlow can use, numbered in its order; it does not tell their memory."""
    import tensorflow as tf

    found = []
    for number, device in enumerate(tf.config.list_physical_devices("GPU")):
        about = tf.config.experimental.get_device_details(device)
        bfloat16 = about.get("compute_capability", (0, 0)) >= (8, 0)
        found.append(Card(number=number, name=about.get("device_name", "a card"), memory=0, free=0, bfloat16=bfloat16))
    return found


def fastest_feed(batches: Batches, epochs: int) -> tuple[Tensor, int | None]:
    """Convert batches to the fastest input for Keras's `fit`, in the same order; with the steps an epoch or None.

    Under TensorFlow, activations of at most `IN_MEMORY_BYTES` are gathered by a `tf.data` pipeline, without Python
    between steps (about twice as fast for pooled features). Other inputs stay `batches`, which Keras reads ahead.
    """
    stored = batches.read.in_memory(IN_MEMORY_BYTES)
    if stored is None or keras.backend.backend() != "tensorflow":
        return batches, None
    import tensorflow as tf

    drawn = [batches.draw(epoch) for epoch in range(epochs)]
    rows, views = (np.concatenate(part) for part in zip(*drawn, strict=True))
    activations, labels = keras.tree.map_structure(tf.convert_to_tensor, stored), tf.convert_to_tensor(batches.labels)

    @tf.autograph.experimental.do_not_convert  # else every process leaves a file in TMPDIR
    def gather(row: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        def one(held: Tensor, column: int = 0) -> Tensor:
            return tf.gather_nd(held, tf.stack([row, view if view.ndim == 1 else view[:, column]], axis=-1))

        alone = not isinstance(activations, dict)
        inputs = one(activations) if alone else {k: one(held, n) for n, (k, held) in enumerate(activations.items())}
        return inputs, tf.gather(labels, row)

    return tf.data.Dataset.from_tensor_slices((rows, views)).map(gather), len(batches)


def fast_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Speed an optimizer up: under TensorFlow, XLA compiles its update into one pass over the weights.

    Uncompiled, Adam passes over weights and moments some twenty times: 40 ms of a 310 ms step of M1 (13 million
    weights).
    """
    if keras.backend.backend() != "tensorflow":
        return optimizer
    import tensorflow as tf

    kind = type(optimizer)

    class Compiled(kind):  # type: ignore[misc, valid-type]
        def apply(self, grads: list[Tensor], trainable_variables: list[Tensor] | None = None) -> None:
            @tf.function(jit_compile=True, autograph=False)  # as Keras calls it
            def update(values: tuple[Tensor, ...]) -> None:
                kind.apply(self, list(values), trainable_variables)

            if trainable_variables is not None and not self.built:
                with tf.init_scope():  # XLA cannot create variables
                    self.build(trainable_variables)
            update(tuple(grads))

    return Compiled.from_config(optimizer.get_config())


def fast_batch_norm() -> type:
    """The class of a faster batch normalisation layer: under TensorFlow one fused operation, also in bfloat16.

    Keras's own layer takes about a third of a training step of M1. Weights and inference are the same as that layer's,
    and models are saved with it.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.layers.BatchNormalization
    import tensorflow as tf

    class FusedBatchNormalization(keras.layers.BatchNormalization):
        def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
            if not training or not self.trainable:
                return super().call(inputs, training=training, mask=mask)
            out, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
                x=inputs,
                scale=tf.cast(self.gamma, tf.float32),
                offset=tf.cast(self.beta, tf.float32),
                mean=tf.zeros([0]),
                variance=tf.zeros([0]),
                epsilon=self.epsilon,
                is_training=True,
            )
            for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + now * (1 - self.momentum))
            return out

    return FusedBatchNormalization


def gradient_tape() -> tf.GradientTape:
    """A gradient tape, `tf.GradientTape`. Raises `UserError` where Keras runs on another backend."""
    if keras.backend.backend() != "tensorflow":
        raise expected("overlays", "TensorFlow as Keras's backend", keras.backend.backend())
    import tensorflow as tf

    return tf.GradientTape(persistent=True, watch_accessed_variables=False)
