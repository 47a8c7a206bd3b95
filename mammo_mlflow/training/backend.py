"""The one module that touches TensorFlow: its threads. Everything else speaks Keras 3."""

from __future__ import annotations

import os

import keras

from mammo_mlflow.errors import UserError


def set_threads(threads: int) -> None:
    """Use that many processor threads from now on.

    Raises `UserError` where TensorFlow already runs with another number (`executor=inline` after another job).
    """
    if keras.backend.backend() != "tensorflow":
        os.environ["OMP_NUM_THREADS"] = str(threads)
        return
    import tensorflow as tf

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
