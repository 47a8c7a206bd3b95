import keras
import numpy as np
import pytest

from mammo_mlflow.data.augmentation import draw_transforms
from mammo_mlflow.engine.inputs import StoredActivations, augment
from mammo_mlflow.models.network import build_base, load_weights, prefix
from mammo_mlflow.planning.activations import ensure_activations

pytestmark = pytest.mark.usefixtures("keras")


@pytest.fixture(scope="module")
def made(laboratory, tuned):
    """The plan of unfrozen VGG16, and its two activation files: before the last convolution, and the features."""
    paths = ensure_activations(laboratory.session(), tuned.plan.activations())
    return tuned.plan, [StoredActivations(paths[entry.key]) for entry in tuned.plan.activations()]


def answer(plan, cut, patches):
    base = build_base("vgg16", 32, plan.network.model.pooling, plan.network.precision)
    load_weights(base, plan.weights)
    return keras.ops.convert_to_numpy(prefix(base, cut.index)(patches.astype(np.float32)))


ROWS = np.array([3, 17, 40])


def test_view_0_is_the_plain_patch_and_the_others_are_its_transforms(laboratory, made):
    plan, stored = made
    patches = laboratory.patch_set.train.abnormality[ROWS]
    for entry, activations in zip(plan.activations(), stored, strict=True):
        for view in range(3):
            seen = patches[..., None]
            if view:
                seen = augment(patches, draw_transforms("paper", ROWS, view, 32))
            found = activations(ROWS, np.full(3, view))
            np.testing.assert_allclose(found, answer(plan, entry.job.cut, seen), rtol=1e-3, atol=1e-3)


def test_views_differ(made):
    _, stored = made
    plain, first, second = (stored[1](ROWS, np.full(3, view)) for view in range(3))
    assert np.abs(plain - first).max() > 0.01
    assert np.abs(second - first).max() > 0.01


def test_all_in_memory_is_the_same(made):
    _, stored = made
    whole = stored[1].in_memory(2**30)
    assert whole.shape[:2] == (48, 3)
    np.testing.assert_array_equal(whole[ROWS, 1], stored[1](ROWS, np.ones(3, int)))
    assert stored[1].in_memory(100) is None


def test_bfloat16_is_stored_in_two_bytes_and_close(laboratory, made):
    low = laboratory.plan(precision="bfloat16", pooling="flatten")
    exact = laboratory.plan(pooling="flatten")
    found = []
    for plan in (low, exact):
        (entry,) = plan.activations()
        path = ensure_activations(laboratory.session(), plan.activations())[entry.key]
        assert path.stat().st_size == pytest.approx(entry.bytes, abs=1000)
        found.append(StoredActivations(path)(np.arange(48), np.zeros(48, int)))
    assert low.activations()[0].bytes * 2 == exact.activations()[0].bytes
    assert found[0].dtype == found[1].dtype == np.float32
    assert not np.array_equal(*found)
    np.testing.assert_allclose(found[0], found[1], atol=0.05 * np.abs(found[1]).max())
    laboratory.cache.release()


def test_augment_turns_by_the_transform():
    patch = np.arange(32 * 32, dtype=np.uint16).reshape(1, 32, 32)
    identity = np.array([[1, 0, 0, 0, 1, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(augment(patch, identity)[0, ..., 0], patch[0], atol=1e-3)
    flip = np.array([[-1, 0, 31, 0, 1, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(augment(patch, flip)[0, ..., 0], patch[0, :, ::-1], atol=1e-3)
