"""All uses of Optuna's private names, for which Optuna has no public ones, a function or class each.

`tests/search/test_optuna_private.py` has a test of each, to be read first where a new version of Optuna breaks one.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from copy import copy
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mammo_mlflow.checks import Value

DRAFT = -1
"""Stands for the id of a trial that is not stored yet."""


class ShownStudy(optuna.Study):
    """A study as a sampler or a pruner is shown it: with the trials of a list, which may be others than are stored.

    What a sampler notes of the trial that it draws, which is not stored yet, is kept in `noted`. With `common` the
    first trial, the paper's setting, is hidden where it lacks a parameter of all others, since the paper's value lies
    outside the search space: a sampler that models only what all trials have would then never model that parameter.
    """

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        self.shown = list(trials)
        self.common = False
        self.noted: dict[str, Any] = {}
        super().__init__(study.study_name, _ShownStorage(study._storage, self))  # type: ignore[arg-type]

    def _get_trials(  # samplers read a study's trials by this method, which the public one calls too
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        hidden = self.common and self._paper_lacks_one()
        return [
            trial
            for trial in self.shown
            if (states is None or trial.state in states) and not (hidden and trial.number == 0)
        ]

    def _paper_lacks_one(self) -> bool:
        done = [trial.params.keys() for trial in self.shown if trial.number and trial.state == TrialState.COMPLETE]
        return bool(done) and not set(done[0]).intersection(*done[1:]) <= self.shown[0].params.keys()


class _ShownStorage:
    """A study's storage, of which the trials that are shown are hidden, and the one that is drawn is not stored."""

    def __init__(self, storage: Any, study: ShownStudy) -> None:
        self._storage, self._study = storage, study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Note what a sampler wants to keep of a trial."""
        if trial_id == DRAFT:
            self._study.noted[key] = value
        else:
            self._storage.set_trial_system_attr(trial_id, key, value)

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """The best of the complete trials that are shown. Raises ValueError where there is none."""
        complete = [trial for trial in self._study.shown if trial.state == TrialState.COMPLETE]
        if not complete:
            raise ValueError("no trial is complete")
        sign = -1 if self._study.direction == StudyDirection.MAXIMIZE else 1
        return min(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def draft_trial(
    number: int,
    params: Mapping[str, Value] | None = None,
    distributions: Mapping[str, BaseDistribution] | None = None,
    user_attrs: Mapping[str, Any] | None = None,
    system_attrs: Mapping[str, Any] | None = None,
) -> FrozenTrial:
    """A running trial that is not stored yet."""
    return FrozenTrial(
        number=number,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params=dict(params or {}),
        distributions=dict(distributions or {}),
        user_attrs=dict(user_attrs or {}),
        system_attrs=dict(system_attrs or {}),
        intermediate_values={},
        trial_id=DRAFT,
    )


def as_drawn(trial: FrozenTrial) -> FrozenTrial:
    """A trial as it was when it had been drawn: running, without results."""
    drawn = copy(trial)
    drawn.state, drawn._values, drawn.intermediate_values, drawn.datetime_complete = TrialState.RUNNING, None, {}, None
    return drawn


def as_ended(trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> FrozenTrial:
    """A trial as it is going to be stored when it has ended."""
    ended = copy(trial)
    ended.state, ended._values = state, None if values is None else list(values)
    return ended


def store_trial(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """Store a new trial with its parameters and attributes at once, so that none is ever seen half drawn."""
    return optuna.Trial(study, study._storage.create_new_trial(study._study_id, trial))


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
