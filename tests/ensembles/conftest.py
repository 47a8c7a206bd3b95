from __future__ import annotations

import pytest

from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.testing.combiners import drawn


@pytest.fixture
def made():
    return drawn


@pytest.fixture
def objective():
    return lambda name="roc_auc": parse_objectives(name)[0]
