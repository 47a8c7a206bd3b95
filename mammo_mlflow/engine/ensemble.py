"""The ensemble as one model, in the child: every member in one Keras graph, what members share computed once."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
from keras import layers

from mammo_mlflow.engine.activations import encoder
from mammo_mlflow.engine.backend import set_threads
from mammo_mlflow.engine.flavor import load_answering_model, save_answering_model
from mammo_mlflow.jobs.contracts import AnswerJob, Emit, EnsembleJob, Part, StepsDone
from mammo_mlflow.models.network import load_weights, prefix
from mammo_mlflow.names import Artifact

BATCH = 32


def assemble(job: EnsembleJob, emit: Emit) -> None:
    """Write the MLflow model directory: patches in, probability, decision and each member's probability out."""
    folder = job.output.with_name(f"{job.output.name}-files")
    folder.mkdir(parents=True)
    members = join_members(job.parts)
    members.save(folder / Artifact.MEMBERS)
    (folder / Artifact.LEVEL1).write_bytes(job.level1.read_bytes())
    (folder / Artifact.ENSEMBLE).write_text(json.dumps({"members": job.names, "threshold": job.threshold}))
    save_answering_model(
        job.code[0],
        job.code[1:],
        {"ensemble": folder},
        job.output,
        job.examples,
        {"probability": float, "decision": int, **dict.fromkeys(job.names, float)},
        job.metadata,
    )


def join_members(parts: tuple[Part, ...]) -> keras.Model:
    """One model of all members: raw patches of each side in, probabilities (n, m) float32 out, in the parts' order.

    A frozen prefix that several members stand on is in it once, a deeper cut computed from the shallower one.
    """
    size = parts[0].network.image_size
    sides = sorted({side for part in parts for side in part.network.sides})
    inputs = {side: layers.Input((size, size, 1), dtype="float32", name=side) for side in sides}
    carried = _Prefixes(inputs, parts)
    answers = []
    for number, part in enumerate(parts):
        given = {side: carried.at(part, side) for side in part.network.sides}
        tails = [keras.saving.load_model(path, compile=False, safe_mode=True) for path in part.tails]
        for fold, tail in enumerate(tails):
            tail.name = f"member_{number}_{fold}"
        found = [tail(given if len(given) > 1 else next(iter(given.values()))) for tail in tails]
        answers.append(found[0] if len(found) == 1 else layers.Average(name=f"member_{number}")(found))
    out = layers.Concatenate(dtype="float32", name="members")(answers)
    model = keras.Model(inputs if len(inputs) > 1 else inputs[sides[0]], out, name="ensemble")
    model.trainable = False
    return model


class _Prefixes:
    """What each side's patches have become at every cut that a member stands on, by the weights of its encoder."""

    def __init__(self, inputs: dict[str, Any], parts: tuple[Part, ...]) -> None:
        self._tensors: dict[tuple[str, int, str], Any] = {}
        by_encoder: dict[str, list[Part]] = {}
        for part in parts:
            by_encoder.setdefault(_encoder_of(part), []).append(part)
        for number, (key, alike) in enumerate(by_encoder.items()):
            base = None
            cuts = sorted({part.cut for part in alike})
            sides = {side for part in alike for side in part.network.sides}
            known, start = {side: inputs[side] for side in sides}, 0
            for cut in cuts:
                if cut:
                    if base is None:
                        base = encoder(alike[0].network)
                        load_weights(base, alike[0].weights)
                    step = prefix(base, cut, start)
                    step.name = f"prefix_{number}_{cut}"
                    known, start = {side: step(x) for side, x in known.items()}, cut
                self._tensors |= {(key, cut, side): x for side, x in known.items()}

    def at(self, part: Part, side: str) -> Any:
        """The tensor that a member's tail takes of this side."""
        return self._tensors[_encoder_of(part), part.cut, side]


def _encoder_of(part: Part) -> str:
    """What members share their prefix by: the same base, pooled alike, with the same weights in the same precision."""
    network = part.network
    return f"{network.model.backbone} {network.model.pooling} {network.precision} {part.weights.identity}"


def answer(job: AnswerJob, emit: Emit) -> np.ndarray:
    """The logged ensemble's answers (n, 2 + members) for every abnormality; emits `progress` events."""
    emit(StepsDone(0, 1))
    set_threads(job.threads)
    model = load_answering_model(job.model)
    tensor = np.load(job.tensor, mmap_mode="r")
    total, out = len(tensor) // 2, []
    for start in range(0, total, BATCH):
        rows = slice(start, min(start + BATCH, total))
        batch = {name: np.asarray(tensor[first::2][rows])[..., None] for name, first in job.sides.items()}
        out.append(model.predict(batch if len(batch) > 1 else next(iter(batch.values()))).to_numpy(np.float64))
        emit(StepsDone(rows.stop, total))
    return np.concatenate(out)
