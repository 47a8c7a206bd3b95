"""Save and load Keras models and ensembles as MLflow models. Imports TensorFlow: for worker processes only."""

from __future__ import annotations

import importlib.metadata
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import keras
import mlflow.keras
import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from mammo_mlflow.jobs.contracts import EnsembleJob
from mammo_mlflow.models.tensors import as_model_input

REQUIREMENTS = ("mlflow", "keras", "tensorflow", "tensorflow-cpu", "numpy", "ml-dtypes")
"""The packages that every model needs."""


def save_keras_model(
    model: keras.Model, path: Path, examples: Mapping[str, np.ndarray], metadata: dict[str, object]
) -> None:
    """Save a Keras model as an MLflow model: inputs as in `examples`, probability, float32 (n, 1), out.

    Patches are uint16 (n, size, size, 1). Several inputs are named; a single one is an array without a name.
    """
    outputs = Schema([TensorSpec(np.dtype(np.float32), (-1, 1))])
    path.mkdir(parents=True)
    mlflow.keras.save_model(
        model,
        str(path),
        signature=ModelSignature(inputs=_schema(examples), outputs=outputs),
        input_example=as_model_input(examples),
        pip_requirements=requirements(model),
        metadata=metadata,
    )


def save_answering_model(job: EnsembleJob, members: keras.Model, folder: Path) -> None:
    """Save an ensemble as an MLflow model with its own code, which gets `folder`, with its `members`, as an artifact.

    Inputs are as in `save_keras_model`; the output is a table: probability, decision, and each member's probability.
    """
    script, *modules = job.code
    columns = {"probability": DataType.double, "decision": DataType.long, **dict.fromkeys(job.names, DataType.double)}
    outputs = Schema([ColSpec(kind, name) for name, kind in columns.items()])
    with _on_import_path(modules), _discard_stderr():  # MLflow runs the script once before it saves it
        mlflow.pyfunc.save_model(
            str(job.output),
            python_model=str(script),
            code_paths=[str(module) for module in modules],
            artifacts={"ensemble": str(folder)},
            signature=ModelSignature(inputs=_schema(job.examples), outputs=outputs),
            input_example=as_model_input(job.examples),
            pip_requirements=[*requirements(members), f"pandas=={importlib.metadata.version('pandas')}"],
            metadata=job.metadata,
        )


@contextmanager
def _on_import_path(modules: Sequence[Path]) -> Iterator[None]:
    """Within the block, copies of `modules` can be imported by their bare names, and no file beside them."""
    with tempfile.TemporaryDirectory() as alone:
        for module in modules:
            shutil.copy(module, alone)
        sys.path.insert(0, alone)
        try:
            yield
        finally:
            sys.path.remove(alone)


def load_answering_model(path: Path) -> PyFuncModel:
    """Load an MLflow model as MLflow serves it."""
    with _discard_stderr():
        return mlflow.pyfunc.load_model(str(path))


def answer_example(path: Path) -> dict[str, np.ndarray]:
    """Predict a model's own input example as MLflow serves it: columns (n,) by name, {} for an unknown output."""
    model = load_answering_model(path)
    with redirect_stdout(io.StringIO()):  # Keras's progress bar
        found: np.ndarray | pd.DataFrame = model.predict(model.input_example)
    if isinstance(found, np.ndarray):
        return {"probability": found[:, 0]} if found.ndim == 2 and found.shape[1] == 1 else {}
    return {str(name): column.to_numpy() for name, column in found.items()}


def _discard_stderr() -> AbstractContextManager[object]:
    """Discard standard error, where MLflow recommends type hints, which are for flat tables; no filter stops it."""
    return redirect_stderr(io.StringIO())


def _schema(examples: Mapping[str, np.ndarray]) -> Schema:
    """MLflow's schema of the inputs."""
    named = len(examples) > 1
    return Schema([TensorSpec(one.dtype, (-1, *one.shape[1:]), k if named else None) for k, one in examples.items()])


def load_keras_model(path: Path) -> keras.Model:
    """Load the Keras model, not compiled, of an MLflow model directory."""
    return mlflow.keras.load_model(str(path), load_model_kwargs={"compile": False})


def requirements(model: keras.Model) -> list[str]:
    """The installed versions of the packages that a model needs, as pip requirements."""
    hub = any(type(layer).__module__.startswith("keras_hub.") for layer in model._flatten_layers())
    found = []
    for name in (*REQUIREMENTS, *(["keras-hub"] if hub else [])):
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name}=={importlib.metadata.version(name)}")
    return found
