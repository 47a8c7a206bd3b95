"""Figures of a study's trials: the history of the objective, and the Pareto front of two objectives."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.study import StudyDirection
from optuna.trial import TrialState

from mammo_mlflow.evaluation.figures.style import QUIET, SMALL_SIZE, joined, new_figure, tidy
from mammo_mlflow.search.figures.finished import BEST_COLOUR, PAPER_COLOUR, TRIAL_COLOUR, Finished, axis_label, mark


def history(finished: Finished, note: str | None) -> Figure:
    """The figure of the finished trials' values and the best so far, with pruned trials at their last reported one."""
    pruned = [
        (trial.number, trial.intermediate_values[trial.last_step])
        for trial in finished.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        if trial.last_step is not None and math.isfinite(trial.intermediate_values[trial.last_step])
    ]
    note = joined("pruned trials stand at their last running value" if pruned else None, note)
    figure = new_figure(8.4, 4.2, f"History of the study: {finished.objective}", note)
    axes = figure.subplots()
    tidy(axes, "trial", axis_label(finished.objective, finished.maximize))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    numbers, values = finished.numbers, finished.values
    running = (np.maximum if finished.maximize else np.minimum).accumulate(values)
    if pruned:
        axes.plot(*np.transpose(pruned), "x", color=QUIET, alpha=0.6, markersize=5, label="pruned")
    axes.step(numbers, running, where="post", color=BEST_COLOUR, linewidth=1.2, label="best so far")
    axes.plot(numbers, values, "o", color=TRIAL_COLOUR, markersize=4.5, alpha=0.8, markeredgewidth=0, label="finished")
    if finished.paper is not None:
        axes.axhline(values[finished.paper], color=PAPER_COLOUR, linewidth=0.8, linestyle=":")
    mark(finished, axes, numbers.astype(np.float64), values)
    figure.legend(loc="outside right center", frameon=False, fontsize=SMALL_SIZE)
    return figure


def pareto(finished: Finished, second: str, note: str | None) -> Figure:
    """The figure of the first objective over the second, with the front of trials that no other beats in both."""
    note = joined("front: no other trial is at least as good in both objectives and better in one", note)
    figure = new_figure(7.6, 4.6, f"Pareto front: {finished.objective} and {second}", note)
    axes = figure.subplots()
    maximize = finished.study.directions[1] == StudyDirection.MAXIMIZE
    tidy(axes, axis_label(second, maximize), axis_label(finished.objective, finished.maximize))
    x, y = np.array([trial.values[1] for trial in finished.trials]), finished.values
    best = {trial.number for trial in finished.study.best_trials}
    on = np.array([trial.number in best for trial in finished.trials])
    order = np.flatnonzero(on)[np.argsort(x[on], kind="stable")]
    axes.plot(x[~on], y[~on], "o", color=QUIET, alpha=0.5, markersize=4.5, markeredgewidth=0, label="finished")
    axes.plot(x[order], y[order], "o-", color=TRIAL_COLOUR, markersize=5.5, linewidth=1.0, label="front")
    free = (6 if maximize else -6, 5 if finished.maximize else -11)  # the side on which nothing is better
    for index in order:
        axes.annotate(
            str(finished.trials[index].number),
            (x[index], y[index]),
            xytext=free,
            textcoords="offset points",
            ha="left" if maximize else "right",
            fontsize=SMALL_SIZE,
            color=QUIET,
        )
    mark(finished, axes, x, y)
    axes.margins(0.07)
    figure.legend(loc="outside right center", frameon=False, fontsize=SMALL_SIZE)
    return figure
