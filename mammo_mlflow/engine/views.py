"""Predict validation rows in several views of each patch, in a worker process: test-time augmentation."""

from __future__ import annotations

import keras
import numpy as np

from mammo_mlflow.data.augmentation import ALL_FLIPS
from mammo_mlflow.engine.backend import set_threads
from mammo_mlflow.engine.contract import EVALUATION_BATCH
from mammo_mlflow.engine.inputs import ModelInput, PatchReader, Reader, combine_readers, stored_reader
from mammo_mlflow.jobs.contracts import Emit, FitJob, Part, StepsDone, ViewsJob
from mammo_mlflow.models.network import convolves


def predict_views(job: ViewsJob, emit: Emit) -> list[np.ndarray]:
    """Predict the validation rows of each fit: the mean probability over their views, float64 (m,) each."""
    from mammo_mlflow.engine.assembly import build_part  # imports MLflow, which training does without

    set_threads(job.threads)
    found = []
    emit(StepsDone(0, len(job.fits)))
    for fit, tail in zip(job.fits, job.tails, strict=True):
        if files := fit.tuned or fit.features:
            model: keras.Model = keras.saving.load_model(tail, compile=False)
            reader = stored_reader(fit, files, job.views)
        else:
            model = build_part(Part(fit.network, fit.weights, fit.description.trained.index, (tail,)))
            reader = _flipped_patches(fit)
        found.append(mean_over_views(model, reader, fit.validation_rows, job.views))
        emit(StepsDone(len(found), len(job.fits)))
    return found


def mean_over_views(model: keras.Model, read: Reader[ModelInput], rows: np.ndarray, views: int) -> np.ndarray:
    """The probabilities of rows, means over the plain view and so many others: float64 (m,)."""
    total = np.zeros(len(rows))
    size = EVALUATION_BATCH if convolves(model) else max(len(rows), 1)
    for start in range(0, len(rows), size):
        batch = slice(start, start + size)
        for view in range(views + 1):
            # `predict` makes a dataset each time, which takes ten times as long as a small head
            total[batch] += model.predict_on_batch(read(rows[batch], np.full(len(rows[batch]), view)))[:, 0]
    return total / (views + 1)


def _flipped_patches(fit: FitJob) -> Reader[ModelInput]:
    """The reader of patches of each side, whose views are the flips."""
    return combine_readers(
        {
            side: PatchReader(fit.tensor, first, ALL_FLIPS, places=fit.places.get(side))
            for side, first in fit.experiment.sides.items()
        }
    )
