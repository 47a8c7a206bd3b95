"""Predict the validation rows of fits in several views of each patch, in a worker process: test-time augmentation."""

from __future__ import annotations

import keras
import numpy as np

from mammo_mlflow.data.augmentation import ALL_FLIPS
from mammo_mlflow.engine.assembly import build_part
from mammo_mlflow.engine.backend import set_threads
from mammo_mlflow.engine.contract import EVALUATION_BATCH
from mammo_mlflow.engine.inputs import ModelInput, PatchReader, Reader, combine_readers
from mammo_mlflow.engine.train import stored_reader
from mammo_mlflow.jobs.contracts import Emit, FitJob, Part, StepsDone, ViewsJob


def predict_views(job: ViewsJob, emit: Emit) -> list[np.ndarray]:
    """Predict the validation rows of each fit: the mean probability over their views, float64 (m,) each."""
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
        total = np.zeros(len(fit.validation_rows))
        for view in range(job.views + 1):
            inputs = reader(fit.validation_rows, np.full(len(total), view))
            total += model.predict(inputs, batch_size=EVALUATION_BATCH, verbose=0)[:, 0]
        found.append(total / (job.views + 1))
        emit(StepsDone(len(found), len(job.fits)))
    return found


def _flipped_patches(fit: FitJob) -> Reader[ModelInput]:
    """The reader of patches of each side, whose views are the flips."""
    return combine_readers(
        {
            side: PatchReader(fit.tensor, first, ALL_FLIPS, places=fit.places.get(side))
            for side, first in fit.experiment.sides.items()
        }
    )
