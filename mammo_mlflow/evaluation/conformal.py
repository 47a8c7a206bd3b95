"""Answer sets by conformal prediction: one class where a patch is like that class alone, else both, which is "refer".

Each class is kept by itself (Mondrian conformal prediction: Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a
Random World, ch. 4), so that coverage does not depend on how frequent it is. Scores are out-of-fold probabilities.
Patients are what is exchangeable, not patches: each patient's patches of a class weigh as much together as any other
patient's, one more patient weighs at infinity, and the limit is a quantile of that (Lee, Barber & Willett 2023,
Distribution-free inference with hierarchical data, arXiv:2306.06342). Neither crepes nor MAPIE has such weights.

What is guaranteed is for a new patient and a model of a fold. The registered model is a refit or the mean of the folds'
models, whose scores are a little better than theirs: there it is approximate
(docs/explanation/answer-sets.md has simulations).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mammo_mlflow.answer_sets import REFER, AnswerLimits
from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.intervals import score_estimates
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.weighted import Floats, Ints
from mammo_mlflow.names import Metric

SHOWN_COVERAGES = (0.7, 0.8, 0.85, 0.9, 0.95, 0.975)


def answer_limits(labels: Ints, probabilities: Floats, groups: Ints | None, coverage: float) -> AnswerLimits:
    """Find the limits with which each class is covered; of labels int (n,) of 0 and 1, probabilities float (n,).

    `groups` int (n,) are the patients, None where each patch stands alone. A class of too few patients for the coverage
    is part of every answer. Where no patch would be like either class, both limits lie in the middle of that gap.
    """
    of_patch = np.arange(len(labels)) if groups is None else groups
    high, low = (
        _limit(sign * probabilities[labels == value], of_patch[labels == value], coverage) * sign
        for value, sign in ((0, 1), (1, -1))
    )
    if high < low:
        high = low = (high + low) / 2
    return AnswerLimits(max(low, 0.0), min(high, 1.0), coverage)


def _limit(scores: Floats, patients: Ints, coverage: float) -> float:
    """The least score up to which patients' mean share of scores, and one patient beyond, reach the coverage."""
    _, patient, sizes = np.unique(patients, return_inverse=True, return_counts=True)
    order = np.argsort(scores)
    reached = np.cumsum((1 / (sizes[patient] * (len(sizes) + 1)))[order])
    enough = np.flatnonzero(reached >= coverage - 1e-12)
    return float(scores[order][enough[0]]) if enough.size else np.inf


def cross_fitted_sets(data: OutOfFold, coverage: float) -> Ints:
    """The answer sets of out-of-fold predictions, int64 (n,): each fold by limits of the others alone."""
    found = np.empty(len(data.labels), np.int64)
    for fold in np.unique(data.folds):
        mine, rest = data.folds == fold, data.without(int(fold))
        found[mine] = answer_limits(rest.labels, rest.probabilities, rest.groups, coverage)(data.probabilities[mine])
    return found


def set_estimates(
    labels: npt.ArrayLike, sets: Ints, groups: npt.ArrayLike | None, confidence: float = 0.95
) -> dict[str, Estimate]:
    """Estimate `coverage_0`, `coverage_1` and `referred`, with intervals, patients as clusters.

    The share of patches of each class whose answer set, int (n,) of 0, 1 and `REFER`, has that class; and the share of
    all patches that are referred.
    """
    y = np.asarray(labels).astype(np.int64)

    def rates(right: npt.NDArray[np.bool_]) -> dict[str, Estimate]:
        """The rates of patches that are decided rightly where `right`, bool (n,)."""
        return score_estimates(y, np.where(right, y, 1 - y), 0.5, groups, confidence)

    covered, referred = rates((sets == y) | (sets == REFER)), rates(sets == REFER)
    return {
        Metric.COVERAGE_0: covered["specificity"],
        Metric.COVERAGE_1: covered["sensitivity"],
        Metric.REFERRED: referred["accuracy"],
    }


def out_of_fold_sets(data: OutOfFold, coverage: float) -> dict[str, Estimate]:
    """`set_estimates` of out-of-fold answer sets, each fold by limits of the others, by the metrics' names."""
    found = set_estimates(data.labels, cross_fitted_sets(data, coverage), data.groups)
    return {f"{Metric.OOF}{name}": one for name, one in found.items()}


def coverage_curve(data: OutOfFold) -> dict[float, dict[str, Estimate]]:
    """`set_estimates` of out-of-fold answer sets, each fold by limits of the others, for each of `SHOWN_COVERAGES`."""
    return {one: set_estimates(data.labels, cross_fitted_sets(data, one), data.groups) for one in SHOWN_COVERAGES}
