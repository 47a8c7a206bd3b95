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
from mammo_mlflow.ensembles.stackers import STACKERS, check_stackable, dense
from mammo_mlflow.errors import UserError


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


def test_dense_is_adam_on_one_neuron(made, monkeypatch):
    """Against the same training written number by number."""
    data = made(n=60, members=2)
    monkeypatch.setattr(stackers, "PATIENCE", 99)
    found = dense(data.probabilities, data.labels, data.groups, 5, epochs=3)
    random = np.random.default_rng(5)
    patients = random.permutation(30)
    watched = np.isin(data.groups, patients[:3])  # 6 of 60 patches
    weights = [*random.uniform(-(2**0.5), 2**0.5, 2), 0.0]
    mean, square, step, losses = [0.0] * 3, [0.0] * 3, 0, []
    rows = np.flatnonzero(~watched)
    for _ in range(3):
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
        p = 1 / (1 + np.exp(-(data.probabilities[watched] @ weights[:2] + weights[2])))
        losses.append((-np.log(np.where(data.labels[watched] == 1, p, 1 - p)).mean(), list(weights)))
    best = min(losses, key=lambda pair: pair[0])[1]
    np.testing.assert_allclose(found.arrays["coefficients"], best[:2], atol=1e-12)
    np.testing.assert_allclose(found.arrays["intercept"], best[2], atol=1e-12)


def test_dense_learns_and_stops(made):
    data = made(n=1200, signal=3.0)
    fitted = dense(data.probabilities, data.labels, data.groups, 0)
    alone = max(roc_auc_score(data.labels, column) for column in data.probabilities.T)
    assert roc_auc_score(data.labels, fitted.predict(data.probabilities)) > alone
    noise = np.random.default_rng(0).permutation(data.labels)
    start = dense(data.probabilities, noise, data.groups, 0, epochs=8).arrays["coefficients"]
    np.testing.assert_array_equal(dense(data.probabilities, noise, data.groups, 0).arrays["coefficients"], start)


@pytest.mark.parametrize("name", STACKERS)
def test_the_same_seed_gives_the_same_model(name, made):
    data = made()
    one, two = (STACKERS[name](data.probabilities, data.labels, data.units, 1) for _ in range(2))
    for array, same in zip(one.arrays.values(), two.arrays.values(), strict=True):
        np.testing.assert_array_equal(array, same)


@pytest.mark.parametrize("name", STACKERS)
def test_a_constant_member_does_no_harm(name, made):
    data = made()
    data.probabilities[:, 1] = 0.5
    p = STACKERS[name](data.probabilities, data.labels, data.groups, 0).predict(data.probabilities)
    assert np.isfinite(p).all()


def test_too_few_patients():
    with pytest.raises(UserError, match=r"^labels: expected at least 3 patients .* of each class .*, found 2$"):
        check_stackable(np.array([0, 0, 0, 1, 1, 1]), np.array([1, 2, 3, 4, 4, 5]))
