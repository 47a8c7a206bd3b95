"""The loss that training minimises: cross-entropy, or the focal loss, of labels that may be smoothed."""

from __future__ import annotations

import keras
import numpy as np

from mammo_mlflow.experiment import TrainingSpec
from mammo_mlflow.models.tensors import Tensor

EPSILON = 1e-7
"""How near to 0 and 1 a probability is taken for the loss: Keras's own bound."""


def make_loss(name: str, gamma: float | Tensor, smoothing: float = 0.0) -> keras.losses.Loss:
    """Make Keras's loss of a name of `training_spec.LOSSES`; `gamma` is the focal loss's (Lin et al. 2017)."""
    if name == "focal":
        return keras.losses.BinaryFocalCrossentropy(gamma=gamma, label_smoothing=smoothing)
    return keras.losses.BinaryCrossentropy(label_smoothing=smoothing)


def smoothed(labels: np.ndarray, smoothing: float) -> np.ndarray:
    """Labels of 0 and 1, moved towards 0.5 by a share of the way."""
    return labels * (1 - smoothing) + smoothing / 2


def mean_loss(spec: TrainingSpec, probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean loss of probabilities (m,) and labels (m,) of 0 and 1, in float64."""
    said = probabilities.astype(np.float64)
    near, wanted = np.clip(said, EPSILON, 1 - EPSILON), smoothed(labels, spec.label_smoothing)
    losses = -(wanted * np.log(near) + (1 - wanted) * np.log(1 - near))
    if spec.loss == "focal":
        losses *= (1 - wanted * said - (1 - wanted) * (1 - said)) ** spec.focal_gamma
    return float(np.mean(losses))
