"""The specification of a study, and the key by which a study is found to be continued."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import optuna

from mammo_mlflow.checks import Value
from mammo_mlflow.evaluation.objectives import Objective
from mammo_mlflow.experiment import parameters
from mammo_mlflow.files import json_sha256
from mammo_mlflow.planning.plan import Plan
from mammo_mlflow.search.parameters import SearchSpace

KEYED = ("dense_batch_norm", "holdout", "control")
"""Parameters that were added to families before studies had keys: they are in each key, also at their default."""
SEVERAL = "several backbones"
"""What stands for the backbone of a study whose trials draw it."""


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """Everything that defines a study: search space, first trial, objectives, sampler, pruner, limits.

    `base`: the values of an experiment before any is drawn; `paper`: those of the first trial, the paper's setting;
    `trials`: how many to run, None for no limit; `deadline`: the `time.monotonic()` after which no trial begins.
    `generation`: how many trials are drawn at once, 0 where each is drawn when there is room for it; `repeats`: how
    often each trial repeats its folds, under seeds in a row; `all_tails`: whether the tails of all trials are kept.
    """

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
    generation: int = 0
    repeats: int = 1
    all_tails: bool = False

    def settings(self, values: Mapping[str, Value]) -> list[dict[str, Value]]:
        """The values of each repeat of a trial with these values: the same but for the seed."""
        first = int(values.get("seed", self.seed))
        return [{**values, "seed": first + number} if number else dict(values) for number in range(self.repeats)]

    def key(self, paper: Plan, others: Iterable[Plan] = ()) -> str:
        """The key of the study, a sha256: of space, values, objectives, data, folds, weights, generation, repeats.

        A study is continued by whatever has the same key. Sampler, pruner and the number of trials are not in it and
        may change. `paper` is the plan of the first trial, `others` have the other networks that trials draw from.
        """
        later = {item.name: item.default for item in parameters() if item.metadata["added"]}
        base = {name: value for name, value in self.base.items() if name in KEYED or value != later.get(name)}
        facts = {
            "space": self.space.facts(),
            "base": base,
            "objectives": [objective.name for objective in self.objectives],
            "folds": [fit.key for fit in paper.fits if fit.fold is not None],
        }
        weights = {plan.experiment.model.backbone: plan.weights.identity for plan in others}
        facts |= {"weights": weights} if weights else {}
        facts |= {"generation": self.generation} if self.generation else {}
        facts |= {"repeats": self.repeats} if self.repeats > 1 else {}
        return json_sha256(facts)


def study_name(given: str, spec: StudySpec, paper: Plan, key: str, several: bool) -> str:
    """Make a study's name: `given`, or task, family, backbone, a mark of phantom data and the key's beginning.

    Where trials draw the backbone, it says so in its place.

    With `several` studies in a command, task, family and backbone follow the given name.
    """
    experiment = paper.experiment
    what = f"{experiment.task} {experiment.family} {SEVERAL if spec.space.backbones else experiment.model.backbone}"
    if given:
        return f"{given} {what}" if several else given
    return f"{what}{paper.disclosure.suffix} {key[:6]}"
