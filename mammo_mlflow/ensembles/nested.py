"""Nested cross-validation of ensemble methods: the score of a method on folds that it has not seen.

The score of an ensemble on the predictions on which it was chosen is optimistic. Here each fold is predicted by the
ensemble that the same method makes of the other folds (Varma & Simon 2006, BMC Bioinformatics 7:91; Stone 1974).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mammo_mlflow.errors import expected
from mammo_mlflow.evaluation.objectives import Objective
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.weighted import Floats
from mammo_mlflow.level1 import Combiner

Method = Callable[[OutOfFold, Objective, int, Sequence[int | None]], list[Combiner]]
"""An ensemble method: from predictions, objective, seed and folds to leave out, None for none, a combiner for each."""


def method_of(fit: Callable[[OutOfFold, Objective, int], Combiner]) -> Method:
    """Wrap a function that fits one combiner as an ensemble method, which calls it for each fold left out."""

    def method(data: OutOfFold, objective: Objective, seed: int, left_out: Sequence[int | None]) -> list[Combiner]:
        return [fit(data.without(fold), objective, seed) for fold in left_out]

    return method


def nested_predictions(method: Method, data: OutOfFold, objective: Objective, seed: int = 0) -> tuple[Combiner, Floats]:
    """Fit a method's combiner on all rows, and predict each fold by the combiner that it fits on the others.

    `data` has probabilities float (n, m) of m members; the nested out-of-fold probabilities are float64 (n,).
    Raises UserError for a single fold, or where without one fold there is one class only.
    """
    folds = [int(fold) for fold in np.unique(data.folds)]
    if len(folds) < 2:
        raise expected("folds", "at least 2 for nested cross-validation", len(folds))
    for fold in folds:
        if len(np.unique(data.labels[data.folds != fold])) < 2:
            raise expected("folds", "both classes without any one fold", f"one class without fold {fold + 1}")
    final, *others = method(data, objective, seed, [None, *folds])
    probabilities = np.empty(len(data.labels))
    for fold, combiner in zip(folds, others, strict=True):
        rows = data.folds == fold
        probabilities[rows] = combiner.predict(data.probabilities[rows])
    return final, probabilities
