import keras
import numpy as np
import pytest
from scipy.signal import convolve2d

from mammo_mlflow.errors import UserError
from mammo_mlflow.models.network import cut_points, deepest_cut, prefix
from mammo_mlflow.models.texture import FEATURES, MINIMUM_SIZE, build_texture

pytestmark = pytest.mark.usefixtures("keras")

SIZE = 40
ENERGIES = 9
LEVEL, EDGE, SPOT, RIPPLE = [1, 4, 6, 4, 1], [-1, -2, 0, 2, 1], [-1, 0, 2, 0, -1], [1, -4, 6, -4, 1]
MASKS = {
    "L5E5": (LEVEL, EDGE),
    "L5S5": (LEVEL, SPOT),
    "L5R5": (LEVEL, RIPPLE),
    "E5E5": (EDGE, EDGE),
    "E5S5": (EDGE, SPOT),
    "E5R5": (EDGE, RIPPLE),
    "S5S5": (SPOT, SPOT),
    "S5R5": (SPOT, RIPPLE),
    "R5R5": (RIPPLE, RIPPLE),
}


def answer(model, patches):
    """The features of patches (n, size, size)."""
    return keras.ops.convert_to_numpy(model(np.asarray(patches, np.float32)[..., None], training=False))


def by_hand(patch):
    """The features of one patch (size, size) by their definitions, in float64."""
    patch, size = patch.astype(np.float64), len(patch)
    detail = (patch[7:-7, 7:-7] - convolve2d(patch, np.full((15, 15), 1 / 225), "valid")) / 257
    masks = {name: np.outer(first, second) for name, (first, second) in MASKS.items()}
    energies = {
        name: np.log(1 + (np.abs(convolve2d(detail, m, "valid")) + np.abs(convolve2d(detail, m.T, "valid"))).mean() / 2)
        for name, m in masks.items()
    }
    centre = np.zeros(patch.shape, bool)
    centre[size // 4 : size - size // 4, size // 4 : size - size // 4] = True
    contrast = (patch[centre].mean() - patch[~centre].mean()) / 65535
    return {**energies, "mean": patch.mean() / 65535, "deviation": patch.std() / 65535, "centre_contrast": contrast}


@pytest.fixture(scope="module")
def base():
    return build_texture(SIZE)


@pytest.fixture(scope="module")
def patches():
    """Smooth blobs under noise, brighter in the middle and streaked along the rows, so that no feature is trivial."""
    rng = np.random.default_rng(0)
    made = rng.normal(25000, 5000, (4, 8, 8)).repeat(5, axis=1).repeat(5, axis=2) + rng.normal(0, 900, (4, SIZE, SIZE))
    made += rng.normal(0, 700, (4, SIZE, 1))
    made[:, 12:28, 12:28] += 6000
    return np.clip(made, 0, 60000).round()


@pytest.mark.parametrize("size", [SIZE, SIZE - 3, MINIMUM_SIZE])
def test_features_are_those_of_their_definitions(size, patches):
    small = patches[:, :size, :size]
    found = answer(build_texture(size), small)
    assert found.shape == (4, len(FEATURES)) and found.dtype == np.float32
    for row, patch in zip(found, small, strict=True):
        wanted = by_hand(patch)
        assert list(wanted) == list(FEATURES)
        np.testing.assert_allclose(row, list(wanted.values()), rtol=1e-4, atol=1e-5)


def test_energies_stay_when_a_patch_is_turned_or_mirrored(base, patches):
    upright = answer(base, patches)
    streaks = np.abs(np.diff(patches, axis=1)).mean() / np.abs(np.diff(patches, axis=2)).mean()
    assert streaks > 1.1  # else turning would change nothing anyway
    for turned in (np.rot90(patches, axes=(1, 2)), patches[:, ::-1], patches.transpose(0, 2, 1)):
        np.testing.assert_allclose(answer(base, turned), upright, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grey", [0, 1, 30011, 65535])
def test_a_flat_patch_has_only_a_mean(base, grey):
    (found,) = answer(base, np.full((1, SIZE, SIZE), grey))
    np.testing.assert_allclose(found[:ENERGIES], 0, atol=1e-6)
    np.testing.assert_allclose(found[ENERGIES:], [grey / 65535, 0, 0], atol=1e-5)


def test_a_brighter_patch_has_the_same_energies(base, patches):
    plain, brighter = answer(base, patches), answer(base, patches + 5000)
    np.testing.assert_allclose(brighter[:, :ENERGIES], plain[:, :ENERGIES], rtol=1e-6)
    np.testing.assert_allclose((brighter - plain)[:, ENERGIES:], [[5000 / 65535, 0, 0]] * 4, atol=1e-6)


def test_stored_and_loaded_it_answers_the_same(base, patches, tmp_path):
    base.save(tmp_path / "laws.keras")
    loaded = keras.saving.load_model(tmp_path / "laws.keras", safe_mode=True)
    np.testing.assert_array_equal(answer(loaded, patches), answer(base, patches))
    assert loaded.name == "laws" and not loaded.trainable_weights


def test_built_again_it_is_the_same(base, patches):
    again = build_texture(SIZE)
    np.testing.assert_array_equal(answer(again, patches), answer(base, patches))
    assert again.get_config() == base.get_config()


def test_all_in_float32_whatever_the_policy(base, patches, tmp_path, monkeypatch):
    base.save(tmp_path / "laws.keras")
    monkeypatch.setattr(keras.utils, "clear_session", lambda: None)  # it would take the policy away
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        made = [build_texture(SIZE), keras.saving.load_model(tmp_path / "laws.keras", safe_mode=True)]
        found = [answer(model, patches) for model in made]
    finally:
        keras.config.set_dtype_policy(before)
    for model, features in zip(made, found, strict=True):
        assert {str(layer.output.dtype) for layer in model.layers} == {"float32"}
        np.testing.assert_array_equal(features, answer(base, patches))


def test_frozen_and_cut_at_the_features_only(base, patches):
    assert not base.trainable and not base.trainable_weights
    assert base.layers[0].name == "patch" and base.layers[-1].name == "features"
    last = len(base.operations) - 1
    assert cut_points(base) == [0, last] and deepest_cut(base, 0) == last
    np.testing.assert_array_equal(answer(prefix(base, last), patches), answer(base, patches))


def test_too_small_a_patch_is_refused():
    with pytest.raises(UserError, match=f"image_size: expected at least {MINIMUM_SIZE} pixels.*, found 18$") as problem:
        build_texture(MINIMUM_SIZE - 1)
    assert "\n" not in str(problem.value)
