"""The calibration of predicted probabilities: its error, and Cox's slope and intercept, with intervals.

Intervals are 95 %, patients as clusters where they are known. How they cover: docs/explanation/calibration.md.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, stdtrit

from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation import weighted
from mammo_mlflow.evaluation.dependence import ONE_CLASS
from mammo_mlflow.evaluation.weighted import Floats, Ints

BINS = 15
SMALLEST_BIN = 10
LEAST = 1e-7
"""How far from 0 and 1 a probability is kept where its logit is taken; single precision tells it from both."""
FEWEST_PATIENTS = 8
"""The fewest patients with which calibration has an interval."""
RESAMPLES = 1000
MEASURES = ("calibration_error", "calibration_slope", "calibration_intercept")


def calibration_error(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """The calibration error: the root mean squared difference between predicted and observed frequency, over bins.

    `labels` int (n,) of 0 and 1, `probabilities` float (n,) in [0, 1]. What chance alone adds to a bin's square is
    taken off: the debiased estimator of Kumar, Liang & Ma 2019, "Verified Uncertainty Calibration", NeurIPS 32, for
    p = 2. Up to 15 bins of at least ten patches; equal probabilities share a bin, so that the order of rows counts for
    nothing. NaN for fewer than ten patches. Raises ValueError and UserError as `weighted.checked`.
    """
    y, p = weighted.checked(labels, probabilities)
    if y.size < SMALLEST_BIN:
        return math.nan
    values, place, patches, bin_of = _binned(p)
    size = np.bincount(bin_of, patches)
    frequency = np.bincount(bin_of, np.bincount(place, y)) / size
    # an estimate for bins of any size from two on; nothing is assumed about how many bins there are
    chance = frequency * (1 - frequency) / (size - 1)
    difference = np.bincount(bin_of, values * patches) / size - frequency
    return math.sqrt(max(float(size @ (difference**2 - chance)) / y.size, 0.0))


def calibration_estimates(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    folds: npt.ArrayLike | None = None,
) -> dict[str, Estimate]:
    """The calibration error, slope and intercept (`MEASURES`) with their intervals, by name; `groups` (n,): patients.

    Slope: of a logistic regression of the label on the logit of the probability, 1 where probabilities are neither too
    extreme (below 1) nor too timid. Intercept: the same with that slope held at 1, 0 where they are right on average,
    above 0 where they are too low (Cox 1958, Biometrika 45:562-565; Van Calster et al. 2016, Journal of Clinical
    Epidemiology 74:167-176). With `folds` (n,) the error is that of the folds' models, in bins within folds: a fold's
    map is fitted on the labels of the others, so that the errors of all maps together cancel where folds share a bin.
    The standard errors of slope and intercept are sandwich ones over patients, with a Student quantile.
    Raises ValueError and UserError as `weighted.checked`.
    """
    y, p = weighted.checked(labels, probabilities)
    patients = weighted.patient_codes(groups, y.size)
    clusters = int(patients.max()) + 1
    too_few = f"fewer than {FEWEST_PATIENTS} patients" if clusters < FEWEST_PATIENTS else ""
    quantile = float(stdtrit(max(clusters - 1, 1), 0.975))
    x = logit(np.clip(p, LEAST, 1 - LEAST))
    lines = {"calibration_slope": logistic_line(x, y), "calibration_intercept": logistic_line(x, y, slope=1.0)}
    found = {
        "calibration_error": _error_estimate(y, p, patients, weighted.fold_codes(folds, y.size), quantile, too_few)
    }
    for number, (name, line) in enumerate(lines.items()):
        if line is None:
            found[name] = Estimate(reason=ONE_CLASS if y.min() == y.max() else "no line can be fitted")
            continue
        error = _line_error(x, y, line, patients, ("slope", "intercept")[number])
        reach = math.nan if too_few else quantile * error
        found[name] = Estimate(line[number], line[number] - reach, line[number] + reach, reason=too_few)
    return found


def logistic_line(x: Floats, target: Floats | Ints, slope: float | None = None) -> tuple[float, float] | None:
    """The slope and intercept of a logistic regression of targets (n,) in [0, 1] on x float (n,), by Newton's method.

    With `slope` that is held. None where there is no maximum: equal x, one class or separated classes.
    """
    fixed, columns = 0.0 if slope is None else slope * x, np.stack([x, np.ones_like(x)], axis=1)
    columns = columns if slope is None else columns[:, 1:]
    line = np.zeros(columns.shape[1])

    def loss(line: Floats) -> float:
        at = fixed + columns @ line
        return float((np.logaddexp(0, at) - target * at).sum())

    for _ in range(100):
        fitted = expit(fixed + columns @ line)
        weight = fitted * (1 - fitted)
        information = columns.T @ (columns * weight[:, None])
        if np.linalg.cond(information) > 1e12:
            return None
        step = np.linalg.solve(information, columns.T @ (target - fitted))
        before, share = loss(line), 1.0
        while loss(line + share * step) > before + 1e-9 and share > 1e-6:
            share /= 2
        line = line + share * step
        if np.abs(share * step).max() < 1e-9:
            return (float(line[0]), float(line[1])) if slope is None else (slope, float(line[0]))
        if np.abs(line).max() > 1e3:
            return None
    return None


def _line_error(x: Floats, y: Ints, line: tuple[float, float], patients: Ints, free: str) -> float:
    """The standard error of a line's slope, or of its intercept where the slope was held (Liang & Zeger 1986)."""
    fitted = expit(line[0] * x + line[1])
    columns = np.stack([x, np.ones_like(x)], axis=1)[:, (0 if free == "slope" else 1) :]
    inverse = np.linalg.inv(columns.T @ (columns * (fitted * (1 - fitted))[:, None]))
    scores = np.stack([np.bincount(patients, part) for part in (columns * (y - fitted)[:, None]).T], axis=1)
    clusters = len(scores)
    covariance = inverse @ (scores.T @ scores) @ inverse * clusters / max(clusters - 1, 1)
    return math.sqrt(float(covariance[0, 0]))


def _error_estimate(y: Ints, p: Floats, patients: Ints, folds: Ints | None, quantile: float, too_few: str) -> Estimate:
    """The calibration error with an interval of its square, by resampling patients in fixed bins.

    A resample adds to the square what chance adds, as the sample itself did: twice the sample's square less the mean of
    the resamples' is free of both, whatever patients have in common.
    """
    bin_of, bins = np.zeros(len(y), int), 0
    for rows in weighted.fold_rows(y, folds):
        if len(rows) < SMALLEST_BIN:
            return Estimate(reason=f"fewer than {SMALLEST_BIN} patches" + ("" if folds is None else " of a fold"))
        _, place, _, of_values = _binned(p[rows])
        bin_of[rows] = bins + of_values[place]
        bins = int(bin_of.max()) + 1
    of_bin = np.bincount(bin_of)
    frequency = np.bincount(bin_of, y) / of_bin
    squares = (np.bincount(bin_of, p) / of_bin - frequency) ** 2 - frequency * (1 - frequency) / (of_bin - 1)
    value = math.sqrt(max(float(of_bin @ squares) / len(y), 0.0))
    if too_few:
        return Estimate(value, reason=too_few)
    clusters = int(patients.max()) + 1
    cell = patients * bins + bin_of
    apart, size = (
        np.bincount(cell, part, minlength=clusters * bins).reshape(clusters, bins) for part in (p - y, np.ones(len(y)))
    )
    drawing = np.random.default_rng(0)
    weights = drawing.multinomial(clusters, np.full(clusters, 1 / clusters), RESAMPLES).astype(np.float64)
    apart_drawn, size_drawn = (weights @ part for part in (apart, size))
    drawn = np.nan_to_num(weighted.ratio(apart_drawn**2, size_drawn)).sum(axis=1) / size_drawn.sum(axis=1)
    square = float((apart.sum(axis=0) ** 2 / size.sum(axis=0)).sum()) / len(y)
    centre, reach = 2 * square - float(drawn.mean()), quantile * float(drawn.std(ddof=1))
    low, high = (math.sqrt(max(end, 0.0)) for end in (centre - reach, centre + reach))
    return Estimate(value, min(low, value), max(high, value))


def _binned(p: Floats) -> tuple[Floats, Ints, Ints, Ints]:
    """The distinct probabilities (k,), the place of each patch among them (n,), their patches and their bins (k,)."""
    values, place, patches = np.unique(p, return_inverse=True, return_counts=True)
    return values, place, patches, _bins(patches, min(BINS, p.size // SMALLEST_BIN))


def _bins(patches: Ints, bins: int) -> Ints:
    """The number of the bin of each of k ascending values, int64 (k,), from 0 on without gaps.

    `patches` int (k,): how many patches have each value. Patches in order are cut into `bins` equal parts, and a
    value's patches all go where the middle one of them lies. What then has fewer than `SMALLEST_BIN` joins the next
    bin, at the end the one before.
    """
    n = int(patches.sum())
    part = np.repeat(np.arange(bins), [len(rows) for rows in np.array_split(np.empty(n), bins)])
    end = np.cumsum(patches)
    wanted = part[(end - patches + end - 1) // 2]
    found, number, inside = np.empty_like(wanted), 0, 0
    for index, count in enumerate(patches):
        if index and wanted[index] != wanted[index - 1] and inside >= SMALLEST_BIN:
            number, inside = number + 1, 0
        found[index] = number
        inside += count
    if inside < SMALLEST_BIN:
        found[found == number] = max(number - 1, 0)
    return found
