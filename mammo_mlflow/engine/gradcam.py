"""Where in a patch a model's answer comes from, in the child: Grad-CAM over the patches, written as figures.

Selvaraju et al. 2017, "Grad-CAM", ICCV: the maps of the last convolution before a member's answer, weighted by the mean
gradient of the answer, before its sigmoid, with respect to each, summed, negative sums cut off. Where an answer is the
mean of several networks', their maps are added up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from mammo_mlflow.engine.backend import gradients, last_dependent, set_threads
from mammo_mlflow.errors import expected
from mammo_mlflow.evaluation import figures
from mammo_mlflow.experiment import PATCH
from mammo_mlflow.jobs.contracts import Emit, ExplainJob, StepsDone

BATCH = 8
_NO_MAPS = (
    keras.layers.InputLayer,
    keras.layers.Rescaling,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
)


def explain(job: ExplainJob, emit: Emit) -> int:
    """Write a figure for every abnormality of a tensor file; answers their number and emits `progress` events."""
    set_threads(job.threads)
    model = keras.saving.load_model(job.model, compile=False, safe_mode=True)
    tensor = np.load(job.tensor, mmap_mode="r", allow_pickle=False)
    total, where = len(tensor) // 2, None
    for start in range(0, total, BATCH):
        rows = slice(start, min(start + BATCH, total))
        given = {name: np.asarray(tensor[first::2][rows], np.float32)[..., None] for name, first in job.sides.items()}
        where = where or find(model, {name: patches[:1] for name, patches in given.items()})
        found = class_activation(model, given, where)
        for offset, patch in enumerate(given[PATCH][..., 0]):
            row = 2 * (start + offset) + job.sides[PATCH]
            answers = job.answers[start + offset]
            members = {name: (float(p), maps[offset]) for name, p, maps in zip(job.names, answers, found, strict=True)}
            figure = figures.activation_overlays(patch, members, f"{job.title}, row {row}", job.note)
            part = job.output / f".row-{row:06d}.png"
            figure.savefig(part, format="png", dpi=100)
            part.rename(job.output / f"row-{row:06d}.png")
        emit(StepsDone(rows.stop, total))
    return total


Place = tuple[str, int]
"""The path of a layer, and which of its calls."""


def class_activation(
    model: keras.Model, patches: Mapping[str, np.ndarray], where: list[list[Place]] | None = None
) -> list[np.ndarray]:
    """For each member, a column of the model's answer (n, m), its maps (n, size, size) in [0, 1].

    `patches` by input name: (n, size, size, 1) each. Where nothing speaks for class 1, a map is zero. `where` is what
    `find` finds, by default anew. Raises `UserError` for a model without convolutions.
    """
    places = where or find(model, {name: one[:1] for name, one in patches.items()})
    with _recorded(model, {place for several in places for place in several}) as record:
        found = gradients(_apart(model), _fed(patches), record, places)
    size = next(iter(patches.values())).shape[1:3]
    made = []
    for pairs in found:
        weighted = [(maps * slopes.mean(axis=(1, 2), keepdims=True)).sum(axis=-1) for maps, slopes in pairs]
        heat = np.maximum(weighted, 0).sum(axis=0)
        top = heat.max(axis=(1, 2), keepdims=True)
        heat = np.divide(heat, top, out=np.zeros_like(heat), where=top > 0)
        large = keras.ops.image.resize(heat[..., None], size, interpolation="bilinear")
        made.append(keras.ops.convert_to_numpy(large)[..., 0])
    return made


def find(model: keras.Model, one: Mapping[str, np.ndarray]) -> list[list[Place]]:
    """Where each member's last convolutions of the abnormality are, by the gradients of one patch by input name."""
    with _recorded(model, None) as record:
        found = last_dependent(_apart(model), _fed(one), record)
    if not all(found):
        raise expected("overlays", "a model with convolutions of the abnormality", "none")
    return found


def _apart(model: keras.Model) -> keras.Model:
    """The members' answers one by one: through the layer that joins them each would depend on every other's maps."""
    joined = model.layers[-1]
    return keras.Model(model.input, joined.input) if isinstance(joined, keras.layers.Concatenate) else model


class Record:
    """The calls of layers that give maps: their places in order, and the tensors."""

    def __init__(self, wanted: set[tuple[str, int]] | None) -> None:
        self.wanted = wanted
        self.calls: dict[tuple[str, int], Any] = {}
        self.counts: dict[str, int] = {}
        self.watch: Any = lambda _: None

    def add(self, path: str, tensor: Any) -> None:
        """Note one call."""
        number = self.counts[path] = self.counts.get(path, -1) + 1
        if self.wanted is None or (path, number) in self.wanted:
            self.watch(tensor)
            self.calls[path, number] = tensor


@contextmanager
def _recorded(model: keras.Model, wanted: set[tuple[str, int]] | None) -> Iterator[Record]:
    """While it lasts, maps (n, h, w, c) that layers of the model give are noted, and its answers are before sigmoid."""
    record, layers = Record(wanted), list(_leaves(model, ""))
    sigmoids = [one for one in model._flatten_layers() if getattr(one, "activation", None) is keras.activations.sigmoid]

    def hook(path: str, call: Any) -> Any:
        def noting(*arguments: Any, **options: Any) -> Any:
            answer = call(*arguments, **options)
            record.add(path, answer)
            return answer

        return noting

    try:
        for path, layer in layers:
            object.__setattr__(layer, "call", hook(path, layer.call))
        for one in sigmoids:
            one.activation = keras.activations.linear
        yield record
    finally:
        for one in sigmoids:
            one.activation = keras.activations.sigmoid
        for _, layer in layers:
            object.__delattr__(layer, "call")  # the method of its class again


def _leaves(model: keras.Model, path: str) -> Iterator[tuple[str, keras.Layer]]:
    for layer in model.layers:
        here = f"{path}/{layer.name}"
        if isinstance(layer, keras.Model):
            yield from _leaves(layer, here)
        elif not isinstance(layer, _NO_MAPS) and len(getattr(layer.output, "shape", ())) == 4:
            yield here, layer


def _fed(patches: Mapping[str, np.ndarray]) -> Any:
    return dict(patches) if len(patches) > 1 else next(iter(patches.values()))
