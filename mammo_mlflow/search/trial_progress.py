"""The state of a running trial: its repeats, the fits that are done, running and waiting, and how it will end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import optuna
from optuna.trial import TrialState

from mammo_mlflow.evaluation.objectives import Objective
from mammo_mlflow.jobs.contracts import FitResult
from mammo_mlflow.planning.plan import Fit, Plan
from mammo_mlflow.search.pruning import over_folds
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.training.cross_validation import CrossValidation, collect
from mammo_mlflow.training.fit_runs import FitRuns

Ending = tuple[TrialState, str]
"""The state in which a trial ends, and the reason where it is not complete, else ""."""
Pruned = Callable[[optuna.Trial], bool]
"""Says whether a trial is to be pruned after what it has reported."""


@dataclass(kw_only=True)
class Repeat:
    """A cross-validation of a trial, under one seed: its plan, its run, the runs of its fits, their results by name."""

    plan: Plan
    run: TrackedRun
    runs: FitRuns
    results: dict[str, FitResult]

    def collect(self, folds: Sequence[Fit] | None = None) -> CrossValidation:
        """Gather the cross-validation of some folds, by default of all that are done."""
        results = self.results if folds is None else {fit.name: self.results[fit.name] for fit in folds}
        return collect(self.plan, self.run, results)


class Fold(NamedTuple):
    """A fold of a trial: which repeat it belongs to, and its fit."""

    repeat: Repeat
    fit: Fit

    @property
    def done(self) -> bool:
        """Whether the fold's result is there."""
        return self.fit.name in self.repeat.results


@dataclass(kw_only=True)
class TrialProgress:
    """A running trial: Optuna's trial, its run, and its repeats, usually one, whose run is the trial's.

    `waiting`: folds to be trained; `running`: how many are; `ending`: None until it is known how the trial ends.
    """

    trial: optuna.Trial
    run: TrackedRun
    repeats: list[Repeat]
    waiting: deque[Fold] = field(default_factory=deque)
    running: int = 0
    ending: Ending | None = None
    reported: float = float("nan")
    """The last value that was reported to the pruner, which is the value of a pruned trial."""
    _steps: int = 0

    @property
    def folds(self) -> list[Fold]:
        """The folds of all repeats, in order."""
        return [Fold(one, fit) for one in self.repeats for fit in one.plan.fits if fit.fold is not None]

    def collect(self) -> list[CrossValidation]:
        """Gather the cross-validations of the repeats that have a fold."""
        return [repeat.collect() for repeat in self.repeats if repeat.results]

    def values(self, objectives: Sequence[Objective], folds: Sequence[Fold] | None = None) -> list[float]:
        """The value of each objective, the mean over repeats, on some of the folds, by default on all that are done."""
        chosen = [fold for fold in self.folds if fold.done] if folds is None else folds
        rows = []
        for repeat in self.repeats:
            own = [fold.fit for fold in chosen if fold.repeat is repeat]
            if own:
                cv = repeat.collect(own)
                seconds = sum(result.seconds for result in cv.results.values())
                rows.append([objective.value(cv.predictions, seconds) for objective in objectives])
        return [float(value) for value in np.mean(rows, axis=0)]

    def report(
        self, objectives: Sequence[Objective], pruner: optuna.pruners.BasePruner | None, is_pruned: Pruned
    ) -> None:
        """Report finished folds to the pruner, in order, and set `ending` once it is known how the trial ends.

        A step is the number of folds that are done. A pruned trial, one with all folds, and one with an undefined
        objective end.
        """
        folds = self.folds
        while self.ending is None and self._steps < len(folds) and folds[self._steps].done:
            self._steps += 1
            if pruner is None:
                continue
            done = folds[self._steps - 1 : self._steps] if over_folds(pruner) else folds[: self._steps]
            value = self.values(objectives[:1], done)[0]
            if value != value:
                continue
            self.reported = value
            told = self.trial.study.get_trials(deepcopy=False)[self.trial.number].intermediate_values
            if self._steps not in told:
                self.trial.report(value, self._steps)
            if self.waiting and is_pruned(self.trial):  # where every fold is under way, there is none to save
                last = f"fold {self._steps} of {len(folds)}"
                self.ending = TrialState.PRUNED, f"pruned after {last}: {objectives[0].name} {value:.4f} so far"
        if self.ending is None and all(fold.done for fold in folds):
            missing = [o.name for o, v in zip(objectives, self.values(objectives), strict=True) if v != v]
            undefined = TrialState.FAIL, f"{', '.join(missing)}: undefined on these folds"
            self.ending = undefined if missing else (TrialState.COMPLETE, "")
