"""Build networks, raw patch in, probability out, and cut them into a frozen prefix and a trained tail.

A model is its prefix followed by its tail. The prefix is every layer before the first trainable one, cut where a single
tensor leads to all later layers, so that no block of ResNet or Inception is split. Both share the layers of one
functional graph, so the tail that is trained on stored activations is the whole model's own.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import keras
import numpy as np
from keras import layers

from mammo_mlflow.backbones import BACKBONES, OWN_SCALING, SCALINGS
from mammo_mlflow.errors import expected
from mammo_mlflow.experiment import PATCH, ModelSpec
from mammo_mlflow.models.dinov2 import draw_tokens, is_block, load_dinov2, save_dinov2, token_maps
from mammo_mlflow.models.precision import dtype_policy
from mammo_mlflow.models.scratch import BATCH_NORM_MOMENTUM, POOLINGS, kernel_penalty
from mammo_mlflow.models.siamese import join_sides
from mammo_mlflow.models.tensors import Tensor
from mammo_mlflow.models.weights import NetworkWeights

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
"""The layers that count as convolutions; a separable one, of two kernels, counts once."""

BAD_FILE = (ValueError, OSError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, BadZipFile, zlib.error)
"""The errors that Keras raises for a weights file that is damaged or of another network."""


def build_base(backbone: str, image_size: int, pooling: str, precision: str, scaling: str = OWN_SCALING) -> keras.Model:
    """Build a backbone with input scaling and pooling, all frozen: raw patches (n, size, size, 1) in, features out.

    Scaling and average or maximum pooling compute in float32, the convolutions in `precision`. `scaling` is the
    backbone's own or one of `SCALINGS`. The weights are random until `load_weights`.
    """
    row = BACKBONES[backbone]
    keras.utils.clear_session()  # else layer names go on counting, and a saved model depends on what was built before
    patch = layers.Input((image_size, image_size, 1), dtype="float32", name="patch")
    rgb = layers.Concatenate(dtype="float32", name="grey_to_rgb")([patch, patch, patch])
    scale, offset = SCALINGS.get(scaling, (row.scale, row.offset))
    by_channel = list(scale) if isinstance(scale, tuple) else scale
    scaled = layers.Rescaling(by_channel, offset=list(offset), dtype="float32", name="input_scaling")(rgb)
    inside = {"include_preprocessing": False} if row.rescales_inside else {}
    with dtype_policy(precision):
        if row.hub:
            base = keras.Model(patch, token_maps(row.hub, scaled))
        else:
            application = getattr(keras.applications, row.application)
            base = application(include_top=False, weights=None, input_tensor=scaled, **inside)
        base.trainable = False
        for layer in base.layers:
            if isinstance(layer, layers.Dropout):
                layer.rate = 0.0  # no block is left out by chance: tuning is short, and engines draw differently
        # flattened features keep the precision of the convolutions, so that bfloat16 is stored as bfloat16
        pool = POOLINGS[pooling](dtype=None if pooling == "flatten" else "float32", name="features")
    return keras.Model(patch, pool(base.output), name=backbone)


def cut_points(base: keras.Model) -> list[int]:
    """The indices in `base.operations` where a layer cut is possible: what comes later depends on that output alone.

    Operations are the layers and what networks compute between them, such as sums written as `a + b`.
    """
    steps = base.operations
    position = {id(step): index for index, step in enumerate(steps)}
    last_use = list(range(len(steps)))
    for index, step in enumerate(steps):
        for node in step._inbound_nodes:
            for parent in node.parent_nodes:
                source = position.get(id(parent.operation))
                if source is not None:
                    last_use[source] = max(last_use[source], index)
    return [index for index in range(len(steps)) if all(last_use[source] <= index for source in range(index))]


def cut_output(base: keras.Model, cut: int) -> keras.KerasTensor:
    """What a base gives at a layer cut; the `output` of a nested model would be that of its inside."""
    found: keras.KerasTensor = base.operations[cut]._inbound_nodes[0].output_tensors[0]
    return found


def convolutions(base: keras.Model) -> list[tuple[int, layers.Layer]]:
    """The convolutional layers, or the blocks of DINOv2, in order.

    Each with its index in `base.operations`, or that of the model it is in.
    """
    return [
        (index, layer)
        for index, step in enumerate(base.operations)
        if isinstance(step, layers.Layer)
        for layer in (step._flatten_layers() if isinstance(step, keras.Model) else [step])
        if _is_counted(layer)
    ]


def convolves(network: keras.Model) -> bool:
    """Whether a network has convolutional layers, or blocks of DINOv2, itself or in a model inside it."""
    return any(map(_is_counted, network._flatten_layers()))


def _is_counted(layer: layers.Layer) -> bool:
    return isinstance(layer, CONVOLUTIONS) or is_block(layer)


def deepest_cut(base: keras.Model, unfrozen_layers: int) -> int:
    """The index of the last layer cut before the last `unfrozen_layers` convolutions; for 0 that of the features.

    Raises `UserError` where the backbone has fewer convolutions.
    """
    if unfrozen_layers == 0:
        return len(base.operations) - 1
    found = convolutions(base)
    if unfrozen_layers > len(found):
        most = f"at most {len(found)} (the convolutions of {base.name})"
        raise expected("unfrozen_layers", most, unfrozen_layers)
    first, _ = found[-unfrozen_layers]
    return max(cut for cut in cut_points(base) if cut < first)


def unfreeze(base: keras.Model, unfrozen_layers: int) -> None:
    """Make the last `unfrozen_layers` convolutions trainable; normalisation stays frozen, in inference mode.

    Of DINOv2 they are the last blocks, with all that is in them.
    """
    for index, layer in convolutions(base)[-unfrozen_layers:] if unfrozen_layers else []:
        if (nested := base.operations[index]) is not layer:
            nested.trainable = True  # of all that is in it
            for other in nested.layers:
                other.trainable = False
        layer.trainable = True


def prefix(base: keras.Model, cut: int, start: int = 0) -> keras.Model:
    """The layers after layer `start` (0: from the raw patch) up to and including layer `cut`, as a model."""
    return keras.Model(cut_output(base, start), cut_output(base, cut), name=f"{base.name}_{start}_{cut}")


def build_head(feature_shape: Sequence[int], spec: ModelSpec, dropout: type[layers.Layer] | None = None) -> keras.Model:
    """Build the head: features of shape (n, *feature_shape) in, probability (n, 1) out; weights from Keras's seed.

    Batch normalisation and dropout of the features if wanted, dense layers, a sigmoid. `dropout` is a class to take in
    the place of Keras's, whose layers are there whatever the rate (`engine.compiled` has one).
    """
    drop = dropout or layers.Dropout
    features = x = layers.Input(tuple(feature_shape), dtype="float32", name="features")
    if spec.batch_norm:
        x = layers.BatchNormalization(name="head_batch_norm")(x)
    if spec.feature_dropout or dropout:
        x = drop(spec.feature_dropout, name="features_dropout")(x)
    for number, width in enumerate(spec.widths):
        suffix = f"_{number + 1}" if number else ""
        normalised = spec.dense_batch_norm
        activation = None if normalised else "relu"
        x = layers.Dense(
            width,
            activation=activation,
            use_bias=not normalised,
            kernel_regularizer=kernel_penalty(spec, hidden=True),
            name=f"head_dense{suffix}",
        )(x)
        if normalised:
            x = layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=f"head_dense{suffix}_batch_norm")(x)
            x = layers.ReLU(name=f"head_dense{suffix}_relu")(x)
        if spec.dropout or dropout:
            x = drop(spec.dropout, name=f"head_dropout{suffix}")(x)
    x = layers.Dense(1, activation="sigmoid", kernel_regularizer=kernel_penalty(spec), name="probability")(x)
    return keras.Model(features, x, name="head")


def suffix(base: keras.Model, cut: int) -> keras.Model | None:
    """The layers after layer `cut` up to the features, as a model; None where that layer is the features."""
    if cut == len(base.operations) - 1:
        return None
    return keras.Model(cut_output(base, cut), base.output, name="encoder")


def build_tail(
    encoder: keras.Model | None,
    head: keras.Model,
    sides: Collection[str] = (PATCH,),
    difference: str = "subtract",
    feature_shape: Sequence[int] = (),
) -> keras.Model:
    """Build the tail: the `suffix` of an encoder, if any, then the head; activations in, probability (n, 1) out.

    Without an encoder its input is features of `feature_shape`; of one side it is the head itself. For two sides it
    takes a dictionary of activations, and both share the encoder.
    """
    if len(sides) == 1:
        return head if encoder is None else keras.Model(encoder.input, head(encoder.output), name="tail")
    shape, dtype = (feature_shape, "float32") if encoder is None else (encoder.input.shape[1:], encoder.input.dtype)
    inputs = {side: layers.Input(tuple(shape), dtype=dtype, name=side) for side in sides}
    encoded = {side: x if encoder is None else encoder(x) for side, x in inputs.items()}
    return keras.Model(inputs, head(join_sides(encoded, difference)), name="tail")


def build_whole(
    base: keras.Model, head: keras.Model, sides: Collection[str] = (PATCH,), difference: str = "subtract"
) -> keras.Model:
    """Build the whole network for on-line training: raw patches (n, size, size, 1) in, probability (n, 1) out.

    Two sides go through the encoder as one batch, so that batch normalisation has the statistics of both.
    """
    if len(sides) == 1:
        return keras.Model(base.input, head(base.output))
    inputs = {side: layers.Input(base.input.shape[1:], dtype="float32", name=side) for side in sides}
    encoded = base(layers.Concatenate(axis=0, dtype="float32")(list(inputs.values())))
    split = keras.ops.split(encoded, len(inputs), axis=0)
    return keras.Model(inputs, head(join_sides(dict(zip(inputs, split, strict=True)), difference)))


def join_tails(
    base: keras.Model, cut: int, tails: Sequence[keras.Model], sides: Collection[str] = (PATCH,)
) -> keras.Model:
    """Join a prefix and its tails into the whole model: raw patches (n, size, size, 1) in, probability (n, 1) out.

    The probabilities of several tails (one a fold) are averaged. Of two sides it takes a dictionary of patches,
    `baseline` and `patch`.
    """
    carried, inputs = cut_output(base, cut), base.input
    if len(sides) > 1:
        inputs = {side: layers.Input(base.input.shape[1:], dtype="float32", name=side) for side in sides}
        encoder = prefix(base, cut) if cut else None
        carried = {side: x if encoder is None else encoder(x) for side, x in inputs.items()}
    return keras.Model(inputs, average_tails(tails, carried), name=base.name)


def average_tails(tails: Sequence[keras.Model], carried: Tensor | Mapping[str, Tensor]) -> Tensor:
    """The mean of the probabilities (n, 1) of tails on activations, or on several by input."""
    answers = []
    for number, one in enumerate(tails):
        one.name = f"tail_{number}"
        answers.append(one(carried))
    return answers[0] if len(answers) == 1 else layers.Average(name="fold_average")(answers)


def load_weights(base: keras.Model, weights: NetworkWeights) -> None:
    """Load weights into a backbone from a file or a compact int8 copy; kind `none` loads nothing.

    Raises `UserError` where the file is damaged or does not fit the network.
    """
    if weights.kind == "none":
        return
    try:
        if weights.kind == "int8":
            base.set_weights(read_compact(weights.file))
        elif hub := BACKBONES[base.name].hub:
            load_dinov2(base, hub, weights.file)
        else:
            base.load_weights(weights.file)
    except BAD_FILE as problem:
        first = (str(problem).splitlines() or [type(problem).__name__])[0]
        fits = f"weights of {base.name}"
        raise expected(str(weights.file), fits, f"a file that does not fit: {first}") from None


def save_weights(base: keras.Model, path: Path) -> None:
    """Write a backbone's weights to a file that `load_weights` reads."""
    if hub := BACKBONES[base.name].hub:
        save_dinov2(base, hub, path)
    else:
        base.save_weights(path)


def read_compact(path: Path) -> list[np.ndarray]:
    """Read weights from a compact int8 copy: float32 arrays in the order of `model.weights`.

    A kernel is stored as int8 values and a scale per channel, by which they are multiplied.
    """
    with np.load(path, allow_pickle=False) as file:
        count = sum(not name.endswith("_scale") for name in file.files)
        return [
            file[f"w{i}"].astype(np.float32) * file[f"w{i}_scale"] if f"w{i}_scale" in file.files else file[f"w{i}"]
            for i in range(count)
        ]


def _kernels(layer: layers.Layer) -> list[tuple[keras.Variable, int]]:
    """The kernels of a layer, each with how many of its first axes an output is summed over."""
    if isinstance(layer, layers.SeparableConv2D):
        return [(layer.depthwise_kernel, 2), (layer.pointwise_kernel, 3)]
    if isinstance(layer, layers.DepthwiseConv2D):
        return [(layer.kernel, 2)]
    if isinstance(layer, layers.Conv2D):
        return [(layer.kernel, 3)]
    if isinstance(layer, layers.EinsumDense):  # of attention: from features to heads, and back
        _, kernel, output = layer.equation.replace("->", ",").split(",")
        return [(layer.kernel, sum(axis not in output for axis in kernel))]
    return [(layer.kernel, 1)] if isinstance(layer, layers.Dense) else []


def calibrate_random(base: keras.Model, patches: np.ndarray, seed: int = 0) -> None:
    """Draw random weights, scaled so that activations neither vanish nor explode on patches (m, size, size, 1).

    Kernels are drawn from He's normal distribution (He et al., ICCV 2015). Where the network has batch normalisation,
    its moving statistics become those of `patches`; where its layers normalise as they go (ConvNeXt, DINOv2), its
    blocks count in full, their scale being 1; where it has neither (VGG16), each convolution in turn is scaled to unit
    output deviation (layer-sequential unit-variance initialisation, Mishkin & Matas, ICLR 2016).
    """
    rng = np.random.RandomState(seed)  # NumPy guarantees this stream for all versions (NEP 19)
    for layer in base._flatten_layers():
        for kernel, summed in _kernels(layer):  # over which axes the layer sums
            shape = kernel.shape
            kernel.assign(rng.normal(0, np.sqrt(2 / np.prod(shape[:summed])), shape).astype(np.float32))
    if BACKBONES[base.name].hub:
        draw_tokens(base, rng)
        return
    normalisations = [layer for layer in base.layers if isinstance(layer, layers.BatchNormalization)]
    if normalisations:
        momenta = [layer.momentum for layer in normalisations]
        for layer in normalisations:
            layer.trainable, layer.momentum = True, 0.0
        base(patches, training=True)
        for layer, momentum in zip(normalisations, momenta, strict=True):
            layer.trainable, layer.momentum = False, momentum
        return
    scales = [layer.gamma for layer in base.layers if type(layer).__name__ == "LayerScale"]
    for scale in scales:
        scale.assign(np.ones(scale.shape, np.float32))
    if scales:
        return
    start = [layer.name for layer in base.layers].index("input_scaling")
    x = keras.Model(base.input, base.layers[start].output)(patches)
    for layer in base.layers[start + 1 :]:
        seen = layer(x)
        if isinstance(layer, layers.Conv2D):
            layer.kernel.assign(layer.kernel / max(float(np.std(keras.ops.convert_to_numpy(seen))), 1e-8))
            seen = layer(x)
        x = seen
