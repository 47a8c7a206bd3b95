import keras
import numpy as np
import pytest

from mammo_mlflow.engine.backend import fast_batch_norm, fast_optimizer, set_threads
from mammo_mlflow.engine.contract import OPTIMIZERS
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import TrainingSpec

pytestmark = pytest.mark.usefixtures("keras")


def test_threads_cannot_change_once_they_are_in_use(laboratory, frozen):
    set_threads(1)
    with pytest.raises(UserError, match=r"threads: expected 1, .* found 2 .*executor=process"):
        set_threads(2)


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(3, 2, (16, 8, 8, 4)).astype(np.float32)


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 5e-4), ("mixed_bfloat16", 0.05)])
def test_the_fast_batch_norm_is_keras_own(images, dtype, rounding):
    """But for the moving variance, which is the unbiased one: a thousandth more for these 1024 places."""
    layers = [kind(momentum=0.9, dtype=dtype) for kind in (fast_batch_norm(), keras.layers.BatchNormalization)]
    answers = []
    for layer in layers:
        layer.build(images.shape)
        layer.set_weights([np.full(4, 2.0), np.full(4, -1.0), np.zeros(4), np.ones(4)])
        seen = keras.ops.cast(images, layer.compute_dtype)
        answers.append([layer(seen, training=True), *layer.weights, layer(seen, training=False)])
        assert answers[-1][0].dtype == answers[-1][-1].dtype == layer.compute_dtype
    for fast, own in zip(*answers, strict=True):
        fast, own = (keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")) for one in (fast, own))
        np.testing.assert_allclose(fast, own, rtol=2e-3, atol=rounding)
    frozen = layers[0]
    frozen.trainable = False
    before = np.array(frozen.moving_mean)
    still = frozen(keras.ops.cast(images, frozen.compute_dtype), training=True)
    np.testing.assert_array_equal(frozen.moving_mean, before)
    np.testing.assert_array_equal(keras.ops.cast(still, "float32"), keras.ops.cast(answers[0][-1], "float32"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_fast_optimizer_takes_the_same_steps(name):
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(32, 6)).astype(np.float32), np.arange(32) % 2
    found = []
    for change in (fast_optimizer, lambda optimizer: optimizer):
        keras.utils.set_random_seed(0)
        net = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(4), keras.layers.Dense(1, "sigmoid")])
        start = net.get_weights()
        optimizer = change(OPTIMIZERS[name](1e-2, TrainingSpec()))
        net.compile(optimizer, "binary_crossentropy", steps_per_execution=4, jit_compile=False)
        net.fit(inputs, labels, batch_size=8, epochs=3, shuffle=False, verbose=0)
        assert int(optimizer.iterations) == 12
        found.append(net.get_weights())
    for fast, own, before in zip(*found, start, strict=True):
        np.testing.assert_allclose(fast, own, atol=1e-5)
        assert np.abs(fast - before).max() > 1e-3
