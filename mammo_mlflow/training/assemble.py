"""The whole model, in the child: joined from prefix and tails, written as an MLflow model, loaded again to predict."""

from __future__ import annotations

import keras
import numpy as np

from mammo_mlflow.models.network import build_base, join, load_weights
from mammo_mlflow.tracking.flavor import load_keras_model, save_keras_model
from mammo_mlflow.training.backend import set_threads
from mammo_mlflow.training.jobs import AssembleJob, Emit, PredictJob

BATCH = 32


def assemble(job: AssembleJob, emit: Emit) -> None:
    """Write the MLflow model directory `job.target`: patches (n, size, size, 1) uint16 in, probability (n, 1) out."""
    base = build_base(
        job.network.model.backbone, job.network.image_size, job.network.model.pooling, job.network.precision
    )
    load_weights(base, job.weights)
    tails = [keras.saving.load_model(path, compile=False) for path in job.tails]
    model = join(base, job.cut, tails)
    model.trainable = False
    save_keras_model(model, job.target, job.example, job.metadata)


def predict(job: PredictJob, emit: Emit) -> np.ndarray:
    """Probabilities (n,) of every abnormality patch by the model in `job.model`; emits `progress` events."""
    emit({"kind": "progress", "done": 0, "total": 1})
    set_threads(job.threads)
    model = load_keras_model(job.model)
    patches = np.load(job.tensor, mmap_mode="r")[1::2]
    out = []
    for start in range(0, len(patches), BATCH):
        batch = np.asarray(patches[start : start + BATCH])[..., None]
        out.append(model.predict(batch, batch_size=BATCH, verbose=0)[:, 0])
        emit({"kind": "progress", "done": min(start + BATCH, len(patches)), "total": len(patches)})
    return np.concatenate(out).astype(np.float64)
