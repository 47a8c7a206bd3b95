"""McNemar's test of two classifiers' decisions on the same patches, and Holm's correction of p values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm


@dataclass(frozen=True)
class McNemar:
    """The result of McNemar's test: the patches that only one of the classifiers gets right, and the two-sided p."""

    first_only: int
    second_only: int
    p: float


def mcnemar(first_right: npt.ArrayLike, second_right: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> McNemar:
    """McNemar's test of two classifiers, of which bool (n,) say whether each decision is right.

    Without `groups` the test is exact (the binomial test; McNemar 1947, Psychometrika 12:153-157). With them, (n,)
    patients, patches of one patient count together: z = Σ d / √Σ d², d a patient's difference of the two counts, the
    score test of Obuchowski 1998, Statistics in Medicine 17:1495-1507, under the null hypothesis; with patients of one
    patch each it is McNemar's without correction. p is 1 where nothing differs. Raises ValueError for arrays of other
    lengths.
    """
    a, b = np.asarray(first_right, bool), np.asarray(second_right, bool)
    if a.shape != b.shape:
        raise ValueError(f"decisions: expected two of one length, found {a.shape} and {b.shape}")
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    if not only_first + only_second:
        return McNemar(0, 0, 1.0)
    if groups is None:
        p = float(binomtest(only_first, only_first + only_second).pvalue)
        return McNemar(only_first, only_second, p)
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    if codes.shape != a.shape:
        raise ValueError(f"groups: expected {a.shape}, found {codes.shape}")
    d = np.bincount(codes, a.astype(float) - b)
    spread = math.sqrt(float(d @ d))
    p = float(2 * norm.sf(abs(d.sum()) / spread)) if spread else 1.0
    return McNemar(only_first, only_second, p)


def holm(p: npt.ArrayLike) -> np.ndarray:
    """p values corrected for k comparisons by Holm's method, float64 (k,); NaN stays NaN and is not counted.

    Holm 1979, Scandinavian Journal of Statistics 6:65-70. `p`: float (k,).
    """
    values = np.asarray(p, float)
    adjusted = np.full(values.shape, math.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    stepped = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted
