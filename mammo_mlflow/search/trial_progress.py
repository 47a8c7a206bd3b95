"""The state of a running trial: its plan, the fits that are done, running and waiting, and how it will end."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import optuna
from optuna.trial import TrialState

from mammo_mlflow.evaluation.objectives import Objective
from mammo_mlflow.jobs.contracts import FitResult
from mammo_mlflow.planning.plan import Fit, Plan
from mammo_mlflow.search.pruning import over_folds
from mammo_mlflow.tracking.runs import TrackedRun
from mammo_mlflow.training.cross_validation import CrossValidation, collect
from mammo_mlflow.training.fit_runs import FitRuns

Ending = tuple[TrialState, str]
"""The state in which a trial ends, and the reason where it is not complete, else ""."""


@dataclass(kw_only=True)
class TrialProgress:
    """A running trial: Optuna's trial, its plan, its run, the runs of its fits and their results by name.

    `waiting`: fits to be trained; `running`: how many are; `ending`: None until it is known how the trial ends.
    """

    trial: optuna.Trial
    plan: Plan
    run: TrackedRun
    runs: FitRuns
    results: dict[str, FitResult]
    waiting: deque[Fit] = field(default_factory=deque)
    running: int = 0
    ending: Ending | None = None
    reported: float = float("nan")
    """The last value that was reported to the pruner, which is the value of a pruned trial."""
    _steps: int = 0

    def collect(self, folds: Sequence[Fit] | None = None) -> CrossValidation:
        """Gather the cross-validation of some of the trial's folds, by default of all that are done."""
        results = self.results if folds is None else {fit.name: self.results[fit.name] for fit in folds}
        return collect(self.plan, self.run, results)

    def values(self, objectives: Sequence[Objective], folds: Sequence[Fit] | None = None) -> list[float]:
        """The value of each objective on some of the trial's folds, by default on all that are done."""
        cv = self.collect(folds)
        seconds = sum(result.seconds for result in cv.results.values())
        return [objective.value(cv.predictions, seconds) for objective in objectives]

    def report(self, objectives: Sequence[Objective], pruner: optuna.pruners.BasePruner | None) -> None:
        """Report finished folds to the pruner, in order, and set `ending` once it is known how the trial ends.

        A step is the number of folds that are done. A pruned trial, one with all folds, and one with an undefined
        objective end.
        """
        folds = [fit for fit in self.plan.fits if fit.fold is not None]
        while self.ending is None and self._steps < len(folds) and folds[self._steps].name in self.results:
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
            if self.waiting and self.trial.should_prune():  # where every fold is under way, there is none to save
                last = f"fold {self._steps} of {len(folds)}"
                self.ending = TrialState.PRUNED, f"pruned after {last}: {objectives[0].name} {value:.4f} so far"
        if self.ending is None and all(fit.name in self.results for fit in folds):
            missing = [o.name for o, v in zip(objectives, self.values(objectives), strict=True) if v != v]
            undefined = TrialState.FAIL, f"{', '.join(missing)}: undefined on these folds"
            self.ending = undefined if missing else (TrialState.COMPLETE, "")
