from __future__ import annotations

import numpy as np
import pytest

from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.out_of_fold import OutOfFold


def draw(n=120, members=3, seed=0, signal=1.0, decimals=8, folds=4, patches=2):
    """Members that see the truth through noise, patients of some patches inside folds, folds calibrated differently."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, n)
    groups = np.arange(n) // patches
    numbers = groups % folds
    logits = signal * (labels[:, None] - 0.5) + 0.7 * random.normal(size=(n, 1)) + random.normal(size=(n, members))
    logits += 0.5 * numbers[:, None]
    return np.round(1 / (1 + np.exp(-logits)), decimals), labels, numbers, groups


def out_of_fold(probabilities, labels, folds, groups):
    return OutOfFold(labels=labels, probabilities=probabilities, folds=folds, groups=groups)


@pytest.fixture
def made():
    return lambda *args, **keywords: out_of_fold(*draw(*args, **keywords))


@pytest.fixture
def objective():
    return lambda name="roc_auc": parse_objectives(name)[0]
