"""Fit combiners on members' out-of-fold probabilities (stacking; Wolpert 1992, Neural Networks 5:241-259).

Each function takes probabilities float64 (n, m), labels int64 (n,) of 0 and 1, units (n,) that are never split, as
patients are, and a seed, and gives plain arrays. All but `dense` standardise the probabilities first.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mammo_mlflow.errors import expected
from mammo_mlflow.evaluation.weighted import Floats, Ints, log_losses
from mammo_mlflow.level1 import Combiner, sigmoid

NEIGHBOURS = 25
HIDDEN = 8
PLATT_FOLDS = 3

EPOCHS, PATIENCE, BATCH, INNER_SHARE = 40, 3, 16, 0.1
LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-7
EPOCH_ROWS = 1800
"""An epoch of `dense` has at least as many steps as this many rows make: what 2,000 leave beside those watched."""


def logistic(probabilities: Floats, labels: Ints, units: Ints, seed: int) -> Combiner:
    """Logistic regression with scikit-learn's default ridge, standardising folded into its coefficients."""
    mean, scale, x = _standardised(probabilities)
    model = LogisticRegression().fit(x, labels)
    coefficients = model.coef_[0] / scale
    return _linear(coefficients, model.intercept_[0] - coefficients @ mean)


def knn(probabilities: Floats, labels: Ints, units: Ints, seed: int) -> Combiner:
    """The 25 nearest neighbours; neighbours at equal distance count equally (`level1`)."""
    mean, scale, x = _standardised(probabilities)
    arrays = {"mean": mean, "scale": scale, "points": x, "labels": labels}
    return Combiner("neighbours", arrays | {"k": np.array(min(NEIGHBOURS, len(x)))})


def svm(probabilities: Floats, labels: Ints, units: Ints, seed: int) -> Combiner:
    """A support vector machine with RBF kernel; a sigmoid of its decisions on held-out units (Platt 1999).

    The sigmoid is fitted to decisions of 3 folds of whole units, the machine itself to all rows.
    """
    mean, scale, x = _standardised(probabilities)
    splits = list(StratifiedGroupKFold(PLATT_FOLDS, shuffle=True, random_state=seed).split(x, labels, units))
    platt = CalibratedClassifierCV(SVC(), method="sigmoid", cv=splits, ensemble=False).fit(x, labels)
    fitted = platt.calibrated_classifiers_[0]
    machine, calibrator = fitted.estimator, fitted.calibrators[0]
    arrays = {
        "mean": mean,
        "scale": scale,
        "points": machine.support_vectors_,
        "coefficients": machine.dual_coef_[0],
        "intercept": machine.intercept_[0],
        "gamma": machine._gamma,
        "slope": calibrator.a_,
        "offset": calibrator.b_,
    }
    return Combiner("kernel", {name: np.array(value, dtype=np.float64) for name, value in arrays.items()})


def mlp(probabilities: Floats, labels: Ints, units: Ints, seed: int) -> Combiner:
    """One hidden layer of 8 tanh neurons by L-BFGS, with a penalty of 5 |weights|² beside the sum of the losses."""
    mean, scale, x = _standardised(probabilities)
    model = MLPClassifier((HIDDEN,), activation="tanh", solver="lbfgs", alpha=10.0, max_iter=200, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 iterations are the regularisation asked for
        model.fit(x, labels)
    hidden = model.coefs_[0].T / scale
    return Combiner(
        "mlp",
        {
            "hidden": hidden,
            "hidden_intercept": model.intercepts_[0] - hidden @ mean,
            "coefficients": model.coefs_[1][:, 0],
            "intercept": np.array(model.intercepts_[1][0]),
        },
    )


def dense(probabilities: Floats, labels: Ints, units: Ints, seed: int, epochs: int = EPOCHS) -> Combiner:
    """The paper's level 1: one sigmoid neuron on the probabilities, 40 epochs, early stop after 3 without gain.

    Trained as Keras would: binary cross-entropy, Adam (Kingma & Ba 2015, ICLR) at 1e-3, shuffled mini-batches of 16.
    Whole units, a tenth of the rows, are watched; the weights of their best epoch are kept.

    Two things are ours, so that the number of rows does not decide how far the weights can travel
    (docs/explanation/dense-stacker.md). It starts from equal weights, not from Glorot's draw: at
    sigmoid(4 (average - 1/2)), which is about the average and ranks as it does. And an epoch on few rows goes over
    them again until it has as many steps as one on 2,000.
    """
    random = np.random.default_rng(seed)
    watched = _inner(units, random)
    members = probabilities.shape[1]
    start = np.append(np.full(members, 4 / members), -2.0)
    weights = _descend(probabilities, labels, watched, start, random, epochs)
    return _linear(weights[:-1], weights[-1])


STACKERS: dict[str, Callable[[Floats, Ints, Ints, int], Combiner]] = {
    "logistic": logistic,
    "knn": knn,
    "svm": svm,
    "mlp": mlp,
    "dense": dense,
}


def check_stackable(labels: Ints, units: Ints) -> None:
    """Check that each class has as many units as `svm` needs folds. Raises UserError."""
    fewest = min(len(np.unique(units[labels == value])) for value in (0, 1))
    if fewest < PLATT_FOLDS:
        raise expected("labels", f"at least {PLATT_FOLDS} patients (or patches) of each class to stack on", fewest)


def _standardised(probabilities: Floats) -> tuple[Floats, Floats, Floats]:
    scaler = StandardScaler().fit(probabilities)
    return scaler.mean_, scaler.scale_, scaler.transform(probabilities)


def _linear(coefficients: Floats, intercept: float) -> Combiner:
    return Combiner("linear", {"coefficients": np.array(coefficients), "intercept": np.array(intercept)})


def _descend(
    probabilities: Floats, labels: Ints, watched: np.ndarray, start: Floats, random: np.random.Generator, epochs: int
) -> Floats:
    """The neuron's weights and bias (m + 1,): those, of epochs and start, with the least loss on `watched` (n,)."""
    x = np.column_stack([probabilities, np.ones(len(labels))])
    train, train_labels = x[~watched], labels[~watched]
    passes = math.ceil(EPOCH_ROWS / len(train))
    weights, mean, square = start, np.zeros_like(start), np.zeros_like(start)
    best, kept, waited, step = _log_loss(labels[watched], sigmoid(x[watched] @ start)), start, 0, 0
    for _ in range(epochs):
        for rows in (rows for _ in range(passes) for rows in _batches(random.permutation(len(train)))):
            batch = train[rows]
            gradient = (sigmoid(batch @ weights) - train_labels[rows]) @ batch / len(rows)
            step += 1
            mean = BETA_1 * mean + (1 - BETA_1) * gradient
            square = BETA_2 * square + (1 - BETA_2) * gradient**2
            rate = LEARNING_RATE * np.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
            weights = weights - rate * mean / (np.sqrt(square) + EPSILON)
        loss = _log_loss(labels[watched], sigmoid(x[watched] @ weights))
        if loss < best:
            best, kept, waited = loss, weights, 0
        else:
            waited += 1
        if waited == PATIENCE:
            break
    return kept


def _batches(order: Ints) -> list[Ints]:
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def _inner(units: Ints, random: np.random.Generator) -> np.ndarray:
    """Which rows are watched, bool (n,): whole units in random order until they are a tenth of the rows."""
    _, codes, sizes = np.unique(units, return_inverse=True, return_counts=True)
    order = random.permutation(len(sizes))
    enough = int(np.searchsorted(np.cumsum(sizes[order]), INNER_SHARE * len(units))) + 1
    return np.isin(codes, order[:enough])


def _log_loss(labels: Ints, p: Floats) -> float:
    return float(log_losses(labels, p).mean())
