"""Out-of-fold predictions of many members on the same patches, checked once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mammo_mlflow.errors import expected
from mammo_mlflow.evaluation import weighted
from mammo_mlflow.evaluation.metrics import out_of_fold
from mammo_mlflow.evaluation.objectives import SECONDS, Objective
from mammo_mlflow.evaluation.weighted import Floats, Ints


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """`probabilities` float64 (n, m) of m members; `labels`, `folds` and `groups` int64 (n,), the last the patients.

    Folds are numbered from 0 on. Where patients are not known, `groups` is None.
    """

    probabilities: Floats
    labels: Ints
    folds: Ints
    groups: Ints | None

    @property
    def members(self) -> int:
        """Their number m."""
        return self.probabilities.shape[1]

    @property
    def units(self) -> Ints:
        """What stays together when rows are split, (n,): patients, or patches where patients are not known."""
        return np.arange(len(self.labels)) if self.groups is None else self.groups

    def without(self, fold: int | None) -> OutOfFold:
        """The rows of the other folds, whose numbers stay; all rows for None."""
        if fold is None:
            return self
        rest = self.folds != fold
        groups = None if self.groups is None else self.groups[rest]
        return OutOfFold(self.probabilities[rest], self.labels[rest], self.folds[rest], groups)

    def score(self, objective: Objective, probabilities: Floats) -> float:
        """The objective of other probabilities (n,) for the same patches, within folds."""
        return out_of_fold(objective.name, self.folds, self.labels, probabilities)


def checked(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, folds: npt.ArrayLike, groups: npt.ArrayLike | None
) -> OutOfFold:
    """The predictions (n, m), labels (n,) of 0 and 1, folds (n,) and patients (n,) or None as an `OutOfFold`.

    Raises ValueError for arrays that do not fit together or a patient in two folds, and UserError for probabilities
    outside [0, 1] or one class.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] == 0:
        raise ValueError(f"probabilities: expected (n, m), m > 0, found {p.shape}")
    for column in p.T:
        y, _ = weighted.checked(labels, column)
    if y.min() == y.max():
        raise expected("labels", "patches of both classes", f"{y.size} of class {y[0]}")
    weighted.codes("folds", folds, y.size)  # its checks; the numbers are to ascend as the folds' names do
    numbers = np.unique(np.asarray(folds), return_inverse=True)[1].astype(np.int64)
    if groups is None:
        return OutOfFold(p, y, numbers, None)
    patients = weighted.codes("groups", groups, y.size)
    weighted.check_whole(patients, numbers)
    return OutOfFold(p, y, numbers, patients)


def check_objective(objective: Objective) -> None:
    """Raise UserError for an objective that is no metric of predictions."""
    if objective.name == SECONDS:
        raise expected("objective", "a metric of predictions", f"'{SECONDS}'")
