"""Test-time augmentation of a cross-validation: the folds' predictions averaged over views of each scored patch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mammo_mlflow.experiment import FLIPS
from mammo_mlflow.jobs.contracts import FitResult, ViewsJob
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import Metric
from mammo_mlflow.planning.activations import ensure_activations, frozen_activations
from mammo_mlflow.planning.plan import Fit, Plan
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.training.fit_runs import FitRuns


def average_views(
    bench: Workbench, plan: Plan, runs: FitRuns, run: TrackedRun, results: Mapping[str, FitResult]
) -> dict[str, FitResult]:
    """Predict the validation rows of each fold in all views, as the plan's `tta` says; return the changed results.

    The seconds that it takes are logged on `run`. Without test-time augmentation nothing is changed.
    """
    if (tta := plan.experiment.final.tta) == "none":
        return {}
    started, folds = time.monotonic(), [fit for fit in plan.fits if fit.fold is not None]
    known = [results[fit.name].over_views for fit in folds] if tta == "views" else []
    answers = [found for found in known if found is not None]
    if len(answers) < len(folds):  # networks with trained convolutions, flips, fits of an earlier version
        answers = _predict_views(bench, plan, runs, folds, results)
    else:
        started -= sum(results[fit.name].views_seconds for fit in folds)
    run.log_metrics({Metric.TTA_SECONDS: time.monotonic() - started})
    return {
        fit.name: replace(results[fit.name], probabilities=found) for fit, found in zip(folds, answers, strict=True)
    }


def _predict_views(
    bench: Workbench, plan: Plan, runs: FitRuns, folds: list[Fit], results: Mapping[str, FitResult]
) -> list[np.ndarray]:
    """Predict the validation rows of each fold in all views in a worker process, which takes seconds to start."""
    tta = plan.experiment.final.tta
    if tta == "flips":
        features, tuned = frozen_activations(
            plan.experiment, plan.patch_set, plan.network, plan.weights, plan.description, plan.devices, flips=True
        )
        folds = [replace(fit, features=features, tuned=tuned) for fit in folds]
    entries = [entry for fit in folds for entry in (fit.tuned or fit.features).values()]
    files = ensure_activations(bench, entries)
    jobs = [runs.job(replace(fit, features={} if fit.tuned else fit.features), files) for fit in folds]
    answers = bench.run_one(
        ViewsJob(
            name=f"{plan.experiment.model.backbone} views",
            fits=tuple(jobs),
            tails=tuple(tail for fit in folds if (tail := results[fit.name].tail) is not None),
            views=len(FLIPS) - 1 if tta == "flips" else plan.experiment.training.views,
            threads=bench.cores,
        )
    )
    bench.cache.release()
    return answers
