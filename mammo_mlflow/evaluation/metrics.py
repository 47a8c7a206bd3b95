"""Metrics of a binary classifier's probabilities, without intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mammo_mlflow.evaluation import weighted

COUNTS = ("true_negative", "false_positive", "false_negative", "true_positive")
RATES = (
    "accuracy",
    "balanced_accuracy",
    "roc_auc",
    "sensitivity",
    "specificity",
    "precision",
    "f1",
    "brier",
    "log_loss",
)


def scores(labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float = 0.5) -> dict[str, float]:
    """Compute the rates and counts of a binary classifier at a threshold (`RATES`, `COUNTS`), by name.

    `labels`: int (n,) of 0 and 1. `probabilities`: float (n,) in [0, 1]; one at or above `threshold` is positive.

    A metric without a denominator is NaN, never 0: sensitivity and F1 without positives, specificity without
    negatives, balanced accuracy and ROC AUC with one class only, precision without a positive prediction.
    F1 is 2 TP / (2 TP + FP + FN): 0 where there are positives and none is found. ROC AUC counts a tie as half
    (Hanley & McNeil 1982). Brier is the mean squared error of the probability (Brier 1950). Log loss is natural, with
    probabilities clipped to [1e-7, 1 - 1e-7].

    Raises ValueError for arrays of the wrong shape or content, UserError for probabilities outside [0, 1].
    """
    y, p = weighted.checked(labels, probabilities)
    computed = weighted.rates(y, p, threshold)(np.ones((1, y.size)))
    return {name: float(values[0]) for name, values in computed.items()}


def fold_auc(labels: npt.ArrayLike, probabilities: npt.ArrayLike, folds: npt.ArrayLike) -> float:
    """The ROC AUC of out-of-fold predictions: the mean of the folds' AUCs, each weighted by its positives × negatives.

    Every fold's model is calibrated differently, so that comparing probabilities across folds (the pooled AUC) is a
    diagnostic only. A fold of one class has no pair and weighs nothing; NaN where that holds for all.
    `folds`: (n,) of any values that identify a fold. Raises as `scores`.
    """
    return out_of_fold("roc_auc", labels, probabilities, folds)


def out_of_fold(metric: str, labels: npt.ArrayLike, probabilities: npt.ArrayLike, folds: npt.ArrayLike) -> float:
    """A metric of out-of-fold predictions by its name in `weighted.statistic`; arguments and errors as `fold_auc`."""
    y, p = weighted.checked(labels, probabilities)
    return float(weighted.statistic(metric, y, p, weighted.codes("folds", folds, y.size))(np.ones((1, y.size)))[0])


def mean_sd(values: Iterable[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (divided by n - 1); of one value the deviation is NaN, of none both."""
    array = np.asarray(list(values), dtype=np.float64)
    mean = float(array.mean()) if array.size else math.nan
    return mean, float(array.std(ddof=1)) if array.size > 1 else math.nan
