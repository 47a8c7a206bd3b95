"""What a registered ensemble answers: its combiner's probabilities, through a map and with answer sets where asked for.

Both are fitted on nested predictions, as a final model's are on out-of-fold ones: what is published, judged at the
gates and cut at a threshold is of folds whose map and limits come from the others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np

from mammo_mlflow.answer_sets import AnswerLimits
from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.calibration import LEAST
from mammo_mlflow.evaluation.conformal import answer_limits, out_of_fold_sets
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.recalibration import RECALIBRATIONS, before_and_after, cross_fitted
from mammo_mlflow.level1 import Combiner
from mammo_mlflow.names import Tag


@dataclass(frozen=True, eq=False, kw_only=True)
class EnsembleAnswers:
    """The answers of an ensemble whose nested predictions are `nested`.

    `calibrate` is a name of `RECALIBRATIONS` or `none`; `coverage` is what answer sets are asked for, 0 without them.
    """

    nested: OutOfFold
    calibrate: str
    coverage: float

    @property
    def recalibrated(self) -> bool:
        """Whether probabilities go through a map."""
        return self.calibrate != "none"

    @cached_property
    def predictions(self) -> OutOfFold:
        """The nested predictions, each fold through a map fitted on the others where there is one."""
        return self.nested.saying(cross_fitted(self.calibrate, self.nested)) if self.recalibrated else self.nested

    @cached_property
    def limits(self) -> AnswerLimits | None:
        """The limits of the registered ensemble's answer sets, of all nested predictions; None without such sets."""
        said = self.predictions
        return answer_limits(said.labels, said.probabilities, said.groups, self.coverage) if self.coverage else None

    def through_map(self, combiner: Combiner) -> Combiner:
        """The combiner with the map behind it that is fitted on all nested predictions; itself where there is none."""
        if not self.recalibrated:
            return combiner
        found = RECALIBRATIONS[self.calibrate](self.nested.labels, self.nested.probabilities)
        arrays = {name: np.array(value) for name, value in asdict(found).items()}
        arrays |= {"least": np.array(LEAST)} if self.calibrate == "platt" else {}
        mapped = {f"map_{name}": array for name, array in arrays.items()}
        return replace(combiner, arrays=combiner.arrays | mapped, map=self.calibrate)

    def estimates(self) -> dict[str, Estimate]:
        """The out-of-fold estimates of calibration, before and after the map, and of answer sets, by metric."""
        found: dict[str, Estimate] = {}
        if self.recalibrated:
            found |= before_and_after(self.nested, self.predictions)
        return found | (out_of_fold_sets(self.predictions, self.coverage) if self.coverage else {})

    @property
    def tags(self) -> dict[str, str]:
        """The tags of a registered model that answers so: how it is recalibrated, and its limits."""
        said = f"by a map ({self.calibrate}) fitted on nested out-of-fold predictions, those of ensembles of the others"
        told = {Tag.RECALIBRATED: f"{said}; this ensemble, fitted on all folds, may be calibrated otherwise"}
        return (told if self.recalibrated else {}) | (self.limits.tags if self.limits else {})
