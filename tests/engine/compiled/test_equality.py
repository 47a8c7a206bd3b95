"""Both engines give one fit the same: the same predictions, weights, history, and activations."""

import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
import support_engines
from sklearn.metrics import roc_auc_score
from support import ROOT, environment

from mammo_mlflow.engine import keras_fit, train
from mammo_mlflow.engine.compiled import training
from mammo_mlflow.engine.inputs import CombinedReader, NumberReader, PatchReader, StoredActivations
from mammo_mlflow.experiment import ModelSpec
from mammo_mlflow.jobs.contracts import Failure, FitResult, FitsJob, FitsProgress
from mammo_mlflow.models.conditioned import build_conditioned
from mammo_mlflow.models.network import build_base, build_head, convolutions, prefix
from mammo_mlflow.planning.activations import ensure_activations
from mammo_mlflow.testing.engines import FEATURES, INNER, LABELS, VIEWS, stage_fit, stored_activations, trained

pytestmark = pytest.mark.usefixtures("jax_backend")

ENGINES = (keras_fit, training)
HEADS, NETWORKS = 1e-5, 1e-4
"""By how much probabilities may differ: of heads after 5 epochs, of networks with convolutions after 3 steps."""
FLOAT32, BFLOAT16 = 1e-4, 1e-2
"""By what share of the largest one activations may differ."""
AUC = 0.01
"""By how much the mean AUC over 30 seeds may differ where dropout draws other units."""


@pytest.fixture
def stored(tmp_path):
    return StoredActivations(stored_activations(tmp_path))


def both(fits):
    """What each engine gives to fits, which are made anew for it: predictions, weights, history, epochs kept."""
    found = []
    for module in ENGINES:
        made = fits()
        results = trained(module.make(0, print), *made)
        weights = [fit.network.get_weights() for fit in made]
        found.append([(one.predict(), own, one.history, one.kept) for one, own in zip(results, weights, strict=True)])
    return zip(*found, strict=True)


def assert_same(one, other, most):
    predictions, weights, history, kept = one
    np.testing.assert_allclose(predictions, other[0], atol=most)
    assert kept == other[3]
    for own, others in zip(weights, other[1], strict=True):
        np.testing.assert_allclose(own, others, atol=most, rtol=most)
    for row, wanted in zip(history, other[2], strict=True):
        assert row == pytest.approx(wanted, abs=10 * most)


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


def train_both(laboratory, monkeypatch, tmp_path, folds, **values):
    """Train some folds of a plan by each engine: what each gives to each fold."""
    plan = laboratory.plan(**values)
    paths = ensure_activations(laboratory.session(), plan.activations())
    found = []
    for module in ENGINES:
        monkeypatch.setattr(train, "make_engine", lambda memory, notice, module=module: module.make(memory, notice))
        jobs, answers = [], {}
        for number, fit in enumerate(plan.fits[:folds]):
            output = tmp_path / module.__name__ / str(number)
            output.mkdir(parents=True)
            files = [{name: paths[entry.key] for name, entry in stage.items()} for stage in (fit.features, fit.tuned)]
            jobs.append(replace(fit.job, output=output, features=files[0], tuned=files[1]))

        def emit(event, answers=answers):
            if isinstance(event, FitsProgress):
                answers |= {place: what for place, what in event.happened if isinstance(what, FitResult | Failure)}

        train.train_fits(FitsJob(name="all", fits=tuple(jobs), memory=0), emit)
        results = [answers[place] for place in range(len(jobs))]
        tails = [keras.saving.load_model(result.tail, compile=False).get_weights() for result in results]
        found.append(
            [(r.probabilities, tail, r.history, r.best_epochs) for r, tail in zip(results, tails, strict=True)]
        )
    return list(zip(*found, strict=True))


TINY = {"blocks": "4/2-4,8", "dense": "8", "epochs": 1, "batch_size": 8}


@pytest.mark.parametrize(
    ("values", "most"),
    [
        ({}, HEADS),
        ({"family": "siamese", "backbone": "vgg16"}, HEADS),
        ({"family": "siamese", "backbone": "vgg16", "pair_augmentation": "independent"}, HEADS),
        ({"family": "texture", "backbone": "laws"}, HEADS),
        ({"unfrozen_layers": 1}, NETWORKS),
        ({"views": 0, "epochs": 1}, NETWORKS),
        ({"family": "scratch", "backbone": "m1", **TINY}, NETWORKS),
        ({"family": "siamese", "backbone": "scratch", "pair_augmentation": "independent", **TINY}, NETWORKS),
    ],
    ids=lambda value: "-".join(map(str, value.values())) or "frozen" if isinstance(value, dict) else "",
)
def test_each_family(laboratory, monkeypatch, tmp_path, values, most):
    """Heads of two folds are trained at once; of networks one takes 3 steps of 8 patches."""
    folds = 2 if most == HEADS else 1
    for one, other in train_both(laboratory, monkeypatch, tmp_path, folds, **values):
        assert_same(one, other, most)


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


@pytest.mark.parametrize(("precision", "most"), [("float32", FLOAT32), ("bfloat16", BFLOAT16)])
def test_activations(phantom, precision, most):
    """Those behind VGG16's third convolution, of all views."""
    keras.utils.set_random_seed(0)
    base = build_base("vgg16", 32, "average", precision)
    network = prefix(base, convolutions(base)[2])
    reader = PatchReader(phantom / "train_tensor.npy", 1, "paper")
    made = [np.concatenate(list(module.make(0, print).outputs(network, reader, 10, 2))) for module in ENGINES]
    assert made[0].shape == made[1].shape == (10, 3, 16, 16, 128)
    assert np.abs(made[0] - made[1]).max() < most * np.abs(made[0]).max()
    assert np.abs(made[0][:, 1] - made[0][:, 2]).max() > 0.01 * np.abs(made[0]).max()


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
    done = subprocess.run(line, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=200)
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
