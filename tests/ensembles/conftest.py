from __future__ import annotations

import pytest

from mammo_mlflow.ensembles.predictions import checked
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.testing.combiners import draw


@pytest.fixture
def made():
    return lambda *args, **keywords: checked(*draw(*args, **keywords))


@pytest.fixture
def objective():
    return lambda name="roc_auc": parse_objectives(name)[0]
