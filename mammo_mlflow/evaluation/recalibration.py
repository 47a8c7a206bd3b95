"""Recalibrates probabilities by a map that is fitted on out-of-fold predictions: Platt's, or an isotonic one.

Both rise: the order of two probabilities is never turned over. A map that would do so answers with the class's share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.special import expit, logit

from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.calibration import LEAST, calibration_estimates, logistic_line
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.weighted import Floats, Ints
from mammo_mlflow.names import Metric


@dataclass(frozen=True)
class PlattMap:
    """The map p → sigmoid(slope · logit(p) + intercept), p being kept `LEAST` away from 0 and 1."""

    slope: float
    intercept: float

    def __call__(self, probabilities: Floats) -> Floats:
        """Recalibrate probabilities, float (n,)."""
        return expit(self.slope * logit(np.clip(probabilities, LEAST, 1 - LEAST)) + self.intercept)


@dataclass(frozen=True)
class IsotonicMap:
    """The map that is linear between the knots (`x`, `y`), both ascending, and constant beyond them."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, probabilities: Floats) -> Floats:
        """Recalibrate probabilities, float (n,)."""
        return np.interp(probabilities, self.x, self.y)


RecalibrationMap = PlattMap | IsotonicMap


def fit_platt(labels: Ints, probabilities: Floats) -> PlattMap:
    """Fit Platt's map to labels int (n,) of 0 and 1 and probabilities float (n,).

    A logistic regression on the logit of the probability, to Platt's targets, which keep it finite where the classes
    are separated: (n₁ + 1) / (n₁ + 2) of a class with n₁ patches, and 1 / (n₀ + 2) (Platt 1999, Advances in Large
    Margin Classifiers 61-74).
    """
    positives = int(labels.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2)
    target = np.where(labels == 1, high, low)
    found = logistic_line(logit(np.clip(probabilities, LEAST, 1 - LEAST)), target)
    if found is None or found[0] <= 0:
        return PlattMap(0.0, float(logit(target.mean())))
    return PlattMap(*found)


def fit_isotonic(labels: Ints, probabilities: Floats) -> IsotonicMap:
    """Fit an isotonic map to labels int (n,) of 0 and 1 and probabilities float (n,).

    Pool adjacent violators (Zadrozny & Elkan 2002, KDD 694-699), linear between the blocks it finds. Answers keep
    1 / (n + 2) away from 0 and 1 (Laplace's rule of succession), since no sample shows that something never happens.
    """
    x, place, patches = np.unique(probabilities, return_inverse=True, return_counts=True)
    fitted = isotonic_regression(np.bincount(place, labels) / patches, weights=patches).x
    # within a block only its ends matter
    ends = np.append(True, np.diff(fitted) > 0) | np.append(np.diff(fitted) > 0, True)
    least = 1 / (len(labels) + 2)
    return IsotonicMap(tuple(x[ends].tolist()), tuple(np.clip(fitted[ends], least, 1 - least).tolist()))


RECALIBRATIONS: dict[str, Callable[[Ints, Floats], RecalibrationMap]] = {
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}
"""Each kind of recalibration, and what fits its map."""


def cross_fitted(kind: str, data: OutOfFold) -> Floats:
    """Recalibrate out-of-fold predictions, (n,): each fold by a map of that kind fitted on the others alone."""
    found = data.probabilities.copy()
    for fold in np.unique(data.folds):
        mine = data.folds == fold
        found[mine] = RECALIBRATIONS[kind](data.labels[~mine], data.probabilities[~mine])(data.probabilities[mine])
    return found


def before_and_after(before: OutOfFold, after: OutOfFold) -> dict[str, Estimate]:
    """Estimate the calibration of out-of-fold predictions before and after recalibration, by the metrics' names."""
    first, second = (calibration_estimates(of.labels, of.probabilities, of.groups, of.folds) for of in (before, after))
    first["brier"] = before.estimate("brier")
    each = ((Metric.OOF_UNCALIBRATED, first), (Metric.OOF, second))
    return {f"{prefix}{name}": one for prefix, found in each for name, one in found.items()}
