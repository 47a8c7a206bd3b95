"""The contract of engines, kept by Keras's own under TensorFlow."""

import pytest

from mammo_mlflow.engine import keras_fit
from mammo_mlflow.testing.engines import EngineContract
from mammo_mlflow.testing.training_options import TrainingOptionsContract

pytestmark = pytest.mark.usefixtures("keras")


class TestKerasFit(EngineContract, TrainingOptionsContract):
    @pytest.fixture
    def engine(self):
        return keras_fit.make(0, print)
