"""The one module that touches TensorFlow: its threads and its input pipeline. Everything else speaks Keras 3."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np

from mammo_mlflow.engine.batches import Batches
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.experiment import PATCH

IN_MEMORY_BYTES = 256 * 2**20


def set_threads(threads: int) -> None:
    """Use that many processor threads from now on.

    Raises `UserError` where TensorFlow already runs with another number (`executor=inline` after another job).
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
        raise UserError(
            f"threads: expected {tf.config.threading.get_intra_op_parallelism_threads()}, which TensorFlow has in this "
            f"process already, found {threads} (executor=process gives each fold its own)"
        ) from None


def fastest_feed(batches: Batches, epochs: int) -> tuple[Any, int | None]:
    """What to give `fit`: the same batches in the same order, and the steps of an epoch if it must be told them.

    Under TensorFlow, activations that fit in memory are gathered by a `tf.data` pipeline, without Python between steps
    (about twice as fast for a pooled head); anything else is fed as it is, read and augmented ahead of the step.
    """
    stored = getattr(batches.read, "in_memory", lambda _: None)(IN_MEMORY_BYTES)
    if stored is None or keras.backend.backend() != "tensorflow":
        return batches, None
    import tensorflow as tf

    drawn = [batches.draw(epoch) for epoch in range(epochs)]
    rows, views = (np.concatenate(part) for part in zip(*drawn, strict=True))
    activations, labels = keras.tree.map_structure(tf.convert_to_tensor, stored), tf.convert_to_tensor(batches.labels)

    def gather(row: Any, view: Any) -> tuple[Any, Any]:
        def one(held: Any, column: int = 0) -> Any:
            return tf.gather_nd(held, tf.stack([row, view if view.ndim == 1 else view[:, column]], axis=-1))

        if isinstance(activations, dict):
            inputs: Any = {name: one(held, column) for column, (name, held) in enumerate(activations.items())}
        else:
            inputs = one(activations)
        return inputs, tf.gather(labels, row)

    return tf.data.Dataset.from_tensor_slices((rows, views)).map(gather), len(batches)


def fast_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The same optimizer; under TensorFlow its update is one pass over the weights, compiled by XLA.

    Op by op, Adam goes over weights and moments some twenty times: 40 ms of a 310 ms step of M1 (13 million weights).
    """
    if keras.backend.backend() != "tensorflow":
        return optimizer
    import tensorflow as tf

    kind = type(optimizer)

    class Compiled(kind):  # type: ignore[misc, valid-type]
        def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
            @tf.function(jit_compile=True)
            def update(values: Any) -> None:
                kind.apply(self, list(values), trainable_variables)

            if trainable_variables is not None and not self.built:
                with tf.init_scope():  # variables cannot be made inside of what XLA compiles
                    self.build(trainable_variables)
            update(tuple(grads))

    return Compiled.from_config(optimizer.get_config())


def fast_batch_norm() -> type:
    """A batch normalisation layer that trains faster: under TensorFlow in one fused operation, in bfloat16 too.

    Keras's own takes about a third of a training step of M1. Weights and inference are those of Keras's layer, with
    which a model that is kept is built again.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.layers.BatchNormalization
    import tensorflow as tf

    class FusedBatchNormalization(keras.layers.BatchNormalization):
        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
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


def gradients(model: keras.Model, inputs: Any, record: Any, places: list[list[Any]]) -> list[list[Any]]:
    """For each output (n, 1) of the model the tensors recorded at its `places`, with its gradients: pairs of arrays.

    `record` has its `watch` set here and is filled as the model is called.
    """
    tf, tape, outputs, _ = _called(model, inputs, record)
    found = []
    for output, several in zip(outputs, places, strict=True):
        tensors = [record.calls[place] for place in several]
        pairs = zip(tensors, tape.gradient(output, tensors), strict=True)
        found.append([tuple(tf.cast(one, tf.float32).numpy() for one in pair) for pair in pairs])
    return found


def last_dependent(model: keras.Model, inputs: Any, record: Any) -> list[list[Any]]:
    """For each output the places of the last recorded tensors it depends on and that depend on the abnormality.

    Of each part of the model, the first name of a place's path, the last; none that another one depends on.
    """
    _, tape, outputs, patch = _called(model, inputs, record)
    alone = not isinstance(inputs, dict)  # a lone input is what everything depends on: no need to ask
    seen = {place: x for place, x in record.calls.items() if alone or tape.gradient(x, patch) is not None}
    found = []
    for output in outputs:
        slopes = tape.gradient(output, list(seen.values()))
        mine = [place for place, slope in zip(seen, slopes, strict=True) if slope is not None]
        last = {place[0].split("/")[1]: place for place in mine}.values()
        upstream = {a for a in last for b in last if a != b and tape.gradient(seen[b], seen[a]) is not None}
        found.append([place for place in last if place not in upstream])
    return found


def _called(model: keras.Model, inputs: Any, record: Any) -> tuple[Any, Any, list[Any], Any]:
    """TensorFlow, a tape of one call of the model, its outputs, and the abnormality. Raises `UserError` without it."""
    if keras.backend.backend() != "tensorflow":
        raise expected("overlays", "TensorFlow as Keras's backend", keras.backend.backend())
    import tensorflow as tf

    fed = keras.tree.map_structure(tf.convert_to_tensor, inputs)
    patch = fed[PATCH] if isinstance(fed, dict) else fed
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        record.watch = tape.watch
        if record.wanted is None:
            tape.watch(patch)
        outputs = model(fed, training=False)
    return tf, tape, outputs if isinstance(outputs, list) else [outputs], patch
