"""Keras models as MLflow model directories. Imports TensorFlow: for child processes only."""

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
from mammo_mlflow.models.tensors import fed

REQUIREMENTS = ("mlflow", "keras", "tensorflow", "tensorflow-cpu", "numpy", "ml-dtypes")


def save_keras_model(
    model: keras.Model, path: Path, examples: Mapping[str, np.ndarray], metadata: dict[str, object]
) -> None:
    """Write an MLflow model: inputs as in `examples`, probability (n, 1) float32 out.

    Patches are (n, size, size, 1) uint16. Several inputs are named; a lone one is an array without a name.
    """
    outputs = Schema([TensorSpec(np.dtype(np.float32), (-1, 1))])
    path.mkdir(parents=True)
    mlflow.keras.save_model(
        model,
        str(path),
        signature=ModelSignature(inputs=_schema(examples), outputs=outputs),
        input_example=fed(examples),
        pip_requirements=requirements(),
        metadata=metadata,
    )


def save_answering_model(job: EnsembleJob, folder: Path) -> None:
    """Write an ensemble as an MLflow model, whose code finds `folder` as an artifact.

    Inputs are as in `save_keras_model`; it answers a table: probability, decision, and each member's probability.
    """
    script, *modules = job.code
    columns = {"probability": DataType.double, "decision": DataType.long, **dict.fromkeys(job.names, DataType.double)}
    outputs = Schema([ColSpec(kind, name) for name, kind in columns.items()])
    with _importable(modules), _quiet():  # MLflow runs the script once before it saves it
        mlflow.pyfunc.save_model(
            str(job.output),
            python_model=str(script),
            code_paths=[str(module) for module in modules],
            artifacts={"ensemble": str(folder)},
            signature=ModelSignature(inputs=_schema(job.examples), outputs=outputs),
            input_example=fed(job.examples),
            pip_requirements=[*requirements(), f"pandas=={importlib.metadata.version('pandas')}"],
            metadata=job.metadata,
        )


@contextmanager
def _importable(modules: Sequence[Path]) -> Iterator[None]:
    """Modules by their bare names, and nothing else that lies beside them."""
    with tempfile.TemporaryDirectory() as alone:
        for module in modules:
            shutil.copy(module, alone)
        sys.path.insert(0, alone)
        try:
            yield
        finally:
            sys.path.remove(alone)


def load_answering_model(path: Path) -> PyFuncModel:
    """The model of a directory that `save_answering_model` wrote, as MLflow serves it."""
    with _quiet():
        return mlflow.pyfunc.load_model(str(path))


def answer_example(path: Path) -> dict[str, np.ndarray]:
    """What the model of a directory answers, as MLflow serves it, to the input example beside it: columns (n,)."""
    model = load_answering_model(path)
    with redirect_stdout(io.StringIO()):  # Keras's progress bar
        found: np.ndarray | pd.DataFrame = model.predict(model.input_example)
    if isinstance(found, np.ndarray):
        return {"probability": found[:, 0]} if found.ndim == 2 and found.shape[1] == 1 else {}
    return {str(name): column.to_numpy() for name, column in found.items()}


def _quiet() -> AbstractContextManager[object]:
    """MLflow advises type hints, past all filters; the schema it would make of them is of flat tables alone."""
    return redirect_stderr(io.StringIO())


def _schema(examples: Mapping[str, np.ndarray]) -> Schema:
    """The schema of the inputs."""
    named = len(examples) > 1
    return Schema([TensorSpec(one.dtype, (-1, *one.shape[1:]), k if named else None) for k, one in examples.items()])


def load_keras_model(path: Path) -> keras.Model:
    """The Keras model of an MLflow model directory."""
    return mlflow.keras.load_model(str(path), load_model_kwargs={"compile": False})


def requirements() -> list[str]:
    """The exact versions a model was made with."""
    found = []
    for name in REQUIREMENTS:
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name}=={importlib.metadata.version(name)}")
    return found
