import hashlib

import keras
import numpy as np
import pytest

from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import ModelSpec, build
from mammo_mlflow.models.encoders import build_encoder
from mammo_mlflow.models.network import (
    build_base,
    build_head,
    calibrate_random,
    deepest_cut,
    join_tails,
    load_weights,
    unfreeze,
)
from mammo_mlflow.models.synthetic import calibration_patches
from mammo_mlflow.models.weights import NetworkWeights
from mammo_mlflow.testing.backbones import run, smooth_patches

pytestmark = pytest.mark.usefixtures("keras")

SIZE = 75
"""Of the patches, in pixels."""


@pytest.fixture(scope="module")
def patches():
    return smooth_patches(SIZE)


def test_calibration_is_what_keeps_them(patches):
    """Keras's own initialisers lose the signal layer by layer; calibrating twice gives the same weights."""
    made, again = (build_base("vgg16", SIZE, "average", "float32") for _ in range(2))
    raw = run(made, patches)
    for one in (made, again):
        calibrate_random(one, patches.astype(np.float32))
    features = run(made, patches)
    relative = features.std(axis=0).mean()
    assert relative > 0.05
    assert not np.allclose(raw, features)
    np.testing.assert_array_equal(run(again, patches), features)


def test_join_averages_several_tails():
    base, patches = build_base("vgg16", 32, "average", "float32"), smooth_patches(32)
    calibrate_random(base, patches.astype(np.float32))
    features = run(base, patches[:3])
    tails = [build_head(base.output.shape[1:], ModelSpec(backbone="vgg16", dense="8")) for _ in range(3)]
    each = [run(tail, features) for tail in tails]
    assert np.std(each, axis=0).max() > 1e-4
    found = run(join_tails(base, deepest_cut(base, 0), tails), patches[:3])
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-4, atol=1e-6)


def test_the_patches_of_random_weights_never_change():
    """Where they are meant to, RANDOM_WEIGHTS_VERSION is raised."""
    found = calibration_patches()
    assert (found.shape, found.dtype) == ((16, 150, 150), np.uint16)
    assert (
        hashlib.sha256(found.tobytes()).hexdigest()
        == "c4e28a890d63f9dc2c6703af10a7c06a85ae21b73e60299849a06b9b9140bad6"
    )
    assert 10_000 < found.mean(axis=(1, 2)).min() < 25_000 < 40_000 < found.mean(axis=(1, 2)).max() < 55_000


def test_random_weights_calibrated_on_synthetic_patches_serve_others(patches):
    """Their signal survives on patches of another size and look, as a data set's are."""
    made = build_base("resnet50", 150, "average", "float32")
    calibrate_random(made, calibration_patches()[..., None].astype(np.float32))
    small = build_base("resnet50", SIZE, "average", "float32")
    small.set_weights(made.get_weights())
    for seen in (patches, patches // 2):
        features = run(small, seen)
        assert np.isfinite(features).all()
        assert np.abs(features).max() < 1e3
        assert (features.std(axis=0) > 1e-3).mean() > 0.3


@pytest.mark.parametrize(
    ("name", "unfrozen", "layer"),
    [
        ("vgg16", 1, "block5_conv2"),
        ("vgg16", 2, "block5_conv1"),
        ("vgg16", 3, "block4_pool"),
        ("vgg16", 4, "block4_conv2"),
        ("resnet50", 1, "conv5_block2_out"),
        ("resnet50", 3, "conv5_block2_out"),
        ("resnet50", 4, "conv5_block1_out"),
        ("inceptionv3", 1, "mixed9"),
    ],
)
def test_the_deepest_cut(name, unfrozen, layer):
    made = build_base(name, SIZE, "average", "float32")
    assert made.layers[deepest_cut(made, unfrozen)].name == layer
    assert made.layers[deepest_cut(made, 0)].name == "features"


def test_more_layers_than_there_are():
    made = build_base("vgg16", 32, "average", "float32")
    assert made.layers[deepest_cut(made, 13)].name == "input_scaling"
    with pytest.raises(UserError, match="unfrozen_layers: expected at most 13"):
        deepest_cut(made, 14)


def test_batch_norm_stays_in_inference_while_its_neighbours_train(patches):
    made = build_base("resnet50", SIZE, "average", "float32")
    calibrate_random(made, patches.astype(np.float32))
    unfreeze(made, 3)
    model = keras.Model(made.input, build_head((2048,), ModelSpec(backbone="resnet50", dense="4"))(made.output))
    norms = [layer for layer in made.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [np.concatenate([array.ravel() for array in layer.get_weights()]) for layer in norms]
    kernel = made.get_layer("conv5_block3_3_conv").get_weights()[0]
    model.compile("sgd", loss="binary_crossentropy")
    model.train_on_batch(patches.astype(np.float32), np.arange(8) % 2)
    for layer, old in zip(norms, before, strict=True):
        np.testing.assert_array_equal(np.concatenate([array.ravel() for array in layer.get_weights()]), old)
    assert not np.array_equal(made.get_layer("conv5_block3_3_conv").get_weights()[0], kernel)


def test_the_head_is_what_was_asked_for():
    plain = build_head((512,), ModelSpec())
    assert [layer.name for layer in plain.layers] == ["features", "head_dense", "probability"]
    assert plain.get_layer("head_dense").units == 256
    assert plain.get_layer("probability").activation is keras.activations.sigmoid
    full = build_head((512,), ModelSpec(dense="8", batch_norm=True, dropout=0.5))
    assert [type(layer).__name__ for layer in full.layers[1:]] == [
        "BatchNormalization",
        "Dense",
        "Dropout",
        "Dense",
    ]


@pytest.mark.parametrize(("pooling", "shape"), [("flatten", (4 * 512,)), ("average", (512,)), ("max", (512,))])
def test_pooling(pooling, shape, patches):
    made = build_base("vgg16", SIZE, pooling, "float32")
    calibrate_random(made, patches.astype(np.float32))
    maps = run(keras.Model(made.input, made.get_layer("block5_pool").output), patches)
    wanted = {"flatten": maps.reshape(len(maps), -1), "average": maps.mean((1, 2)), "max": maps.max((1, 2))}[pooling]
    found = run(made, patches)
    assert found.shape[1:] == shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_bfloat16_computes_close_to_float32(patches):
    made = build_base("vgg16", SIZE, "average", "float32")
    calibrate_random(made, patches.astype(np.float32))
    weights = made.get_weights()
    exact = run(made, patches)
    low = build_base("vgg16", SIZE, "average", "bfloat16")
    low.set_weights(weights)
    assert low.get_layer("block3_conv1").compute_dtype == "bfloat16"
    assert low.output.dtype == "float32"
    found = run(low, patches)
    assert not np.array_equal(found, exact)
    np.testing.assert_allclose(found, exact, rtol=0.1, atol=0.05 * exact.std())


def test_names_do_not_depend_on_what_was_built_before():
    first = [layer.name for layer in build_base("resnet50", 32, "average", "float32").layers]
    build_base("vgg16", 32, "average", "float32")
    assert [layer.name for layer in build_base("resnet50", 32, "average", "float32").layers] == first


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_of_another_network_are_told(tmp_path):
    build_base("vgg16", 32, "average", "float32").save_weights(tmp_path / "some.weights.h5")
    with pytest.raises(UserError, match=r"some\.weights\.h5: expected weights of resnet50"):
        load_weights(
            build_base("resnet50", 32, "average", "float32"),
            NetworkWeights(kind="file", label="some", identity="sha", source="here", path=tmp_path / "some.weights.h5"),
        )


def test_weights_come_back_as_they_were_saved(tmp_path):
    made = build_base("vgg16", 32, "average", "float32")
    made.save_weights(tmp_path / "some.weights.h5")
    again = build_base("vgg16", 32, "max", "bfloat16")
    load_weights(
        again,
        NetworkWeights(kind="file", label="some", identity="sha", source="here", path=tmp_path / "some.weights.h5"),
    )
    for one, other in zip(made.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("scaling", "mode"), [("caffe", "caffe"), ("symmetric", "tf"), ("standard", "torch")])
def test_weights_trained_on_other_inputs_get_their_own_scaling(scaling, mode):
    spec = ModelSpec(backbone="resnet50", input_scaling=scaling)
    made = build_encoder("pretrained", spec, SIZE, "float32")
    grey = np.linspace(0, 65535, SIZE * SIZE, dtype=np.float32).reshape(1, SIZE, SIZE, 1)
    found = keras.Model(made.input, made.get_layer("input_scaling").output).predict(grey, verbose=0)
    wanted = keras.applications.imagenet_utils.preprocess_input(
        np.repeat(grey / 257, 3, axis=-1), data_format="channels_last", mode=mode
    )
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_an_unknown_scaling_says_what_was_meant():
    with pytest.raises(UserError, match="input_scaling: unknown 'caffee', did you mean 'caffe'"):
        build("mass_calc", {"input_scaling": "caffee"})
