"""The engine `keras_fit`: Keras's own training loop, the processor's default, for every family."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from mammo_mlflow.engine.averaging import WeightAverage
from mammo_mlflow.engine.backend import fast_optimizer, fastest_feed
from mammo_mlflow.engine.batches import Batches
from mammo_mlflow.engine.contract import (
    EVALUATION_BATCH,
    OPTIMIZERS,
    History,
    StageFit,
    Trained,
    class_weights,
    private_memory_bytes,
)
from mammo_mlflow.engine.inputs import ModelInput, Reader, all_views
from mammo_mlflow.engine.losses import make_loss
from mammo_mlflow.errors import UserError
from mammo_mlflow.models.network import convolves
from mammo_mlflow.models.tensors import Tensor

BATCH = 32
"""The number of views whose activations are computed at once."""
COMPILED_PARAMETERS = 1_000_000
"""The number of weights above which XLA compiles a network or its optimizer."""
HeldOut = tuple[ModelInput, np.ndarray] | None
"""The inputs and labels (m,) of rows that are not trained on, or None."""


class KerasEngine:
    """Trains fits one after another by Keras's `fit`; see `contract.Engine`."""

    def train(self, fits: Sequence[StageFit], size: int = 0) -> Iterator[tuple[int, Trained | UserError]]:
        """Train each fit; see `contract.Engine`."""
        for place, fit in enumerate(fits):
            try:
                yield place, _train(fit)
            except UserError as problem:
                yield place, problem

    def outputs(
        self, network: keras.Model, reader: Reader[ModelInput], patches: int, views: int
    ) -> Iterator[np.ndarray]:
        """Yield a network's outputs; see `contract.Engine`."""
        block = max(1, BATCH // (views + 1))
        for start in range(0, patches, block):
            rows = np.arange(start, min(start + block, patches))
            read = all_views(reader, rows, views)
            inputs = keras.tree.map_structure(lambda one: _pad_rows(one, block * (views + 1)), read)
            out = keras.ops.convert_to_numpy(keras.ops.cast(network.predict_on_batch(inputs), "float32"))
            yield out[: len(rows) * (views + 1)].reshape(len(rows), views + 1, *out.shape[1:])

    def written(self, path: Path) -> None:
        """Nothing is kept; see `contract.Engine`."""


def make(memory: int, notice: Callable[[str], None]) -> KerasEngine:
    """Make the engine; the arguments are another's, as this one leaves memory to Keras."""
    return KerasEngine()


class _EpochReporter(keras.callbacks.Callback):
    """Reports each epoch of a fit, and computes the loss on the inner patients for early stopping."""

    def __init__(self, fit: StageFit, inner: HeldOut) -> None:
        super().__init__()
        self._fit, self._inner = fit, inner
        self.history: History = []
        self.peak_memory = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Record and send the metrics. Raises `UserError` where the loss is not finite."""
        logs = {} if logs is None else logs
        if self._inner is not None and np.isfinite(logs.get("loss", 0.0)):
            logs["inner_loss"] = self.model.evaluate(*self._inner, batch_size=EVALUATION_BATCH, verbose=0)[0]
        self._fit.report(epoch, {name: float(value) for name, value in logs.items()}, self.history)
        self.peak_memory = max(self.peak_memory, private_memory_bytes())


class _StepRates(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of each step, of `StageFit.rates`; within the program, as an execution has many steps."""

    def __init__(self, rates: np.ndarray) -> None:
        self._rates = rates.ravel()

    def __call__(self, step: Tensor) -> Tensor:
        return keras.ops.take(keras.ops.convert_to_tensor(self._rates), keras.ops.cast(step, "int32"), axis=0)


def _train(fit: StageFit) -> Trained:
    """Train one fit by Keras's `fit`. Raises `UserError` where the loss is not finite."""
    started = time.perf_counter()
    model, batches, spec, stage = fit.network, fit.batches, fit.spec, fit.stage
    validation, inner = (_read_plain(batches, rows) for rows in (fit.validation_rows, fit.inner_rows))
    optimizer = OPTIMIZERS[spec.optimizer](stage.learning_rate, spec)
    wide = model.count_params() > COMPILED_PARAMETERS
    # on a processor XLA speeds up wide dense layers and slows down convolutions
    convolutional = convolves(model)
    tensorflow = keras.backend.backend() == "tensorflow"  # another backend without it runs one operation at a time
    optimizer = fast_optimizer(optimizer) if wide and convolutional else optimizer
    if np.ptp(fit.rates):
        optimizer.learning_rate = _StepRates(fit.rates)
    model.compile(
        optimizer,
        loss=make_loss(spec.loss, spec.focal_gamma, spec.label_smoothing),
        metrics=["accuracy"],
        jit_compile=wide and not convolutional if tensorflow else "auto",
        steps_per_execution=len(batches),  # Keras runs whole executions: another number may pass the epoch's end
    )
    report = _EpochReporter(fit, inner)
    stopping = keras.callbacks.EarlyStopping("inner_loss", patience=fit.patience, restore_best_weights=True, mode="min")
    averaging = WeightAverage(fit)
    also = [stopping] * bool(fit.patience) + [averaging] * fit.averages
    data, steps = fastest_feed(batches, stage.epochs)
    model.fit(
        data,
        epochs=stage.epochs,
        steps_per_epoch=steps,
        shuffle=False,  # the batches are drawn in a random order already
        validation_data=validation,
        validation_batch_size=EVALUATION_BATCH,
        callbacks=[report, *also],
        class_weight=class_weights(spec.class_weights, batches.labels[batches.rows]),
        verbose=0,
    )
    if fit.averages:
        averaging.finish()

    def predict() -> np.ndarray:
        if validation is None:
            return np.zeros(0, np.float64)
        return model.predict(validation[0], batch_size=EVALUATION_BATCH, verbose=0)[:, 0].astype(np.float64)

    return Trained(
        history=report.history,
        kept=stopping.best_epoch + 1 if fit.patience else len(report.history),
        seconds=time.perf_counter() - started,
        memory=report.peak_memory,
        predict=predict,
    )


def _read_plain(batches: Batches, rows: np.ndarray) -> HeldOut:
    """Inputs, in the plain view, and labels of rows (m,); None where there are no rows."""
    return (batches.read(rows, np.zeros(len(rows), int)), batches.labels[rows]) if len(rows) else None


def _pad_rows(batch: np.ndarray, size: int) -> np.ndarray:
    """Pad a batch with zeros to `size` rows, so that Keras sees one shape and traces the graph once."""
    return np.pad(batch, [(0, size - len(batch))] + [(0, 0)] * (batch.ndim - 1)) if len(batch) < size else batch
