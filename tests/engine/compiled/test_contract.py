"""The contract of engines, kept by both under JAX."""

import pytest

from mammo_mlflow.engine import keras_fit
from mammo_mlflow.engine.compiled import training
from mammo_mlflow.testing.engines import EngineContract
from mammo_mlflow.testing.training_options import TrainingOptionsContract

pytestmark = pytest.mark.usefixtures("jax_backend")


class TestCompiled(EngineContract, TrainingOptionsContract):
    @pytest.fixture
    def engine(self):
        return training.make(0, print)


class TestKerasFitOnJax(EngineContract, TrainingOptionsContract):
    @pytest.fixture
    def engine(self):
        return keras_fit.make(0, print)
