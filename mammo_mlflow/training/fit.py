"""One fit, in the child: a fold or the refit. First the head, then the last convolutions from this very head."""

from __future__ import annotations

import time
from pathlib import Path

import keras
import numpy as np

from mammo_mlflow.data.augmentation import draw_transforms
from mammo_mlflow.models.network import build_base, build_head, build_tail, load_weights, unfreeze
from mammo_mlflow.training import activations
from mammo_mlflow.training.backend import set_threads
from mammo_mlflow.training.jobs import Emit, FitJob, FitResult
from mammo_mlflow.training.loop import EVALUATION_BATCH, Batches, Reader, diverged, fit, private_memory

Stage = tuple[keras.Model, Reader]


def run(job: FitJob, emit: Emit) -> FitResult:
    """Train, predict the validation rows, save the tail; emits an `epoch` event after each epoch."""
    started = time.perf_counter()
    emit({"kind": "progress", "done": 0, "total": job.total_epochs})
    set_threads(job.experiment.training.threads)
    keras.utils.set_random_seed(job.seed)
    head = build_head(job.description.features.shape, job.experiment.model)
    on_line = job.features is None
    read_plain = _read_patches(job)
    history: list[dict[str, float | str]] = []
    kept: dict[str, int] = {}
    peak = private_memory()
    model, read = (
        (_whole(job, head), read_plain) if on_line else (head, activations.StoredActivations(_file(job.features)))
    )
    validation: tuple[np.ndarray, np.ndarray] | None = None
    stages = [("head", job.epochs, job.experiment.training.learning_rate)]
    if job.experiment.model.unfrozen_layers:
        stages.append(("tuned", job.tuning_epochs, job.experiment.training.tuning_learning_rate))
    training_started = time.perf_counter()
    for number, (stage, epochs, rate) in enumerate(stages):
        if stage == "tuned":
            head = _uncompiled(head)
            model, read = _tuned(job, head, read_plain)
        validation = _read_all(read, job.validation_rows, job.labels)
        part, kept[stage], memory = fit(
            model,
            Batches(
                read,
                job.train_rows,
                job.labels,
                job.experiment.training.batch_size,
                None if on_line else job.experiment.training.views,
                [job.seed, number],
            ),
            validation=validation,
            inner=_read_all(read, job.inner_rows, job.labels),
            spec=job.experiment.training,
            learning_rate=rate,
            epochs=epochs,
            class_weights=class_weights(job.experiment.training.class_weights, job.labels[job.train_rows]),
            stage=stage,
            start=len(history),
            emit=emit,
        )
        history += part
        peak = max(peak, memory)
    trained = time.perf_counter() - training_started
    probabilities = np.zeros(0, np.float64)
    if validation is not None:
        probabilities = model.predict(validation[0], batch_size=EVALUATION_BATCH, verbose=0)[:, 0].astype(np.float64)
        if not np.isfinite(probabilities).all():
            raise diverged("predictions that are not numbers after the last epoch")
    path = job.output / "tail.keras"
    _uncompiled(_tail_of(job, model, head)).save(path)
    return FitResult(
        probabilities, history, kept, time.perf_counter() - started, max(peak, private_memory()), path, trained
    )


def class_weights(name: str, labels: np.ndarray) -> dict[int, float] | None:
    """Weights of class 0 and 1: `balanced` gives each the other's share (the paper's chapter 4), `a:b` is as given."""
    if name == "none":
        return None
    if name == "balanced":
        positive = float(np.mean(labels))
        return {0: positive, 1: 1 - positive}
    negative, positive = (float(part) for part in name.split(":"))
    return {0: negative, 1: positive}


def _uncompiled(model: keras.Model) -> keras.Model:
    """The same layers as a model that was never compiled: it is saved without its optimizer."""
    return keras.Model(model.input, model.output, name=model.name)


def _whole(job: FitJob, head: keras.Model, tuned: bool = False) -> keras.Model:
    """The whole network on line: the same layers as `join` gives, from raw patches."""
    base = build_base(
        job.network.model.backbone, job.network.image_size, job.network.model.pooling, job.network.precision
    )
    load_weights(base, job.weights)
    if tuned:
        unfreeze(base, job.network.model.unfrozen_layers)
    return keras.Model(base.input, head(base.output))


def _tuned(job: FitJob, head: keras.Model, read_plain: Reader) -> Stage:
    if job.features is None:
        return _whole(job, head, tuned=True), read_plain
    base = build_base(
        job.network.model.backbone, job.network.image_size, job.network.model.pooling, job.network.precision
    )
    load_weights(base, job.weights)
    unfreeze(base, job.network.model.unfrozen_layers)
    if job.description.tuned is None:
        raise ValueError("the network's description has no cut for its unfrozen layers")
    tail = build_tail(base, job.description.tuned.index, head)
    return tail, activations.StoredActivations(_file(job.tuned))


def _tail_of(job: FitJob, model: keras.Model, head: keras.Model) -> keras.Model:
    """The part that `join` puts back on a prefix: what was trained, cut from the whole model after on-line training."""
    if not job.experiment.model.unfrozen_layers:
        return head
    if job.features is not None:
        return model
    cut = job.description.tuned
    if cut is None:
        raise ValueError("the network's description has no cut for its unfrozen layers")
    return keras.Model(model.layers[cut.index].output, model.output, name="tail")


def _read_patches(job: FitJob) -> Reader:
    """Patches for on-line training: the plain one as view 0, else that view's transform (one view number an epoch)."""
    patches = np.load(job.tensor, mmap_mode="r")[1::2]
    policy, size = job.experiment.training.augmentation, job.network.image_size

    def read(rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        plain = np.asarray(patches[rows], np.float32)
        view = int(views[0])
        if view == 0 or policy == "none":
            return plain[..., None]
        return activations.augment(plain, draw_transforms(policy, rows, view, size, job.experiment.cv.seed))

    return read


def _read_all(read: Reader, rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    return (read(rows, np.zeros(len(rows), int)), labels[rows]) if len(rows) else None


def _file(path: Path | None) -> Path:
    if path is None:
        raise ValueError("cached training needs its activation file")
    return path
