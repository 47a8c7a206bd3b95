"""Keras models as MLflow model directories. Imports TensorFlow: for child processes only."""

from __future__ import annotations

import importlib.metadata
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import keras
import mlflow.keras
import mlflow.pyfunc
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

REQUIREMENTS = ("mlflow", "keras", "tensorflow", "tensorflow-cpu", "numpy", "ml-dtypes")


def save_keras_model(
    model: keras.Model, path: Path, examples: Mapping[str, np.ndarray], metadata: dict[str, Any]
) -> None:
    """Write an MLflow model: inputs as in `examples`, probability (n, 1) float32 out.

    Patches are (n, size, size, 1) uint16. Several inputs are named; a lone one is an array without a name.
    """
    example, inputs = _inputs(examples)
    signature = ModelSignature(inputs=inputs, outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1))]))
    path.mkdir(parents=True)
    mlflow.keras.save_model(
        model, str(path), signature=signature, input_example=example, pip_requirements=requirements(), metadata=metadata
    )


def save_answering_model(
    script: Path,
    modules: Sequence[Path],
    folders: Mapping[str, Path],
    path: Path,
    examples: Mapping[str, np.ndarray],
    columns: Mapping[str, type],
    metadata: dict[str, Any],
) -> None:
    """Write an MLflow model whose code is `script`, with `modules` beside it and `folders` as artifacts.

    Inputs are as in `save_keras_model`; it answers a table with these columns, numbers of type float or int.
    """
    example, inputs = _inputs(examples)
    kinds = {float: DataType.double, int: DataType.long}
    outputs = Schema([ColSpec(kinds[kind], name) for name, kind in columns.items()])
    with _importable(modules), _quiet():  # MLflow runs the script once before it saves it
        mlflow.pyfunc.save_model(
            str(path),
            python_model=str(script),
            code_paths=[str(module) for module in modules],
            artifacts={name: str(folder) for name, folder in folders.items()},
            signature=ModelSignature(inputs=inputs, outputs=outputs),
            input_example=example,
            pip_requirements=[*requirements(), f"pandas=={importlib.metadata.version('pandas')}"],
            metadata=metadata,
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


def load_answering_model(path: Path) -> Any:
    """The model of a directory that `save_answering_model` wrote, as MLflow serves it."""
    with _quiet():
        return mlflow.pyfunc.load_model(str(path))


def answer_example(path: Path) -> dict[str, np.ndarray]:
    """What the model of a directory answers, as MLflow serves it, to the input example beside it: columns (n,)."""
    model = load_answering_model(path)
    with redirect_stdout(io.StringIO()):  # Keras's progress bar
        found = model.predict(model.input_example)
    if isinstance(found, np.ndarray):
        return {"probability": found[:, 0]} if found.ndim == 2 and found.shape[1] == 1 else {}
    return {str(name): column.to_numpy() for name, column in found.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow advises type hints, past all filters; the schema it would make of them is of flat tables alone."""
    with redirect_stderr(io.StringIO()):
        yield


def _inputs(examples: Mapping[str, np.ndarray]) -> tuple[Any, Schema]:
    """The input example, and the schema of the inputs."""
    several = len(examples) > 1
    specs: list[Any] = [
        TensorSpec(one.dtype, (-1, *one.shape[1:]), name if several else None) for name, one in examples.items()
    ]
    return dict(examples) if several else next(iter(examples.values())), Schema(specs)


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
