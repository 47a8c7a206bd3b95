"""Both engines give one head the same: the same predictions, weights and history; and so does Keras on TensorFlow."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import support_engines
from sklearn.metrics import roc_auc_score
from support import ROOT, environment
from support_engines import HEADS, assert_same, both

from mammo_mlflow.engine.compiled import training
from mammo_mlflow.engine.inputs import CombinedReader, NumberReader, StoredActivations
from mammo_mlflow.experiment import ModelSpec
from mammo_mlflow.models.conditioned import build_conditioned
from mammo_mlflow.models.network import build_head
from mammo_mlflow.testing.engines import FEATURES, INNER, LABELS, VIEWS, stage_fit, stored_activations, trained

pytestmark = pytest.mark.usefixtures("jax_backend")

AUC = 0.01
"""By how much the mean AUC over 30 seeds may differ where dropout draws other units."""


@pytest.fixture
def stored(tmp_path):
    return StoredActivations(stored_activations(tmp_path))


@pytest.mark.parametrize(
    ("training_values", "model_values"),
    [
        ({"optimizer": "adam"}, {}),
        ({"optimizer": "adam", "class_weights": "balanced", "early_stop": 2}, {"batch_norm": True, "dropout": 0.3}),
        ({"optimizer": "rmsprop"}, {"dense_batch_norm": True, "dense": "8-4"}),
        ({"optimizer": "rmsprop"}, {"batch_norm": True, "l1": 1e-3, "l2": 1e-2}),
        ({"optimizer": "sgd", "momentum": (0.0, 0.9)}, {"batch_norm": True, "dense_batch_norm": True}),
    ],
)
def test_heads_on_pooled_features(stored, training_values, model_values):
    """Two fits of other seeds, learning rates and momentum."""

    def fits():
        made = []
        for seed in range(2):
            keras.utils.set_random_seed(seed)
            network = build_head((FEATURES,), ModelSpec(**{"dense": "8", "dropout": 0.0, **model_values}))
            own = {name: value[seed] if isinstance(value, tuple) else value for name, value in training_values.items()}
            inner = INNER if "early_stop" in own else INNER[:0]
            made.append(
                stage_fit(network, stored, seed=seed, epochs=5, rate=0.003 * (seed + 1), inner_rows=inner, **own)
            )
        return made

    before = [fit.network.get_weights() for fit in fits()]
    for start, (one, other) in zip(before, both(fits), strict=True):
        assert_same(one, other, HEADS)
        assert max(np.abs(now - then).max() for now, then in zip(one[1], start, strict=True)) > 100 * HEADS


def test_heads_on_features_and_a_condition_of_their_own(tmp_path):
    """As in the conditioned family, where each fold's features come from another model."""

    def fits():
        made = []
        for seed in range(3):
            keras.utils.set_random_seed(seed)
            head = build_head((FEATURES + 1,), ModelSpec(dense="8", dropout=0.0))
            own = {
                "features": StoredActivations(stored_activations(tmp_path, seed=seed)),
                "condition": NumberReader(np.random.default_rng(seed).random(len(LABELS)), VIEWS),
            }
            made.append(stage_fit(build_conditioned((FEATURES,), head), CombinedReader(own), seed=seed, epochs=5))
        return made

    found = list(both(fits))
    for one, other in found:
        assert_same(one, other, HEADS)
    assert np.abs(found[0][0][0] - found[1][0][0]).max() > 100 * HEADS


UNDER_TENSORFLOW = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import keras, numpy as np
from support_engines import heads, of_dropout
from mammo_mlflow.engine import keras_fit
from mammo_mlflow.testing.engines import trained
assert keras.backend.backend() == "tensorflow"
engine, folder = keras_fit.make(0, print), Path(sys.argv[2])
found = [[one.predict() for one in trained(engine, *make(folder))] for make in (heads, of_dropout)]
np.savez(sys.argv[3], *found)
"""


@pytest.fixture(scope="module")
def under_tensorflow(tmp_path_factory, system, cache):
    """What `keras_fit` gives under TensorFlow, and the folder of the fits' files."""
    folder = tmp_path_factory.mktemp("tensorflow")
    support_engines.prepare(folder)
    line = [sys.executable, "-c", UNDER_TENSORFLOW, str(ROOT / "tests"), str(folder), str(folder / "found.npz")]
    surroundings = environment(cache, KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
    done = subprocess.run(line, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "found.npz") as found:
        return folder, list(found.values())


def test_heads_are_those_of_keras_on_tensorflow(under_tensorflow):
    """From the same first weights, in 5 epochs."""
    folder, (wanted, _) = under_tensorflow
    fits = support_engines.heads(folder)
    for optimizer in ("adam", "sgd"):
        chosen = [place for place, fit in enumerate(fits) if fit.spec.optimizer == optimizer]
        found = trained(training.make(0, print), *(fits[place] for place in chosen))
        for place, one in zip(chosen, found, strict=True):
            np.testing.assert_allclose(one.predict(), wanted[place], atol=HEADS)


def test_with_dropout_heads_are_as_good_as_those_of_keras_on_tensorflow(under_tensorflow):
    """The backends draw other units; the mean AUC over the seeds is the same but for the margin."""
    folder, (_, wanted) = under_tensorflow
    fits = support_engines.of_dropout(folder)
    found = [one.predict() for one in trained(training.make(0, print), *fits)]
    labels = fits[0].batches.labels[fits[0].validation_rows]
    aucs = np.array([[roc_auc_score(labels, said) for said in each] for each in (found, wanted)])
    assert aucs.shape == (2, support_engines.SEEDS)
    assert 0.6 < aucs.mean() < 0.95
    assert np.abs(np.subtract(found, wanted)).max() > 100 * HEADS  # other units indeed
    assert abs(aucs[0].mean() - aucs[1].mean()) < AUC
