"""The ensemble as MLflow serves it. This file is its code: MLflow keeps it beside the model and runs it from there.

It needs Keras, NumPy and pandas, and `level1.py` beside it; nothing of this package and nothing pickled.
"""

import json
from pathlib import Path
from typing import Any

import keras
import mlflow.models
import numpy as np
import pandas as pd
from level1 import load
from mlflow.pyfunc.model import PythonModel

BATCH = 32


class Ensemble(PythonModel):
    """Raw 16-bit patches in, a row for each out: probability, decision at the threshold, each member's probability."""

    def load_context(self, context: Any) -> None:
        """Read the members, level 1 and the facts about them."""
        folder = Path(context.artifacts["ensemble"])
        self._facts = json.loads((folder / "ensemble.json").read_text())
        self._level1 = load(folder / "level1.npz")
        self._members = keras.saving.load_model(folder / "members.keras", compile=False, safe_mode=True)

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """`model_input`: patches (n, size, size, 1), or several inputs of that shape by name."""
        members = self._members.predict(model_input, batch_size=BATCH, verbose=0).astype(np.float64)
        probability = self._level1.predict(members)
        decision = (probability >= self._facts["threshold"]).astype(np.int64)
        columns = dict(zip(self._facts["members"], members.T, strict=True))
        return pd.DataFrame({"probability": probability, "decision": decision, **columns})


mlflow.models.set_model(Ensemble())
