"""The table of ensemble methods, and the ensembles that they make of the same out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mammo_mlflow.ensembles.blend_weights import BlendWeights, average, greedy, grid, grid_fine
from mammo_mlflow.ensembles.nested import Method, method_of, nested_predictions
from mammo_mlflow.ensembles.stackers import STACKERS, check_stackable
from mammo_mlflow.errors import expected, unknown_name
from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.objectives import Objective, check_metric
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.weighted import Floats
from mammo_mlflow.level1 import Combiner

ENSEMBLE_VERSION = 3
"""The version of ensembles: raised where any method, their nested scores or the joined model give other numbers.

An ensemble is then made anew, of the same members: their folds do not know this number.
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedEnsemble:
    """The combiner that a method fits on all rows, and two scores of the objective.

    `chosen_on` is its score on the very rows that it was fitted on, which is optimistic. `nested`, with its interval,
    is the score of `probabilities` float (n,), the nested out-of-fold predictions, and is not.
    """

    method: str
    combiner: Combiner
    chosen_on: float
    nested: Estimate
    probabilities: Floats


def fit_ensembles(
    data: OutOfFold,
    objective: Objective,
    methods: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = 2000,
    known: Mapping[str, Method] | None = None,
) -> dict[str, FittedEnsemble]:
    """Fit an ensemble by each of `methods`, names of the table `known` (`METHODS` by default); by all of it by default.

    `data` has the out-of-fold probabilities float (n, m) of m members. Scores are the folds', as in
    `weighted.statistic`; `resamples` and `seed` are of their bootstrap intervals and of what methods draw.

    Raises UserError for an unknown method, `seconds` as objective, one class, one fold, or too few patients of a class.
    """
    table = METHODS if known is None else known
    names = list(table) if methods is None else list(methods)
    for name in names:
        if name not in table:
            raise unknown_name("methods", name, table)
    check_metric(objective)
    if data.labels.min() == data.labels.max():
        raise expected("labels", "patches of both classes", f"{data.labels.size} of class {data.labels[0]}")
    return {name: _ensemble(name, table[name], data, objective, seed, resamples) for name in names}


def _ensemble(
    name: str,
    method: Method,
    data: OutOfFold,
    objective: Objective,
    seed: int,
    resamples: int,
) -> FittedEnsemble:
    combiner, nested = nested_predictions(method, data, objective, seed)
    estimate = data.saying(nested).estimate(objective.name, resamples, seed)
    chosen_on = data.saying(combiner.predict(data.probabilities)).score(objective.name)
    return FittedEnsemble(method=name, combiner=combiner, chosen_on=chosen_on, nested=estimate, probabilities=nested)


def weights_method(search: Callable[..., list[BlendWeights]]) -> Method:
    """Wrap a search for blend weights (see `blend_weights`) as an ensemble method."""

    def method(data: OutOfFold, objective: Objective, seed: int, left_out: Sequence[int | None]) -> list[Combiner]:
        found = search(data, objective, left_out=left_out)
        return [Combiner("weights", {"weights": one.weights}, one.note) for one in found]

    return method


def _stacked(name: str) -> Method:
    def fit(data: OutOfFold, objective: Objective, seed: int) -> Combiner:
        check_stackable(data.labels, data.units)
        return STACKERS[name](data.probabilities, data.labels, data.units, seed)

    return method_of(fit)


METHODS: dict[str, Method] = {
    "average": weights_method(average),
    "grid": weights_method(grid),
    "grid_fine": weights_method(grid_fine),
    "greedy": weights_method(greedy),
    **{name: _stacked(name) for name in STACKERS},
}
"""The ensemble methods by name, but the one by Optuna, which `workflows.ensemble` adds."""
