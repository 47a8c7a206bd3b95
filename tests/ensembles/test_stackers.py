from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mammo_mlflow.ensembles import stackers
from mammo_mlflow.ensembles.methods import METHODS
from mammo_mlflow.ensembles.nested import nested_predictions
from mammo_mlflow.ensembles.stackers import STACKERS, check_stackable, dense
from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation.metrics import out_of_fold


def scikit(name, p, labels, groups, seed):
    """The same model by scikit-learn, from the probabilities on."""
    if name == "svm":
        x = StandardScaler().fit(p)
        splits = list(StratifiedGroupKFold(3, shuffle=True, random_state=seed).split(p, labels, groups))
        model = CalibratedClassifierCV(SVC(), method="sigmoid", cv=splits, ensemble=False)
        model.fit(x.transform(p), labels)
        return lambda new: model.predict_proba(x.transform(new))[:, 1]
    model = {
        "logistic": LogisticRegression(),
        "knn": KNeighborsClassifier(25),
        "mlp": MLPClassifier((8,), activation="tanh", solver="lbfgs", alpha=10.0, max_iter=200, random_state=seed),
    }[name]
    pipeline = make_pipeline(StandardScaler(), model).fit(p, labels)
    return lambda new: pipeline.predict_proba(new)[:, 1]


@pytest.mark.parametrize("name", ["logistic", "knn", "svm", "mlp"])
def test_arrays_answer_as_scikit_learn_does(name, made):
    data, new = made(n=300, members=4), made(n=300, members=4, seed=1).probabilities
    fitted = STACKERS[name](data.probabilities, data.labels, data.groups, 3)
    theirs = scikit(name, data.probabilities, data.labels, data.groups, 3)(new)
    np.testing.assert_allclose(fitted.predict(new), theirs, atol=1e-6)
    assert np.ptp(theirs) > 0.2


@pytest.mark.parametrize(("least", "passes"), [(1800, 34), (108, 2), (54, 1), (16, 1)])
def test_dense_is_adam_on_one_neuron(made, monkeypatch, least, passes):
    """Against the same training written number by number, from equal weights; rows are repeated until `least`."""
    data = made(n=60, members=2)
    monkeypatch.setattr(stackers, "PATIENCE", 99)
    monkeypatch.setattr(stackers, "EPOCH_ROWS", least)
    found = dense(data.probabilities, data.labels, data.groups, 5, epochs=3)
    random = np.random.default_rng(5)
    patients = random.permutation(30)
    watched = np.isin(data.groups, patients[:3])  # 6 of 60 patches
    weights = [2.0, 2.0, -2.0]
    mean, square, step = [0.0] * 3, [0.0] * 3, 0

    def watched_loss():
        p = 1 / (1 + np.exp(-(data.probabilities[watched] @ weights[:2] + weights[2])))
        return -np.log(np.where(data.labels[watched] == 1, p, 1 - p)).mean()

    losses = [(watched_loss(), list(weights))]
    rows = np.flatnonzero(~watched)
    for _ in range(3):
        for _ in range(passes):
            order = random.permutation(54)
            for start in range(0, 54, 16):
                batch = rows[order[start : start + 16]]
                gradient = [0.0] * 3
                for row in batch:
                    x = [*data.probabilities[row], 1.0]
                    p = 1 / (1 + np.exp(-sum(w * v for w, v in zip(weights, x, strict=True))))
                    for j in range(3):
                        gradient[j] += (p - data.labels[row]) * x[j] / len(batch)
                step += 1
                for j in range(3):
                    mean[j] = 0.9 * mean[j] + 0.1 * gradient[j]
                    square[j] = 0.999 * square[j] + 0.001 * gradient[j] ** 2
                    rate = 1e-3 * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
                    weights[j] -= rate * mean[j] / (square[j] ** 0.5 + 1e-7)
        losses.append((watched_loss(), list(weights)))
    best = min(losses, key=lambda pair: pair[0])[1]
    np.testing.assert_allclose(found.arrays["coefficients"], best[:2], atol=1e-11)
    np.testing.assert_allclose(found.arrays["intercept"], best[2], atol=1e-11)


def test_dense_learns_and_stops(made):
    data = made(n=1200, signal=3.0)
    fitted = dense(data.probabilities, data.labels, data.groups, 0)
    alone = max(roc_auc_score(data.labels, column) for column in data.probabilities.T)
    assert roc_auc_score(data.labels, fitted.predict(data.probabilities)) > alone
    noise = np.random.default_rng(0).permutation(data.labels)
    one, two, three = (
        dense(data.probabilities, noise, data.groups, 0, epochs).arrays["coefficients"] for epochs in (10, 100, 200)
    )
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(two, three)


def test_dense_is_the_average_where_nothing_is_learnt(made):
    data = made(n=240)
    p = dense(data.probabilities, data.labels, data.groups, 0, epochs=0).predict(data.probabilities)
    average = data.probabilities.mean(axis=1)
    np.testing.assert_array_equal(np.argsort(p), np.argsort(average))
    near = np.abs(average - 0.5) < 0.1
    np.testing.assert_allclose(p[near], average[near], atol=0.002)


ROWS_SEEDS = 8


@pytest.mark.parametrize("rows", [96, 240])
def test_dense_on_few_rows_is_worth_the_average(rows, made, objective, simulation):
    """A quick form of benchmarks/stacker_rows.py."""
    figures = []
    for seed in simulation(ROWS_SEEDS):
        data = made(n=rows, members=3, seed=seed, signal=2.4)
        each = [nested_predictions(METHODS[name], data, objective(), seed)[1] for name in ("average", "dense")]
        figures.append([out_of_fold("roc_auc", data.labels, p, data.folds) for p in each])
    average, found = np.mean(figures, axis=0)
    assert average > 0.85
    assert found > average - 0.02


def test_dense_on_few_rows_finds_the_one_good_member(made, objective, simulation):
    """The weights can leave their start: noise beside one good member is given up."""
    figures = []
    for seed in simulation(ROWS_SEEDS):
        data = made(n=240, members=2, seed=seed, signal=2.4)
        data.probabilities[:, 1] = np.random.default_rng(seed).random(240)
        each = [nested_predictions(METHODS[name], data, objective(), seed)[1] for name in ("average", "dense")]
        figures.append([out_of_fold("roc_auc", data.labels, p, data.folds) for p in each])
    average, found = np.mean(figures, axis=0)
    assert found > average + 0.02


def test_too_few_patients():
    with pytest.raises(UserError, match=r"^labels: expected at least 3 patients .* of each class .*, found 2$"):
        check_stackable(np.array([0, 0, 0, 1, 1, 1]), np.array([1, 2, 3, 4, 4, 5]))
