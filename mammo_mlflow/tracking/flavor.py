"""Keras models as MLflow model directories. Imports TensorFlow: for child processes only."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import mlflow.keras
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

REQUIREMENTS = ("mlflow", "keras", "tensorflow", "tensorflow-cpu", "numpy", "ml-dtypes")


def save_keras_model(
    model: keras.Model, path: Path, examples: Mapping[str, np.ndarray], metadata: dict[str, Any]
) -> None:
    """Write an MLflow model: inputs as in `examples`, probability (n, 1) float32 out.

    Patches are (n, size, size, 1) uint16. Several inputs are named; a lone one is an array without a name.
    """
    example: Any = dict(examples) if len(examples) > 1 else next(iter(examples.values()))
    inputs: list[Any] = [
        TensorSpec(one.dtype, (-1, *one.shape[1:]), name if len(examples) > 1 else None)
        for name, one in examples.items()
    ]
    signature = ModelSignature(inputs=Schema(inputs), outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1))]))
    path.mkdir(parents=True)
    mlflow.keras.save_model(
        model, str(path), signature=signature, input_example=example, pip_requirements=requirements(), metadata=metadata
    )


def load_keras_model(path: Path) -> keras.Model:
    """The Keras model of an MLflow model directory."""
    return mlflow.keras.load_model(str(path), load_model_kwargs={"compile": False})


def requirements() -> list[str]:
    """The exact versions a model was made with."""
    found = []
    for name in REQUIREMENTS:
        try:
            found.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
