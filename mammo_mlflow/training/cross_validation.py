"""A whole cross-validation, in the coordinator: activations, fits in their processes, results into the tracker."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammo_mlflow.evaluation import figures
from mammo_mlflow.evaluation.intervals import bootstrap_fold_auc, bootstrap_scores, resampling_note
from mammo_mlflow.evaluation.metrics import RATES, mean_sd, scores
from mammo_mlflow.tracking.resume import fetch_artifacts, finished_runs
from mammo_mlflow.tracking.runs import TrackedRun
from mammo_mlflow.training.jobs import ActivationJob, Event, FitJob, FitResult, Job
from mammo_mlflow.training.plan import Fit, Plan
from mammo_mlflow.training.session import Session

FOLDER = "fit"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrossValidation:
    """A finished cross-validation: the fits by name, and one row a training abnormality in `oof`."""

    plan: Plan
    run: TrackedRun
    results: dict[str, FitResult]
    oof: pd.DataFrame
    fold_scores: pd.DataFrame


def ensure_activations(session: Session, plan: Plan) -> dict[str, Path]:
    """The activation files of a plan, by key, made where they are missing, the deeper from the shallower."""
    paths: dict[str, Path] = {}
    source: ActivationJob | None = None
    for entry in plan.activations():
        job = ActivationJob(
            plan.network,
            plan.weights,
            plan.patch_set.directory / "train_tensor.npy",
            entry.cut,
            plan.experiment.training.views,
            plan.experiment.training.augmentation,
            session.cores,
            Path(),
        )
        found = session.cache.find(entry.key)
        if found is None:
            session.cache.make_room(entry.bytes)
            with session.cache.creating(entry.key, {"cut": entry.cut, "name": plan.name}) as target:
                if target is not None:
                    if source is not None:
                        job = replace(job, start=source.cut.index, source=source.target)
                    name = f"{plan.experiment.model.backbone} activations"
                    session.run_one(name, "mammo_mlflow.training.activations:compute", replace(job, target=target))
            found = session.cache.find(entry.key)
            if found is None:
                raise RuntimeError(f"the cache entry {entry.key[:12]} vanished")
        paths[entry.key] = found
        source = replace(job, target=found)
    return paths


def cross_validate(session: Session, plan: Plan, run: TrackedRun) -> CrossValidation:
    """Train every fit of the plan that is not finished yet, as nested runs of `run`, and log what they give."""
    results = _reuse(session, plan, run) if session.resume else {}
    missing = [fit for fit in plan.fits if fit.name not in results]
    if missing:
        results |= _train(session, plan, run, missing, ensure_activations(session, plan), results)
        session.cache.release()
    oof = _out_of_fold(plan, results)
    fold_scores = _fold_scores(plan, oof, results)
    _log_cross_validation(session, plan, run, results, oof, fold_scores)
    return CrossValidation(plan, run, results, oof, fold_scores)


def _train(
    session: Session,
    plan: Plan,
    parent: TrackedRun,
    fits: list[Fit],
    activations: dict[str, Path],
    reused: dict[str, FitResult],
) -> dict[str, FitResult]:
    entries = plan.activations()
    training = plan.experiment.training
    label = f"{plan.experiment.model.backbone} "
    by_name = {fit.name: fit for fit in fits}
    runs: dict[str, TrackedRun] = {}
    jobs = []
    for fit in fits:
        head_epochs, tuning_epochs = fit_epochs(plan, fit)
        output = session.scratch / fit.key
        output.mkdir(parents=True, exist_ok=True)
        argument = FitJob(
            plan.experiment,
            plan.network,
            plan.weights,
            plan.patch_set.directory / "train_tensor.npy",
            plan.labels,
            fit.train_rows,
            fit.validation_rows,
            fit.inner_rows,
            head_epochs,
            tuning_epochs,
            fit.seed,
            plan.description,
            output,
            activations[entries[-1].key] if entries else None,
            activations[entries[0].key] if len(entries) > 1 else None,
        )
        jobs.append((fit, Job(label + fit.name, "mammo_mlflow.training.fit:run", argument)))
    # the refit's length may depend on where the folds stopped, so it then waits for them
    waves = [jobs]
    if training.early_stop:
        waves = [[j for j in jobs if j[0].fold is not None], [j for j in jobs if j[0].fold is None]]
    results: dict[str, FitResult] = {}

    def on_event(job: Job, event: Event) -> None:
        name = job.name.removeprefix(label)
        if name not in runs:
            runs[name] = _start(session, plan, parent, by_name[name])
        session.progress.update(job.name, min(event["epoch"], job.argument.total_epochs - 1), job.argument.total_epochs)
        runs[name].log_metrics(event["figures"], event["epoch"], event["time"])

    for wave in waves:
        batch = [job if fit.fold is not None else _with_stop(plan, job, reused | results) for fit, job in wave]
        for job, result in session.run(batch, on_event):
            name = job.name.removeprefix(label)
            session.progress.update(job.name, job.argument.total_epochs, job.argument.total_epochs)
            results[name] = result
            _log_fit(runs[name], plan, by_name[name], result)
            session.writer.flush()
    return results


def fit_epochs(plan: Plan, fit: Fit) -> tuple[int, int]:
    """Epochs of the head and of fine tuning, before any early stop."""
    training, final = plan.experiment.training, plan.experiment.final
    head = final.final_epochs or training.epochs if fit.fold is None else training.epochs
    return head, training.tuning_epochs


def _with_stop(plan: Plan, job: Job, results: dict[str, FitResult]) -> Job:
    """The refit runs for the preset's number of epochs, or for the median of the epochs at which the folds stopped."""
    if not plan.experiment.training.early_stop or plan.experiment.final.final_epochs:
        return job
    stops = [result.best_epochs for result in results.values()]
    if not stops:
        return job
    changes = {"epochs": int(np.median([stop["head"] for stop in stops]))}
    if "tuned" in stops[0]:
        changes["tuning_epochs"] = int(np.median([stop["tuned"] for stop in stops]))
    return replace(job, argument=replace(job.argument, **changes))


def _start(session: Session, plan: Plan, parent: TrackedRun, fit: Fit, **tags: str) -> TrackedRun:
    run = session.writer.start_run(
        f"{plan.name} {fit.name}",
        parent=parent,
        tags={**plan.tags(), "mammo.fit": fit.name, "mammo.key": fit.key, "mammo.cv_run_id": parent.id, **tags},
        params={**plan.experiment.flat(), "fold": fit.name},
    )
    plan_dataset(plan, run, "training")
    return run


def plan_dataset(plan: Plan, run: TrackedRun, context: str) -> None:
    """Log the plan's data as the run's MLflow dataset."""
    patch_set = plan.patch_set
    run.log_dataset(
        name="phantom" if patch_set.phantom else patch_set.directory.name,
        digest=patch_set.test_sha256 if context == "test" else patch_set.train_sha256,
        source=json.dumps({"uri": str(patch_set.directory)}),
        profile=json.dumps(patch_set.describe(), default=str),
        context=context,
    )


def _log_fit(run: TrackedRun, plan: Plan, fit: Fit, result: FitResult) -> None:
    folder = result.tail.parent
    labels = plan.labels[fit.validation_rows].astype(int)
    if len(labels):
        found = scores(labels, result.probabilities)
        # not under their plain names: `accuracy` is that of each training epoch
        run.log_metrics({f"fold_{name}": found[name] for name in RATES})
        pd.DataFrame({"patch": fit.validation_rows, "label": labels, "probability": result.probabilities}).to_parquet(
            folder / "predictions.parquet"
        )
    run.log_metrics(
        {
            "seconds": result.seconds,
            "training_seconds": result.training_seconds,
            "peak_memory_mb": result.peak_memory / 2**20,
        }
    )
    facts = {
        "history": result.history,
        "best_epochs": result.best_epochs,
        "seconds": result.seconds,
        "training_seconds": result.training_seconds,
        "peak_memory": result.peak_memory,
    }
    (folder / "fit.json").write_text(json.dumps(facts))
    for path in sorted(folder.iterdir()):
        run.log_file(path, FOLDER)
    run.finish()


def _reuse(session: Session, plan: Plan, parent: TrackedRun) -> dict[str, FitResult]:
    """The fits that an earlier command finished, shown again as nested runs of this one."""
    writer = session.writer
    found = writer.ask(lambda: finished_runs(writer.client, [fit.key for fit in plan.fits]))
    results = {}
    for fit in plan.fits:
        if fit.key not in found:
            continue
        result = _fetch(session, found[fit.key], fit)
        if result is None:
            _log.warning("%s: the files of %s are gone from the store; it is trained again", plan.name, fit.name)
            continue
        run = _start(session, plan, parent, fit, **{"mammo.reused_from": found[fit.key]})
        for row in result.history:
            run.log_metrics({k: float(v) for k, v in row.items() if k not in ("stage", "epoch")}, int(row["epoch"]))
        _log_fit(run, plan, fit, result)
        results[fit.name] = result
    if results:
        _log.info("%s: %d of %d fits were finished before and are reused", plan.name, len(results), len(plan.fits))
    return results


def _fetch(session: Session, run_id: str, fit: Fit) -> FitResult | None:
    writer, target = session.writer, session.scratch / f"reused-{fit.key}"
    folder = writer.ask(lambda: fetch_artifacts(writer.client, run_id, FOLDER, target))
    try:
        if folder is None:
            return None
        facts = json.loads((folder / "fit.json").read_text())
        probabilities = np.zeros(0)
        if len(fit.validation_rows):
            stored = pd.read_parquet(folder / "predictions.parquet")
            if not np.array_equal(stored["patch"], fit.validation_rows):
                return None
            probabilities = stored["probability"].to_numpy()
    except (OSError, ValueError):
        return None
    tail = folder / "tail.keras"
    return FitResult(probabilities, tail=tail, reused_from=run_id, **facts) if tail.exists() else None


def _out_of_fold(plan: Plan, results: dict[str, FitResult]) -> pd.DataFrame:
    frame = plan.folds_frame()
    frame["label"] = plan.labels.astype(int)
    frame["probability"] = np.nan
    for fit in plan.fits:
        if fit.fold is not None:
            frame.loc[fit.validation_rows, "probability"] = results[fit.name].probabilities
    return frame


def _fold_scores(plan: Plan, oof: pd.DataFrame, results: dict[str, FitResult]) -> pd.DataFrame:
    rows = []
    for fit in plan.fits:
        if fit.fold is not None:
            part = oof.loc[fit.validation_rows]
            found = scores(part["label"].to_numpy(), part["probability"].to_numpy())
            rows.append(
                {
                    "backbone": plan.experiment.model.backbone,
                    "fold": fit.fold + 1,
                    **{name: found[name] for name in RATES},
                }
            )
    return pd.DataFrame(rows)


def _log_cross_validation(
    session: Session,
    plan: Plan,
    run: TrackedRun,
    results: dict[str, FitResult],
    oof: pd.DataFrame,
    fold_scores: pd.DataFrame,
) -> None:
    labels, probabilities = oof["label"].to_numpy(), oof["probability"].to_numpy()
    groups = plan.patch_set.train.patient_ids
    for name in RATES:
        mean, sd = mean_sd(fold_scores[name])
        run.log_metrics({f"fold_{name}_mean": mean, f"fold_{name}_sd": sd})
    pooled = bootstrap_scores(labels, probabilities, groups=groups)
    auc = bootstrap_fold_auc(oof["fold"].to_numpy(), labels, probabilities, groups=groups)
    estimates = {f"oof_{name}": pooled[name] for name in RATES if name != "roc_auc"} | {
        "oof_roc_auc": auc,
        "oof_pooled_roc_auc": pooled["roc_auc"],
    }
    for name, estimate in estimates.items():
        run.log_metrics({name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high})
    run.set_tags({"mammo.intervals": resampling_note(groups), "mammo.oof_patches": len(oof)})
    run.log_metrics(
        {
            "peak_memory_mb": max(result.peak_memory for result in results.values()) / 2**20,
            "fit_seconds": sum(result.seconds for result in results.values()),
        }
    )
    folder = session.scratch / f"cv-{run.id}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (("oof", oof), ("folds", plan.folds_frame())):
        frame.to_parquet(folder / f"{name}.parquet")
        run.log_file(folder / f"{name}.parquet")
    folds = {fit.name: pd.DataFrame(results[fit.name].history) for fit in plan.fits if fit.fold is not None}
    run.log_figure(figures.training_curves(folds, f"{plan.name}: folds", plan.note), "figures/folds.png")
    run.log_figure(
        figures.roc_curves(_fold_curves(plan, oof), f"{plan.name}: folds", plan.note), "figures/roc_folds.png"
    )
    run.log_figure(
        figures.calibration(labels, probabilities, f"{plan.name}: out of fold", plan.note),
        "figures/calibration_oof.png",
    )


def _fold_curves(plan: Plan, oof: pd.DataFrame) -> dict[str, Any]:
    patients = plan.patch_set.train.patient_ids
    return {
        fit.name: (
            oof.loc[fit.validation_rows, "label"].to_numpy(),
            oof.loc[fit.validation_rows, "probability"].to_numpy(),
            None if patients is None else patients[fit.validation_rows],
        )
        for fit in plan.fits
        if fit.fold is not None
    }
