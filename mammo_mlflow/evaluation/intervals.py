"""Confidence intervals of metrics, with patients as clusters where they are known and patches independent where not.

Of a metric: a score interval of ROC AUC (`auc_interval`), Wilson's with the effective number of patches of what is
counted at a threshold (`rate_interval`), Hall's of the Brier score and the log loss (`mean_interval`). A value without
an interval that can be trusted stands alone, with the reason. Of a paired difference, and of a ROC curve: percentiles
of resamples, of whole patients where they are known (cluster bootstrap; Field & Welsh 2007, JRSS B 69:369-390; Efron &
Tibshirani 1993, ch. 13); NaN ends for a single patient. How each covers: docs/explanation/intervals.md.

Arguments shared by the functions here: `labels` int (n,) of 0 and 1; `probabilities` float (n,) in [0, 1]; `groups`
(n,) the patient of each patch or None; `confidence` in (0, 1); `resamples` the number of bootstrap samples, and `seed`:
equal seeds, n and groups give equal resamples. All raise ValueError for arrays that do not fit together and UserError
for probabilities outside [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mammo_mlflow.estimate import Difference, Estimate
from mammo_mlflow.evaluation import weighted
from mammo_mlflow.evaluation.auc_interval import auc_estimate
from mammo_mlflow.evaluation.dependence import LEAST_PATIENTS, ONE_CLASS, TOO_FEW
from mammo_mlflow.evaluation.mean_interval import mean_estimate
from mammo_mlflow.evaluation.metrics import RATES
from mammo_mlflow.evaluation.rate_interval import rate_estimates, resampled_share
from mammo_mlflow.evaluation.weighted import Floats
from mammo_mlflow.names import SENSITIVITY_AT

INDEPENDENT = "patches assumed independent"
UNCALLED = "no patch is called class 1"

BLOCK_CELLS = 400_000
"""Weights of resamples × patches held at once: 3 MB, which stays within a processor's cache."""


def resampling_note(groups: npt.ArrayLike | None) -> str:
    """The assumption behind the interval of a difference, in words to print beside it."""
    return INDEPENDENT if groups is None else "patients resampled"


def cluster_note(groups: npt.ArrayLike | None) -> str:
    """The assumption behind the interval of a metric, in words to print beside it."""
    return INDEPENDENT if groups is None else "patients as clusters"


def score_estimates(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    threshold: float = 0.5,
    groups: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """Each rate of `metrics.RATES` with its interval, by name; a probability ≥ `threshold` is class 1."""
    y, p = weighted.checked(labels, probabilities)
    _tails(confidence)
    patients = weighted.patient_codes(groups, y.size)
    found = rate_estimates(y, p, threshold, patients, confidence)
    found["roc_auc"] = auc_estimate(y, p, None, patients, confidence)
    found |= {name: mean_estimate(loss(y, p), patients, confidence) for name, loss in weighted.LOSSES.items()}
    points = weighted.rates(y, p, threshold)(np.ones((1, y.size)))
    for name in RATES:  # with the value that `metrics.scores` gives, to the last digit
        value = float(points[name][0])
        undefined = Estimate(reason=UNCALLED if name == "precision" else ONE_CLASS)
        found[name] = undefined if math.isnan(value) else replace(found[name], value=value)
    return {name: found[name] for name in RATES}


def metric_estimate(
    metric: str,
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    folds: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A metric by its name in `weighted.statistic`, with its interval. `folds`: (n,) or None.

    Sensitivity at a specificity has a variance from resampling, since its threshold varies with the patches.
    """
    y, p = weighted.checked(labels, probabilities)
    _tails(confidence)
    fold, patients = weighted.fold_codes(folds, y.size), weighted.patient_codes(groups, y.size)
    if metric == "roc_auc":
        return auc_estimate(y, p, fold, patients, confidence)
    if not metric.startswith(SENSITIVITY_AT):
        weighted.statistic(metric, y, p)  # refuses other names
        return score_estimates(y, p, 0.5, groups, confidence)[metric]
    value, draws = _bootstrap(weighted.statistic(metric, y, p, fold), y.size, groups, resamples, seed)
    defined = draws[np.isfinite(draws)]
    sizes = np.bincount(patients[y == 1])
    fewest = min(len(np.unique(patients[y == value])) for value in (0, 1))
    if math.isnan(value) or fewest < LEAST_PATIENTS or defined.size < 2:
        reason = ONE_CLASS if math.isnan(value) else f"{TOO_FEW} of a class"
        return Estimate(value, reason=reason)
    return Estimate(value, *resampled_share(value, float(defined.var(ddof=1)), sizes[sizes > 0], confidence))


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
    """The paired difference of a metric of two classifiers on the same patches, `first` minus `second`.

    `first`, `second`: probabilities, float (n,). Every resample scores both, so that what they share cancels. `metric`
    is a name of `weighted.statistic`; with `folds`, (n,), ROC AUC and sensitivity at a specificity are those of the
    folds. The error is the standard deviation of the resamples (Efron & Tibshirani 1993, ch. 6).
    """
    y, a = weighted.checked(labels, first)
    _, b = weighted.checked(labels, second)
    of_first, of_second = (weighted.statistic(metric, y, p, weighted.fold_codes(folds, y.size)) for p in (a, b))
    value, draws = _bootstrap(lambda w: of_first(w) - of_second(w), y.size, groups, resamples, seed)
    defined = draws[np.isfinite(draws)]
    low, high = np.quantile(defined, _tails(confidence)).tolist() if defined.size else (math.nan, math.nan)
    return Difference(value, low, high, float(defined.std(ddof=1)) if defined.size > 1 else math.nan)


def roc_band(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    points: int = 101,
) -> tuple[Floats, Floats, Floats]:
    """The confidence band of a ROC curve: false positive rates, lower and upper true positive rates, float64 (points,).

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
    """A statistic of all patches, and of each bootstrap sample float64 (resamples,), empty for a single patient."""
    draws = [statistic(weights) for weights in _resampled(n, groups, resamples, seed)]
    return float(statistic(np.ones((1, n)))[0]), np.concatenate([np.empty(0), *draws])


def _tails(confidence: float) -> list[float]:
    """The two quantiles that an interval lies between. Raises ValueError for a confidence outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number in (0, 1), found {confidence}")
    return [(1 - confidence) / 2, (1 + confidence) / 2]


def _resampled(n: int, groups: npt.ArrayLike | None, resamples: int, seed: int) -> Iterator[Floats]:
    """Bootstrap samples, in blocks float64 (b, n) of how often each patch is drawn, with `resamples` rows in all.

    There is no block for a single cluster.
    """
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
