"""One fit, in the child: a fold or the refit. First the head, then the last convolutions from this very head.

What has no frozen layer is trained in one stage, from raw patches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import keras
import numpy as np

from mammo_mlflow.engine.activations import encoder
from mammo_mlflow.engine.backend import fast_batch_norm, set_threads
from mammo_mlflow.engine.batches import Batches
from mammo_mlflow.engine.inputs import Constant, Fed, Patches, Reader, StoredActivations, one_or_all
from mammo_mlflow.engine.loop import EVALUATION_BATCH, Stage, Watched, diverged, fit, private_memory
from mammo_mlflow.experiment import BASELINE
from mammo_mlflow.jobs.contracts import Emit, FitJob, FitResult, StepsDone
from mammo_mlflow.models.conditioned import build_conditioned
from mammo_mlflow.models.network import build_head, build_tail, build_whole, load_weights, suffix, unfreeze
from mammo_mlflow.names import Artifact


def train_fit(job: FitJob, emit: Emit) -> FitResult:
    """Train, predict the validation rows, save the tail; emits an `epoch` event after each epoch."""
    started = time.perf_counter()
    emit(StepsDone(0, job.total_epochs))
    training = job.experiment.training
    set_threads(training.threads)
    keras.utils.set_random_seed(job.seed)
    network = _Trained(job)
    on_line = not job.features
    independent = job.experiment.family == "siamese" and training.pair_augmentation == "independent"
    history: list[dict[str, float | str]] = []
    kept: dict[str, int] = {}
    peak = private_memory()
    validation: Watched = None
    training_started = time.perf_counter()
    for number, stage in enumerate(_stages(job)):
        model, read = network.stage(stage.name)
        validation, inner = (_read_all(read, rows, job.labels) for rows in (job.validation_rows, job.inner_rows))
        batches = Batches(
            read,
            job.train_rows,
            job.labels,
            training.batch_size,
            None if on_line else training.views,
            [job.seed, number],
            columns=2 if independent and not on_line else 1,
        )
        part, kept[stage.name], memory = fit(
            model, batches, training, stage, start=len(history), validation=validation, inner=inner, emit=emit
        )
        history += part
        peak = max(peak, memory)
    trained = time.perf_counter() - training_started
    probabilities = np.zeros(0, np.float64)
    if validation is not None:
        probabilities = model.predict(validation[0], batch_size=EVALUATION_BATCH, verbose=0)[:, 0].astype(np.float64)
        if not np.isfinite(probabilities).all():
            raise diverged("predictions that are not numbers after the last epoch")
    path = job.output / Artifact.TAIL
    network.tail(model).save(path)
    return FitResult(
        probabilities=probabilities,
        history=history,
        best_epochs=kept,
        seconds=time.perf_counter() - started,
        peak_memory=max(peak, private_memory()),
        tail=path,
        training_seconds=trained,
    )


def _stages(job: FitJob) -> list[Stage]:
    training = job.experiment.training
    first = Stage("network" if job.experiment.trained_whole else "head", job.epochs, training.learning_rate)
    if not job.experiment.model.unfrozen_layers:  # as where all is trained
        return [first]
    return [first, Stage("tuned", job.tuning_epochs, training.tuning_learning_rate)]


class _Trained:
    """The network of a job while it is trained: one head through all stages, on one encoder where that is needed."""

    def __init__(self, job: FitJob) -> None:
        self._job, self._spec = job, job.experiment.model
        self._head = build_head(job.description.head, self._spec)

    def stage(self, name: str) -> tuple[keras.Model, Reader[Fed]]:
        """The model to be trained in a stage, and the reader of its inputs."""
        job, spec, sides = self._job, self._spec, self._job.network.sides
        if name == "tuned":
            self._head = _uncompiled(self._head)
        if job.experiment.family == "conditioned":
            return build_conditioned(job.description.features.shape, self._head), _stored(job, job.features)
        if job.features and name == "head":
            return self._tail(None), _stored(job, job.features)
        base = self._encoder
        if name == "tuned":
            unfreeze(base, spec.unfrozen_layers)
        if job.features:
            return self._tail(base), _stored(job, job.tuned)
        return build_whole(base, self._head, sides, spec.difference), _patches(job)

    def tail(self, model: keras.Model) -> keras.Model:
        """What was trained, never compiled and of Keras's own layers, as `join` puts it back on a prefix."""
        if self._job.features:
            return _uncompiled(model)
        base = self._encoder
        if self._job.experiment.trained_whole:
            kept = encoder(self._job.network)
            kept.set_weights(base.get_weights())
            base = kept
        self._head = _uncompiled(self._head)
        return self._tail(base)

    def _tail(self, base: keras.Model | None) -> keras.Model:
        job = self._job
        trained = None if base is None else suffix(base, job.description.trained.index)
        shape = job.description.features.shape
        return build_tail(trained, self._head, job.network.sides, self._spec.difference, shape)

    @cached_property
    def _encoder(self) -> keras.Model:
        """The encoder, with its weights; one for all stages."""
        base = encoder(self._job.network, fast_batch_norm())
        load_weights(base, self._job.weights)
        return base


def _uncompiled(model: keras.Model) -> keras.Model:
    """The same layers as a model that was never compiled: it is saved without its optimizer."""
    return keras.Model(model.input, model.output, name=model.name)


def _stored(job: FitJob, files: Mapping[str, Path]) -> Reader[Fed]:
    """Stored activations by input, and the numbers beside them."""
    readers: dict[str, Reader[np.ndarray]] = {name: StoredActivations(path) for name, path in files.items()}
    views = job.experiment.training.views
    return one_or_all(readers | {name: Constant(values, views) for name, values in job.constants.items()})


def _patches(job: FitJob) -> Reader[Fed]:
    """Patches for on-line training, of each side."""
    training, seed = job.experiment.training, job.experiment.cv.seed
    own = training.pair_augmentation == "independent"
    return one_or_all(
        {
            side: Patches(job.tensor, first, training.augmentation, seed, own_views=own and side == BASELINE)
            for side, first in job.experiment.sides.items()
        }
    )


def _read_all(read: Reader[Fed], rows: np.ndarray, labels: np.ndarray) -> Watched:
    return (read(rows, np.zeros(len(rows), int)), labels[rows]) if len(rows) else None
