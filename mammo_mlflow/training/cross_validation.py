"""Cross-validate an experiment: compute activations, train each fit in its process, log the results to MLflow."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import pandas as pd

from mammo_mlflow.answer_sets import AnswerLimits
from mammo_mlflow.data.patches import TASKS
from mammo_mlflow.estimate import log_estimates
from mammo_mlflow.evaluation.conformal import answer_limits, coverage_curve, out_of_fold_sets
from mammo_mlflow.evaluation.figures import answer_sets, calibration, recalibration, roc_curves, training_curves
from mammo_mlflow.evaluation.intervals import cluster_note, score_estimates
from mammo_mlflow.evaluation.metrics import RATES, mean_sd, scores
from mammo_mlflow.evaluation.out_of_fold import CALIBRATED, OutOfFold
from mammo_mlflow.evaluation.recalibration import before_and_after, cross_fitted
from mammo_mlflow.jobs.contracts import Event, FitJob, FitResult
from mammo_mlflow.jobs.failure import Failure
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import Artifact, Metric, Tag
from mammo_mlflow.planning.activations import ensure_activations
from mammo_mlflow.planning.plan import Fit, Plan
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.training.augmented import average_views
from mammo_mlflow.training.fit_runs import FitRuns

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """A finished cross-validation: the results of its fits by name, and the out-of-fold predictions.

    `oof` has a row for each training abnormality: patch, fold from 0, label, probability and, where they are known,
    patient_id and lesion; with recalibration, calibrated (`recalibration.cross_fitted`). `fold_scores` has a row for
    each fold, with its rates before that.
    """

    plan: Plan
    run: TrackedRun
    results: dict[str, FitResult]
    oof: pd.DataFrame
    fold_scores: pd.DataFrame

    @cached_property
    def predictions(self) -> OutOfFold:
        """The out-of-fold predictions, recalibrated where the experiment is, as checked arrays."""
        return OutOfFold.of_frame(self.oof)

    @cached_property
    def uncalibrated(self) -> OutOfFold:
        """The same as the folds' models made them."""
        return OutOfFold.of_frame(self.oof.drop(columns=CALIBRATED, errors="ignore"))

    @property
    def judged(self) -> OutOfFold:
        """The out-of-fold predictions that the threshold is chosen on: of patches or, by `unit`, of lesions."""
        by_lesion = self.predictions.by_lesion if self.plan.experiment.final.unit == "lesion" else None
        return by_lesion or self.predictions

    @cached_property
    def limits(self) -> AnswerLimits | None:
        """The limits of the registered model's answer sets, of all out-of-fold predictions; None without such sets."""
        coverage, said = self.plan.experiment.final.coverage, self.predictions
        return answer_limits(said.labels, said.probabilities, said.groups, coverage) if coverage else None


def cross_validate(
    bench: Workbench, plan: Plan, run: TrackedRun, label: str | None = None, figures: bool = True
) -> CrossValidation:
    """Train every unfinished fit of a plan, in runs nested in `run`, and log scores, predictions and figures.

    `label` stands before the folds where progress is shown; by default the backbone.
    """
    return cross_validate_together(bench, [(plan, run, label or plan.experiment.model.backbone)], figures)[0]


def cross_validate_together(
    bench: Workbench,
    several: Sequence[tuple[Plan, TrackedRun, str]],
    figures: bool = True,
    fold_tails: bool = True,
) -> list[CrossValidation]:
    """Cross-validate plans, each with its run and a label of its own, all of whose fits are handed out at once.

    Without `fold_tails` the tails of folds are neither needed nor kept, and there is no test-time augmentation.
    """
    begun = [
        _Begun(plan, run, FitRuns(bench, plan, run, f"{label} ", fold_tails=fold_tails)) for plan, run, label in several
    ]
    if bench.resume:
        for one in begun:
            one.results.update(one.runs.reuse())
    _train(bench, begun)
    if fold_tails:  # which trials of a study do without
        for one in begun:
            one.results.update(average_views(bench, one.plan, one.runs, one.run, one.results))
    made = [_recalibrated(collect(one.plan, one.run, one.results)) for one in begun]
    for cv in made:
        log_scores(cv)
        if figures:
            log_figures(cv)
    return made


def _recalibrated(cv: CrossValidation) -> CrossValidation:
    """The cross-validation with its out-of-fold predictions recalibrated, as its experiment says."""
    kind = cv.plan.experiment.final.calibrate
    if kind == "none":
        return cv
    return replace(cv, oof=cv.oof.assign(**{CALIBRATED: cross_fitted(kind, cv.uncalibrated)}))


@dataclass(frozen=True)
class _Begun:
    """A cross-validation that has begun: its plan and run, and the fits that are done."""

    plan: Plan
    run: TrackedRun
    runs: FitRuns
    results: dict[str, FitResult] = field(default_factory=dict)


def collect(plan: Plan, run: TrackedRun, results: dict[str, FitResult]) -> CrossValidation:
    """Gather out-of-fold predictions and scores of the folds in `results`, which may be only some of the plan's."""
    oof = plan.folds_frame()
    oof["label"], oof["probability"] = plan.labels.astype(int), np.nan
    if (lesions := plan.patch_set.train.lesions) is not None:
        oof["lesion"] = lesions
    for fit in plan.fits:
        if fit.name in results:
            oof.loc[fit.validation_rows, "probability"] = results[fit.name].probabilities
    oof, rows = oof.dropna(subset="probability"), []
    for fold, part in oof.groupby("fold"):
        found = scores(part["label"].to_numpy(), part["probability"].to_numpy())
        rows.append({"backbone": plan.experiment.label, "fold": fold + 1, **{name: found[name] for name in RATES}})
    return CrossValidation(plan=plan, run=run, results=results, oof=oof, fold_scores=pd.DataFrame(rows))


def _train(bench: Workbench, begun: Sequence[_Begun]) -> None:
    """Train the fits that are missing, of all cross-validations at once; refits whose length the folds decide last."""
    missing = [(one, fit) for one in begun for fit in one.plan.fits if fit.name not in one.results]
    if not missing:
        return
    activations = ensure_activations(bench, [entry for one, _ in missing for entry in one.plan.activations()])
    for wave in (False, True):
        chosen = [(one, fit) for one, fit in missing if _waits_for_folds(one.plan, fit) == wave]
        # those that are done count too, so that a program is the same whatever a command that was cut off has left
        sharing = Counter(fit.job.program for one in begun for fit in one.plan.fits)
        made = [(one, _with_stop(fit, one.runs.job(fit, activations), one.results)) for one, fit in chosen]
        made = [(one, replace(job, together=sharing[job.program])) for one, job in made]
        owners = {id(job): one for one, job in made}
        for job, result in bench.run([job for _, job in made], partial(_hand_on, owners), partial(_fail, owners)):
            one = owners[id(job)]
            one.runs.finish(job, result)
            one.results[one.runs.fit_of(job).name] = result
    bench.cache.release()


def _hand_on(owners: Mapping[int, _Begun], job: FitJob, event: Event) -> None:
    """Hand the event of a fit's job on to its cross-validation."""
    owners[id(job)].runs.on_event(job, event)


def _fail(owners: Mapping[int, _Begun], job: FitJob, failure: Failure) -> None:
    """End the run of a fit that failed, while the others go on."""
    _log.warning("%s failed: %s", job.name, failure.line)
    owners[id(job)].runs.fail(job, failure.line)


def _waits_for_folds(plan: Plan, fit: Fit) -> bool:
    """Whether the length of a fit, a refit, depends on where the folds stop."""
    return fit.fold is None and plan.experiment.training.early_stop > 0


def _with_stop(fit: Fit, job: FitJob, results: dict[str, FitResult]) -> FitJob:
    """A fit's job with its epochs: the refit's are the preset's, or the median of those at which the folds stopped."""
    experiment, stops = job.experiment, [result.best_epochs for result in results.values()]
    if fit.fold is not None or not stops or not experiment.training.early_stop or experiment.final.final_epochs:
        return job
    first = next(iter(stops[0]))
    medians = {stage: int(np.median([stop[stage] for stop in stops])) for stage in stops[0]}
    return replace(job, epochs=medians[first], tuning_epochs=medians.get("tuned", job.tuning_epochs))


def log_scores(cv: CrossValidation) -> None:
    """Log the folds' mean and deviation, out-of-fold estimates and predictions, and costs on a run."""
    plan, run, results, said, fold_scores = cv.plan, cv.run, cv.results, cv.predictions, cv.fold_scores
    for name in RATES:
        mean, sd = mean_sd(fold_scores[name])
        run.log_metrics({f"{Metric.FOLD}{name}_mean": mean, f"{Metric.FOLD}{name}_sd": sd})
    pooled = score_estimates(said.labels, said.probabilities, groups=said.groups)
    estimates = {f"{Metric.OOF}{name}": pooled[name] for name in RATES if name != "roc_auc"} | {
        Metric.OOF_ROC_AUC: said.estimate("roc_auc"),
        Metric.OOF_POOLED_ROC_AUC: pooled["roc_auc"],
    }
    if (by_lesion := said.by_lesion) is not None:
        estimates |= {f"{Metric.OOF_BY_LESION}{name}": one for name, one in by_lesion.estimates().items()}
    if CALIBRATED in cv.oof:  # which a trial's has not
        estimates |= before_and_after(cv.uncalibrated, said)
    if coverage := plan.experiment.final.coverage:
        estimates |= out_of_fold_sets(said, coverage)
    log_estimates(run, estimates, cluster_note(said.groups))
    run.set_tags({Tag.OOF_PATCHES: len(cv.oof)})
    run.log_metrics(
        {
            "peak_memory_mb": max(result.peak_memory for result in results.values()) / 2**20,
            Metric.FIT_SECONDS: sum(result.seconds for result in results.values()),
        }
    )
    run.log_table(cv.oof, Artifact.OOF)
    run.log_table(plan.folds_frame(), Artifact.FOLDS)


def log_repeats(run: TrackedRun, cvs: Sequence[CrossValidation]) -> None:
    """Log what repeats of a cross-validation, under several seeds, have in common on the run that they are nested in.

    The folds of a repeat follow those of the one before it in the tables; a patch has a row for each repeat.
    """
    shift = max(int(cv.plan.folds.max()) for cv in cvs) + 1
    for name in RATES:
        mean, sd = mean_sd(value for cv in cvs for value in cv.fold_scores[name])
        run.log_metrics({f"{Metric.FOLD}{name}_mean": mean, f"{Metric.FOLD}{name}_sd": sd})
    run.log_metrics({Metric.FIT_SECONDS: sum(result.seconds for cv in cvs for result in cv.results.values())})
    parts = [cv.oof.assign(fold=cv.oof["fold"] + shift * number) for number, cv in enumerate(cvs)]
    run.log_table(pd.concat(parts, ignore_index=True), Artifact.OOF)


def log_figures(cv: CrossValidation) -> None:
    """Log figures of the folds' training, ROC curves and calibration on a run."""
    plan, run, said = cv.plan, cv.run, cv.predictions
    folds = {fit.name: pd.DataFrame(cv.results[fit.name].history) for fit in plan.fits if fit.fold is not None}
    run.log_figure(training_curves(folds, f"{plan.name}: folds", plan.disclosure.note), "folds")
    curves = {
        f"fold {fold + 1}": (
            part["label"].to_numpy(),
            part["probability"].to_numpy(),
            part["patient_id"].to_numpy() if "patient_id" in part else None,
        )
        for fold, part in cv.oof.groupby("fold")
    }
    run.log_figure(roc_curves(curves, f"{plan.name}: folds", plan.disclosure.note), "roc_folds")
    at = f"{plan.name}: out of fold"
    run.log_figure(calibration(said.labels, said.probabilities, at, plan.disclosure.note), "calibration_oof")
    if CALIBRATED in cv.oof:
        before, after = cv.uncalibrated.probabilities, said.probabilities
        run.log_figure(recalibration(said.labels, before, after, at, plan.disclosure.note), "recalibration")
    if plan.experiment.final.coverage:
        classes = TASKS[plan.experiment.task]
        run.log_figure(answer_sets(coverage_curve(said), classes, at, plan.disclosure.note), "answer_sets")
