"""Make Optuna pruners by name; they stop a trial whose first folds score badly, a fold being a step."""

from __future__ import annotations

import warnings

import optuna

from mammo_mlflow.errors import UserError, expected, unknown_name

PRUNERS = ("auto", "median", "percentile", "percentile=P", "wilcoxon", "none")
STARTUP_TRIALS = 4
"""Complete trials before any trial is pruned."""

AUTO = "percentile=66"
"""The pruner `auto` for one objective, under which two thirds of the trials go on.

In simulated studies of 24 trials on 4 folds, most of the space plainly bad, it saved 42 % of the folds and kept the
best trial in each of 240. The median saved 49 % and stopped the best trial in 6 % of them: it stops half of all trials,
and once most of those complete are good ones it tells these apart by the luck of one fold. Waiting for a second fold
before any is stopped saved 22 %.
"""

SHORT = {"median": "percentile=50", "percentile": "percentile=25"}
WILCOXON_FOLDS = 6
WILCOXON_P = 0.1


def make_pruner(name: str, objectives: int, folds: int) -> optuna.pruners.BasePruner | None:
    """Make the Optuna pruner of a name; None where trials are not pruned.

    `median` and `percentile` (25, or `percentile=P`) compare the running value after each fold with that of the
    complete trials after as many folds: a trial goes on while it would be among their best P per cent. `wilcoxon`
    (from 6 folds on) tests each fold's value against the best trial's (Wilcoxon signed-rank, p < 0.1). `auto` is
    `percentile=66` for one objective, none for two. Raises `UserError`.
    """
    wanted = SHORT.get(name, name) if name != "auto" else AUTO if objectives == 1 else "none"
    kind, separator, argument = wanted.partition("=")
    if kind not in ("percentile", "wilcoxon", "none") or (separator and kind != "percentile"):
        raise unknown_name("pruner", name, PRUNERS)
    if kind == "none":
        return None
    if objectives > 1:
        raise expected("pruner", "none with two objectives", f"'{name}'")
    if kind == "wilcoxon":
        if folds < WILCOXON_FOLDS:
            raise UserError(f"pruner: expected at least {WILCOXON_FOLDS} folds for wilcoxon, found {folds}")
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            return optuna.pruners.WilcoxonPruner(p_threshold=WILCOXON_P, n_startup_steps=2)
    try:
        percentile = float(argument)
    except ValueError:
        percentile = 0.0
    if not 0 < percentile < 100:
        raise expected("pruner", "'percentile=' and a number in (0, 100)", f"'{name}'")
    return optuna.pruners.PercentilePruner(percentile, n_startup_trials=STARTUP_TRIALS, n_min_trials=STARTUP_TRIALS)


def over_folds(pruner: optuna.pruners.BasePruner | None) -> bool:
    """Whether a pruner compares values of single folds, instead of values over all folds so far."""
    return isinstance(pruner, optuna.pruners.WilcoxonPruner)
