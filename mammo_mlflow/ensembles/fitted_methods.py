"""Fit every ensemble method on the same members' out-of-fold predictions, and compare the ensembles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mammo_mlflow.data.patches import PatchSet, targets
from mammo_mlflow.disclosure import Disclosure
from mammo_mlflow.ensembles.members import Member
from mammo_mlflow.ensembles.methods import FittedEnsemble, fit_ensembles
from mammo_mlflow.ensembles.nested import Method
from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation.objectives import Objective
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.paired import Verdict, verdict
from mammo_mlflow.evaluation.weighted import Floats, Ints


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedMethods:
    """The fitted ensembles of the same members, one by each method, by name.

    `data` has the members' out-of-fold probabilities float (n, m) of the n training abnormalities, a column a member.
    """

    task: str
    members: Sequence[Member]
    objective: Objective
    data: OutOfFold
    ensembles: Mapping[str, FittedEnsemble]

    @property
    def patch_set(self) -> PatchSet:
        """The data on which all members were trained."""
        return self.members[0].plan.patch_set

    @property
    def names(self) -> list[str]:
        """The members' names, in the order of the columns of `data`."""
        return [member.name for member in self.members]

    @property
    def sides(self) -> dict[str, int]:
        """The image inputs of all members, each with the first row that it reads in a tensor file."""
        return {side: first for member in self.members for side, first in member.plan.sides.items()}

    @property
    def disclosure(self) -> Disclosure:
        """The facts to disclose on every figure: those of all members, each once."""
        return Disclosure.together(member.plan.disclosure for member in self.members)

    def score(self, probabilities: Floats, metric: str | None = None) -> float:
        """Score out-of-fold probabilities, float (n,), by the objective or another metric."""
        return self.data.saying(probabilities).score(metric or self.objective.name)

    @property
    def best_member(self) -> int:
        """The index of the member with the best out-of-fold score, the first of equal ones."""
        return int(np.nanargmax([self._sign * self.score(column) for column in self.data.probabilities.T]))

    @property
    def best_method(self) -> str:
        """The method with the best nested score."""
        return max(self.ensembles, key=lambda name: self._sign * self.ensembles[name].nested.value)

    @property
    def _sign(self) -> int:
        return 1 if self.objective.direction == "maximize" else -1

    def verdict(self, method: str, settings: int) -> Verdict:
        """Compare a method's ensemble with the best member on nested out-of-fold predictions.

        `settings` is the number of methods that this one is the best of.
        """
        chosen, best, data = self.ensembles[method], self.best_member, self.data
        names = f"the ensemble ({method}, nested)", f"its best member ({self.names[best]})"
        arrays = data.labels, chosen.probabilities, data.probabilities[:, best], data.folds, data.groups
        return verdict(self.objective, *arrays, names=names, compared=settings)

    def test_verdict(self, labels: Ints, probabilities: Floats) -> Verdict:
        """Compare an ensemble with the best member on the test set: labels int (m,), probabilities float (m,)."""
        best = self.members[self.best_member]
        names = "the ensemble", f"its best member ({best.name})"
        groups = self.patch_set.test.patient_ids
        return verdict(self.objective, labels, probabilities, best.test, None, groups, names=names)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The table of methods as header and rows: nested score, optimistic score, weights, note."""
        header = ["method", f"nested {self.objective.name}", "where chosen (optimistic)", "weights", "note"]
        rows = []
        for method, one in self.ensembles.items():
            combiner = one.combiner
            weights = combiner.arrays["weights"] if combiner.kind == "weights" else ()
            spelled = " ".join(f"{value:.2f}" for value in weights) or "-"
            rows.append([method, f"{one.nested}", f"{one.chosen_on:.3f}", spelled, combiner.note or "-"])
        return header, rows


def fit_methods(
    task: str,
    members: Sequence[Member],
    objective: Objective,
    folds: Ints,
    seed: int,
    methods: Mapping[str, Method],
) -> FittedMethods:
    """Fit every one of `methods` on the members' out-of-fold predictions; `folds` int (n,) are the members' own.

    Raises `UserError` where they cannot be fitted: one class, one fold, too few patients of a class.
    """
    train = members[0].plan.patch_set.train
    probabilities = np.column_stack([member.out_of_fold for member in members])
    try:
        data = OutOfFold(
            labels=targets(train.types, task),
            probabilities=probabilities,
            folds=folds,
            groups=train.patient_ids,
            lesions=train.lesions,
        )
        ensembles = fit_ensembles(data, objective, seed=seed, known=methods)
    except UserError as problem:
        raise UserError(f"{task}: {problem}") from None
    return FittedMethods(task=task, members=members, objective=objective, data=data, ensembles=ensembles)
