"""Percentile bootstrap intervals, resampling patients where they are known and patches where not.

Patches of one patient resemble one another, so whole patients are drawn with replacement (cluster bootstrap; Field &
Welsh 2007, JRSS B 69:369-390). The percentile interval (Efron & Tibshirani 1993, ch. 13) cannot reach beyond what was
seen: a sensitivity of 1 gives [1, 1]. With a single patient there is nothing to resample, and the ends are NaN.

Arguments shared by the functions here: `labels` int (n,) of 0 and 1; `probabilities` float (n,) in [0, 1]; `groups`
(n,) patient of each patch or None; `resamples` number of draws; `seed` of the draws: equal seeds, n and groups give
equal resamples; `confidence` in (0, 1). All raise ValueError for arrays that do not fit together and UserError for
probabilities outside [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from . import weighted
from .metrics import RATES, Difference, Estimate
from .weighted import Floats, Ints

BLOCK_CELLS = 400_000
"""Weights held at once (resamples × patches): 3 MB, which stays within a processor's cache."""


def resampling_note(groups: npt.ArrayLike | None) -> str:
    """What an interval assumes, to be said beside it."""
    return "patches assumed independent" if groups is None else "patients resampled"


def bootstrap_scores(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    threshold: float = 0.5,
    groups: npt.ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """Each rate of `metrics.scores` with its interval; resamples in which a rate is undefined do not count for it."""
    y, p = weighted.checked(labels, probabilities)
    compute = weighted.rates(y, p, threshold)
    whole = compute(np.ones((1, y.size)))
    blocks = [compute(weights) for weights in _resampled(y.size, groups, resamples, seed)]
    draws = {name: np.concatenate([np.empty(0), *(block[name] for block in blocks)]) for name in RATES}
    return {name: _estimate(float(whole[name][0]), draws[name], confidence) for name in RATES}


def bootstrap_fold_auc(
    folds: npt.ArrayLike,
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """`metrics.fold_auc` with its interval. `folds`: (n,); a resampled patient stays in its fold."""
    return bootstrap_metric("roc_auc", folds, labels, probabilities, groups, resamples, seed, confidence)


def bootstrap_metric(
    metric: str,
    folds: npt.ArrayLike | None,
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """A metric by its name in `weighted.statistic`, with its interval. `folds`: (n,) or None, as above."""
    y, p = weighted.checked(labels, probabilities)
    compute = weighted.statistic(metric, y, p, _folds(folds, y.size))
    value, draws = _bootstrap(compute, y.size, groups, resamples, seed)
    return _estimate(value, draws, confidence)


def bootstrap_difference(
    labels: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    folds: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    metric: str = "roc_auc",
) -> Difference:
    """A metric of `first` minus that of `second`, both float (n,) on the same patches, with a paired interval.

    Every resample scores both, so that what they share cancels. `metric` is a name of `weighted.statistic`; with
    `folds`, (n,), ROC AUC and sensitivity at a specificity are those of the folds. The error is the standard deviation
    of the resamples (Efron & Tibshirani 1993, ch. 6).
    """
    y, a = weighted.checked(labels, first)
    _, b = weighted.checked(labels, second)
    of_first, of_second = (weighted.statistic(metric, y, p, _folds(folds, y.size)) for p in (a, b))
    value, draws = _bootstrap(lambda w: of_first(w) - of_second(w), y.size, groups, resamples, seed)
    estimate = _estimate(value, draws, confidence)
    defined = draws[np.isfinite(draws)]
    error = float(defined.std(ddof=1)) if defined.size > 1 else math.nan
    return Difference(estimate.value, estimate.low, estimate.high, error)


def roc_band(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    points: int = 101,
) -> tuple[Floats, Floats, Floats]:
    """False positive rates (points,) and the ends of the true positive rate there, each float64 (points,).

    The band is pointwise, of curves averaged vertically (Fawcett 2006, Pattern Recognition Letters 27:861-874): each
    rate's interval holds by itself, not the whole curve's. NaN ends where there is one class or one patient only.
    """
    y, p = weighted.checked(labels, probabilities)
    count = weighted.roc(y, p)
    grid = np.linspace(0.0, 1.0, points)
    curves = []
    for weights in _resampled(y.size, groups, resamples, seed):
        for t, f in zip(*count(weights), strict=True):
            if t[-1] > 0 and f[-1] > 0:
                curves.append(np.interp(grid, f / f[-1], t / t[-1]))
    if not curves:
        return grid, np.full(points, np.nan), np.full(points, np.nan)
    low, high = np.quantile(np.array(curves), _tails(confidence), axis=0)
    return grid, low, high


def _bootstrap(
    statistic: Callable[[Floats], Floats], n: int, groups: npt.ArrayLike | None, resamples: int, seed: int
) -> tuple[float, Floats]:
    """The statistic of all patches and of each resample, (resamples,), or (0,) where nothing can be resampled."""
    draws = [statistic(weights) for weights in _resampled(n, groups, resamples, seed)]
    return float(statistic(np.ones((1, n)))[0]), np.concatenate([np.empty(0), *draws])


def _estimate(value: float, draws: Floats, confidence: float) -> Estimate:
    defined = draws[np.isfinite(draws)]
    if not defined.size:
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(defined, _tails(confidence))
    return Estimate(value, float(low), float(high))


def _folds(folds: npt.ArrayLike | None, n: int) -> Ints | None:
    return None if folds is None else weighted.codes("folds", folds, n)


def _tails(confidence: float) -> list[float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number in (0, 1), found {confidence}")
    return [(1 - confidence) / 2, (1 + confidence) / 2]


def _resampled(n: int, groups: npt.ArrayLike | None, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each patch was drawn, in blocks (b, n) whose rows sum up to `resamples`; none for a single cluster."""
    cluster = None if groups is None else weighted.codes("groups", groups, n)
    clusters = n if cluster is None else int(cluster.max()) + 1
    if clusters < 2:
        return
    random = np.random.default_rng(seed)
    size = max(1, BLOCK_CELLS // n)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = random.integers(0, clusters, size=(rows, clusters))
        drawn += np.arange(rows)[:, None] * clusters
        counts = np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters).astype(np.float64)
        yield counts if cluster is None else counts[:, cluster]
