"""Building networks: a raw patch in, a probability out, cut into a frozen prefix and a trained tail.

A model is `prefix ∘ tail`. The prefix is every layer before the first trainable one, cut where a single tensor carries
all, so that the blocks of ResNet and Inception stay whole. Both halves are views of one functional graph, hence the
tail trained on stored activations is the very tail of the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import ModelSpec
from mammo_mlflow.models.backbones import BACKBONES
from mammo_mlflow.models.weights import Weights

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


@contextmanager
def _dtype_policy(name: str) -> Any:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build_base(backbone: str, image_size: int, pooling: str, precision: str) -> keras.Model:
    """The backbone with input scaling and pooling, all frozen: raw patches (n, size, size, 1) in, features out.

    Scaling and average or maximum pooling stay in float32; the convolutions compute in `precision`. The weights are
    the initialisers' own until `load_weights`.
    """
    row = BACKBONES[backbone]
    keras.utils.clear_session()  # layer names count up otherwise: a saved model would depend on what was built before
    patch = layers.Input((image_size, image_size, 1), dtype="float32", name="patch")
    rgb = layers.Concatenate(dtype="float32", name="grey_to_rgb")([patch, patch, patch])
    scaled = layers.Rescaling(row.scale, offset=list(row.offset), dtype="float32", name="input_scaling")(rgb)
    with _dtype_policy(POLICIES[precision]):
        application = getattr(keras.applications, row.application)
        base = application(include_top=False, weights=None, input_tensor=scaled)
        base.trainable = False
        flat = layers.Flatten(
            name="features"
        )  # in the base's own precision, so that bfloat16 features are stored as such
    pool = {
        "flatten": flat,
        "average": layers.GlobalAveragePooling2D(dtype="float32", name="features"),
        "max": layers.GlobalMaxPooling2D(dtype="float32", name="features"),
    }[pooling]
    return keras.Model(patch, pool(base.output), name=backbone)


def cut_points(base: keras.Model) -> list[int]:
    """The indices in `base.layers` after which a single tensor carries all that later layers need."""
    position = {id(layer): index for index, layer in enumerate(base.layers)}
    last_use = list(range(len(base.layers)))
    for index, layer in enumerate(base.layers):
        for node in layer._inbound_nodes:
            for parent in node.parent_nodes:
                source = position.get(id(parent.operation))
                if source is not None:
                    last_use[source] = max(last_use[source], index)
    return [index for index in range(len(base.layers)) if all(last_use[source] <= index for source in range(index))]


def convolutions(base: keras.Model) -> list[int]:
    """The indices of the convolutional layers in `base.layers` order."""
    return [index for index, layer in enumerate(base.layers) if isinstance(layer, layers.Conv2D)]


def deepest_cut(base: keras.Model, unfrozen_layers: int) -> int:
    """The last cut point before the first of the last `unfrozen_layers` convolutions; the features where none is.

    Raises `UserError` where the backbone has fewer convolutions.
    """
    if unfrozen_layers == 0:
        return len(base.layers) - 1
    found = convolutions(base)
    if unfrozen_layers > len(found):
        raise UserError(
            f"unfrozen_layers: expected at most {len(found)} (the convolutions of {base.name}), found {unfrozen_layers}"
        )
    first = found[-unfrozen_layers]
    return max(cut for cut in cut_points(base) if cut < first)


def unfreeze(base: keras.Model, unfrozen_layers: int) -> None:
    """Make the last n convolutions trainable. Batch normalisation stays frozen, which in Keras is inference mode."""
    for index in convolutions(base)[-unfrozen_layers:] if unfrozen_layers else []:
        base.layers[index].trainable = True


def prefix(base: keras.Model, cut: int, start: int = 0) -> keras.Model:
    """The layers after cut `start` (0: from the raw patch) up to and with cut `cut`, as a model."""
    return keras.Model(base.layers[start].output, base.layers[cut].output, name=f"{base.name}_{start}_{cut}")


def build_head(feature_shape: Sequence[int], spec: ModelSpec) -> keras.Model:
    """The classifier on top: batch normalisation if wanted, dense layers, a sigmoid; drawn from Keras's seed."""
    features = x = layers.Input(tuple(feature_shape), dtype="float32", name="features")
    if spec.batch_norm:
        x = layers.BatchNormalization(name="head_batch_norm")(x)
    for number, width in enumerate(spec.widths):
        suffix = f"_{number + 1}" if number else ""
        x = layers.Dense(width, activation="relu", name=f"head_dense{suffix}")(x)
        if spec.dropout:
            x = layers.Dropout(spec.dropout, name=f"head_dropout{suffix}")(x)
    return keras.Model(features, layers.Dense(1, activation="sigmoid", name="probability")(x), name="head")


def build_tail(base: keras.Model, cut: int, head: keras.Model) -> keras.Model:
    """What is trained: the layers after `cut` and the head; the head alone where the cut is the features."""
    if cut == len(base.layers) - 1:
        return head
    return keras.Model(base.layers[cut].output, head(base.output), name="tail")


def join(base: keras.Model, cut: int, tails: Sequence[keras.Model]) -> keras.Model:
    """The whole model: raw patch in, probability out; several tails (one a fold) are averaged."""
    carried = base.layers[cut].output
    answers = []
    for number, one in enumerate(tails):
        one.name = f"tail_{number}"
        answers.append(one(carried))
    out = answers[0] if len(answers) == 1 else layers.Average(name="fold_average")(answers)
    return keras.Model(base.input, out, name=base.name)


def load_weights(base: keras.Model, source: Weights) -> None:
    """Fill a base's weights from a file or a compact copy. Raises `UserError` where it does not fit the network."""
    try:
        if source.kind == "int8":
            base.set_weights(read_compact(source.file))
        else:
            base.load_weights(source.file)
    except (ValueError, OSError, KeyError) as problem:
        first = str(problem).splitlines()[0]
        raise UserError(
            f"{source.file}: expected weights of {base.name}, found a file that does not fit: {first}"
        ) from None


def read_compact(path: Path) -> list[np.ndarray]:
    """The float32 arrays of a compact copy, in `model.weights` order: int8 kernels times a scale per output channel."""
    with np.load(path, allow_pickle=False) as file:
        count = sum(not name.endswith("_scale") for name in file.files)
        return [
            file[f"w{i}"].astype(np.float32) * file[f"w{i}_scale"] if f"w{i}_scale" in file.files else file[f"w{i}"]
            for i in range(count)
        ]


def calibrate_random(base: keras.Model, patches: np.ndarray, seed: int = 0) -> None:
    """Random weights whose signal survives: statistics and scales from training patches (m, size, size, 1).

    Kernels are drawn from He's normal distribution (He et al., ICCV 2015). Where the network has batch normalisation,
    its moving statistics become those of `patches`; where it has none (VGG16), each convolution in turn is scaled to
    unit output deviation (layer-sequential unit-variance initialisation, Mishkin & Matas, ICLR 2016).
    """
    rng = np.random.default_rng(seed)
    for layer in (base.layers[index] for index in convolutions(base)):
        shape = layer.kernel.shape
        layer.kernel.assign(rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape).astype(np.float32))
    normalisations = [layer for layer in base.layers if isinstance(layer, layers.BatchNormalization)]
    if normalisations:
        momenta = [layer.momentum for layer in normalisations]
        for layer in normalisations:
            layer.trainable, layer.momentum = True, 0.0
        base(patches, training=True)
        for layer, momentum in zip(normalisations, momenta, strict=True):
            layer.trainable, layer.momentum = False, momentum
        return
    start = [layer.name for layer in base.layers].index("input_scaling")
    x = keras.Model(base.input, base.layers[start].output)(patches)
    for layer in base.layers[start + 1 :]:
        seen = layer(x)
        if isinstance(layer, layers.Conv2D):
            layer.kernel.assign(layer.kernel / max(float(np.std(keras.ops.convert_to_numpy(seen))), 1e-8))
            seen = layer(x)
        x = seen
