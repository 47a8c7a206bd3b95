"""Confidence intervals of rates at a threshold (accuracy, sensitivity, …): Wilson's with an effective sample size.

The interval of Wilson 1927, JASA 22:209-212, for a share of n independent patches, with n replaced by the number that
would vary as much as these patches do: effective = p (1 - p) / V, and a Student quantile (Korn & Graubard 1998, Survey
Methodology 24:193-201; Dean & Pagano 2015, Journal of Survey Statistics and Methodology 3:484-503, compare such
intervals). V is

    V = w · V_seen + (1 - w) · V_expected,   w = e / (e + 20)

V_seen is the linearised variance over patients, which can be trusted as far as there are patients with errors: e is the
number of patients with a wrong, or of those with a right decision, whichever is less. V_expected is what `dependence`
expects of patches whose scores are correlated as those here are. Of a sensitivity with three errors V_seen says next
to nothing; with hundreds it is all that counts, whatever the dependence.

F1 is 2 J / (1 + J), J = TP / (TP + FP + FN), which is a share. Balanced accuracy is treated as a share of patches in
which each class weighs half.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri, stdtrit

from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.dependence import (
    LEAST_PATIENTS,
    ONE_CLASS,
    TOO_FEW,
    effective_number,
    exceedance_covariance,
    patient_correlation,
)
from mammo_mlflow.evaluation.weighted import Floats, Ints

TRUST = 20.0
"""The number of patients with errors at which the variance seen and the one expected weigh the same. Tried by
simulation from 0 to infinity (`benchmarks/interval_coverage.py`); from 10 to 30 coverage hardly differs."""

RIGHT_AND_WRONG = {
    "accuracy": ((1, 0, 0, 1), (0, 1, 1, 0)),
    "balanced_accuracy": ((1, 0, 0, 1), (0, 1, 1, 0)),
    "sensitivity": ((1, 0, 0, 0), (0, 1, 0, 0)),
    "specificity": ((0, 0, 0, 1), (0, 0, 1, 0)),
    "precision": ((1, 0, 0, 0), (0, 0, 1, 0)),
    "f1": ((1, 0, 0, 0), (0, 1, 1, 0)),
}
"""By rate which of true positives, false negatives, false positives and true negatives count as right, and as wrong."""


def wilson(share: float, effective: float, quantile: float) -> tuple[float, float]:
    """Wilson's interval of a share of an effective number of patches; `quantile` of the normal or Student's t."""
    square = quantile**2 / effective
    centre = (share + square / 2) / (1 + square)
    reach = math.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    # at 0 and 1 the ends are these, but for rounding
    return max(centre - reach, 0.0) if share > 0 else 0.0, min(centre + reach, 1.0) if share < 1 else 1.0


def rate_estimates(
    labels: Ints, probabilities: Floats, threshold: float, patients: Ints, confidence: float
) -> dict[str, Estimate]:
    """The rates of `RIGHT_AND_WRONG` with their intervals, by name; a probability ≥ `threshold` is class 1.

    `labels` int64 (n,) of 0 and 1, `probabilities` float64 (n,), `patients` int64 (n,), numbered from 0. A rate of
    patches of fewer than `LEAST_PATIENTS` patients (for balanced accuracy: of a class) has a reason, no interval.
    """
    clusters = int(patients.max()) + 1
    actual, predicted = labels == 1, probabilities >= threshold
    cell = np.where(actual, 1 - predicted, 3 - predicted)
    cells = np.bincount(patients * 4 + cell, minlength=clusters * 4).reshape(clusters, 4).astype(float)
    expected = _Expected(cells, patient_correlation(labels, probabilities, patients))
    quantile = float(stdtrit(clusters - 1, (1 + confidence) / 2)) if clusters > 1 else math.nan
    found = {}
    for name, masks in RIGHT_AND_WRONG.items():
        right, wrong = (np.array(mask, float) for mask in masks)
        balanced = name == "balanced_accuracy"
        share, influence = _balanced(cells) if balanced else _share(cells, right, wrong)
        held = (cells[:, :2], cells[:, 2:]) if balanced else (cells @ (right + wrong)[:, None],)
        low, high, reason = math.nan, math.nan, ""
        if not math.isnan(share) and min(int((part.sum(axis=1) > 0).sum()) for part in held) < LEAST_PATIENTS:
            reason = TOO_FEW + (" of a class" if balanced else "")
        elif not math.isnan(share):
            of_patients = cells @ influence
            seen = float(of_patients @ of_patients)
            errors = min(int((cells @ right > 0).sum()), int((cells @ wrong > 0).sum()))
            trusted = errors / (errors + TRUST)
            variance = clusters / (clusters - 1) * (trusted * seen + (1 - trusted) * expected.variance(influence))
            # a share of 0 or 1 has no variance: half a patch is taken to be otherwise, as in `_Expected`
            half = 0.5 / float((cells @ (right + wrong)).sum())
            inner = min(max(share, half), 1 - half)
            if variance:
                low, high = wilson(share, inner * (1 - inner) / variance, quantile)
            else:
                reason = ONE_CLASS  # whose precision is 0 or 1 whatever is decided
        found[name] = Estimate(*(_f1(x) if name == "f1" else x for x in (share, low, high)), reason=reason)
    return found


class _Expected:
    """The variance of a sum over patches that `dependence` expects, given each patient's patches of both classes.

    `cells` (k, 4): each patient's true positives, false negatives, false positives and true negatives.
    """

    def __init__(self, cells: Floats, correlation: float) -> None:
        self._sizes = np.stack([cells[:, 0] + cells[:, 1], cells[:, 2] + cells[:, 3]])
        totals = self._sizes.sum(axis=1)
        found = np.array([cells[:, 0].sum(), cells[:, 2].sum()])
        self._found = np.divide(found, totals, out=np.full(2, 0.5), where=totals > 0)
        half = 0.5 / np.maximum(totals, 1)
        shares = np.clip(self._found, half, 1 - half)
        bounds = ndtri(1 - shares)
        self._single = shares * (1 - shares)
        self._pair = np.array([[exceedance_covariance(a, b, correlation) for a in bounds] for b in bounds])

    def variance(self, influence: Floats) -> float:
        """The variance of Σ influence over patches, `influence` (4,) by cell.

        It has a part of which patches are predicted positive, and one of the sizes of the classes.
        """
        positive, negative = influence[[0, 2]], influence[[1, 3]]
        slope = positive - negative
        alone = float((self._sizes * (slope**2 * (self._single - np.diag(self._pair)))[:, None]).sum())
        steep = self._sizes * slope[:, None]
        together = float(np.einsum("ak,ab,bk->", steep, self._pair, steep))
        classes = (negative + slope * self._found) @ self._sizes
        return alone + together + float(classes @ classes)


def _f1(jaccard: float) -> float:
    """F1 of the share J = TP / (TP + FP + FN)."""
    return 2 * jaccard / (1 + jaccard)


def _share(cells: Floats, right: Floats, wrong: Floats) -> tuple[float, Floats]:
    """The share of right patches, and the influence of a patch of each cell on it, (4,); NaN where nothing counts."""
    totals = cells.sum(axis=0)
    counted = float(totals @ (right + wrong))
    if not counted:
        return math.nan, np.zeros(4)
    share = float(totals @ right) / counted
    return share, ((1 - share) * right - share * wrong) / counted


def _balanced(cells: Floats) -> tuple[float, Floats]:
    """The balanced accuracy, and the influence of a patch of each cell on it, (4,); NaN for one class."""
    tp, fn, fp, tn = cells.sum(axis=0)
    if not (tp + fn and fp + tn):
        return math.nan, np.zeros(4)
    sensitivity, specificity = tp / (tp + fn), tn / (fp + tn)
    of_positives = np.array([1 - sensitivity, -sensitivity, 0, 0]) / (2 * (tp + fn))
    of_negatives = np.array([0, 0, -specificity, 1 - specificity]) / (2 * (fp + tn))
    return float(sensitivity + specificity) / 2, of_positives + of_negatives


def resampled_share(share: float, variance: float, sizes: Ints, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share whose variance was estimated by resampling; k patients have `sizes` (k,) patches.

    For a sensitivity at a specificity, whose threshold varies too (Zhou & Qin 2005, Statistics in Medicine 24:465-477).
    Where nothing varies, patches of one patient count as one.
    """
    quantile = float(stdtrit(len(sizes) - 1, (1 + confidence) / 2))
    worth = effective_number(sizes)
    inner = min(max(share, 0.5 / sizes.sum()), 1 - 0.5 / sizes.sum())
    return wilson(share, min(inner * (1 - inner) / variance, sizes.sum()) if variance > 0 else worth, quantile)
