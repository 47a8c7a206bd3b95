"""What tests of engines share: what is the same, and fits that two processes train from the same first weights."""

import importlib

import keras
import numpy as np
import pytest

from mammo_mlflow.engine.batches import Batches
from mammo_mlflow.engine.contract import MODULES, Stage, StageFit
from mammo_mlflow.engine.inputs import StoredActivations
from mammo_mlflow.experiment import ModelSpec, TrainingSpec
from mammo_mlflow.models.network import build_head
from mammo_mlflow.testing.engines import trained

PATCHES, VIEWS, FEATURES, SEEDS = 260, 2, 16, 30
TRAINED, VALIDATED = np.arange(160), np.arange(160, PATCHES)
HEADS, NETWORKS = 1e-5, 1e-4
"""By how much probabilities may differ: of heads after 5 epochs, of networks with convolutions after 3 steps."""


def assert_same(one, other, most):
    predictions, weights, history, kept = one
    np.testing.assert_allclose(predictions, other[0], atol=most)
    assert kept == other[3]
    for own, others in zip(weights, other[1], strict=True):
        np.testing.assert_allclose(own, others, atol=most, rtol=most)
    for row, wanted in zip(history, other[2], strict=True):
        assert row == pytest.approx(wanted, abs=10 * most)


def both(fits):
    """What each engine gives to fits, which are made anew for it: predictions, weights, history, epochs kept."""
    found = []
    for name in ("keras_fit", "compiled"):
        made = fits()
        results = trained(importlib.import_module(MODULES[name]).make(0, print), *made)
        weights = [fit.network.get_weights() for fit in made]
        found.append([(one.predict(), own, one.history, one.kept) for one, own in zip(results, weights, strict=True)])
    return zip(*found, strict=True)


def prepare(folder):
    """Write features from which labels can be told as well as from a phantom's, labels, and first weights."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, PATCHES).astype(np.float32)
    features = rng.normal(size=(PATCHES, 1, FEATURES)) + 0.2 * (2 * labels - 1)[:, None, None]
    np.save(folder / "features.npy", (features + rng.normal(0, 0.5, (PATCHES, VIEWS + 1, FEATURES))).astype(np.float32))
    np.save(folder / "labels.npy", labels)


def heads(folder):
    """Four heads, whose first weights do not depend on how a backend draws."""
    settings = ({"optimizer": "adam"}, {"optimizer": "sgd", "momentum": 0.9})
    return [
        _fit(folder, seed, {"dense": "8", "dropout": 0.0, "batch_norm": True}, own)
        for seed in (0, 1)
        for own in settings
    ]


def of_dropout(folder):
    """A head for each seed, half of whose units are left out in each step."""
    return [_fit(folder, seed, {"dense": "16", "dropout": 0.5}, {"optimizer": "adam"}) for seed in range(SEEDS)]


def _fit(folder, seed, model, training):
    keras.utils.set_random_seed(seed)
    network, rng = build_head((FEATURES,), ModelSpec(**model)), np.random.default_rng(seed)
    for one in network.trainable_variables:
        if len(one.shape) == 2:
            one.assign(rng.normal(0, np.sqrt(1 / one.shape[0]), one.shape))
    labels = np.load(folder / "labels.npy")
    return StageFit(
        network=network,
        batches=Batches(StoredActivations(folder / "features.npy"), TRAINED, labels, 16, VIEWS, [seed, 0]),
        spec=TrainingSpec(**training),
        stage=Stage("head", 5, 3e-3),
        validation_rows=VALIDATED,
        inner_rows=VALIDATED[:0],
        start=0,
        emit=lambda event: None,
    )
