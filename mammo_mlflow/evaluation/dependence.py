"""The dependence between patches of one patient: its correlation, effective sample sizes and degrees of freedom.

Within a class, probabilities are turned into normal scores; patches of one patient are taken to be correlated as two
normal variables are (a Gaussian copula). That uses every probability, where the correlation of a few wrong decisions
could hardly be told from them alone.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from mammo_mlflow.evaluation.weighted import Floats, Ints

LEAST_PATIENTS = 3
"""The fewest patients with which a score has an interval: of each class for one that compares classes."""
TOO_FEW = f"fewer than {LEAST_PATIENTS} patients"
ONE_CLASS = "patches of one class"

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_MOST = 0.99
"""The largest correlation used, at which the integral below is still exact to 1e-6."""


def exceedance_covariance(first: float, second: float, correlation: float) -> float:
    """The covariance of the events that two standard normal variables, correlated in [0, 1), exceed their bounds.

    Plackett's integral over the correlation (Plackett 1954, Biometrika 41:351-360), with its arcsine as variable
    (Drezner & Wesolowsky 1990, Journal of Statistical Computation and Simulation 35:101-107). 0 for an infinite bound.
    """
    if not (np.isfinite(first) and np.isfinite(second)):
        return 0.0
    top = np.arcsin(correlation)
    angle = top * (1 + _NODES) / 2
    exponent = (first**2 + second**2 - 2 * first * second * np.sin(angle)) / (2 * np.cos(angle) ** 2)
    return float(top / (4 * np.pi) * (_WEIGHTS @ np.exp(-exponent)))


def patient_correlation(labels: Ints, probabilities: Floats, patients: Ints) -> float:
    """The correlation, in [0, 0.99], of the normal scores of two patches of one patient.

    `labels` int64 (n,), `probabilities` float64 (n,), `patients` int64 (n,), numbered from 0. The intraclass
    correlation of the analysis of variance (Donner 1986, International Statistical Review 54:67-82); 0 where every
    patient has one patch.
    """
    sizes = np.bincount(patients)
    n, k = len(labels), len(sizes)
    if k in (1, n):
        return 0.0
    scores = np.zeros(n)
    for value in (0, 1):
        mine = labels == value
        if mine.any():
            scores[mine] = ndtri((rankdata(probabilities[mine]) - 0.5) / mine.sum())
    means = np.bincount(patients, scores) / sizes
    between = sizes @ (means - scores.mean()) ** 2 / (k - 1)
    within = ((scores - means[patients]) ** 2).sum() / (n - k)
    size = (n - sizes @ sizes / n) / (k - 1)
    total = between + (size - 1) * within
    return float(np.clip((between - within) / total, 0, _MOST)) if total > 0 else 0.0


def effective_number(sizes: Floats | Ints) -> float:
    """The effective number of k patients with `sizes` patches (k,): (Σ sizes)² / Σ sizes² (Kish 1965, ch. 11)."""
    return float(sizes.sum() ** 2 / (sizes @ sizes))


def variance_freedom(moves: Floats) -> float:
    """The degrees of freedom of a variance estimated as Σ moves² over k patients, fewer where few have most of it.

    `moves` float64 (k,): each patient's contribution to the deviation of the estimate. The formula is
    2 / (Σ moves⁴ / (Σ moves²)² - 1/k), which is k for normal ones (O'Neill 2014, The American Statistician
    68:282-296, has the variance of a variance); infinite where all are equal in size.
    """
    squares = moves**2
    excess = float(squares @ squares) / float(squares.sum()) ** 2 - 1 / len(moves) if squares.any() else 0.0
    return 2 / excess if excess > 0 else float("inf")
