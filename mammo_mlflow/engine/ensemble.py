"""Join the members of an ensemble into one Keras model, save it, predict with it, in a worker process."""

from __future__ import annotations

import json
from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from mammo_mlflow.engine.activations import network_encoder
from mammo_mlflow.engine.backend import set_threads
from mammo_mlflow.engine.flavor import load_answering_model, save_answering_model
from mammo_mlflow.engine.inputs import read_batches
from mammo_mlflow.experiment import PATCH
from mammo_mlflow.jobs.contracts import AnswerJob, Emit, EnsembleJob, Part, StepsDone
from mammo_mlflow.models.network import load_weights, prefix
from mammo_mlflow.models.tensors import Tensor, as_model_input
from mammo_mlflow.names import Artifact

BATCH = 32


def assemble_ensemble(job: EnsembleJob, emit: Emit) -> None:
    """Write an ensemble's MLflow model directory: patches in; probability, decision and members' probabilities out."""
    folder = job.output.with_name(f"{job.output.name}-files")
    folder.mkdir(parents=True)
    members = join_members(job.parts)
    members.save(folder / Artifact.MEMBERS)
    (folder / Artifact.LEVEL1).write_bytes(job.level1.read_bytes())
    (folder / Artifact.ENSEMBLE).write_text(json.dumps({"members": job.names, "threshold": job.threshold}))
    save_answering_model(job, folder)


def join_members(parts: tuple[Part, ...]) -> keras.Model:
    """Join all members into one model: raw patches of each side in, probabilities, float32 (n, members), out.

    A frozen prefix that several members share is in it once; a deeper layer cut is computed from the shallower one.
    """
    size = parts[0].network.image_size
    sides = sorted({side for part in parts for side in part.network.sides})
    inputs = {side: layers.Input((size, size, 1), dtype="float32", name=side) for side in sides}
    carried = _shared_prefixes(inputs, parts)
    answers = []
    for number, part in enumerate(parts):
        if part.joined:
            given = {one.network.model.backbone: carried[_encoder_identity(one), one.cut, PATCH] for one in part.joined}
        else:
            given = {side: carried[_encoder_identity(part), part.cut, side] for side in part.network.sides}
        tails = [keras.saving.load_model(path, compile=False, safe_mode=True) for path in part.tails]
        for fold, tail in enumerate(tails):
            tail.name = f"member_{number}_{fold}"
        found = [tail(as_model_input(given)) for tail in tails]
        answers.append(found[0] if len(found) == 1 else layers.Average(name=f"member_{number}")(found))
    out = layers.Concatenate(dtype="float32", name="members")(answers)
    model = keras.Model(as_model_input(inputs), out, name="ensemble")
    model.trainable = False
    return model


def _shared_prefixes(inputs: Mapping[str, Tensor], parts: tuple[Part, ...]) -> dict[tuple[str, int, str], Tensor]:
    """The activations at each layer cut of the members, by encoder, cut and side."""
    found: dict[tuple[str, int, str], Tensor] = {}
    by_encoder: dict[str, list[Part]] = {}
    for one in [one for part in parts for one in part.joined or (part,)]:
        by_encoder.setdefault(_encoder_identity(one), []).append(one)
    for number, (key, alike) in enumerate(by_encoder.items()):
        known, start = {side: inputs[side] for part in alike for side in part.network.sides}, 0
        base = None
        for cut in sorted({part.cut for part in alike}):
            if cut:
                if base is None:
                    base = network_encoder(alike[0].network)
                    load_weights(base, alike[0].weights)
                step = prefix(base, cut, start)
                step.name = f"prefix_{number}_{cut}"
                known, start = {side: step(x) for side, x in known.items()}, cut
            found |= {(key, cut, side): x for side, x in known.items()}
    return found


def _encoder_identity(part: Part) -> str:
    """Identify an encoder, whose prefix members share: backbone, pooling, input scaling, precision and weights."""
    model = part.network.model
    return f"{model.backbone} {model.pooling} {model.input_scaling} {part.network.precision} {part.weights.identity}"


def predict_ensemble(job: AnswerJob, emit: Emit) -> np.ndarray:
    """Predict every abnormality with a logged ensemble: probability, decision, each member's probability.

    float64 (n, 2 + members); emits `StepsDone`.
    """
    emit(StepsDone(0, 1))
    set_threads(job.threads)
    model = load_answering_model(job.model)
    return np.concatenate(
        [np.asarray(model.predict(as_model_input(one)), np.float64) for one in read_batches(job, BATCH, emit)]
    )
