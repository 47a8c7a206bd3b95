"""Grad-CAM against its closed form, which a network with one convolution, a mean and a dense layer has."""

import keras
import numpy as np
import pytest
from keras import layers

from mammo_mlflow.engine.gradcam import class_activation_maps, explain
from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation.calibration import LEAST
from mammo_mlflow.jobs.contracts import ExplainJob
from mammo_mlflow.models.recalibrated import append_isotonic, append_platt

pytestmark = pytest.mark.usefixtures("keras")

SIZE = 12


def encoder(name, filters=3, pool=False):
    inputs = layers.Input((SIZE, SIZE, 1), name=f"{name}_in")
    x = layers.Rescaling(1 / 65535)(inputs)
    x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"{name}_maps")(x)
    return keras.Model(inputs, layers.MaxPooling2D()(x) if pool else x, name=name)


def head(shape, name):
    features = layers.Input(shape)
    pooled = layers.GlobalAveragePooling2D()(features)
    return keras.Model(features, layers.Dense(1, activation="sigmoid", name="out")(pooled), name=name)


def closed_form(encode, tail, patches):
    maps = encode.predict(patches, verbose=0)
    return scaled(maps @ tail.get_layer("out").get_weights()[0][:, 0])


def scaled(heat):
    heat = np.maximum(heat, 0)
    top = heat.max(axis=(1, 2), keepdims=True)
    return np.divide(heat, top, out=np.zeros_like(heat), where=top > 0)


@pytest.fixture
def patches():
    return np.random.default_rng(0).uniform(0, 65535, (3, SIZE, SIZE, 1)).astype(np.float32)


def test_the_map_of_a_nested_network(patches):
    encode, tail = encoder("encoder"), head((SIZE, SIZE, 3), "tail")
    inputs = layers.Input((SIZE, SIZE, 1))
    model = keras.Model(inputs, tail(encode(inputs)))
    (found,) = class_activation_maps(model, {"patch": patches})
    np.testing.assert_allclose(found, closed_form(encode, tail, patches), atol=1e-5)


def test_the_surest_answer_has_a_map_too(patches):
    encode, tail = encoder("encoder"), head((SIZE, SIZE, 3), "tail")
    kernel, bias = tail.get_layer("out").get_weights()
    tail.get_layer("out").set_weights([np.abs(kernel) + 1, bias + 1000])
    inputs = layers.Input((SIZE, SIZE, 1))
    model = keras.Model(inputs, tail(encode(inputs)))
    assert (model.predict(patches, verbose=0) == 1).all()
    (found,) = class_activation_maps(model, {"patch": patches})
    np.testing.assert_allclose(found, closed_form(encode, tail, patches), atol=1e-5)
    assert found.max() == pytest.approx(1)


def test_the_mean_of_networks_has_the_sum_of_their_maps(patches):
    pairs = [(encoder(f"encoder_{number}"), head((SIZE, SIZE, 3), f"tail_{number}")) for number in range(3)]
    inputs = layers.Input((SIZE, SIZE, 1))
    model = keras.Model(inputs, layers.Average()([tail(encode(inputs)) for encode, tail in pairs]))
    (found,) = class_activation_maps(model, {"patch": patches})
    heat = 0
    for encode, tail in pairs:
        maps = encode.predict(patches, verbose=0)
        heat = heat + np.maximum(maps @ tail.get_layer("out").get_weights()[0][:, 0], 0)
    np.testing.assert_allclose(found, scaled(heat), atol=1e-5)


def test_joined_networks_have_the_sum_of_maps_of_their_own_sizes(patches):
    """Also within another network, as in one that averages over flips."""
    fine, inputs = encoder("fine"), layers.Input((SIZE, SIZE, 1))
    scaled_down = layers.Rescaling(1 / 65535)(inputs)
    coarse = keras.Model(inputs, layers.Conv2D(2, 3, strides=3, activation="relu")(scaled_down), name="coarse")
    last, patch = layers.Dense(1, activation="sigmoid"), layers.Input((SIZE, SIZE, 1))
    means = [layers.GlobalAveragePooling2D()(one(patch)) for one in (fine, coarse)]
    joined = keras.Model(patch, last(layers.Concatenate()(means)), name="joined")
    outer = layers.Input((SIZE, SIZE, 1))
    (found,) = class_activation_maps(keras.Model(outer, joined(outer)), {"patch": patches})
    heat, kernels = 0, np.split(np.asarray(last.kernel)[:, 0], [3])
    for one, kernel in zip((fine, coarse), kernels, strict=True):
        rising = np.maximum(one.predict(patches, verbose=0) @ kernel, 0)
        mean = rising[..., None] / rising[0].size
        heat = heat + np.asarray(keras.ops.image.resize(mean, (SIZE, SIZE), interpolation="bilinear"))[..., 0]
    np.testing.assert_allclose(found, scaled(heat), atol=1e-5)


def test_members_have_maps_of_their_own_and_the_baseline_has_none(patches):
    """Three members: two tails on one encoder, and a difference of both sides, the baseline called last."""
    shared, other = encoder("shared"), encoder("other", 2)
    first, second, third = (
        head((SIZE, SIZE, 3), "first"),
        head((SIZE, SIZE, 3), "second"),
        head((SIZE, SIZE, 2), "third"),
    )
    patch, baseline = (layers.Input((SIZE, SIZE, 1), name=name) for name in ("patch", "baseline"))
    maps = shared(patch)
    seen, healthy = other(patch), other(baseline)
    answers = [first(maps), second(maps), third(layers.Subtract()([seen, healthy]))]
    model = keras.Model({"patch": patch, "baseline": baseline}, layers.Concatenate()(answers))
    found = class_activation_maps(model, {"patch": patches, "baseline": patches[::-1].copy()})
    for one, tail in zip(found, (first, second), strict=False):
        np.testing.assert_allclose(one, closed_form(shared, tail, patches), atol=1e-5)
    difference = other.predict(patches, verbose=0) - other.predict(patches[::-1], verbose=0)
    np.testing.assert_allclose(found[2], scaled(difference @ third.get_layer("out").get_weights()[0][:, 0]), atol=1e-5)


def test_the_model_is_as_it_was(patches):
    encode, tail = encoder("encoder", pool=True), head((SIZE // 2, SIZE // 2, 3), "tail")
    inputs = layers.Input((SIZE, SIZE, 1))
    model = keras.Model(inputs, tail(encode(inputs)))
    before = model.predict(patches, verbose=0)
    (found,) = class_activation_maps(model, {"patch": patches})
    assert found.shape == (3, SIZE, SIZE)
    assert found.max() <= 1
    np.testing.assert_array_equal(model.predict(patches, verbose=0), before)
    assert "call" not in vars(encode.get_layer("encoder_maps"))


def test_without_convolutions_there_is_no_map(patches):
    inputs = layers.Input((SIZE, SIZE, 1))
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(inputs)))
    with pytest.raises(UserError, match="overlays: expected a model with convolutions"):
        class_activation_maps(model, {"patch": patches})


def test_a_figure_for_each_abnormality(tmp_path, patches):
    inputs = layers.Input((SIZE, SIZE, 1))
    keras.Model(inputs, head((SIZE, SIZE, 3), "tail")(encoder("encoder")(inputs))).save(tmp_path / "model.keras")
    np.save(tmp_path / "pairs.npy", np.repeat(patches[..., 0].astype(np.uint16), 2, axis=0))
    (tmp_path / "maps").mkdir()
    events = []
    network, pairs, maps = (tmp_path / name for name in ("model.keras", "pairs.npy", "maps"))
    job = ExplainJob(
        name="overlays",
        model=network,
        tensor=pairs,
        threads=1,
        sides={"patch": 1},
        names=("m",),
        answers=np.ones((3, 1)),
        title="title",
        note="note",
        output=maps,
    )
    assert explain(job, events.append) == 3
    assert sorted(one.name for one in (tmp_path / "maps").iterdir()) == [f"row-{row:06d}.png" for row in (1, 3, 5)]
    assert events[-1].done == 3


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_a_recalibrated_model_has_the_maps_that_it_had_before(kind, tmp_path, patches):
    """A constant part of an isotonic map has no slope, through which no gradient would come."""
    inputs = layers.Input((SIZE, SIZE, 1))
    plain = keras.Model(inputs, head((SIZE, SIZE, 3), "tail")(encoder("encoder")(inputs)))
    mapped = append_platt(plain, 3.0, -0.5, LEAST) if kind == "platt" else append_isotonic(plain, (0, 1), (0.4, 0.4))
    np.save(tmp_path / "pairs.npy", np.repeat(patches[..., 0].astype(np.uint16), 2, axis=0))
    drawn = []
    for name, model in (("plain", plain), ("mapped", mapped)):
        model.save(tmp_path / f"{name}.keras")
        (tmp_path / name).mkdir()
        job = ExplainJob(
            name="overlays",
            model=tmp_path / f"{name}.keras",
            tensor=tmp_path / "pairs.npy",
            threads=1,
            sides={"patch": 1},
            names=("m",),
            answers=np.ones((3, 1)),
            title="title",
            note=None,
            output=tmp_path / name,
        )
        assert explain(job, lambda event: None) == 3
        drawn.append([one.read_bytes() for one in sorted((tmp_path / name).iterdir())])
    assert drawn[0] == drawn[1]
