"""Out-of-fold predictions: labels, probabilities, folds and patients as one checked object."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mammo_mlflow.estimate import Difference, Estimate
from mammo_mlflow.evaluation import weighted
from mammo_mlflow.evaluation.intervals import bootstrap_difference, metric_estimate, score_estimates
from mammo_mlflow.evaluation.metrics import out_of_fold
from mammo_mlflow.evaluation.units import per_lesion
from mammo_mlflow.evaluation.weighted import Floats, Ints


@dataclass(frozen=True, eq=False, kw_only=True)
class OutOfFold:
    """Out-of-fold predictions of one model, or of m models on the same patches.

    Array-likes are converted on creation to: `labels` int64 (n,) of 0 and 1; `probabilities` float64 (n,), or (n, m) of
    m members; `folds` int64 (n,), numbered from 0 in the order of their names; `groups` int64 (n,), the patients, or
    None where they are not known; `lesions` likewise; `patches` int (n,) are the patches' rows in the training set, or
    None. `threshold` is the model's decision threshold.

    Raises ValueError for arrays that do not fit together or a patient in two folds, UserError for probabilities
    outside [0, 1].
    """

    labels: Ints
    probabilities: Floats
    folds: Ints
    groups: Ints | None = None
    patches: Ints | None = None
    lesions: Ints | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        given = np.asarray(self.probabilities, np.float64)
        if given.ndim not in (1, 2) or given.shape[-1] == 0:
            raise ValueError(f"probabilities: expected (n,) or (n, m), m > 0, found {given.shape}")
        for column in given.reshape(len(given), -1).T:
            labels, _ = weighted.checked(self.labels, column)
        weighted.codes("folds", self.folds, labels.size)  # its checks; the numbers are to ascend as the folds' names do
        folds = np.unique(np.asarray(self.folds), return_inverse=True)[1].astype(np.int64)
        found = {"labels": labels, "probabilities": given, "folds": folds}
        if self.groups is not None:
            found["groups"] = patients = weighted.codes("groups", self.groups, labels.size)
            weighted.check_whole(patients, folds)
        if self.lesions is not None:
            found["lesions"] = weighted.codes("lesions", self.lesions, labels.size)
        for name, array in found.items():
            object.__setattr__(self, name, array)

    @classmethod
    def of_frame(cls, frame: pd.DataFrame, threshold: float = 0.5) -> OutOfFold:
        """Read a frame with columns label, probability, fold and, where known, patient_id, patch and lesion.

        A column `calibrated` stands for the probability where there is one.
        """
        more = {name: frame[column] for name, column in _OPTIONAL.items() if column in frame}
        return cls(
            labels=frame["label"],
            probabilities=frame[CALIBRATED if CALIBRATED in frame else "probability"],
            folds=frame["fold"],
            threshold=threshold,
            **more,
        )

    @property
    def members(self) -> int:
        """The number of models, m; 1 where probabilities are (n,)."""
        return 1 if self.probabilities.ndim == 1 else self.probabilities.shape[1]

    @property
    def units(self) -> Ints:
        """The group of each row that splits keep together, int64 (n,): the patient, or the patch if not known."""
        return np.arange(len(self.labels)) if self.groups is None else self.groups

    @property
    def decided(self) -> Floats:
        """The decisions, shaped as the probabilities: 1.0 where a probability is at least the threshold, else 0.0."""
        return (self.probabilities >= self.threshold).astype(np.float64)

    def saying(self, probabilities: Floats) -> OutOfFold:
        """A copy with other probabilities, float (n,) or (n, m), of the same patches."""
        return replace(self, probabilities=probabilities)

    @property
    def by_lesion(self) -> OutOfFold | None:
        """The same model's predictions with a row for each lesion (`units.per_lesion`); None where lesions are unknown.

        A lesion's patch is the first of its views. For the probabilities of one model.
        """
        if self.lesions is None:
            return None
        known = {column: array for name, column in _OPTIONAL.items() if (array := getattr(self, name)) is not None}
        columns = {"fold": self.folds, "label": self.labels, "probability": self.probabilities, **known}
        return OutOfFold.of_frame(per_lesion(pd.DataFrame(columns)), self.threshold)

    def without(self, fold: int | None) -> OutOfFold:
        """A copy without the rows of one fold (None: with all rows); the other folds keep their numbers."""
        if fold is None:
            return self
        part, rest = copy(self), self.folds != fold
        for name, array in vars(self).items():
            if isinstance(array, np.ndarray):
                object.__setattr__(part, name, array[rest])
        return part

    def same_patches(self, other: OutOfFold) -> bool:
        """Whether other out-of-fold predictions are of the same patches in the same folds."""
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ("patches", "labels", "folds"))

    def score(self, metric: str) -> float:
        """A metric of the predictions by its name in `weighted.statistic`; ROC AUC is computed within folds."""
        return out_of_fold(metric, self.labels, self.probabilities, self.folds)

    def estimate(self, metric: str, resamples: int = 2000, seed: int = 0) -> Estimate:
        """A metric of the predictions with its interval (`intervals.metric_estimate`)."""
        arrays = self.labels, self.probabilities, self.folds, self.groups
        return metric_estimate(metric, *arrays, resamples=resamples, seed=seed)

    def estimates(self) -> dict[str, Estimate]:
        """Every rate of `metrics.RATES` at 0.5 with its interval, by name; ROC AUC is computed within folds."""
        found = score_estimates(self.labels, self.probabilities, groups=self.groups)
        return found | {"roc_auc": self.estimate("roc_auc")}

    def less(self, other: OutOfFold, metric: str = "roc_auc", confidence: float = 0.95) -> Difference:
        """The metric's paired difference, these less `other` on the same patches (`intervals.bootstrap_difference`)."""
        arrays = self.labels, self.probabilities, other.probabilities, self.folds, self.groups
        return bootstrap_difference(*arrays, confidence=confidence, metric=metric)


CALIBRATED = "calibrated"
"""The column of tables of out-of-fold predictions that has the recalibrated probability."""
_OPTIONAL = {"groups": "patient_id", "patches": "patch", "lesions": "lesion"}
