"""Judge a model on the test set: log metrics with intervals, figures and its test predictions on the model's run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mammo_mlflow.answer_sets import AnswerLimits
from mammo_mlflow.data.patches import TASKS, PatchSet, missing_classes, targets
from mammo_mlflow.estimate import Estimate, log_estimates
from mammo_mlflow.evaluation import figures
from mammo_mlflow.evaluation.calibration import calibration_estimates
from mammo_mlflow.evaluation.conformal import set_estimates
from mammo_mlflow.evaluation.intervals import cluster_note, score_estimates
from mammo_mlflow.evaluation.metrics import COUNTS, scores
from mammo_mlflow.evaluation.units import per_lesion, per_patient
from mammo_mlflow.names import Artifact, Metric
from mammo_mlflow.tracking.tracked_run import TrackedRun

THRESHOLD_FREE = ("roc_auc", "brier", "log_loss")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class JudgedModel:
    """A model that is judged on the test set: its task and names, and the `note` that every figure carries.

    `name` stands in the figures' titles, `label` at its curves. Calibration is measured where it is recalibrated, and
    answer sets where it has `limits`.
    """

    patch_set: PatchSet
    task: str
    name: str
    label: str
    note: str | None
    calibrated: bool = False
    limits: AnswerLimits | None = None


def log_test(
    judged: JudgedModel,
    run: TrackedRun,
    probabilities: np.ndarray,
    threshold: float,
    others: Mapping[str, Estimate] | None = None,
) -> pd.DataFrame:
    """Log metrics with intervals, figures and `test.parquet` of a model's test probabilities; returns that table.

    `probabilities`: float (m,) in [0, 1], of the m test abnormalities in their order. Rates are given at 0.5 and at
    `threshold`. `others` are estimates of the same run, by name, logged with them: one tag says of all of them which
    have no interval, and why.
    The table has a row for each abnormality: patch int, type int, label 0 or 1, probability and, where patients and
    lesions are known, patient_id and lesion; of a model with answer sets, set int of 0, 1 and `REFER`.
    """
    split = judged.patch_set.test
    labels, groups = targets(split.types, judged.task).astype(int), split.patient_ids
    test = pd.DataFrame(
        {"patch": np.arange(len(split)), "type": split.types, "label": labels, "probability": probabilities}
    )
    if groups is not None:
        test["patient_id"] = groups
    judged_rows = {Metric.TEST: (labels, probabilities, groups)}
    if groups is not None:
        patients = per_patient(labels, probabilities, groups)
        judged_rows[Metric.BY_PATIENT] = tuple(patients[k].to_numpy() for k in ("label", "probability", "patient_id"))
        run.log_metrics({Metric.TEST_PATIENTS: patients["patient_id"].nunique()})
    if split.lesions is not None:
        test["lesion"] = split.lesions
        lesions = per_lesion(test)
        judged_rows[Metric.BY_LESION] = tuple(lesions[k].to_numpy() for k in ("label", "probability", "patient_id"))
        run.log_metrics({Metric.TEST_LESIONS: lesions["lesion"].nunique()})
    found, cuts = dict(others or {}), {"": 0.5, Metric.AT_THRESHOLD: threshold}
    for name, (actual, answered, who) in judged_rows.items():
        for end, at in cuts.items():
            estimates = score_estimates(actual, answered, at, who)
            found |= {f"{name}{end}{k}": v for k, v in estimates.items() if not end or k not in THRESHOLD_FREE}
    if judged.calibrated:
        found |= {f"{Metric.TEST}{k}": v for k, v in calibration_estimates(labels, probabilities, groups).items()}
    if judged.limits is not None:
        sets = judged.limits(probabilities)
        test["set"] = sets
        found |= {f"{Metric.TEST}{name}": one for name, one in set_estimates(labels, sets, groups).items()}
    for end, at in cuts.items():
        run.log_metrics({f"{Metric.TEST}{end}{name}": scores(labels, probabilities, at)[name] for name in COUNTS})
    run.log_metrics({Metric.TEST_PATCHES: len(labels), Metric.THRESHOLD: threshold})
    log_estimates(run, found, cluster_note(groups))
    run.log_table(test, Artifact.TEST)
    _log_figures(judged, run, test, threshold)
    return test


def _log_figures(judged: JudgedModel, run: TrackedRun, test: pd.DataFrame, threshold: float) -> None:
    labels, predicted = test["label"].to_numpy(), test["probability"].to_numpy()
    groups, classes = judged.patch_set.test.patient_ids, TASKS[judged.task]
    title, note = f"{judged.name}: test", judged.note
    run.log_figure(figures.confusion_matrix(labels, predicted, 0.5, classes, title, note), "confusion")
    if threshold != 0.5:
        at = f"{title} at the chosen threshold"
        run.log_figure(figures.confusion_matrix(labels, predicted, threshold, classes, at, note), "confusion_threshold")
    curves = {judged.label: (labels, predicted, groups)}
    if missing := missing_classes(test["type"], judged.task):
        _log.warning("%s: %s abnormalities: what compares the two classes is left out", title, missing)
    else:
        run.log_figure(figures.roc_curves(curves, title, note), "roc")
    run.log_figure(figures.calibration(labels, predicted, title, note), "calibration")
