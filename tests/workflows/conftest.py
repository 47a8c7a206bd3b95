import numpy as np
import pytest
from support_promotion import SIZE


@pytest.fixture(scope="session")
def planted_model(tmp_path_factory, keras):
    """The directory of a small Keras model."""
    from mammo_mlflow.engine.flavor import save_keras_model

    inputs = keras.layers.Input((SIZE, SIZE, 1), name="patch")
    outputs = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Flatten()(inputs))
    path = tmp_path_factory.mktemp("model") / "model"
    save_keras_model(keras.Model(inputs, outputs), path, {"patch": np.zeros((2, SIZE, SIZE, 1), np.uint16)}, {})
    return path
