"""The one module that touches TensorFlow: its threads and its input pipeline. Everything else speaks Keras 3."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from mammo_mlflow.errors import UserError

if TYPE_CHECKING:
    from mammo_mlflow.training.loop import Batches

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
    (about twice as fast for a pooled head); anything else is fed as it is.
    """
    stored = getattr(batches.read, "in_memory", lambda _: None)(IN_MEMORY_BYTES)
    if stored is None or keras.backend.backend() != "tensorflow":
        return batches, None
    import tensorflow as tf

    drawn = [batches.draw(epoch) for epoch in range(epochs)]
    rows, views = (np.concatenate(part) for part in zip(*drawn, strict=True))
    activations, labels = tf.convert_to_tensor(stored), tf.convert_to_tensor(batches.labels)

    def gather(row: Any, view: Any) -> tuple[Any, Any]:
        return tf.gather_nd(activations, tf.stack([row, view], axis=-1)), tf.gather(labels, row)

    return tf.data.Dataset.from_tensor_slices((rows, views)).map(gather), len(batches)
