"""Where in a patch a model's answer comes from, in the child: Grad-CAM over the patches, written as figures.

Selvaraju et al. 2017, "Grad-CAM", ICCV: the maps of the last convolution before a member's answer, weighted by the mean
gradient of the answer, before its sigmoid, with respect to each, summed, negative sums cut off. Where an answer is the
mean of several networks', their maps are added up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ParamSpec

import keras
import numpy as np

from mammo_mlflow.engine.backend import gradient_tape, set_threads
from mammo_mlflow.engine.inputs import blocks
from mammo_mlflow.errors import expected
from mammo_mlflow.evaluation import figures
from mammo_mlflow.experiment import PATCH
from mammo_mlflow.jobs.contracts import Emit, ExplainJob
from mammo_mlflow.models.tensors import Tensor, fed

BATCH = 8
P = ParamSpec("P")
Place = tuple[str, int]
"""The path of a layer, and which of its calls."""
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
    total, where = 0, None
    for batch in blocks(job, BATCH, emit):
        given = {name: patches.astype(np.float32) for name, patches in batch.items()}
        where = where or find(model, {name: patches[:1] for name, patches in given.items()})
        found = class_activation(model, given, where)
        for number, patch in enumerate(given[PATCH][..., 0]):
            row = 2 * total + job.sides[PATCH]
            each = zip(job.names, job.answers[total], found, strict=True)
            members = {name: (float(answer), maps[number]) for name, answer, maps in each}
            figure = figures.activation_overlays(patch, members, f"{job.title}, row {row}", job.note)
            part = job.output / f".row-{row:06d}.png"
            figure.savefig(part, format="png", dpi=100)
            part.rename(job.output / f"row-{row:06d}.png")
            total += 1
    return total


def class_activation(
    model: keras.Model, patches: Mapping[str, np.ndarray], where: list[list[Place]] | None = None
) -> list[np.ndarray]:
    """For each member, a column of the model's answer (n, m), its maps (n, size, size) in [0, 1].

    `patches` by input name: (n, size, size, 1) each. Where nothing speaks for class 1, a map is zero. `where` is what
    `find` finds, by default anew. Raises `UserError` for a model without convolutions.
    """
    places = where or find(model, {name: one[:1] for name, one in patches.items()})
    call = _Call(model, patches, {place for several in places for place in several})
    size = next(iter(patches.values())).shape[1:3]
    made = []
    for answer, several in zip(call.answers, places, strict=True):
        tensors = [call.maps[place] for place in several]
        pairs = zip(_arrays(tensors), _arrays(call.slopes(answer, tensors)), strict=True)
        weighted = [(maps * slopes.mean(axis=(1, 2), keepdims=True)).sum(axis=-1) for maps, slopes in pairs]
        heat = np.maximum(weighted, 0).sum(axis=0)
        top = heat.max(axis=(1, 2), keepdims=True)
        heat = np.divide(heat, top, out=np.zeros_like(heat), where=top > 0)
        large = keras.ops.image.resize(heat[..., None], size, interpolation="bilinear")
        made.append(keras.ops.convert_to_numpy(large)[..., 0])
    return made


def find(model: keras.Model, one: Mapping[str, np.ndarray]) -> list[list[Place]]:
    """Where each member's last convolutions of the abnormality are, by the gradients of one patch by input name.

    Of each part of the model, the first name of a place's path, the last that the answer depends on; none that another
    one depends on.
    """
    call = _Call(model, one)
    alone = len(one) == 1  # a lone input is what everything depends on: no need to ask
    seen = {place: x for place, x in call.maps.items() if alone or call.slopes(x, call.patch) is not None}
    found = []
    for answer in call.answers:
        each = zip(seen, call.slopes(answer, list(seen.values())), strict=True)
        last = {place[0].split("/")[1]: place for place, slope in each if slope is not None}.values()
        upstream = {a for a in last for b in last if a != b and call.slopes(seen[b], seen[a]) is not None}
        found.append([place for place in last if place not in upstream])
    if not all(found):
        raise expected("overlays", "a model with convolutions of the abnormality", "none")
    return found


class _Call:
    """One call of a model: maps (n, h, w, c) that its layers give, by place, and each member's answer before sigmoid.

    `slopes` are gradients with respect to the maps at the places `wanted`; by default to all, and to the abnormality.
    """

    def __init__(self, model: keras.Model, patches: Mapping[str, np.ndarray], wanted: set[Place] | None = None) -> None:
        tape, counts = gradient_tape(), Counter[str]()
        inputs = {name: keras.ops.convert_to_tensor(one) for name, one in patches.items()}
        self.maps: dict[Place, Tensor] = {}
        self.slopes, self.patch = tape.gradient, inputs[PATCH]

        def note(path: str, tensor: Tensor) -> None:
            place = path, counts[path]
            counts[path] += 1
            if wanted is None or place in wanted:
                tape.watch(tensor)
                self.maps[place] = tensor

        # the members' answers one by one: through the layer that joins them each would depend on every other's maps
        joined = model.layers[-1]
        apart = keras.Model(model.input, joined.input) if isinstance(joined, keras.layers.Concatenate) else model
        with _noting(model, note), tape:
            if wanted is None:
                tape.watch(self.patch)
            answers = apart(fed(inputs), training=False)
        self.answers = answers if isinstance(answers, list) else [answers]


@contextmanager
def _noting(model: keras.Model, note: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While it lasts, what layers of the model give is noted by their paths, and its answers are before sigmoid."""
    layers = list(_leaves(model, ""))
    sigmoids = [one for one in model._flatten_layers() if getattr(one, "activation", None) is keras.activations.sigmoid]

    def hook(path: str, call: Callable[P, Tensor]) -> Callable[P, Tensor]:
        def noting(*arguments: P.args, **options: P.kwargs) -> Tensor:
            answer = call(*arguments, **options)
            note(path, answer)
            return answer

        return noting

    try:
        for path, layer in layers:
            object.__setattr__(layer, "call", hook(path, layer.call))
        for one in sigmoids:
            one.activation = keras.activations.linear
        yield
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


def _arrays(tensors: list[Tensor]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")) for one in tensors]
