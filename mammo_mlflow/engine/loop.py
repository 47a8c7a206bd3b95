"""The one training loop, for every family: Keras's `fit`, fed a view per patch per epoch, reporting each epoch."""

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
from mammo_mlflow.engine.inputs import Fed
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.experiment import TrainingSpec
from mammo_mlflow.jobs.contracts import Emit, EpochDone

EVALUATION_BATCH = 64
COMPILED_PARAMETERS = 1_000_000
Watched = tuple[Fed, np.ndarray] | None
"""Inputs and labels that are not trained on, if there are any."""


class Stage(NamedTuple):
    """A stage of a fit."""

    name: str
    epochs: int
    learning_rate: float


class _Report(keras.callbacks.Callback):
    """Sends each epoch's figures, and scores the inner patients that early stopping watches."""

    def __init__(self, emit: Emit, stage: str, start: int, inner: Watched) -> None:
        super().__init__()
        self._emit, self._stage, self._start, self._inner = emit, stage, start, inner
        self.history: list[dict[str, float | str]] = []
        self.peak_memory = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Record and send. Raises `UserError` where the loss is no number any more."""
        logs = {} if logs is None else logs
        if not np.isfinite(logs.get("loss", 0.0)):
            raise diverged(f"{logs['loss']} in epoch {self._start + epoch + 1} ({self._stage})")
        if self._inner is not None:
            logs["inner_loss"] = self.model.evaluate(*self._inner, batch_size=EVALUATION_BATCH, verbose=0)[0]
        figures = {name: float(value) for name, value in logs.items()}
        self.history.append({"stage": self._stage, "epoch": self._start + epoch + 1, **figures})
        self.peak_memory = max(self.peak_memory, private_memory())
        self._emit(EpochDone(self._start + epoch + 1, figures, time.time()))


def fit(
    model: keras.Model,
    batches: Batches,
    spec: TrainingSpec,
    stage: Stage,
    *,
    start: int,
    validation: Watched,
    inner: Watched,
    emit: Emit,
) -> tuple[list[dict[str, float | str]], int, int]:
    """Train `model` in place; returns its history, the number of epochs kept, and the peak private memory in bytes.

    `start` is the number of epochs before this stage.
    `validation` is only watched. With early stopping the weights of the epoch with the least loss on `inner` are kept.
    """
    wide = model.count_params() > COMPILED_PARAMETERS
    # XLA would slow it: on a processor it pays for wide dense layers, not for convolutions
    convolves = any(isinstance(layer, keras.layers.Conv2D) for layer in model._flatten_layers())
    optimizer = OPTIMIZERS[spec.optimizer](stage.learning_rate, spec.momentum)
    model.compile(
        fast_optimizer(optimizer) if wide and convolves else optimizer,
        loss="binary_crossentropy",
        metrics=["accuracy"],
        jit_compile=wide and not convolves,
        steps_per_execution=len(batches),  # Keras runs whole executions: another number would overrun an epoch
    )
    report = _Report(emit, stage.name, start, inner)
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
    """Weights of class 0 and 1: `balanced` gives each the other's share (the paper's chapter 4), `a:b` is as given."""
    if name == "none":
        return None
    if name == "balanced":
        positive = float(np.mean(labels))
        return {0: positive, 1: 1 - positive}
    negative, positive = (float(part) for part in name.split(":"))
    return {0: negative, 1: positive}


def diverged(found: str) -> UserError:
    """The error for a training whose numbers left the finite ones."""
    return expected("learning_rate", "a loss that stays a number", f"{found}; a lower rate may help")


def private_memory() -> int:
    """Bytes that this process has to itself: anonymous memory where the system tells it, else the resident set.

    Mapped cache files count in the resident set but are the system's to take back.
    """
    try:
        with Path("/proc/self/status").open() as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
    except (OSError, StopIteration):
        return psutil.Process().memory_info().rss
