"""A trial while it is worked on: its fits, what they gave, and how it is going to end."""

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
"""How a trial ends, and where it is not complete why."""


@dataclass(kw_only=True)
class TrialProgress:
    """A trial of Optuna, its plan, its run and those of its fits. `ending` is its state to be, with the reason."""

    trial: optuna.Trial
    plan: Plan
    run: TrackedRun
    runs: FitRuns
    results: dict[str, FitResult]
    waiting: deque[Fit] = field(default_factory=deque)
    running: int = 0
    ending: Ending | None = None
    reported: float = float("nan")
    """The last value that the pruner was told: that of a pruned trial."""
    _steps: int = 0

    def collect(self, folds: Sequence[Fit] | None = None) -> CrossValidation:
        """The cross-validation of these folds, or of all that are done so far."""
        results = self.results if folds is None else {fit.name: self.results[fit.name] for fit in folds}
        return collect(self.plan, self.run, results)

    def values(self, objectives: Sequence[Objective], folds: Sequence[Fit] | None = None) -> list[float]:
        """The objectives over these folds, or over all that are done so far."""
        cv = self.collect(folds)
        seconds = sum(result.seconds for result in cv.results.values())
        return [objective.value(cv.predictions, seconds) for objective in objectives]

    def report(self, objectives: Sequence[Objective], pruner: optuna.pruners.BasePruner | None) -> None:
        """Tell the study each step, the number of folds done in order, and settle the ending where it can be."""
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
