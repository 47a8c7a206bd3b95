"""The command `ensemble`: join registered models into one, chosen on out-of-fold predictions, tested once."""

from __future__ import annotations

from functools import partial

from mammo_mlflow import checks
from mammo_mlflow.commands.ensemble import EnsembleOptions
from mammo_mlflow.commands.shared import same_data
from mammo_mlflow.ensembles.blend_weights import optimised
from mammo_mlflow.ensembles.fitted_methods import FittedMethods, fit_methods
from mammo_mlflow.ensembles.members import find_members
from mammo_mlflow.ensembles.methods import METHODS, weights_method
from mammo_mlflow.ensembles.nested import Method
from mammo_mlflow.ensembles.registered_ensemble import BEST, EnsembleSpec, MadeEnsemble, make_ensemble
from mammo_mlflow.evaluation.intervals import cluster_note
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.thresholds import parse_policy
from mammo_mlflow.experiment import CrossValidationSpec
from mammo_mlflow.jobs.devices import USUAL, computed_on
from mammo_mlflow.search.blending import study_weights
from mammo_mlflow.terminal import say, show_table
from mammo_mlflow.workflows.workbench import open_workbench

EVERY_METHOD: dict[str, Method] = {**METHODS, "optuna": weights_method(partial(optimised, optimiser=study_weights))}
"""The methods by name; the one by Optuna is put together here, since the rooms do not know one another."""
CHOICES = (BEST, *EVERY_METHOD)
"""What `method` may be."""


def run(options: EnsembleOptions) -> str:
    """Run `ensemble`: make, judge and register one; return its run's id.

    Raises `UserError`, where possible before any run exists.
    """
    task, asked = options.task, options.settings
    checks.one_of(*CHOICES)("method", asked.method)
    (objective,) = parse_objectives(asked.objective)
    parse_policy(asked.threshold)
    cv = CrossValidationSpec(folds=asked.folds, seed=asked.seed)
    with open_workbench(options, 1) as (bench, planner):
        folds = planner.folds(cv, task)
        members = find_members(bench, planner, task, asked.members, cv, folds, partial(same_data, options))
        fitted = fit_methods(task, members, objective, folds, asked.seed, EVERY_METHOD)
        made = make_ensemble(bench, fitted, EnsembleSpec(**asked.model_dump()))
        _show(fitted, made, of_all=asked.method == BEST)
    return made.final.run_id


def _show(fitted: FittedMethods, made: MadeEnsemble, of_all: bool) -> None:
    """Members, methods, what was registered and how it compares, on the terminal."""
    show_table(f"{fitted.task}: members{fitted.disclosure.title}", *members_table(fitted))
    show_table(f"{fitted.task}: ensembles of them, {cluster_note(fitted.data.groups)}", *fitted.table())
    picked = f", the best of {len(fitted.ensembles)} by its nested score, which that makes a little optimistic"
    say(f"registered: {made.method}{picked if of_all else ''}")
    say(made.verdict.sentence)
    say(f"On the test set, once: {made.final.comparison}")
    uri = f"models:/{made.final.registered_name}/{made.final.version}"
    say(f"serve:    python -m mammo_mlflow serve --model {uri}")


def members_table(fitted: FittedMethods) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the members: name, score alone, version, and their device where one's is not the usual."""
    header = ["member", f"out-of-fold {fitted.objective.name}", "version"]
    rows = [
        [member.name, f"{fitted.score(column):.3f}", str(member.base_model.version)]
        for member, column in zip(fitted.members, fitted.data.probabilities.T, strict=True)
    ]
    devices = [computed_on(member.base_model.version.tags) for member in fitted.members]
    if not any(devices):
        return header, rows
    return [*header, "trained on"], [[*row, device or USUAL] for row, device in zip(rows, devices, strict=True)]
