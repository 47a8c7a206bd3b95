"""DeLong's test of two ROC AUCs on the same patches, and a verdict in words on whether a classifier beats another.

DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44:837-845, with placements from midranks (Sun & Xu 2014, IEEE Signal
Processing Letters 21:1389-1393). Where patients are known, their patches are clusters (Obuchowski 1997, Biometrics
53:567-578). Within folds the ROC AUC is the folds' mean weighted by pairs, as everywhere, and so is its variance, the
folds being independent: no patient is in two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from mammo_mlflow.estimate import Difference
from mammo_mlflow.evaluation import weighted
from mammo_mlflow.evaluation.intervals import bootstrap_difference, resampling_note
from mammo_mlflow.evaluation.objectives import Objective
from mammo_mlflow.evaluation.weighted import Floats, Ints

SIGNIFICANT = 0.05
"""The p below which a difference is called significant."""
MOST_RESAMPLES = 20_000

Outcome = Literal["better", "same", "worse", "unknown"]


@dataclass(frozen=True)
class DeLong(Difference):
    """The result of DeLong's test: a difference of ROC AUCs, its normal interval, standard error, two-sided p."""

    p: float = math.nan


@dataclass(frozen=True)
class Verdict:
    """The result of a paired comparison of two classifiers; the lead is positive where the first is better.

    `delong` is None for objectives other than ROC AUC; `sentence` is the result in words.
    """

    outcome: Outcome
    lead: Difference
    delong: DeLong | None
    sentence: str


def delong(
    labels: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    folds: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> DeLong:
    """DeLong's test of the ROC AUC of `first` minus that of `second` on the same patches.

    `labels` int (n,) of 0 and 1; `first` and `second` probabilities, float (n,) in [0, 1]. With `folds` (n,) only pairs
    within a fold count; with `groups` (n,) patients are clusters. Error and p are NaN where a fold that has pairs has
    fewer than two patients (or patches) of a class. Classifiers that rank alike differ by 0 with p = 1.

    Raises ValueError for arrays that do not fit together or a patient in two folds, UserError for probabilities outside
    [0, 1].
    """
    y, a = weighted.checked(labels, first)
    _, b = weighted.checked(labels, second)
    fold, cluster = weighted.fold_codes(folds, y.size), weighted.patient_codes(groups, y.size)
    if fold is not None:
        weighted.check_whole(cluster, fold)
    parts = [_part(y[rows], a[rows], b[rows], cluster[rows]) for rows in weighted.fold_rows(y, fold)]
    pairs, differences, variances = np.array([part for part in parts if part[0]]).reshape(-1, 3).T
    if not pairs.sum():
        return DeLong()
    share = pairs / pairs.sum()
    value, variance = float(share @ differences), float(share**2 @ variances)
    if variance < 0:  # the clusters' covariance term can outweigh the others in tiny samples
        variance = math.nan
    error = math.sqrt(variance)
    reach = float(norm.isf((1 - confidence) / 2)) * error
    p = float(2 * norm.sf(abs(value) / error)) if error else float(value == 0)
    return DeLong(value, value - reach, value + reach, error, p)


def verdict(
    objective: Objective,
    labels: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    folds: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    names: tuple[str, str] = ("the ensemble", "its best member"),
    resamples: int = 2000,
    seed: int = 0,
    compared: int = 1,
) -> Verdict:
    """The verdict on whether `first` beats `second` in an objective. Arrays and errors as in `delong`.

    `names` are what the sentence calls the two, as they are spelled. The first is better where the bootstrap interval
    of its lead in the objective is above 0 and, for ROC AUC, DeLong's p is below 0.05, and worse where both hold the
    other way round.
    Where `first` was picked as the best of several `compared` on these very patches, interval and p are Bonferroni's:
    of 100 - 5 / k %, and k times as large.
    """
    given = (first, second) if objective.direction == "maximize" else (second, first)
    draws, confidence = min(resamples * compared, MOST_RESAMPLES), 1 - SIGNIFICANT / compared
    lead = bootstrap_difference(labels, *given, folds, groups, draws, seed, confidence, objective.name)
    test = delong(labels, first, second, folds, groups, confidence) if objective.name == "roc_auc" else None
    if test is not None:
        test = replace(test, p=float(np.minimum(test.p * compared, 1.0)))
    outcome = _outcome(lead, test)
    words = {
        "better": f"{names[0]} beats {names[1]}",
        "same": f"{names[0]} is not distinguishable from {names[1]}",
        "worse": f"{names[0]} is worse than {names[1]}",
        "unknown": f"whether {names[0]} beats {names[1]} cannot be told",
    }[outcome]
    note = resampling_note(groups) + (f"; the best of {compared}" if compared > 1 else "")
    begun = words[0].upper() if words.startswith(("the ", "whether ")) else words[0]  # a model's name stays as it is
    numbers = _numbers(objective.name, lead, test, f"{100 * confidence:.4g} % interval", note)
    return Verdict(outcome, lead, test, f"{begun}{words[1:]}: {numbers}.")


def _part(labels: Ints, first: Floats, second: Floats, cluster: Ints) -> tuple[int, float, float]:
    """The pairs of a fold, its difference of ROC AUCs, and the variance of that, NaN where it cannot be estimated."""
    positives, negatives = int(labels.sum()), int((1 - labels).sum())
    if not positives * negatives:
        return 0, math.nan, math.nan
    (a10, a01), (b10, b01) = (weighted.placements(labels, p) for p in (first, second))
    difference = float((a10 - b10).mean())
    return positives * negatives, difference, _variance(labels, a10 - b10, a01 - b01, difference, cluster)


def _variance(labels: Ints, of_positive: Floats, of_negative: Floats, difference: float, cluster: Ints) -> float:
    """The variance of a difference of AUCs with patients as clusters (Obuchowski 1997); DeLong's for one patch each.

    `of_positive` (P,), `of_negative` (N,): differences of the placements of positives and negatives.
    """
    _, codes = np.unique(cluster, return_inverse=True)
    clusters = int(codes.max()) + 1
    sums, holding, sizes = [], [], []
    for value, placed in ((1, of_positive), (0, of_negative)):
        mine = codes[labels == value]
        sums.append(np.bincount(mine, placed - difference, clusters))
        holding.append(len(np.unique(mine)))
        sizes.append(mine.size)
    if min(holding) < 2:
        return math.nan
    own = [s @ s * k / ((k - 1) * size**2) for s, k, size in zip(sums, holding, sizes, strict=True)]
    shared = 2 * (sums[0] @ sums[1]) * clusters / ((clusters - 1) * sizes[0] * sizes[1])
    return float(own[0] + own[1] + shared)


def _outcome(lead: Difference, test: DeLong | None) -> Outcome:
    """Whether a lead and its test say better, worse or the same; unknown without an interval or a p."""
    p = 0.0 if test is None else test.p
    if not lead.bounded or math.isnan(p):
        return "unknown"
    if p < SIGNIFICANT and lead.low > 0:
        return "better"
    return "worse" if p < SIGNIFICANT and lead.high < 0 else "same"


def _numbers(metric: str, lead: Difference, test: DeLong | None, width: str, note: str) -> str:
    """The lead, its interval and DeLong's p in words."""
    if math.isnan(lead.value):
        return f"{metric} is undefined"
    text = f"lead in {metric} {lead.value:+.4f}"
    if not lead.bounded:
        return f"{text}, without an interval"
    text += f", {width} {lead.interval('+.4f')} ({note})"
    if test is None:
        return text
    if math.isnan(test.p):
        return f"{text}, DeLong's test undefined"
    text += f", DeLong's p {'< 0.001' if test.p < 0.001 else f'= {test.p:.3f}'}"
    beyond = lead.low > 0 or lead.high < 0
    return text if beyond == (test.p < SIGNIFICANT) else f"{text}; the two disagree"
