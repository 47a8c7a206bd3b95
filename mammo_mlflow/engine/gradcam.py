"""Grad-CAM: which regions of a patch raise a model's probability, drawn as figures, in a worker process.

Selvaraju et al. 2017, "Grad-CAM", ICCV: the maps of the last convolution, each weighted by the mean gradient of the
output, before its sigmoid, with respect to it, are summed and negative sums set to 0. Where a member averages several
networks, or joins several backbones, their maps are added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ParamSpec

import keras
import numpy as np

from mammo_mlflow.engine.backend import gradient_tape, set_threads
from mammo_mlflow.engine.inputs import read_batches
from mammo_mlflow.errors import expected
from mammo_mlflow.evaluation import figures
from mammo_mlflow.experiment import PATCH
from mammo_mlflow.jobs.contracts import Emit, ExplainJob
from mammo_mlflow.models.recalibrated import before_map
from mammo_mlflow.models.tensors import Tensor, as_model_input

BATCH = 8
P = ParamSpec("P")
LayerCall = tuple[str, int]
"""A call of a layer: the layer's path in the model, and the number of the call."""
_NO_MAPS = (
    keras.layers.InputLayer,
    keras.layers.Rescaling,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
)


def explain(job: ExplainJob, emit: Emit) -> int:
    """Draw a figure of Grad-CAM maps for each abnormality of a tensor file; return their number; emit `StepsDone`."""
    set_threads(job.threads)
    # a rising map behind the probability changes no region, and would hide the sigmoid before it
    model = before_map(keras.saving.load_model(job.model, compile=False, safe_mode=True))
    total, where = 0, None
    for batch in read_batches(job, BATCH, emit):
        given = {name: patches.astype(np.float32) for name, patches in batch.items()}
        where = where or find_last_convolutions(model, {name: patches[:1] for name, patches in given.items()})
        found = class_activation_maps(model, given, where)
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


def class_activation_maps(
    model: keras.Model, patches: Mapping[str, np.ndarray], where: list[list[LayerCall]] | None = None
) -> list[np.ndarray]:
    """Grad-CAM maps of each member, a column of the model's output (n, members): float32 (n, size, size), 0 to 1.

    `patches` are float32 (n, size, size, 1) by input name. A map is 0 everywhere if no region raises the probability.
    `where` is the result of `find_last_convolutions`. Raises `UserError` for a model without convolutions.
    """
    places = where or find_last_convolutions(model, {name: one[:1] for name, one in patches.items()})
    call = _RecordedCall(model, patches, {place for several in places for place in several})
    size = next(iter(patches.values())).shape[1:3]
    made = []
    for answer, several in zip(call.answers, places, strict=True):
        tensors = [call.maps[place] for place in several]
        pairs = zip(_to_numpy(tensors), _to_numpy(call.slopes(answer, tensors)), strict=True)
        weighted = [(maps * slopes.mean(axis=(1, 2), keepdims=True)).sum(axis=-1) for maps, slopes in pairs]
        # of a model that averages over flips, the first rows are the patches as they are
        rising = [np.maximum(one[: len(answer)], 0) for one in weighted]
        if len({one.shape for one in rising}) > 1:  # those of joined backbones
            rising = [_enlarged(one, size) for one in rising]
        heat = np.sum(rising, axis=0)
        top = heat.max(axis=(1, 2), keepdims=True)
        heat = np.divide(heat, top, out=np.zeros_like(heat), where=top > 0)
        made.append(_enlarged(heat, size))
    return made


def _enlarged(maps: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Maps (n, h, w) interpolated to the size of the patches."""
    large = keras.ops.image.resize(maps[..., None], size, interpolation="bilinear")
    return keras.ops.convert_to_numpy(large)[..., 0]


def find_last_convolutions(model: keras.Model, one: Mapping[str, np.ndarray]) -> list[list[LayerCall]]:
    """Find each member's last convolutions of the abnormality, by gradients for one pair, (1, size, size, 1) by input.

    In each part of the model, a nested model or a layer beside them, it is the last layer that the output depends on;
    those on which another of them depends are left out. Raises `UserError` for a model without convolutions.
    """
    call = _RecordedCall(model, one)
    found = []
    for answer in call.answers:
        each = zip(call.maps, call.slopes(answer, list(call.maps.values())), strict=True)
        waiting = [place for place, slope in each if slope is not None]
        last: dict[str, LayerCall] = {}
        while waiting:  # from the last call to the first, so that what a layer depends on is asked once
            place = waiting.pop()
            slope, *upstream = call.slopes(call.maps[place], [call.patch, *(call.maps[other] for other in waiting)])
            if slope is not None:
                last.setdefault(_part(place[0]), place)
            waiting = [other for other, slope in zip(waiting, upstream, strict=True) if slope is None]
        found.append(list(last.values()))
    if not all(found):
        raise expected("overlays", "a model with convolutions of the abnormality", "none")
    return found


def _part(path: str) -> str:
    """The nested model that a layer's path lies in; of a layer that is in none its own."""
    return path.rpartition("/")[0] or path


class _RecordedCall:
    """One call of a model, recorded: the maps (n, h, w, c) of its layers, and each member's output before the sigmoid.

    `slopes` gives gradients with respect to the maps of the layer calls `wanted`; by default to all, and to the patch.
    """

    def __init__(
        self, model: keras.Model, patches: Mapping[str, np.ndarray], wanted: set[LayerCall] | None = None
    ) -> None:
        tape, counts = gradient_tape(), Counter[str]()
        inputs = {name: keras.ops.convert_to_tensor(one) for name, one in patches.items()}
        self.maps: dict[LayerCall, Tensor] = {}
        self.slopes, self.patch = tape.gradient, inputs[PATCH]

        def note(path: str, tensor: Tensor) -> None:
            place = path, counts[path]
            counts[path] += 1
            if wanted is None or place in wanted:
                tape.watch(tensor)
                self.maps[place] = tensor

        # the outputs of members one by one: behind the layer that concatenates them, each depends on all members' maps
        joined = model.layers[-1]
        apart = keras.Model(model.input, joined.input) if isinstance(joined, keras.layers.Concatenate) else model
        with _recording(model, note), tape:
            if wanted is None:
                tape.watch(self.patch)
            answers = apart(as_model_input(inputs), training=False)
        self.answers = answers if isinstance(answers, list) else [answers]


@contextmanager
def _recording(model: keras.Model, note: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Within the block, `note` gets the path and output of each layer call, and sigmoids are left out of the model."""
    layers = list(_layers_with_maps(model, ""))
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
            object.__delattr__(layer, "call")  # the method of its class is found again


def _layers_with_maps(model: keras.Model, path: str) -> Iterator[tuple[str, keras.Layer]]:
    """The path and layer of each layer, also of nested models, that gives maps (n, h, w, c)."""
    for layer in model.layers:
        here = f"{path}/{layer.name}"
        if isinstance(layer, keras.Model):
            yield from _layers_with_maps(layer, here)
        elif not isinstance(layer, _NO_MAPS) and len(getattr(layer.output, "shape", ())) == 4:
            yield here, layer


def _to_numpy(tensors: list[Tensor]) -> list[np.ndarray]:
    """The tensors as float32 arrays."""
    return [keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")) for one in tensors]
