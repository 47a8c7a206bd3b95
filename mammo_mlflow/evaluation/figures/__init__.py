"""Figures of predictions, training and data, each a matplotlib `Figure` without pyplot's global state."""

from mammo_mlflow.evaluation.figures.classification import (
    answer_sets,
    calibration,
    confusion_matrix,
    recalibration,
    roc_curves,
)
from mammo_mlflow.evaluation.figures.ensembles import disagreement_map, members_joining, methods_compared
from mammo_mlflow.evaluation.figures.overview import confusion_matrices, costs, forest, operating_curves
from mammo_mlflow.evaluation.figures.patches import activation_overlays, class_distribution, patch_sheet
from mammo_mlflow.evaluation.figures.style import save
from mammo_mlflow.evaluation.figures.training import fold_overview, training_curves

__all__ = [
    "activation_overlays",
    "answer_sets",
    "calibration",
    "class_distribution",
    "confusion_matrices",
    "confusion_matrix",
    "costs",
    "disagreement_map",
    "fold_overview",
    "forest",
    "members_joining",
    "methods_compared",
    "operating_curves",
    "patch_sheet",
    "recalibration",
    "roc_curves",
    "save",
    "training_curves",
]
