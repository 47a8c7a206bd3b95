"""The page of two models side by side, as one HTML file that loads nothing else."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from mammo_mlflow.data.patches import TASKS, Split
from mammo_mlflow.disclosure import BANNER, PHANTOM
from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation import figures
from mammo_mlflow.evaluation.paired import Verdict
from mammo_mlflow.names import Metric
from mammo_mlflow.report.paper_tables import WORDS
from mammo_mlflow.report.templates import figure_uri, filled, patch_uri, score_words, shrunk
from mammo_mlflow.report.two_models import OUT_OF_FOLD, TEST, TwoModels

SMALLEST_P = 0.001
"""The smallest p that is printed as a number."""
SCORES = ("roc_auc", "accuracy", "sensitivity", "specificity", "brier", "log_loss")
_PREFIXES = {OUT_OF_FOLD: Metric.OOF, TEST: Metric.TEST}


def render(found: TwoModels, split: Split | None, unseen: str = "") -> str:
    """Render a comparison as HTML.

    `split` has the patches that its predictions are of; None where they cannot be shown, for the reason `unseen`.
    """
    task = found.first.trained_on[1] or ""
    return filled(
        "two_models.html",
        found=found,
        models=(found.first, found.second),
        question=WORDS.get(task, task),
        classes=TASKS.get(task, ("0", "1")),
        banner=BANNER if PHANTOM in found.disclosure else "",
        differences=[(name, *difference_cells(one), patches) for name, (one, patches) in found.verdicts.items()],
        scores=_scores(found),
        curves=[(name, figure_uri(_curves(found, name))) for name in found.verdicts if _two_classes(found, name)],
        trained=[
            (model.label, uri)
            for model in (found.first, found.second)
            if model.folds is not None and (uri := shrunk(model.folds))
        ],
        patches={} if split is None else _patches(found, split),
        unseen=unseen,
    )


def difference_cells(one: Verdict) -> tuple[str, str, str]:
    """The difference, its interval and DeLong's p as texts; "" for what is not defined."""
    value, low, high = (f"{number:+.4f}" for number in (one.lead.value, one.lead.low, one.lead.high))
    p = math.nan if one.delong is None else one.delong.p
    told = "" if math.isnan(p) else f"{p:.3f}" if p >= SMALLEST_P else f"< {SMALLEST_P}"
    return (
        "undefined" if math.isnan(one.lead.value) else value,
        "" if math.isnan(one.lead.low) else f"{low} to {high}",
        told,
    )


def _patches(found: TwoModels, split: Split) -> dict[int, str]:
    """Pictures of the patches on which the models disagree most, by their numbers."""
    rows = found.disagreements["patch"]
    return {row: patch_uri(split.abnormality[row]) for row in rows if 0 <= row < len(split)}


def _scores(found: TwoModels) -> list[tuple[str, str, str, str]]:
    """Predictions, score, and both models' stored values with their intervals; what neither has is left out."""
    rows = []
    for predictions, prefix in _PREFIXES.items():
        for score in SCORES:
            both = [Estimate.read(f"{prefix}{score}", one.metrics, one.tags) for one in (found.first, found.second)]
            if any(one.reason or not math.isnan(one.value) for one in both):
                rows.append((predictions, score_words(score), str(both[0]), str(both[1])))
    return rows


def _two_classes(found: TwoModels, predictions: str) -> bool:
    return bool(found.frames[predictions][0]["label"].nunique() == 2)


def _curves(found: TwoModels, predictions: str) -> Figure:
    """ROC curves of both models on the same patches."""
    frames = zip((found.first, found.second), found.frames[predictions], strict=True)
    curves = {model.label: (one["label"], one["probability"], one.get("patient_id")) for model, one in frames}
    return figures.roc_curves(curves, f"ROC curves: {predictions}", found.disclosure.note)
