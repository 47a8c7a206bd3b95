"""Join prefix and tails into the whole model, write it as an MLflow model, predict with one, in a worker process."""

from __future__ import annotations

import keras
import numpy as np

from mammo_mlflow.engine.activations import network_encoder
from mammo_mlflow.engine.backend import set_threads
from mammo_mlflow.engine.flavor import answer_example, load_keras_model, save_keras_model
from mammo_mlflow.engine.inputs import read_batches
from mammo_mlflow.evaluation.calibration import LEAST
from mammo_mlflow.evaluation.recalibration import IsotonicMap, PlattMap
from mammo_mlflow.jobs.contracts import AssembleJob, Emit, Part, PredictJob, StepsDone, TryJob
from mammo_mlflow.models.conditioned import join_condition
from mammo_mlflow.models.flips import average_flips
from mammo_mlflow.models.joined import join_backbones
from mammo_mlflow.models.network import join_tails, load_weights
from mammo_mlflow.models.recalibrated import append_isotonic, append_platt
from mammo_mlflow.models.siamese import before_head
from mammo_mlflow.models.tensors import as_model_input

BATCH = 32


def assemble_model(job: AssembleJob, emit: Emit) -> None:
    """Write the MLflow model directory `job.output`: inputs as in `job.examples`, probability (n, 1) out."""
    if job.features is None:
        model = build_part(job.part)
    else:
        condition = None if job.condition is None else build_part(job.condition)
        tail = keras.saving.load_model(job.part.tails[0], compile=False)
        network = job.part.network
        features, as_class = build_part(job.features, features=True), network.model.condition == "class"
        model = join_condition(features, condition, tail, network.image_size, as_class)
    if job.flips:
        model = average_flips(model)
    match job.recalibration:
        case PlattMap(slope, intercept):
            model = append_platt(model, slope, intercept, LEAST)
        case IsotonicMap(x, y):
            model = append_isotonic(model, x, y)
    model.trainable = False
    save_keras_model(model, job.output, job.examples, job.metadata)


def build_part(part: Part, features: bool = False) -> keras.Model:
    """Build the whole model of a trained part; with `features`, all of it before its head."""
    bases = []
    for one in part.joined or (part,):
        bases.append(network_encoder(one.network))
        load_weights(bases[-1], one.weights)
    tails = [keras.saving.load_model(path, compile=False) for path in part.tails]
    tails = [before_head(tail) for tail in tails] if features else tails
    if part.joined:
        return join_backbones(bases, tails, part.network.image_size)
    return join_tails(bases[0], part.cut, tails, part.network.sides)


def predict(job: PredictJob, emit: Emit) -> np.ndarray:
    """Predict every abnormality with the model in `job.model`: probabilities, float64 (n,); emits `StepsDone`."""
    emit(StepsDone(0, 1))
    set_threads(job.threads)
    model = load_keras_model(job.model)
    out = [
        model.predict(as_model_input(batch), batch_size=BATCH, verbose=0)[:, 0]
        for batch in read_batches(job, BATCH, emit)
    ]
    return np.concatenate(out).astype(np.float64)


def predict_example(job: TryJob, emit: Emit) -> dict[str, np.ndarray]:
    """Predict a model's own input example as MLflow serves it: columns (n,) by name."""
    return answer_example(job.model)
