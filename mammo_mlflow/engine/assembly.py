"""The whole model, in the child: joined from prefix and tails, written as an MLflow model, loaded again to predict."""

from __future__ import annotations

import keras
import numpy as np

from mammo_mlflow.engine.activations import encoder
from mammo_mlflow.engine.backend import set_threads
from mammo_mlflow.engine.flavor import answer_example, load_keras_model, save_keras_model
from mammo_mlflow.engine.inputs import blocks
from mammo_mlflow.jobs.contracts import AssembleJob, Emit, Part, PredictJob, StepsDone, TryJob
from mammo_mlflow.models.conditioned import join_condition
from mammo_mlflow.models.network import join, load_weights
from mammo_mlflow.models.siamese import before_head
from mammo_mlflow.models.tensors import fed

BATCH = 32


def assemble(job: AssembleJob, emit: Emit) -> None:
    """Write the MLflow model directory `job.output`: raw inputs in, as in `job.examples`, probability (n, 1) out."""
    if job.features is None:
        model = build(job.part)
    else:
        condition = None if job.condition is None else build(job.condition)
        tail = keras.saving.load_model(job.part.tails[0], compile=False)
        network = job.part.network
        features, as_class = build(job.features, features=True), network.model.condition == "class"
        model = join_condition(features, condition, tail, network.image_size, as_class)
    model.trainable = False
    save_keras_model(model, job.output, job.examples, job.metadata)


def build(part: Part, features: bool = False) -> keras.Model:
    """The whole model of a trained part, or all of it that stands before its head."""
    base = encoder(part.network)
    load_weights(base, part.weights)
    tails = [keras.saving.load_model(path, compile=False) for path in part.tails]
    return join(base, part.cut, [before_head(tail) for tail in tails] if features else tails, part.network.sides)


def predict(job: PredictJob, emit: Emit) -> np.ndarray:
    """Probabilities (n,) of every abnormality by the model in `job.model`; emits `progress` events."""
    emit(StepsDone(0, 1))
    set_threads(job.threads)
    model = load_keras_model(job.model)
    out = [model.predict(fed(batch), batch_size=BATCH, verbose=0)[:, 0] for batch in blocks(job, BATCH, emit)]
    return np.concatenate(out).astype(np.float64)


def try_out(job: TryJob, emit: Emit) -> dict[str, np.ndarray]:
    """What a served model answers to its own input example, columns (n,)."""
    return answer_example(job.model)
