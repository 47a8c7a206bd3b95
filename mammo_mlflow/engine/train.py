"""Train one fit, a fold or the refit, in a worker process: first the head, then the last convolutions with it.

A network without frozen layers is trained in one stage, from raw patches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import keras
import numpy as np

from mammo_mlflow.engine.activations import network_encoder
from mammo_mlflow.engine.backend import fast_batch_norm, set_threads
from mammo_mlflow.engine.batches import Batches
from mammo_mlflow.engine.inputs import ModelInput, NumberReader, PatchReader, Reader, StoredActivations, combine_readers
from mammo_mlflow.engine.loop import (
    EVALUATION_BATCH,
    HeldOut,
    Stage,
    divergence_error,
    private_memory_bytes,
    train_stage,
)
from mammo_mlflow.experiment import BASELINE
from mammo_mlflow.jobs.contracts import Emit, FitJob, FitResult, StepsDone
from mammo_mlflow.models.conditioned import build_conditioned
from mammo_mlflow.models.network import build_head, build_tail, build_whole, load_weights, suffix, unfreeze
from mammo_mlflow.names import Artifact


def train_fit(job: FitJob, emit: Emit) -> FitResult:
    """Train a fit, predict its validation rows, save its tail below `job.output`; emits `EpochDone` for each epoch.

    Raises `UserError` where loss or predictions are not finite.
    """
    started = time.perf_counter()
    emit(StepsDone(0, job.total_epochs))
    training = job.experiment.training
    set_threads(training.threads)
    keras.utils.set_random_seed(job.seed)
    network = _FitNetwork(job)
    on_line = not job.features
    independent = job.experiment.family == "siamese" and training.pair_augmentation == "independent"
    history: list[dict[str, float | str]] = []
    kept: dict[str, int] = {}
    peak = private_memory_bytes()
    validation: HeldOut = None
    training_started = time.perf_counter()
    for number, stage in enumerate(_stages(job)):
        model, read = network.stage(stage.name)
        validation, inner = (_read_plain(read, rows, job.labels) for rows in (job.validation_rows, job.inner_rows))
        batches = Batches(
            read,
            job.train_rows,
            job.labels,
            training.batch_size,
            None if on_line else training.views,
            [job.seed, number],
            columns=2 if independent and not on_line else 1,
        )
        part, kept[stage.name], memory = train_stage(
            model, batches, training, stage, start=len(history), validation=validation, inner=inner, emit=emit
        )
        history += part
        peak = max(peak, memory)
    trained = time.perf_counter() - training_started
    probabilities = np.zeros(0, np.float64)
    if validation is not None:
        probabilities = model.predict(validation[0], batch_size=EVALUATION_BATCH, verbose=0)[:, 0].astype(np.float64)
        if not np.isfinite(probabilities).all():
            raise divergence_error("predictions that are not numbers after the last epoch")
    path = job.output / Artifact.TAIL
    network.tail(model).save(path)
    return FitResult(
        probabilities=probabilities,
        history=history,
        best_epochs=kept,
        seconds=time.perf_counter() - started,
        peak_memory=max(peak, private_memory_bytes()),
        tail=path,
        training_seconds=trained,
    )


def _stages(job: FitJob) -> list[Stage]:
    """The stages of a fit, in order."""
    training = job.experiment.training
    first = Stage("network" if job.experiment.trained_whole else "head", job.epochs, training.learning_rate)
    if not job.experiment.model.unfrozen_layers:  # also where the whole network is trained
        return [first]
    return [first, Stage("tuned", job.tuning_epochs, training.tuning_learning_rate)]


class _FitNetwork:
    """The network of a fit during its training: all stages share one head, and one encoder where there is one."""

    def __init__(self, job: FitJob) -> None:
        self._job, self._spec = job, job.experiment.model
        self._head = build_head(job.description.head, self._spec)

    def stage(self, name: str) -> tuple[keras.Model, Reader[ModelInput]]:
        """The model that a stage trains, and the reader of its inputs."""
        job, spec, sides = self._job, self._spec, self._job.network.sides
        if name == "tuned":
            self._head = _uncompiled(self._head)
        if job.experiment.family == "conditioned":
            return build_conditioned(job.description.features.shape, self._head), _stored_reader(job, job.features)
        if job.features and name == "head":
            return self._tail(None), _stored_reader(job, job.features)
        base = self._encoder
        if name == "tuned":
            unfreeze(base, spec.unfrozen_layers)
        if job.features:
            return self._tail(base), _stored_reader(job, job.tuned)
        return build_whole(base, self._head, sides, spec.difference), _patch_reader(job)

    def tail(self, model: keras.Model) -> keras.Model:
        """The trained tail, not compiled and of Keras's own layers, for `join_tails`."""
        if self._job.features:
            return _uncompiled(model)
        base = self._encoder
        if self._job.experiment.trained_whole:
            kept = network_encoder(self._job.network)
            kept.set_weights(base.get_weights())
            base = kept
        self._head = _uncompiled(self._head)
        return self._tail(base)

    def _tail(self, base: keras.Model | None) -> keras.Model:
        """The head behind the trained layers of an encoder, or with None the head on stored features."""
        job = self._job
        trained = None if base is None else suffix(base, job.description.trained.index)
        shape = job.description.features.shape
        return build_tail(trained, self._head, job.network.sides, self._spec.difference, shape)

    @cached_property
    def _encoder(self) -> keras.Model:
        """The encoder, with its weights; one for all stages."""
        base = network_encoder(self._job.network, fast_batch_norm())
        load_weights(base, self._job.weights)
        return base


def _uncompiled(model: keras.Model) -> keras.Model:
    """The same layers as a model that is not compiled, so that no optimizer is saved with it."""
    return keras.Model(model.input, model.output, name=model.name)


def _stored_reader(job: FitJob, files: Mapping[str, Path]) -> Reader[ModelInput]:
    """The reader of stored activations, by input, and of the job's constants."""
    readers: dict[str, Reader[np.ndarray]] = {name: StoredActivations(path) for name, path in files.items()}
    views = job.experiment.training.views
    return combine_readers(readers | {name: NumberReader(values, views) for name, values in job.constants.items()})


def _patch_reader(job: FitJob) -> Reader[ModelInput]:
    """The reader of patches of each side, for on-line training."""
    training, seed = job.experiment.training, job.experiment.cv.seed
    own = training.pair_augmentation == "independent"
    return combine_readers(
        {
            side: PatchReader(job.tensor, first, training.augmentation, seed, own_views=own and side == BASELINE)
            for side, first in job.experiment.sides.items()
        }
    )


def _read_plain(read: Reader[ModelInput], rows: np.ndarray, labels: np.ndarray) -> HeldOut:
    """Inputs, in the plain view, and labels of rows (m,); None where there are no rows."""
    return (read(rows, np.zeros(len(rows), int)), labels[rows]) if len(rows) else None
