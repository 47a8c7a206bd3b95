"""Confidence intervals of mean losses over patches (Brier score, log loss), patients as clusters.

Such losses are skewed: few patches have most of the loss, and a sample that lacks them has both a low mean and a low
error. A Student interval is corrected for the skewness of the mean by Hall's transformation (Hall 1992, JRSS B
54:221-228), a cubic that can be inverted: with skewness g of the estimate and T = (mean - true) / error,

    T + g/3 T² + g²/27 T³ + g/6   is close to Student's t.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit

from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.dependence import effective_number, variance_freedom
from mammo_mlflow.evaluation.weighted import Floats, Ints

MOST_SKEW = 1.5
"""The largest skewness used: that of fewer than ten patients is mostly noise."""
LEAST_EFFECTIVE = 8
"""The fewest effective patients with which a mean loss has an interval: fewer do not show the tail that most of the
loss is in, and 95 % intervals covered it in less than 88 % of simulations."""
_EQUAL = 1e-12


def mean_estimate(values: Floats, patients: Ints, confidence: float) -> Estimate:
    """The mean of losses with its interval. `values` float64 (n,); `patients` int64 (n,), numbered from 0.

    Error and skewness are the jackknife's over patients; the degrees of freedom are the effective number of patients
    less one, or fewer where few patients have most of the variance. There is no interval with fewer than
    `LEAST_EFFECTIVE` effective patients or where all losses are equal.
    """
    sizes = np.bincount(patients).astype(float)
    clusters, mean, effective = len(sizes), float(values.mean()), effective_number(sizes)
    if effective < LEAST_EFFECTIVE - 1e-9:
        return Estimate(mean, reason=f"fewer than {LEAST_EFFECTIVE} effective patients")
    if np.ptp(values) < _EQUAL:
        return Estimate(mean, reason="all losses are equal")
    residuals = np.bincount(patients, values) - sizes * mean
    moves = residuals / (len(values) - sizes)
    error = math.sqrt((clusters - 1) / clusters * float(moves @ moves))
    squares = float(residuals @ residuals)
    skewness = float((residuals**3).sum()) / squares**1.5 if squares else 0.0
    skewness = min(max(skewness, -MOST_SKEW), MOST_SKEW)
    # twice, for the transformation explains half of a variance's spread where losses are as skewed as exponential ones
    freedom = max(min(effective - 1, 2 * variance_freedom(moves)), 1.0)
    quantile = float(stdtrit(freedom, (1 + confidence) / 2))
    low, high = (mean - error * _inverse(t, skewness) for t in (quantile, -quantile))
    return Estimate(mean, max(low, 0.0), high)


def _inverse(t: float, skewness: float) -> float:
    """The T that Hall's transformation maps to `t`."""
    if abs(skewness) < 1e-6:
        return t
    return 3 / skewness * (math.cbrt(1 + skewness * (t - skewness / 6)) - 1)
