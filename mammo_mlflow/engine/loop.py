"""Train one stage of a fit with Keras, for every family, and report each epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import psutil

from mammo_mlflow.engine.backend import fast_optimizer, fastest_feed
from mammo_mlflow.engine.batches import Batches
from mammo_mlflow.engine.inputs import ModelInput
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.experiment import TrainingSpec
from mammo_mlflow.jobs.contracts import Emit, EpochDone

EVALUATION_BATCH = 64
COMPILED_PARAMETERS = 1_000_000
"""The number of weights above which XLA compiles a network or its optimizer."""
HeldOut = tuple[ModelInput, np.ndarray] | None
"""The inputs and labels (m,) of rows that are not trained on, or None."""


class Stage(NamedTuple):
    """A stage of a fit: `head`, `tuned` (the last convolutions with it), or `network` (all at once)."""

    name: str
    epochs: int
    learning_rate: float


class _EpochReporter(keras.callbacks.Callback):
    """Sends the metrics of each epoch, and computes the loss on the inner patients for early stopping."""

    def __init__(self, emit: Emit, stage: str, start: int, inner: HeldOut) -> None:
        super().__init__()
        self._emit, self._stage, self._start, self._inner = emit, stage, start, inner
        self.history: list[dict[str, float | str]] = []
        self.peak_memory = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Record and send the metrics. Raises `UserError` where the loss is not finite."""
        logs = {} if logs is None else logs
        if not np.isfinite(logs.get("loss", 0.0)):
            raise divergence_error(f"{logs['loss']} in epoch {self._start + epoch + 1} ({self._stage})")
        if self._inner is not None:
            logs["inner_loss"] = self.model.evaluate(*self._inner, batch_size=EVALUATION_BATCH, verbose=0)[0]
        metrics = {name: float(value) for name, value in logs.items()}
        self.history.append({"stage": self._stage, "epoch": self._start + epoch + 1, **metrics})
        self.peak_memory = max(self.peak_memory, private_memory_bytes())
        self._emit(EpochDone(self._start + epoch + 1, metrics, time.time()))


def train_stage(
    model: keras.Model,
    batches: Batches,
    spec: TrainingSpec,
    stage: Stage,
    *,
    start: int,
    validation: HeldOut,
    inner: HeldOut,
    emit: Emit,
) -> tuple[list[dict[str, float | str]], int, int]:
    """Train `model` in place; return history, number of epochs kept, and peak private memory in bytes.

    `start` is the number of epochs before this stage. The metrics of `validation` are reported and change nothing. With
    early stopping the weights of the epoch with the least loss on `inner` are kept. Raises `UserError` where the loss
    is not finite.
    """
    wide = model.count_params() > COMPILED_PARAMETERS
    # on a processor XLA speeds up wide dense layers and slows down convolutions
    convolves = any(isinstance(layer, keras.layers.Conv2D) for layer in model._flatten_layers())
    optimizer = OPTIMIZERS[spec.optimizer](stage.learning_rate, spec.momentum)
    model.compile(
        fast_optimizer(optimizer) if wide and convolves else optimizer,
        loss="binary_crossentropy",
        metrics=["accuracy"],
        jit_compile=wide and not convolves,
        steps_per_execution=len(batches),  # Keras runs whole executions: another number may pass the epoch's end
    )
    report = _EpochReporter(emit, stage.name, start, inner)
    patience = spec.early_stop if inner is not None else 0
    stopping = keras.callbacks.EarlyStopping("inner_loss", patience=patience, restore_best_weights=True, mode="min")
    data, steps = fastest_feed(batches, stage.epochs)
    model.fit(
        data,
        epochs=stage.epochs,
        steps_per_epoch=steps,
        shuffle=False,  # the batches are drawn in a random order already
        validation_data=validation,
        validation_batch_size=EVALUATION_BATCH,
        callbacks=[report, stopping] if patience else [report],
        class_weight=class_weights(spec.class_weights, batches.labels[batches.rows]),
        verbose=0,
    )
    kept = stopping.best_epoch + 1 if patience else len(report.history)
    return report.history, kept, report.peak_memory


OPTIMIZERS: dict[str, Callable[[float, float], keras.optimizers.Optimizer]] = {
    "adam": lambda rate, _: keras.optimizers.Adam(rate),
    "rmsprop": lambda rate, _: keras.optimizers.RMSprop(rate),
    "sgd": lambda rate, momentum: keras.optimizers.SGD(rate, momentum=momentum, nesterov=momentum > 0),
}


def class_weights(name: str, labels: np.ndarray) -> dict[int, float] | None:
    """The class weights for labels (n,) of 0 and 1: `balanced` gives each class the other's fraction, `a:b` a and b."""
    if name == "none":
        return None
    if name == "balanced":
        positive = float(np.mean(labels))
        return {0: positive, 1: 1 - positive}
    negative, positive = (float(part) for part in name.split(":"))
    return {0: negative, 1: positive}


def divergence_error(found: str) -> UserError:
    """Make the `UserError` for a fit whose loss or predictions are not finite."""
    return expected("learning_rate", "a loss that stays a number", f"{found}; a lower rate may help")


def private_memory_bytes() -> int:
    """The memory that belongs to this process alone, in bytes: anonymous on Linux, else the resident set.

    The resident set also counts mapped cache files, whose memory the system can free at any time.
    """
    try:
        with Path("/proc/self/status").open() as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
    except (OSError, StopIteration):
        return psutil.Process().memory_info().rss
