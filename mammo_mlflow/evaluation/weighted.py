"""The formulas of all metrics, for many weightings of the patches at once.

A weighting is a row of a (B, n) matrix. Ones give the plain metric; counts of draws give a bootstrap resample.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from mammo_mlflow.errors import expected
from mammo_mlflow.names import SENSITIVITY_AT

Floats = npt.NDArray[np.float64]
"""An array of float64."""
Ints = npt.NDArray[np.int64]
"""An array of int64."""

LOG_LOSS_CLIP = 1e-7
"""Probabilities are clipped this far from 0 and 1 before a logarithm, as Keras's binary cross-entropy does, so that
the number does not depend on the type in which the probabilities were stored."""


def checked(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[Ints, Floats]:
    """Check and convert labels to int64 (n,) of 0 and 1, and probabilities to float64 (n,) in [0, 1].

    Raises ValueError for no patches, shapes that differ or labels other than 0 and 1, and UserError for
    probabilities that are not in [0, 1], which is what a model gives whose training diverged.
    """
    given = np.asarray(labels)
    p = np.asarray(probabilities, dtype=np.float64)
    if given.ndim != 1 or given.shape != p.shape or given.size == 0:
        raise ValueError(f"labels and probabilities: expected two equal (n,), n > 0, found {given.shape}, {p.shape}")
    if not np.isin(given, (0, 1)).all():
        raise ValueError(f"labels: expected 0 and 1, found {np.unique(given).tolist()[:8]}")
    outside = int((~((p >= 0) & (p <= 1))).sum())
    if outside:
        raise expected("probabilities", "numbers in [0, 1]", f"{outside} of {p.size} that are not (diverged training?)")
    return given.astype(np.int64), p


def codes(name: str, values: npt.ArrayLike, n: int) -> Ints:
    """Number distinct values 0 … k-1: int64 (n,). Raises ValueError for another length or a missing value."""
    array = np.asarray(values)
    if array.shape != (n,):
        raise ValueError(f"{name}: expected shape ({n},), found {array.shape}")
    found = pd.factorize(array)[0].astype(np.int64)
    if (found < 0).any():
        raise ValueError(f"{name}: expected a value for every patch, found {int((found < 0).sum())} missing")
    return found


def fold_codes(folds: npt.ArrayLike | None, n: int) -> Ints | None:
    """Number folds from 0 (`codes`): int64 (n,); None for None."""
    return None if folds is None else codes("folds", folds, n)


def patient_codes(groups: npt.ArrayLike | None, n: int) -> Ints:
    """Number patients from 0 (`codes`): int64 (n,); for None each patch is a patient of its own."""
    return np.arange(n) if groups is None else codes("groups", groups, n)


def placements(labels: Ints, probabilities: Floats) -> tuple[Floats, Floats]:
    """The share of negatives below each positive, float64 (P,), and of positives above each negative, float64 (N,).

    A tie counts half.
    """
    positive, negative = probabilities[labels == 1], probabilities[labels == 0]
    together = rankdata(np.concatenate([positive, negative]))
    of_positive = (together[: positive.size] - rankdata(positive)) / max(negative.size, 1)
    of_negative = 1 - (together[positive.size :] - rankdata(negative)) / max(positive.size, 1)
    return of_positive, of_negative


def check_whole(groups: Ints, folds: Ints) -> None:
    """Check that no patient, `groups` (n,), has patches in two of the `folds` (n,). Raises ValueError."""
    if len(np.unique(np.stack([groups, folds]), axis=1).T) > len(np.unique(groups)):
        raise ValueError("groups: expected every patient in one fold, found one in two")


def fold_rows(labels: Ints, folds: Ints | None) -> list[Ints]:
    """The row numbers of each fold's patches, in order of the folds; of all patches where `folds` is None."""
    return [np.arange(len(labels))] if folds is None else [np.flatnonzero(folds == f) for f in np.unique(folds)]


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """The elementwise quotient, float64, NaN where the denominator is 0."""
    result = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.divide(numerator, denominator, out=result, where=denominator > 0)


def pairs_won(labels: Ints, probabilities: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Make a function from weights (B, n) to a ROC AUC's parts: weighted numbers of pairs won and of pairs, (B,) each.

    A pair is a positive and a negative patch, won where the positive has the higher probability, half won in a tie
    (Mann-Whitney; Hanley & McNeil 1982, Radiology 143:29-36).
    """
    positive = np.flatnonzero(labels == 1)
    negative = np.flatnonzero(labels == 0)
    negative = negative[np.argsort(probabilities[negative], kind="stable")]
    below = np.searchsorted(probabilities[negative], probabilities[positive], side="left")
    up_to = np.searchsorted(probabilities[negative], probabilities[positive], side="right")

    def count(weights: Floats) -> tuple[Floats, Floats]:
        cumulated = np.zeros((len(weights), len(negative) + 1))
        np.cumsum(weights[:, negative], axis=1, out=cumulated[:, 1:])
        of_positives = weights[:, positive]
        beaten = cumulated[:, below]
        beaten += cumulated[:, up_to]
        won = 0.5 * np.einsum("bi,bi->b", of_positives, beaten)
        return won, of_positives.sum(axis=1) * cumulated[:, -1]

    return count


def auc(labels: Ints, probabilities: Floats, folds: Ints | None = None) -> Callable[[Floats], Floats]:
    """Make a function from weights (B, n) to the ROC AUCs (B,), NaN where there is no pair.

    With `folds`, only pairs within a fold count. That is the mean of the folds' AUCs weighted by
    positives × negatives, since won / pairs is a fold's AUC and pairs its weight.
    """
    return _over_folds(pairs_won, labels, probabilities, folds)


def _over_folds(
    counter: Callable[[Ints, Floats], Callable[[Floats], tuple[Floats, Floats]]],
    labels: Ints,
    probabilities: Floats,
    folds: Ints | None,
) -> Callable[[Floats], Floats]:
    """Make a function from weights (B, n) to the quotient (B,) of numerators and denominators summed over folds."""
    counters = [(index, counter(labels[index], probabilities[index])) for index in fold_rows(labels, folds)]

    def compute(weights: Floats) -> Floats:
        counts = [count(weights if folds is None else weights[:, index]) for index, count in counters]
        return ratio(*(sum(parts, np.zeros(len(weights))) for parts in zip(*counts, strict=True)))

    return compute


def roc(labels: Ints, probabilities: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Make a function from weights (B, n) to ROC curves: true and false positives by threshold, (B, t + 1) each.

    The thresholds are the t distinct probabilities, from high to low, so that ties stay together, after one above all
    of them, at which nothing is positive. The last column counts all positives and all negatives.
    """
    order = np.argsort(-probabilities, kind="stable")
    ends = np.append(0, np.append(np.flatnonzero(np.diff(probabilities[order])), len(labels) - 1) + 1)
    actual = labels[order]

    def count(weights: Floats) -> tuple[Floats, Floats]:
        drawn = weights[:, order]
        cumulated = np.zeros((2, len(weights), len(labels) + 1))
        np.cumsum(drawn * actual, axis=1, out=cumulated[0, :, 1:])
        np.cumsum(drawn * (1 - actual), axis=1, out=cumulated[1, :, 1:])
        true, false = cumulated[:, :, ends]
        return true, false

    return count


def sensitivity_at(
    labels: Ints, probabilities: Floats, specificity: float, folds: Ints | None = None
) -> Callable[[Floats], Floats]:
    """Make a function from weights (B, n) to the highest sensitivities (B,) at a specificity of at least the one given.

    Thresholds are those of `roc`. With `folds`, every fold has its own, and the folds' sensitivities are averaged with
    the folds' positives as weights. A fold without negatives has no specificity and weighs nothing; NaN where no fold
    has both classes.
    """
    allowed = 1 - specificity + 1e-9  # one false alarm in ten is a specificity of 0.9, whatever 1 - 0.9 rounds to

    def counter(labels: Ints, probabilities: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
        curve = roc(labels, probabilities)

        def count(weights: Floats) -> tuple[Floats, Floats]:
            true, false = curve(weights)
            negatives = false[:, -1:]
            both = negatives[:, 0] > 0
            return both * np.where(false <= allowed * negatives, true, 0.0).max(axis=1), both * true[:, -1]

        return count

    return _over_folds(counter, labels, probabilities, folds)


def squared_errors(labels: Ints, probabilities: Floats) -> Floats:
    """The squared error of each probability, float64 (n,), whose mean is the Brier score."""
    return (probabilities - labels) ** 2


def log_losses(labels: Ints, probabilities: Floats) -> Floats:
    """The natural log loss of each probability, float64 (n,), clipped as `LOG_LOSS_CLIP` says."""
    clipped = np.clip(probabilities, LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP)
    return -np.log(np.where(labels == 1, clipped, 1 - clipped))


LOSSES = {"brier": squared_errors, "log_loss": log_losses}
"""The losses whose means over patches are rates, by the rate's name."""


def rates(labels: Ints, probabilities: Floats, threshold: float) -> Callable[[Floats], dict[str, Floats]]:
    """Make a function from weights (B, n) to every rate and count of `metrics.scores`, each (B,)."""
    decided, roc_auc = _decided(labels, probabilities, threshold), auc(labels, probabilities)
    return lambda weights: {**decided(weights), "roc_auc": roc_auc(weights)}


def _decided(labels: Ints, probabilities: Floats, threshold: float) -> Callable[[Floats], dict[str, Floats]]:
    """The function of `rates` without the ROC AUC, which takes most of the time."""
    actual, predicted = labels == 1, probabilities >= threshold
    columns = np.column_stack(
        [
            ~actual & ~predicted,
            ~actual & predicted,
            actual & ~predicted,
            actual & predicted,
            squared_errors(labels, probabilities),
            log_losses(labels, probabilities),
        ]
    )

    def compute(weights: Floats) -> dict[str, Floats]:
        tn, fp, fn, tp, squares, losses = (weights @ columns).T
        total = tn + fp + fn + tp
        sensitivity, specificity = ratio(tp, tp + fn), ratio(tn, tn + fp)
        return {
            "accuracy": ratio(tn + tp, total),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": ratio(tp, tp + fp),
            "f1": np.where(tp + fn > 0, ratio(2 * tp, 2 * tp + fp + fn), np.nan),
            "brier": ratio(squares, total),
            "log_loss": ratio(losses, total),
            "true_negative": tn,
            "false_positive": fp,
            "false_negative": fn,
            "true_positive": tp,
        }

    return compute


def statistic(
    metric: str, labels: Ints, probabilities: Floats, folds: Ints | None = None
) -> Callable[[Floats], Floats]:
    """Make a function from weights (B, n) to a metric (B,): `roc_auc`, `sensitivity_at_specificity=S` or another rate.

    The first two compare patches within `folds` where given; the rates of `metrics.scores` pool them, at a threshold
    of 0.5. Raises ValueError for another name.
    """
    name, _, argument = metric.partition("=")
    if metric == "roc_auc":
        return auc(labels, probabilities, folds)
    if name == SENSITIVITY_AT:
        return sensitivity_at(labels, probabilities, float(argument), folds)
    compute = _decided(labels, probabilities, 0.5)
    if metric not in compute(np.ones((1, len(labels)))):
        raise ValueError(f"metric: expected a rate or '{SENSITIVITY_AT}=S', found '{metric}'")
    return lambda weights: compute(weights)[metric]
