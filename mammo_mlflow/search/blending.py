"""Blend weights of an ensemble's members, searched by an Optuna study in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optuna
from optuna.samplers import TPESampler

TRIALS = 100
"""Trials that TPE draws, beside those that the study starts from."""


def study_weights(members: int, gain: Callable[[np.ndarray], float], seed: int = 0) -> tuple[np.ndarray, int]:
    """Search blend weights with the largest `gain`, float64 (m,) in [0, 1]; return them and the number tried.

    `gain`: a number to maximise, of weights float64 (m,); NaN or infinite where it is undefined. `members`: m. The
    study starts from each member alone and from equal weights, so that it ends no worse than these; TPE draws the rest.
    Equal weights where no gain is defined.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = [f"weight_{number}" for number in range(members)]
    study = optuna.create_study(direction="maximize", sampler=TPESampler(seed=seed))
    for start in (*np.eye(members), np.ones(members)):
        study.enqueue_trial(dict(zip(names, map(float, start), strict=True)))

    def objective(trial: optuna.Trial) -> float:
        weights = np.array([trial.suggest_float(name, 0.0, 1.0) for name in names])
        found = gain(weights) if weights.any() else -np.inf
        if not np.isfinite(found):
            raise optuna.TrialPruned
        return found

    study.optimize(objective, n_trials=TRIALS + members + 1)
    done = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    best = study.best_trial.params if done else dict.fromkeys(names, 1.0)
    return np.array([best[name] for name in names]), len(study.trials)
