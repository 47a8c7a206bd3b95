"""Where in a patch a model's answer comes from, in the child: Grad-CAM over the patches, written as figures.

Selvaraju et al. 2017, "Grad-CAM", ICCV: the maps of the last convolution before a member's answer, weighted by the mean
gradient of the answer with respect to each, summed, negative sums cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mammo_mlflow.errors import expected
from mammo_mlflow.evaluation import figures
from mammo_mlflow.experiment import PATCH
from mammo_mlflow.training.backend import gradients, set_threads
from mammo_mlflow.training.jobs import Emit, ExplainJob

BATCH = 8
_POOLS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)


@dataclass(frozen=True, eq=False)
class Maps:
    """A member's answers (n,) and, for each patch, a map (n, size, size) in [0, 1]."""

    answers: np.ndarray
    maps: np.ndarray


def explain(job: ExplainJob, emit: Emit) -> int:
    """Write a figure for every abnormality of a tensor file; answers their number and emits `progress` events."""
    set_threads(job.threads)
    model = keras.saving.load_model(job.model, compile=False, safe_mode=True)
    tensor = np.load(job.tensor, mmap_mode="r", allow_pickle=False)
    total, given = len(tensor) // 2, {}
    where = None
    for start in range(0, total, BATCH):
        rows = slice(start, min(start + BATCH, total))
        given = {name: np.asarray(tensor[first::2][rows], np.float32)[..., None] for name, first in job.sides.items()}
        where = where or _last_maps(model, {name: patches[:1] for name, patches in given.items()})
        found = class_activation(model, given, where)
        for offset, patch in enumerate(given[PATCH][..., 0]):
            row = 2 * (start + offset) + job.sides[PATCH]
            members = {
                name: (float(one.answers[offset]), one.maps[offset]) for name, one in zip(job.names, found, strict=True)
            }
            figure = figures.activation_overlays(patch, members, f"{job.title}, row {row}", job.note)
            part = job.target / f".row-{row:06d}.png"
            figure.savefig(part, format="png", dpi=100)
            part.rename(job.target / f"row-{row:06d}.png")
        emit({"kind": "progress", "done": rows.stop, "total": total})
    return total


Where = list[tuple[str, int]]
"""For each member the path of a layer and which of its calls."""


def class_activation(model: keras.Model, patches: Mapping[str, np.ndarray], where: Where | None = None) -> list[Maps]:
    """The map of each member, a column of the model's answer (n, m), for patches (n, size, size, 1) by input name.

    Where nothing speaks for class 1, a map is zero. Raises `UserError` for a model without convolutions.
    """
    places = where or _last_maps(model, {name: one[:1] for name, one in patches.items()})
    with _recorded(model, set(places)) as record:
        answers, found = gradients(_apart(model), _fed(patches), record, [[place] for place in places])
    size = next(iter(patches.values())).shape[1:3]
    made = []
    for column, ((maps, slopes),) in enumerate(found):
        weights = slopes.mean(axis=(1, 2), keepdims=True)
        heat = np.maximum((maps * weights).sum(axis=-1), 0)
        top = heat.max(axis=(1, 2), keepdims=True)
        heat = np.divide(heat, top, out=np.zeros_like(heat), where=top > 0)
        large = keras.ops.image.resize(heat[..., None], size, interpolation="bilinear")
        made.append(Maps(answers[:, column], keras.ops.convert_to_numpy(large)[..., 0]))
    return made


def _apart(model: keras.Model) -> keras.Model:
    """The members' answers one by one: through the layer that joins them each would depend on every other's maps."""
    joined = model.layers[-1]
    return keras.Model(model.input, joined.input) if isinstance(joined, keras.layers.Concatenate) else model


def _last_maps(model: keras.Model, one: Mapping[str, np.ndarray]) -> Where:
    """Where each member's last convolution of the abnormality is, found by the gradients of one patch."""
    with _recorded(model, None) as record:
        answers, found = gradients(_apart(model), _fed(one), record, None)
        calls = list(record.calls)
    places = []
    for column in range(answers.shape[1]):
        known = [call for call, pair in zip(calls, found[column], strict=True) if pair is not None]
        if not known:
            raise expected("overlays", "a model with convolutions of the abnormality", "none")
        places.append(known[-1])
    return places


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
    """While it lasts, what layers of the model give that is a map (n, h, w, c), pools apart, is noted."""
    record, layers = Record(wanted), list(_leaves(model, ""))

    def hook(path: str, call: Any) -> Any:
        def noting(*arguments: Any, **options: Any) -> Any:
            answer = call(*arguments, **options)
            record.add(path, answer)
            return answer

        return noting

    try:
        for path, layer in layers:
            object.__setattr__(layer, "call", hook(path, layer.call))
        yield record
    finally:
        for _, layer in layers:
            object.__delattr__(layer, "call")  # the method of its class again


def _leaves(model: keras.Model, path: str) -> Iterator[tuple[str, keras.Layer]]:
    for layer in model.layers:
        here = f"{path}/{layer.name}"
        if isinstance(layer, keras.Model):
            yield from _leaves(layer, here)
        elif not isinstance(layer, (keras.layers.InputLayer, *_POOLS)) and len(getattr(layer.output, "shape", ())) == 4:
            yield here, layer


def _fed(patches: Mapping[str, np.ndarray]) -> Any:
    return dict(patches) if len(patches) > 1 else next(iter(patches.values()))
