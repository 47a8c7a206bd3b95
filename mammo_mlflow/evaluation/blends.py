"""A metric of many blends (weighted averages) of members' predictions at once, for searches over blend weights.

`weighted` has one vector of probabilities under many weightings of patches; here are many vectors, unweighted. Every
metric is a quotient of sums over folds, or a mean of two, so that one pass counts each fold and then scores any choice
of folds. The values are those of `weighted.statistic` (a test compares them).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from mammo_mlflow.evaluation.weighted import Floats, Ints, fold_rows, log_losses, ratio
from mammo_mlflow.names import SENSITIVITY_AT

BLOCK_CELLS = 400_000
"""Blended probabilities that a thread holds at once: 3 MB, which stays within a processor's cache."""

ROUNDING = 2.0**10
"""Adding and subtracting it rounds probabilities to multiples of 2^-42, so that blends that are equal but for the last
digits of a sum, as 0.5 × (0.2 + 0.4) and 0.5 × (0.3 + 0.3), are equal."""

Count = Callable[[Floats, Ints], Floats]
"""From blends (B, n) and labels (n,) of a fold to the q numerators of a metric, (B, q)."""
Total = Callable[[Ints], list[int]]
"""From labels (n,) of a fold to the q denominators of a metric."""


class Blends:
    """Scores blends of m members' probabilities by a metric, within folds.

    `probabilities` float64 (n, m) in [0, 1], `labels` int64 (n,) of 0 and 1, `folds` int64 (n,). `metric`: `roc_auc`,
    `accuracy`, `balanced_accuracy`, `log_loss` or `sensitivity_at_specificity=S`; ValueError for another name. Arrays
    are taken as `weighted.checked` and `weighted.codes` give them.
    """

    def __init__(self, metric: str, probabilities: Floats, labels: Ints, folds: Ints) -> None:
        self._count, total = _metric(metric)
        parts = fold_rows(labels, folds)
        self._members = np.ascontiguousarray(probabilities[np.concatenate(parts)].T)
        self._labels = [labels[index] for index in parts]
        ends = np.cumsum([0, *(len(index) for index in parts)])
        self._slices = [slice(start, end) for start, end in pairwise(ends)]
        self._totals = np.array([total(y) for y in self._labels], dtype=np.float64)

    def scores(self, weights: Floats, kept: Floats | None = None) -> Floats:
        """The metric of B blends over S choices of folds, float64 (B, S), NaN where undefined.

        `weights`: float64 (B, m), the blend weights; `kept`: float64 (S, folds) of 0 and 1, which folds count, in
        ascending order; by default one choice, all of them.
        """
        kept = np.ones((1, len(self._slices))) if kept is None else kept
        size = max(1, BLOCK_CELLS // self._members.shape[1])
        blocks = [weights[start : start + size] for start in range(0, len(weights), size)]
        if len(blocks) == 1:
            return self._block(blocks[0], kept)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.concatenate(list(pool.map(lambda block: self._block(block, kept), blocks)))

    def _block(self, weights: Floats, kept: Floats) -> Floats:
        """`scores` of as many blends as one thread computes at once."""
        blended = weights @ self._members
        blended += ROUNDING
        blended -= ROUNDING
        counts = np.stack([self._count(blended[:, s], y) for s, y in zip(self._slices, self._labels, strict=True)])
        return ratio(np.einsum("sf,fbq->bsq", kept, counts), kept @ self._totals).mean(axis=-1)


def _metric(metric: str) -> tuple[Count, Total]:
    """The functions that give the numerators and denominators of a metric. Raises ValueError for another name."""
    name, _, argument = metric.partition("=")
    if name == SENSITIVITY_AT:
        return _found_at(float(argument)), lambda y: [int(y.sum()) if (y == 0).any() else 0]
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)} or '{SENSITIVITY_AT}=S', found '{metric}'")
    return METRICS[metric]


def _pairs_won(blended: Floats, labels: Ints) -> Floats:
    """The pairs won by each blend (`weighted.pairs_won`), a tie counting half, float64 (B, 1).

    Floats that are not negative order as their bits do, so that a label in the last bit is sorted along with its
    probability, negatives ahead of positives of the same one.
    """
    keys = blended.view(np.int64) & ~1 | labels
    keys.sort(axis=1)
    positives = int(labels.sum())
    ranks = np.arange(len(labels), dtype=np.float64)
    won = (keys & 1) @ ranks - positives * (positives - 1) / 2
    tied = np.flatnonzero(((keys[:, 1:] ^ keys[:, :-1]) == 1).any(axis=1))
    if tied.size:
        turned = np.sort(keys[tied] ^ 1, axis=1)
        without = (1 - (turned & 1)) @ ranks - positives * (positives - 1) / 2
        won[tied] = (won[tied] + without) / 2
    return won[:, None]


def _found_at(specificity: float) -> Count:
    """A function that counts the positives found at the lowest threshold with this specificity."""
    allowed = 1 - specificity + 1e-9  # as in `weighted.sensitivity_at`

    def count(blended: Floats, labels: Ints) -> Floats:
        positive, negative = blended[:, labels == 1], blended[:, labels == 0]
        if not negative.shape[1]:
            return np.zeros((len(blended), 1))
        alarms = int(allowed * negative.shape[1])
        if alarms >= negative.shape[1]:
            return np.full((len(blended), 1), float(positive.shape[1]))
        place = negative.shape[1] - 1 - alarms
        bound = np.partition(negative, place, axis=1)[:, place, None]
        return (positive > bound).sum(axis=1, keepdims=True).astype(np.float64)

    return count


def _right(blended: Floats, labels: Ints) -> Floats:
    """The right decisions of each blend at a threshold of 0.5, float64 (B, 1)."""
    return ((blended >= 0.5) == labels).sum(axis=1, keepdims=True).astype(np.float64)


def _right_by_class(blended: Floats, labels: Ints) -> Floats:
    """The right decisions of each blend on positives and on negatives, float64 (B, 2)."""
    return np.hstack([_right(blended[:, labels == value], labels[labels == value]) for value in (1, 0)])


def _losses(blended: Floats, labels: Ints) -> Floats:
    """The summed log loss of each blend, float64 (B, 1)."""
    return log_losses(labels, blended).sum(axis=1, keepdims=True)


METRICS: dict[str, tuple[Count, Total]] = {
    "roc_auc": (_pairs_won, lambda y: [int(y.sum()) * int((1 - y).sum())]),
    "accuracy": (_right, lambda y: [len(y)]),
    "balanced_accuracy": (_right_by_class, lambda y: [int(y.sum()), int((1 - y).sum())]),
    "log_loss": (_losses, lambda y: [len(y)]),
}
"""The numerators and denominators of each metric by name."""
