"""The one optimizer of compiled programs moves weights as each of Keras's own does, also where fits differ in kind."""

import jax
import keras
import numpy as np
import pytest

from mammo_mlflow.engine.compiled.optimizer import start_optimizers, take_step
from mammo_mlflow.engine.contract import OPTIMIZERS
from mammo_mlflow.engine.inputs import StoredActivations
from mammo_mlflow.testing.engines import head, stage_fit, stored_activations

pytestmark = pytest.mark.usefixtures("jax_backend")

STEPS = 20
SETTINGS = [
    ("adamw", 1e-3, 0.0),
    ("adam", 1e-3, 0.0),
    ("adamw", 1e-3, 0.0),
    ("rmsprop", 1e-2, 0.5),
    ("sgd", 0.1, 0.0),
    ("sgd", 0.05, 0.9),
    ("adam", 0.1, 0.9),
]


def test_each_fit_moves_as_by_kerass_own_optimizer(tmp_path):
    rng = np.random.default_rng(0)
    stored = StoredActivations(stored_activations(tmp_path))
    fits = [
        stage_fit(head(), stored, optimizer=name, rate=rate, momentum=momentum) for name, rate, momentum in SETTINGS
    ]
    first = [rng.normal(size=(len(fits), *shape)).astype(np.float32) for shape in ((4, 3), (3,))]
    gradients = [rng.normal(size=(STEPS, *one.shape)).astype(np.float32) for one in first]
    gradients[1][:, :, 0] = 0  # what has no gradient stays where it is
    weights, state, step = first, start_optimizers(fits, first), jax.jit(jax.vmap(take_step))
    rates = np.array([fit.stage.learning_rate for fit in fits], np.float32)
    for number in range(STEPS):
        weights, state = step(state, rates, [one[number] for one in gradients], weights)
    for place, (name, rate, _) in enumerate(SETTINGS):
        wanted = [keras.Variable(one[place]) for one in first]
        optimizer = OPTIMIZERS[name](rate, fits[place].spec)
        for number in range(STEPS):
            optimizer.apply([one[number, place] for one in gradients], wanted)
        for found, one, start in zip(weights, wanted, first, strict=True):
            np.testing.assert_allclose(found[place], one.numpy(), rtol=2e-6, atol=2e-6)
            assert np.abs(found[place] - start[place]).max() > 1e-3
        if name != "adamw":  # which decays it
            assert np.array_equal(weights[1][place, 0], first[1][place, 0])
