"""Tables and figures that compare members and methods, logged on the run of an ensemble."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mammo_mlflow.data.patches import TASKS
from mammo_mlflow.data.splits import folds_frame
from mammo_mlflow.ensembles.answers import EnsembleAnswers
from mammo_mlflow.ensembles.disagreement import disagreement
from mammo_mlflow.ensembles.fitted_methods import FittedMethods
from mammo_mlflow.evaluation import figures
from mammo_mlflow.evaluation.conformal import coverage_curve
from mammo_mlflow.evaluation.out_of_fold import CALIBRATED
from mammo_mlflow.evaluation.paired import Verdict
from mammo_mlflow.names import Artifact, Metric, Tag
from mammo_mlflow.tracking.tracked_run import TrackedRun


def log_out_of_fold(fitted: FittedMethods, run: TrackedRun, method: str, answers: EnsembleAnswers) -> None:
    """Log predictions, tables and figures of members and methods; `method` is the one that is registered.

    All of it rests on out-of-fold predictions, those of the ensembles being nested. `answers` are the registered one's.
    """
    plan, names, chosen = fitted.members[0].plan, fitted.names, fitted.ensembles[method]
    frame = folds_frame(plan.patch_set.train, fitted.data.folds)
    frame["label"], frame["probability"] = fitted.data.labels, chosen.probabilities
    if answers.recalibrated:
        frame[CALIBRATED] = answers.predictions.probabilities
    if (lesions := plan.patch_set.train.lesions) is not None:
        frame["lesion"] = lesions
    run.log_table(frame, Artifact.OOF)
    run.log_table(plan.folds_frame(), Artifact.FOLDS)
    header, rows = fitted.table()
    run.log_text(pd.DataFrame(rows, columns=header).to_csv(index=False), Artifact.METHODS)
    weights = {
        name: one.combiner.arrays["weights"] for name, one in fitted.ensembles.items() if one.combiner.kind == "weights"
    }
    run.log_text(pd.DataFrame(weights, index=names).T.to_csv(index_label="method"), Artifact.WEIGHTS)
    run.log_metrics({f"{Metric.OPTIMISTIC}{name}": one.chosen_on for name, one in fitted.ensembles.items()})
    alone = [fitted.score(column) for column in fitted.data.probabilities.T]
    run.log_metrics({f"{Metric.MEMBER}{name}": value for name, value in zip(names, alone, strict=True)})
    _log_figures(fitted, run, alone)
    _log_answers(fitted, run, answers)


def _log_figures(fitted: FittedMethods, run: TrackedRun, alone: list[float]) -> None:
    names, note, title = fitted.names, fitted.disclosure.note, f"{run.name}: out of fold"
    data, best = fitted.data, fitted.best_member
    accuracy = [fitted.score(column, "accuracy") for column in data.probabilities.T]
    averages = np.cumsum(data.probabilities, axis=1) / np.arange(1, len(names) + 1)
    together = [fitted.score(column, "accuracy") for column in averages.T]
    drawn = figures.members_joining(names, accuracy, together, "accuracy at 0.5", title, note)
    run.log_figure(drawn, "members_joining")
    compared = {name: (one.chosen_on, one.nested) for name, one in fitted.ensembles.items()}
    best_alone = names[best], alone[best]
    run.log_figure(figures.methods_compared(compared, best_alone, fitted.objective.name, title, note), "methods")
    apart = disagreement(data.labels, data.probabilities)
    run.log_text(pd.DataFrame(apart.different, names, names).to_csv(), Artifact.DISAGREEMENT)
    at = f"{title}: decided differently at 0.5"
    run.log_figure(figures.disagreement_map(names, apart.different, at, note), "disagreement")


def _log_answers(fitted: FittedMethods, run: TrackedRun, answers: EnsembleAnswers) -> None:
    """Log the figures of the registered ensemble's answers: calibration, before and after a map, and answer sets."""
    title, note, said = f"{run.name}: out of fold, nested", fitted.disclosure.note, answers.predictions
    run.log_figure(figures.calibration(said.labels, said.probabilities, title, note), "calibration_oof")
    if answers.recalibrated:
        drawn = figures.recalibration(said.labels, answers.nested.probabilities, said.probabilities, title, note)
        run.log_figure(drawn, "recalibration")
    if answers.coverage:
        classes = TASKS[fitted.task]
        run.log_figure(figures.answer_sets(coverage_curve(said), classes, title, note), "answer_sets")


def log_members_test(fitted: FittedMethods, run: TrackedRun, test: pd.DataFrame) -> Verdict:
    """Log test ROC curves of ensemble and members, and whether the ensemble beats the best member on the test set.

    `test` are the ensemble's test predictions, as `log_test` makes them.
    """
    labels, probabilities = test["label"].to_numpy(), test["probability"].to_numpy()
    groups = fitted.patch_set.test.patient_ids
    of_members = {member.name: (labels, member.test, groups) for member in fitted.members}
    curves = {"ensemble": (labels, probabilities, groups), **of_members}
    if len(set(labels)) > 1:
        run.log_figure(figures.roc_curves(curves, f"{run.name}: test", fitted.disclosure.note), "roc_members")
    found = fitted.test_verdict(labels, probabilities)
    log_verdict(run, found, Tag.TEST_VERDICT, Metric.TEST)
    return found


def log_verdict(run: TrackedRun, found: Verdict, tag: str = Tag.VERDICT, prefix: str = "") -> None:
    """Log a lead over the best member with interval and p, as metrics with a name `prefix`, its sentence as `tag`."""
    run.log_metrics(found.lead.metrics(f"{prefix}{Metric.LEAD}"))
    if found.delong is not None:
        run.log_metrics({f"{prefix}{Metric.DELONG_P}": found.delong.p})
    run.set_tags({tag: found.sentence})
