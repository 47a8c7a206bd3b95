"""Both engines give each structure the same: nested models, LayerScale, depthwise convolutions, DINOv2 and so on."""

import importlib

import keras
import numpy as np
import pytest
from support import narrow_dinov2, needs_hub
from support_engines import NETWORKS, assert_same, both

from mammo_mlflow.backbones import BACKBONES
from mammo_mlflow.engine.contract import MODULES, Stage
from mammo_mlflow.engine.inputs import PatchReader, StoredActivations
from mammo_mlflow.experiment import ModelSpec
from mammo_mlflow.models.network import (
    build_base,
    build_head,
    build_tail,
    cut_output,
    cut_points,
    deepest_cut,
    prefix,
    suffix,
    unfreeze,
)
from mammo_mlflow.testing.engines import stage_fit, stored_activations

pytestmark = pytest.mark.usefixtures("jax_backend")


@pytest.fixture(
    scope="module",
    params=[
        ("convnexttiny", "LayerScale", 1),
        ("xception", "SeparableConv2D", 1),
        pytest.param(("dinov2_small", "DINOV2Layer", 1), marks=needs_hub),
    ],
    ids=lambda row: row[1],
)
def structure(request):
    """A backbone of random weights, what it is made of, and how many convolutions are trained."""
    backbone, kind, unfrozen = request.param
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        narrow_dinov2(patch)
        base = build_base(backbone, BACKBONES[backbone].minimum_size, "average", "float32")
    for layer in base.layers:
        if type(layer).__name__ == "LayerScale":
            layer.gamma.assign(np.ones(layer.gamma.shape))
    return base, kind, unfrozen


def test_its_first_block_gives_the_same_activations(structure, tmp_path):
    base, kind, _ = structure
    first = next(index for index, step in enumerate(base.operations) if type(step).__name__ == kind)
    network = prefix(base, next(cut for cut in cut_points(base) if cut > first))
    size, path = base.input.shape[1], tmp_path / "tensor.npy"
    np.save(path, np.random.default_rng(0).integers(0, 65536, (8, size, size)).astype(np.uint16))
    engines = [importlib.import_module(MODULES[name]).make(0, print) for name in ("keras_fit", "compiled")]
    one, other = (np.concatenate(list(made.outputs(network, PatchReader(path, 1, "paper"), 4, 1))) for made in engines)
    assert one.shape == other.shape == (4, 2, *network.output.shape[1:])
    assert np.abs(one - other).max() < 1e-4 * np.abs(one).max()


def test_its_last_convolutions_are_trained_the_same(structure, tmp_path):
    base, _, unfrozen = structure
    cut = deepest_cut(base, unfrozen)
    unfreeze(base, unfrozen)
    head = build_head(base.output.shape[1:], ModelSpec(backbone=base.name, dense="8", unfrozen_layers=unfrozen))
    network, path = build_tail(suffix(base, cut), head), stored_activations(tmp_path, cut_output(base, cut).shape[1:])
    before, reader = network.get_weights(), StoredActivations(path)

    def fits():
        network.set_weights(before)
        return [stage_fit(network, reader, rate=0.01, stage=Stage("tuned", 1, 0.01))]

    ((one, other),) = both(fits)
    assert_same(one, other, NETWORKS)
    moved = sum((now != old).any() for now, old in zip(network.get_weights(), before, strict=True))
    assert moved == len(network.trainable_weights) > len(head.weights)
