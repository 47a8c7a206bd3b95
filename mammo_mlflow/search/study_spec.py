"""What a study asks: data that says all it needs, and hashes to the key by which it is continued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import optuna

from mammo_mlflow.checks import Value
from mammo_mlflow.evaluation.objectives import Objective
from mammo_mlflow.experiment import parameters
from mammo_mlflow.files import json_sha256
from mammo_mlflow.planning.plan import Plan
from mammo_mlflow.search.parameters import SearchSpace

KEYED = ("dense_batch_norm", "holdout", "control")
"""The parameters added to families before studies had keys, which hold them whatever their value."""


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """One study. `base` are a trial's values before any is drawn, `paper` those of the first trial."""

    name: str = ""
    task: str
    space: SearchSpace
    base: Mapping[str, Value]
    paper: Mapping[str, Value]
    objectives: tuple[Objective, ...]
    sampler: str
    seed: int
    pruner: optuna.pruners.BasePruner | None = None
    trials: int | None = None
    deadline: float | None = None

    def key(self, paper: Plan) -> str:
        """What must be equal for a study to be continued: space, values, seed, objectives, data, folds and weights.

        Sampler, pruner and the number of trials may change. `paper` is the plan of the first trial.
        """
        later = {item.name: item.default for item in parameters() if item.metadata["added"]}
        base = {name: value for name, value in self.base.items() if name in KEYED or value != later.get(name)}
        facts = {
            "space": self.space.facts(),
            "base": base,
            "objectives": [objective.name for objective in self.objectives],
            "folds": [fit.key for fit in paper.fits if fit.fold is not None],
        }
        return json_sha256(facts)


def study_name(given: str, paper: Plan, key: str, several: bool) -> str:
    """A study's name: the given one, or one that tells what is searched, on phantom data saying so.

    Where a command has several studies, what is searched stands behind the given name.
    """
    experiment = paper.experiment
    what = f"{experiment.task} {experiment.family} {experiment.model.backbone}"
    if given:
        return f"{given} {what}" if several else given
    return f"{what}{paper.said.suffix} {key[:6]}"
