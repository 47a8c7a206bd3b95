import keras
import numpy as np
import pytest
from keras import layers

from mammo_mlflow.engine.gradcam import class_activation_maps
from mammo_mlflow.models.flips import average_flips

pytestmark = pytest.mark.usefixtures("keras")

SIZE = 6


def network(*names):
    """A network that tells an upper left corner from others, of one or two patches and maybe a number."""
    inputs = {name: layers.Input((1,) if name == "number" else (SIZE, SIZE, 1), name=name) for name in names}
    maps = [layers.Conv2D(2, 3, activation="relu", name=f"{n}_maps")(x) for n, x in inputs.items() if n != "number"]
    flat = [layers.Flatten()(one) for one in maps] + [inputs[name] for name in names if name == "number"]
    answer = layers.Dense(1, activation="sigmoid")(layers.Concatenate()(flat) if len(flat) > 1 else flat[0])
    return keras.Model(inputs if len(inputs) > 1 else inputs[names[0]], answer, name="network")


def turned(patches):
    """The patches in each of their eight flips and quarter turns."""
    both = (patches, patches.transpose(0, 2, 1, 3))
    return [np.rot90(one, quarter, axes=(1, 2)) for one in both for quarter in range(4)]


@pytest.fixture
def patches():
    return np.random.default_rng(0).normal(size=(2, 3, SIZE, SIZE, 1)).astype(np.float32)


def test_the_answer_is_the_mean_over_the_eight_turns(patches, tmp_path):
    model = network("patch")
    answers = [model.predict(one, verbose=0) for one in turned(patches[0])]
    assert np.std(answers, axis=0).min() > 1e-3
    average_flips(model).save(tmp_path / "flips.keras")
    averaged = keras.saving.load_model(tmp_path / "flips.keras", compile=False, safe_mode=True)
    found = averaged.predict(patches[0], verbose=0)
    assert found.shape == (3, 1)
    np.testing.assert_allclose(found, np.mean(answers, axis=0), atol=1e-6)
    np.testing.assert_allclose(averaged.predict(np.rot90(patches[0], axes=(1, 2)), verbose=0), found, atol=1e-6)


def test_both_sides_turn_alike_and_numbers_stay(patches):
    model, number = network("baseline", "patch", "number"), np.arange(3, dtype=np.float32)[:, None]
    pairs = zip(turned(patches[0]), turned(patches[1]), strict=True)
    answers = [model.predict({"baseline": one, "patch": two, "number": number}, verbose=0) for one, two in pairs]
    given = {"baseline": patches[0], "patch": patches[1], "number": number}
    np.testing.assert_allclose(average_flips(model).predict(given, verbose=0), np.mean(answers, axis=0), atol=1e-6)


def test_maps_lie_over_the_patches_as_they_are(patches):
    model = network("patch")
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([np.abs(kernel), bias])  # so that some region raises the probability
    (alone,) = class_activation_maps(model, {"patch": patches[0]})
    (found,) = class_activation_maps(average_flips(model), {"patch": patches[0]})
    assert found.shape == alone.shape == (3, SIZE, SIZE)
    assert alone.std() > 0.1
    np.testing.assert_allclose(found, alone, atol=1e-5)
