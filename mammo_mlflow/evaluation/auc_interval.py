"""The confidence interval of a ROC AUC: a score interval on the binormal variance, patients as clusters.

The error of an AUC shrinks as the AUC nears 1, so that an interval with one standard error for both ends, DeLong's or
the bootstrap's, is too short where the AUC is high by luck. A score interval (Wilson 1927, JASA 22:209-212) holds each
value θ for which the AUC found lies within its error *at θ*, (AUC - θ)² ≤ t² V(θ), and never is a point. Here

    V(θ) = V · B(θ) / B(AUC),   B(θ) the variance of a patch's placement in a binormal model of that AUC

V is the jackknife's variance over patients of the linear form of DeLong et al. 1988, Biometrics 44:837-845, with
patients as clusters as in Obuchowski 1997, Biometrics 53:567-578; t a Student quantile whose degrees of freedom join
those of the two classes (Satterthwaite 1946, Biometrics Bulletin 2:110-114) and are fewer where few patients have most
of the variance. Score intervals of AUCs: Newcombe 2006, Statistics in Medicine 25:559-573; Kottas, Kuss & Zapf 2014,
BMC Medical Research Methodology 14:26.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.dependence import (
    LEAST_PATIENTS,
    ONE_CLASS,
    TOO_FEW,
    effective_number,
    exceedance_covariance,
    variance_freedom,
)
from mammo_mlflow.evaluation.weighted import Floats, Ints, fold_rows, placements

_EDGE = 1e-12


@dataclass(frozen=True, eq=False, kw_only=True)
class _Fold:
    """A fold's number of pairs of a positive and a negative patch, its AUC, and the AUC's jackknife deviations.

    `moves` float64 (2, k): by how much the AUC moves without each patient's positives and negatives; `worth` float64
    (2,): the effective numbers of patients of the two classes; `tied`: all pairs are ties.
    """

    pairs: int
    auc: float
    moves: Floats
    worth: Floats
    tied: bool


def auc_estimate(
    labels: Ints, probabilities: Floats, folds: Ints | None, patients: Ints, confidence: float
) -> Estimate:
    """The ROC AUC with its interval at `confidence`, in (0, 1); with `folds` only pairs within a fold count.

    `labels` int64 (n,) of 0 and 1, `probabilities` float64 (n,) in [0, 1], `folds` int64 (n,) or None, `patients` int64
    (n,), numbered from 0. The estimate has a reason instead of an interval with fewer than `LEAST_PATIENTS` patients of
    a class, where a fold that has pairs has one patient of a class, and where all probabilities are equal.
    """
    clusters = int(patients.max()) + 1
    rows = fold_rows(labels, folds)
    parts = [_fold(labels[r], probabilities[r], patients[r], clusters) for r in rows if 0 < labels[r].sum() < len(r)]
    if not parts:
        return Estimate(reason=ONE_CLASS + (" in every fold" if len(rows) > 1 else ""))
    share = np.array([part.pairs for part in parts], float) / sum(part.pairs for part in parts)
    auc = float(share @ [part.auc for part in parts])
    fewest = min(len(np.unique(patients[labels == value])) for value in (0, 1))
    reason = ""
    if fewest < LEAST_PATIENTS:
        reason = f"{TOO_FEW} of a class"
    elif not all(np.isfinite(part.moves).all() for part in parts):
        reason = "one patient of a class in a fold"
    elif all(part.tied for part in parts):
        reason = "all probabilities are equal"
    if reason:
        return Estimate(auc, reason=reason)
    moves = np.tensordot(share, [part.moves for part in parts], 1)
    moved = moves.sum(axis=0)
    variance = (clusters - 1) / clusters * float(moved @ moved)
    worth = np.array([part.worth for part in parts])
    if 0 < auc < 1 and variance > 0:
        scale = variance / placement_variance(auc)
    else:  # nothing varies, as at an AUC of 1: then patches of one patient count as one
        scale = float(share**2 @ (1 / worth).sum(axis=1))
    freedom = min(_freedom((moves**2).sum(axis=1), (worth - 1).sum(axis=0)), variance_freedom(moved))
    quantile = float(stdtrit(max(freedom, 1.0), (1 + confidence) / 2))
    return Estimate(auc, *score_interval(auc, scale, quantile))


def placement_variance(auc: float) -> float:
    """The variance of the share of negatives below a positive, in a binormal model of equal variances (B above).

    Two negatives below one positive are two normal differences with a correlation of 1/2.
    """
    bound = float(ndtri(auc))
    return exceedance_covariance(bound, bound, 0.5)


def score_interval(auc: float, scale: float, quantile: float) -> tuple[float, float]:
    """The ends of the interval of all θ for which (auc - θ)² ≤ quantile² · scale · B(θ)."""

    def outside(value: float) -> float:
        return (auc - value) ** 2 - quantile**2 * scale * placement_variance(value)

    inside = min(max(auc, _EDGE), 1 - _EDGE)
    low = brentq(outside, 0.0, inside) if auc > 0 else 0.0
    high = brentq(outside, inside, 1.0) if auc < 1 else 1.0
    return float(low), float(high)


def _fold(labels: Ints, probabilities: Floats, patients: Ints, clusters: int) -> _Fold:
    """The statistics of a fold of both classes, arrays (n,); `clusters` is the number k of patients of all folds."""
    placed = placements(labels, probabilities)
    auc = float(placed[0].mean())
    moves, worth = [], []
    for value, shares in zip((1, 0), placed, strict=True):
        mine = patients[labels == value]
        sizes, sums = np.bincount(mine, minlength=clusters), np.bincount(mine, shares - auc, clusters)
        left = sizes.sum() - sizes
        # a mean of n moves by (sum - m · mean) / (n - m) where m of them are left out; NaN where none are left
        moves.append(np.divide(sums, left, out=np.full(clusters, np.nan), where=left > 0))
        worth.append(effective_number(sizes))
    pairs, tied = placed[0].size * placed[1].size, bool((np.concatenate(placed) == 0.5).all())
    return _Fold(pairs=pairs, auc=auc, moves=np.array(moves), worth=np.array(worth), tied=tied)


def _freedom(variances: Floats, freedoms: Floats) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances (2,), each of which has `freedoms` (2,), at least 1."""
    freedoms = np.maximum(freedoms, 1.0)
    if not variances.sum():
        return float(freedoms.min())
    return float(variances.sum() ** 2 / (variances**2 / freedoms).sum())
