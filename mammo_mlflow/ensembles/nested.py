"""Nested cross-validation: what a method of making ensembles is worth on folds it has not seen.

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
"""From predictions, objective, seed and folds to leave out, None for none, to a level 1 for each of these."""


def each(fit: Callable[[OutOfFold, Objective, int], Combiner]) -> Method:
    """A method that fits the rows without each fold anew."""

    def method(data: OutOfFold, objective: Objective, seed: int, left_out: Sequence[int | None]) -> list[Combiner]:
        return [fit(data.without(fold), objective, seed) for fold in left_out]

    return method


def nested(method: Method, data: OutOfFold, objective: Objective, seed: int = 0) -> tuple[Combiner, Floats]:
    """The level 1 of all rows, and nested out-of-fold probabilities (n,): each fold's from the level 1 of the others.

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
    for fold, level1 in zip(folds, others, strict=True):
        rows = data.folds == fold
        probabilities[rows] = level1.predict(data.probabilities[rows])
    return final, probabilities
