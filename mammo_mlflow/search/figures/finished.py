"""The finished trials of a study as arrays for figures, and the markers of the best trial and the paper's setting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import optuna
from matplotlib.axes import Axes
from optuna.distributions import CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mammo_mlflow.evaluation.figures.style import INK, colour
from mammo_mlflow.evaluation.weighted import Floats

PAPER = 0
"""The number of the trial that is the paper's setting."""

BEST_COLOUR, PAPER_COLOUR, TRIAL_COLOUR = colour(5), INK, colour(0)


@dataclass(frozen=True, kw_only=True)
class Varied:
    """A parameter of which the finished trials have more than one value, with its position on an axis in each trial.

    `log`: on a logarithmic axis; `whole`: its values are integers.
    """

    name: str
    choices: tuple[str, ...]
    """The labels of a categorical parameter at positions 0, 1, …; empty for a number."""
    log: bool
    whole: bool
    positions: Floats
    """float64 (trials,), NaN for the trials that do not have the parameter."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The finished trials of a study, with the values of its first objective, float64 (trials,)."""

    study: optuna.Study
    objective: str
    trials: list[FrozenTrial]
    values: Floats
    parameters: list[Varied]

    @property
    def maximize(self) -> bool:
        """Whether the first objective is maximised."""
        return self.study.directions[0] == StudyDirection.MAXIMIZE

    @property
    def best(self) -> int:
        """The index in `trials` of the best trial by the first objective; of equal ones the first."""
        return int(np.argmax(self.values) if self.maximize else np.argmin(self.values))

    @property
    def paper(self) -> int | None:
        """The index in `trials` of the paper's setting, None where it did not finish."""
        return next((index for index, trial in enumerate(self.trials) if trial.number == PAPER), None)

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """The numbers of the finished trials, int64 (trials,)."""
        return np.array([trial.number for trial in self.trials], dtype=np.int64)


def finished_trials(study: optuna.Study, objective: str) -> Finished:
    """Find the complete trials of a study with finite objectives; `objective` names the first objective."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    trials = [trial for trial in complete if np.isfinite(trial.values).all()]
    values = np.array([trial.values[0] for trial in trials], dtype=np.float64)
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    varying = [name for name in names if len({str(t.params[name]) for t in trials if name in t.params}) > 1]
    found = [_parameter(name, trials) for name in varying]
    return Finished(study=study, objective=objective, trials=trials, values=values, parameters=found)


def _parameter(name: str, trials: list[FrozenTrial]) -> Varied:
    """A parameter that varies over the trials."""
    having = [trial for trial in trials if name in trial.params]
    held = [trial.params[name] for trial in having]
    spread = [trial.distributions[name] for trial in having]
    offered = [choice for one in spread if isinstance(one, CategoricalDistribution) for choice in one.choices]
    choices = tuple(dict.fromkeys(map(str, (*offered, *held)))) if offered else ()
    shown = [choices.index(str(value)) for value in held] if choices else held
    positions = np.full(len(trials), np.nan)
    positions[[name in trial.params for trial in trials]] = shown
    log = not choices and any(getattr(one, "log", False) for one in spread)
    whole = all(isinstance(value, int) for value in held)
    return Varied(name=name, choices=choices, log=log, whole=whole, positions=positions)


def axis_label(objective: str, maximize: bool) -> str:
    """The label of an objective's axis, with the direction that is better."""
    return f"{objective} ({'higher' if maximize else 'lower'} is better)"


def mark(finished: Finished, axes: Axes, x: Floats, y: Floats) -> None:
    """Draw a star on the best trial and a diamond on the paper's setting; x and y: float64 (trials,)."""
    best, paper = finished.best, finished.paper
    label = f"best: trial {finished.trials[best].number}"
    axes.plot(x[best], y[best], "*", color=BEST_COLOUR, markersize=13, markeredgecolor="white", zorder=4, label=label)
    if paper is not None:
        (line,) = axes.plot(x[paper], y[paper], "D", color=PAPER_COLOUR, zorder=5, label="the paper's setting")
        line.set(markersize=6, markerfacecolor="none", markeredgewidth=1.5)
