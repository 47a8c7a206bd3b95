"""The map behind a model's probability: what NumPy computes, saved and loaded under Keras's safe mode."""

import keras
import numpy as np
import pytest

from mammo_mlflow.evaluation.calibration import LEAST
from mammo_mlflow.evaluation.recalibration import IsotonicMap, fit_isotonic, fit_platt
from mammo_mlflow.models.recalibrated import append_isotonic, append_platt, before_map

pytestmark = pytest.mark.usefixtures("keras")


@pytest.fixture(scope="module")
def model():
    """A model that answers with what it is given."""
    given = keras.Input((1,), name="patch")
    return keras.Model(given, keras.layers.Identity()(given))


@pytest.fixture(scope="module")
def asked():
    """Probabilities in single precision, the ends among them."""
    drawn = np.random.default_rng(0).beta(0.5, 0.5, 2000)
    return np.concatenate([[0, 1, 1 - 6e-8], drawn]).astype(np.float32)


@pytest.mark.parametrize("kind", ["platt", "isotonic", "constant", "steep"])
def test_the_graph_answers_as_the_map_does(kind, model, asked, tmp_path):
    labels = (np.random.default_rng(1).random(len(asked)) < asked**2).astype(int)
    p = asked.astype(np.float64)
    if kind == "platt":
        found = fit_platt(labels, p)
        made = append_platt(model, found.slope, found.intercept, LEAST)
    else:
        steep = IsotonicMap((0.25, np.nextafter(np.float32(0.25), np.float32(1)).item(), 0.5), (0.1, 0.6, 0.9))
        found = {"isotonic": fit_isotonic(labels, p), "constant": IsotonicMap((0.3,), (0.5,)), "steep": steep}[kind]
        made = append_isotonic(model, found.x, found.y)
    made.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert np.abs(loaded.predict(asked[:, None], verbose=0)[:, 0] - found(p)).max() < 1e-6
    assert np.array_equal(before_map(loaded).predict(asked[:, None], verbose=0)[:, 0], asked)
    assert before_map(model) is model
