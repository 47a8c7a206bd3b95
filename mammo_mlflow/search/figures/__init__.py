"""Figures of a study, each a matplotlib `Figure` without pyplot's global state.

They are drawn from the trials, not by Optuna, whose own matplotlib figures change pyplot's style for the whole
process, and are hard to read where parameters are conditional or names long.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from matplotlib.figure import Figure

from mammo_mlflow.search.figures.finished import finished_trials
from mammo_mlflow.search.figures.parameters import importance_shares, importances, parallel_coordinates, slices
from mammo_mlflow.search.figures.trials import history, pareto

__all__ = ["study_figures"]


def study_figures(study: optuna.Study, objective_names: Sequence[str], note: str | None) -> dict[str, Figure]:
    """The figures of a study by name: `history`, `slices`, `parallel_coordinates`, `importances` and `pareto`.

    The first trial counts as the paper's setting. All but `pareto` show the first objective. There are none with
    fewer than two finished trials of finite values, no `slices` without a parameter that varies, no
    `parallel_coordinates` with fewer than two of these, no `importances` where all are 0, no `pareto` of one
    objective. `objective_names`: one for each of the study's directions; ValueError for another number of them. `note`
    is printed under each figure.
    """
    if len(objective_names) != len(study.directions):
        raise ValueError(f"objective_names: expected {len(study.directions)}, found {len(objective_names)}")
    finished = finished_trials(study, objective_names[0])
    if len(finished.trials) < 2:
        return {}
    figures = {"history": history(finished, note)}
    if finished.parameters:
        figures["slices"] = slices(finished, note)
    if len(finished.parameters) > 1:
        figures["parallel_coordinates"] = parallel_coordinates(finished, note)
        shares = importance_shares(finished)
        if shares:
            figures["importances"] = importances(finished, shares, note)
    if len(objective_names) == 2:
        figures["pareto"] = pareto(finished, objective_names[1], note)
    return figures
