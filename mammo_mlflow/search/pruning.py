"""Pruners by name, over folds: a trial that its first folds show to be hopeless is not finished."""

from __future__ import annotations

import optuna

from mammo_mlflow.errors import UserError, expected, unknown_name

PRUNERS = ("auto", "median", "percentile", "percentile=P", "wilcoxon", "none")
STARTUP_TRIALS = 4
"""Complete trials before the first is pruned: the paper's setting is always one of them."""

WILCOXON_FOLDS = 6
WILCOXON_P = 0.1


def make_pruner(name: str, objectives: int, folds: int) -> optuna.pruners.BasePruner | None:
    """The pruner of that name; None where trials are not pruned.

    `median` and `percentile` (25, or `percentile=P`) compare the running value after each fold with that of the
    complete trials after as many folds. `wilcoxon` (from 6 folds on) tests each fold's value against the best trial's
    (Wilcoxon signed-rank, p < 0.1). `auto` is `median` for one objective, none for two. Raises `UserError`.
    """
    wanted = name if name != "auto" else "median" if objectives == 1 else "none"
    kind, separator, argument = wanted.partition("=")
    if kind not in ("median", "percentile", "wilcoxon", "none") or (separator and kind != "percentile"):
        raise unknown_name("pruner", name, PRUNERS)
    if kind == "none":
        return None
    if objectives > 1:
        raise expected("pruner", "none with two objectives", f"'{name}'")
    if kind == "wilcoxon":
        if folds < WILCOXON_FOLDS:
            raise UserError(f"pruner: expected at least {WILCOXON_FOLDS} folds for wilcoxon, found {folds}")
        return optuna.pruners.WilcoxonPruner(p_threshold=WILCOXON_P, n_startup_steps=2)
    percentile = 50.0
    if kind == "percentile":
        try:
            percentile = float(argument) if separator else 25.0
        except ValueError:
            percentile = 0.0
        if not 0 < percentile < 100:
            raise expected("pruner", "'percentile=' and a number in (0, 100)", f"'{name}'")
    return optuna.pruners.PercentilePruner(percentile, n_startup_trials=STARTUP_TRIALS, n_min_trials=STARTUP_TRIALS)


def over_folds(pruner: optuna.pruners.BasePruner | None) -> bool:
    """Whether it wants each fold's own value instead of the running one."""
    return isinstance(pruner, optuna.pruners.WilcoxonPruner)
