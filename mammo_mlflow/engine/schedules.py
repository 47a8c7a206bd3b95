"""The learning rate of every step of a stage, by schedule."""

from __future__ import annotations

import numpy as np

from mammo_mlflow.experiment import TrainingSpec

RISE, START, END = 0.3, 1 / 25, 1 / 250_000
"""Of one cycle: the share of the steps in which the rate rises, and the shares of it at the start and the end.

Smith and Topin 2018, with the defaults of PyTorch's `OneCycleLR`; momentum stays as it is.
"""


def learning_rates(spec: TrainingSpec, rate: float, epochs: int, steps: int) -> np.ndarray:
    """The learning rates of the steps of a stage, float32 (epochs, steps), whose highest is `rate`.

    `cosine` falls to 0 by half a cosine (Loshchilov and Hutter 2017, without restarts), after `warm_up`, which rises
    linearly. With early stopping only the first part of a schedule is seen, since it is made for all epochs.
    """
    done = np.arange(epochs * steps) / (epochs * steps)
    share = np.ones(len(done))
    if spec.schedule == "one_cycle":
        share = np.where(
            done < RISE, _half_cosine(START, 1, done / RISE), _half_cosine(1, END, (done - RISE) / (1 - RISE))
        )
    else:
        warm = round(spec.warm_up * len(done))
        if spec.schedule == "cosine":
            share = _half_cosine(1, 0, np.maximum(0, np.arange(len(done)) - warm) / (len(done) - warm))
        share[:warm] = np.arange(1, warm + 1) / (warm + 1)
    return (rate * share).astype(np.float32).reshape(epochs, steps)


def _half_cosine(start: float, end: float, way: np.ndarray) -> np.ndarray:
    """Values from `start` to `end`, at each share of the way (n,)."""
    return end + (start - end) * (1 + np.cos(np.pi * way)) / 2
