"""How far probabilities are from the frequencies they claim."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from . import weighted

BINS = 15
SMALLEST_BIN = 10


def calibration_error(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """The root of the mean squared difference between probability and frequency, over bins of equally many patches.

    `labels` (n,) of 0 and 1, `probabilities` (n,). What chance alone adds to a bin's square is taken off: the debiased
    estimator of Kumar, Liang & Ma 2019, "Verified Uncertainty Calibration", NeurIPS 32, for p = 2. Up to 15 bins of at
    least ten patches; NaN for fewer than ten. Raises as `weighted.checked`.
    """
    y, p = weighted.checked(labels, probabilities)
    bins = min(BINS, y.size // SMALLEST_BIN)
    if not bins:
        return math.nan
    squared = 0.0
    for rows in np.array_split(np.argsort(p, kind="stable"), bins):
        frequency = float(y[rows].mean())
        chance = frequency * (1 - frequency) / (rows.size - 1)
        squared += rows.size / y.size * ((float(p[rows].mean()) - frequency) ** 2 - chance)
    return math.sqrt(max(squared, 0.0))
