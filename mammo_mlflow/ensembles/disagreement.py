"""Measure how differently the members of an ensemble decide (Kuncheva & Whitaker 2003, ML 51:181-207)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mammo_mlflow.evaluation import weighted
from mammo_mlflow.evaluation.weighted import Floats


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Symmetric tables float64 (m, m) over pairs of m members.

    `different`: share of patches decided differently; `correlation`: Pearson's, of the probabilities, NaN for a
    constant member; `kappa`: Cohen's (1960), of the decisions, NaN where chance alone agrees on all; `double_fault`:
    share of patches on which both are wrong (Giacinto & Roli 2001), with each member's errors on the diagonal.
    """

    different: Floats
    correlation: Floats
    kappa: Floats
    double_fault: Floats


def disagreement(labels: npt.ArrayLike, probabilities: npt.ArrayLike, thresholds: npt.ArrayLike = 0.5) -> Disagreement:
    """Compare the decisions of m members on n patches, pair by pair.

    `labels` int (n,) of 0 and 1; `probabilities` float (n, m) in [0, 1]; `thresholds` float (m,), or one for all: a
    probability at or above a member's threshold is positive.
    Raises ValueError for arrays that do not fit together, UserError for probabilities outside [0, 1].
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] == 0:
        raise ValueError(f"probabilities: expected (n, m), m > 0, found {p.shape}")
    for column in p.T:
        y, _ = weighted.checked(labels, column)
    positive = (p >= np.asarray(thresholds, dtype=np.float64)).astype(np.float64)
    wrong = (positive != y[:, None]).astype(np.float64)
    n = len(y)
    both = positive.T @ positive / n
    share = np.diag(both)
    different = share[:, None] + share - 2 * both
    by_chance = np.outer(share, share) + np.outer(1 - share, 1 - share)
    centred = p - p.mean(axis=0)
    covariance = centred.T @ centred
    spread = np.sqrt(np.diag(covariance))
    return Disagreement(
        different,
        weighted.ratio(covariance, np.outer(spread, spread)),
        weighted.ratio(1 - different - by_chance, 1 - by_chance),
        wrong.T @ wrong / n,
    )
