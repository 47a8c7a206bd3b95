"""Join the members of an ensemble into one Keras model, save it, predict with it, in a worker process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import layers

from mammo_mlflow.engine.activations import network_encoder
from mammo_mlflow.engine.backend import set_threads
from mammo_mlflow.engine.flavor import load_answering_model, save_answering_model
from mammo_mlflow.engine.inputs import read_batches
from mammo_mlflow.experiment import PATCH
from mammo_mlflow.jobs.contracts import AnswerJob, Emit, EnsembleJob, Part, StepsDone
from mammo_mlflow.models.flips import all_turns, mean_of_turns
from mammo_mlflow.models.network import load_weights, prefix
from mammo_mlflow.models.tensors import Tensor, as_model_input
from mammo_mlflow.names import Artifact

BATCH = 32


def assemble_ensemble(job: EnsembleJob, emit: Emit) -> None:
    """Write an ensemble's MLflow model directory: patches in; probability, decision and members' probabilities out."""
    folder = job.output.with_name(f"{job.output.name}-files")
    folder.mkdir(parents=True)
    members = join_members(job.parts, job.flips)
    members.save(folder / Artifact.MEMBERS)
    (folder / Artifact.LEVEL1).write_bytes(job.level1.read_bytes())
    (folder / Artifact.ENSEMBLE).write_text(json.dumps({"members": job.names, "threshold": job.threshold}))
    save_answering_model(job, members, folder)


def join_members(parts: Sequence[Part], flips: Sequence[bool]) -> keras.Model:
    """Join all members into one model: raw patches of each side in, probabilities, float32 (n, members), out.

    Those with `flips` answer with the mean over the flips and quarter turns of their patches, as they do alone.
    A frozen prefix that several members share is in it once; a deeper layer cut is computed from the shallower one.
    """
    size = parts[0].network.image_size
    sides = sorted({side for part in parts for side in part.network.sides})
    inputs = {side: layers.Input((size, size, 1), dtype="float32", name=side) for side in sides}
    carried = _shared_prefixes(inputs, parts, flips)
    answers = []
    for number, (part, flipped) in enumerate(zip(parts, flips, strict=True)):
        if part.joined:
            prefixes = {one.network.model.backbone: (one, PATCH) for one in part.joined}
        else:
            prefixes = {side: (part, side) for side in part.network.sides}
        given = {
            name: carried[_encoder_identity(one), one.cut, side, flipped] for name, (one, side) in prefixes.items()
        }
        tails = [keras.saving.load_model(path, compile=False, safe_mode=True) for path in part.tails]
        for fold, tail in enumerate(tails):
            tail.name = f"member_{number}_{fold}"
        found = [tail(as_model_input(given)) for tail in tails]
        answer = found[0] if len(found) == 1 else layers.Average(name=f"member_{number}")(found)
        answers.append(mean_of_turns(answer) if flipped else answer)
    out = layers.Concatenate(dtype="float32", name="members")(answers)
    model = keras.Model(as_model_input(inputs), out, name="ensemble")
    model.trainable = False
    return model


def _shared_prefixes(
    inputs: Mapping[str, Tensor], parts: Sequence[Part], flips: Sequence[bool]
) -> dict[tuple[str, int, str, bool], Tensor]:
    """The activations at each layer cut of the members, by encoder, cut, side, and whether of all turns of patches."""
    found: dict[tuple[str, int, str, bool], Tensor] = {}
    by_encoder: dict[str, list[tuple[Part, bool]]] = {}
    for part, flipped in zip(parts, flips, strict=True):
        for one in part.joined or (part,):
            by_encoder.setdefault(_encoder_identity(one), []).append((one, flipped))
    given = {(side, False): x for side, x in inputs.items()}
    if any(flips):
        given |= {(side, True): all_turns(x) for side, x in inputs.items()}
    for number, (key, together) in enumerate(by_encoder.items()):
        alike = [part for part, _ in together]
        known = {(side, flipped): given[side, flipped] for part, flipped in together for side in part.network.sides}
        start = 0
        base = None
        for cut in sorted({part.cut for part in alike}):
            if cut:
                if base is None:
                    base = network_encoder(alike[0].network)
                    load_weights(base, alike[0].weights)
                step = prefix(base, cut, start)
                step.name = f"prefix_{number}_{cut}"
                known, start = {place: step(x) for place, x in known.items()}, cut
            found |= {(key, cut, *place): x for place, x in known.items()}
    return found


def _encoder_identity(part: Part) -> str:
    """Identify an encoder by what it is built of and its weights; members with the same share their prefix."""
    network, model = part.network, part.network.model
    return f"{model.backbone} {model.pooling} {model.input_scaling} {network.precision} {part.weights.identity}"


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
