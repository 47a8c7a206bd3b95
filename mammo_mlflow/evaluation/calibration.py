"""The calibration error of predicted probabilities."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mammo_mlflow.evaluation import weighted
from mammo_mlflow.evaluation.weighted import Ints

BINS = 15
SMALLEST_BIN = 10


def calibration_error(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """The calibration error: the root mean squared difference between predicted and observed frequency, over bins.

    `labels` int (n,) of 0 and 1, `probabilities` float (n,) in [0, 1]. What chance alone adds to a bin's square is
    taken off: the debiased estimator of Kumar, Liang & Ma 2019, "Verified Uncertainty Calibration", NeurIPS 32, for
    p = 2. Up to 15 bins of at least ten patches; equal probabilities share a bin, so that the order of rows counts for
    nothing. NaN for fewer than ten patches. Raises ValueError and UserError as `weighted.checked`.
    """
    y, p = weighted.checked(labels, probabilities)
    bins = min(BINS, y.size // SMALLEST_BIN)
    if not bins:
        return math.nan
    values, place, patches = np.unique(p, return_inverse=True, return_counts=True)
    bin_of = _bins(patches, bins)
    size = np.bincount(bin_of, patches)
    frequency = np.bincount(bin_of, np.bincount(place, y)) / size
    # an estimate for bins of any size from two on; nothing is assumed about how many bins there are
    chance = frequency * (1 - frequency) / (size - 1)
    difference = np.bincount(bin_of, values * patches) / size - frequency
    return math.sqrt(max(float(size @ (difference**2 - chance)) / y.size, 0.0))


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
