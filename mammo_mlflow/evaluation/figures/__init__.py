"""Figures, each a matplotlib `Figure` without pyplot's global state; `save` writes one to a PNG."""

from .classification import calibration, confusion_matrix, roc_curves
from .ensembles import disagreement_map, members_joining, methods_compared
from .overview import confusion_matrices, costs, operating_curves
from .patches import activation_overlays, class_distribution, patch_sheet
from .style import save
from .training import fold_overview, training_curves

__all__ = [
    "activation_overlays",
    "calibration",
    "class_distribution",
    "confusion_matrices",
    "confusion_matrix",
    "costs",
    "disagreement_map",
    "fold_overview",
    "members_joining",
    "methods_compared",
    "operating_curves",
    "patch_sheet",
    "roc_curves",
    "save",
    "training_curves",
]
