"""All uses of Optuna's private names, for which Optuna has no public ones, a function or class each.

`tests/search/test_optuna_private.py` has a test of each, to be read first where a new version of Optuna breaks one.
"""

from __future__ import annotations

from collections.abc import Container

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from mammo_mlflow.checks import Value


class StudyWithoutPaperTrial(optuna.Study):
    """A study that hides its first trial, the paper's setting, while that trial lacks a parameter of all others.

    The trial lacks a parameter where the paper's value lies outside the search space. A sampler that models only the
    parameters that all complete trials share would then never model that parameter.
    """

    def __init__(self, study: optuna.Study) -> None:
        super().__init__(study.study_name, study._storage)

    def _get_trials(  # samplers read a study's trials by this method, which the public one calls too
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        names = [trial.params.keys() for trial in trials if trial.number and trial.state == TrialState.COMPLETE]
        shared = set(names[0]).intersection(*names[1:]) if names else set()
        return [trial for trial in trials if trial.number or shared <= trial.params.keys()]


def resume_trial(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """Make a handle on a trial that another process began, to set the trial's attributes and parameters."""
    return optuna.Trial(study, trial._trial_id)


def store_parameter(trial: optuna.Trial, name: str, value: Value, distribution: BaseDistribution) -> None:
    """Store the value of a trial's parameter without asking the study's sampler for one."""
    trial.storage.set_trial_param(trial._trial_id, name, distribution.to_internal_repr(value), distribution)


def can_give(distribution: BaseDistribution, value: Value) -> bool:
    """Whether a distribution contains this value; False, too, for a value of another type."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def enqueued_parameters(trial: FrozenTrial) -> dict[str, Value]:
    """The parameters that a trial was enqueued with (`Study.enqueue_trial`); empty where it was not enqueued."""
    return dict(trial.system_attrs.get("fixed_params", {}))
