"""Compare the results of a command: log them on its top run, and print a table on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from mammo_mlflow.evaluation import figures
from mammo_mlflow.evaluation.intervals import cluster_note
from mammo_mlflow.evaluation.metrics import mean_sd
from mammo_mlflow.experiment import FLIPS
from mammo_mlflow.jobs.devices import computed_on
from mammo_mlflow.names import Artifact, plain_name
from mammo_mlflow.terminal import say, show_table
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.training.cross_validation import CrossValidation
from mammo_mlflow.training.registered_model import Final

Outcome = tuple[CrossValidation, Final | None]


def log_comparison(top: TrackedRun, rows: Sequence[Outcome]) -> None:
    """Log figures and, for several experiments, a table and metrics on the top run."""
    plan = rows[0][0].plan
    scores = pd.concat([cv.fold_scores for cv, _ in rows], ignore_index=True)
    note = "; ".join(sorted({cv.plan.disclosure.note for cv, _ in rows if cv.plan.disclosure.note})) or None
    top.log_figure(figures.fold_overview(scores, f"{plan.experiment.task}: folds", note), "comparison")
    finals = {cv.plan.experiment.label: final.test for cv, final in rows if final is not None}
    if len(finals) > 1 and next(iter(finals.values()))["label"].nunique() > 1:
        groups = plan.patch_set.test.patient_ids
        curves = {
            name: (test["label"].to_numpy(), test["probability"].to_numpy(), groups) for name, test in finals.items()
        }
        top.log_figure(figures.roc_curves(curves, f"{plan.experiment.task}: test", note), "comparison_roc")
    if len(rows) > 1:
        header, cells = _table(rows)
        top.log_text(pd.DataFrame(cells, columns=header).to_csv(index=False), Artifact.COMPARISON)
        for name, part in scores.groupby("backbone", sort=False):
            begin = f"{plain_name(name)}_fold"
            top.log_metrics({f"{begin}_{metric}_mean": part[metric].mean() for metric in ("accuracy", "roc_auc")})
        for name, means in _seed_means(rows).items():
            mean, sd = mean_sd(means)
            begin = f"{plain_name(name)}_seeds_roc_auc"
            top.log_metrics({f"{begin}_mean": mean, f"{begin}_sd": sd})


def _seed_means(rows: Sequence[Outcome]) -> dict[str, list[float]]:
    """Return the mean fold ROC AUC of each seed, by backbone, for backbones with several seeds."""
    means: dict[str, list[float]] = {}
    for cv, _ in rows:
        means.setdefault(cv.plan.experiment.label, []).append(float(cv.fold_scores["roc_auc"].mean()))
    return {name: found for name, found in means.items() if len(found) > 1}


def _table(rows: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    header = ["backbone", "weights", "seed", "fold accuracy", "fold AUC", "test accuracy", "test AUC", "registered"]
    cells = []
    for cv, final in rows:
        tuned = cv.plan.experiment.model.unfrozen_layers
        named = cv.plan.experiment.label + (f" last {tuned}" if tuned else "")
        spelled = [named, cv.plan.weights.label, str(cv.plan.experiment.cv.seed)]
        for metric in ("accuracy", "roc_auc"):
            mean, sd = mean_sd(cv.fold_scores[metric])
            spelled.append(f"{mean:.3f}" if math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}")
        cells.append([*spelled, *final_cells(final)])
    return header, cells


def final_cells(final: Final | None) -> list[str]:
    """Return a final model's table cells: test accuracy, test ROC AUC, registered version; dashes for None."""
    if final is None:
        return ["-"] * 3
    return [f"{final.accuracy}", f"{final.roc_auc}", f"{final.registered_name} v{final.version}"]


def show_comparison(rows: Sequence[Outcome], said: Sequence[str], how_to_look: str) -> None:
    """Print the final table, what its numbers are, the sentences `said`, and the commands to go on with.

    `how_to_look` opens the table of all runs.
    """
    plan = rows[0][0].plan
    test = plan.patch_set.test
    header, cells = _table(rows)
    judged = ", ".join(dict.fromkeys(cv.plan.experiment.judged_by for cv, _ in rows))
    show_table(f"{plan.experiment.task}, {judged}{plan.disclosure.title}", header, cells)
    say(
        f"folds: mean ± sd; test results on {len(test)} patches, decided at 0.5, with 95 % intervals "
        f"({cluster_note(test.patient_ids)})"
    )
    if (tta := plan.experiment.final.tta) != "none":
        turns = f"{len(FLIPS)} flips and quarter turns"
        over = turns if tta == "flips" else f"{plan.experiment.training.views + 1} views"
        told = f"the {turns} of each, in {len(FLIPS)} times the computation"
        say(f"folds answer with the mean over {over} of each patch; registered models over {told}")
    if device := computed_on(plan.tags()):
        say(f"computed on {device}")
    for name, means in _seed_means(rows).items():
        mean, sd = mean_sd(means)
        say(f"{name}: fold AUC over {len(means)} seeds {mean:.3f} ± {sd:.3f}")
    for sentence in said:
        say(sentence)
    final = next((final for _, final in rows if final is not None), None)
    say(f"compare:  {how_to_look}   (a run's children are the folds and the final model)")
    if final is not None:
        say(f"serve:    python -m mammo_mlflow serve --model models:/{final.registered_name}/{final.version}")
