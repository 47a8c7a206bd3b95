"""Whether the files of a registered model are what this project makes, looked at without loading or running any.

A matching sha256 says that files are those that were registered, not that registering them was wise: pickles, code,
Lambda layers and classes from elsewhere are refused here, whoever registered them.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from mammo_mlflow.errors import expected
from mammo_mlflow.experiment import ABNORMALITY_TYPE, CONDITION, PATCH, ROWS

_ENVIRONMENT = {"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt"}
_EXAMPLES = {"input_example.json", "serving_input_example.json"}
_KERAS_FILES = {"data/keras_module.txt", "data/model.keras"}
_ENSEMBLE_CODE = {"served.py": "served.py", "code/level1.py": "level1.py"}
_ENSEMBLE_FILES = {"ensemble.json", "level1.npz", "members.keras"}
_ENSEMBLES = Path(__file__).parents[1] / "ensembles"
KNOWN_CODE: dict[str, set[str]] = {"served.py": set(), "level1.py": set()}
"""The sha256 of what earlier versions of this project shipped in an ensemble, beside what this one ships."""

_ARCHIVE = {"metadata.json", "config.json", "model.weights.h5"}
_SERIALIZED = "class_name"
_LAYERS = """Activation Add Average AveragePooling2D BatchNormalization Concatenate Conv2D Cropping2D Dense
    DepthwiseConv2D Dropout Flatten GlobalAveragePooling1D GlobalAveragePooling2D GlobalMaxPooling2D Identity InputLayer
    MaxPooling2D Maximum Minimum Multiply ReLU Rescaling Reshape Subtract ZeroPadding2D"""
_INITIALIZERS = "Constant GlorotNormal GlorotUniform HeNormal HeUniform Ones Zeros"
CLASSES: dict[str | None, set[str]] = {
    None: {"__keras_tensor__"},
    "keras": {"DTypePolicy"},
    "keras.layers": set(_LAYERS.split()),
    "keras.initializers": set(_INITIALIZERS.split()),
    "keras.regularizers": {"L1", "L1L2", "L2"},
    "keras.src.models.functional": {"Functional"},
}
"""The classes that a model's configuration may name, by module: what networks of this project are made of."""


@dataclass(frozen=True)
class Vetted:
    """A model directory that may be loaded: `kind` is `keras` or `ensemble`, `columns` what an ensemble answers."""

    kind: str
    inputs: tuple[str, ...]
    columns: tuple[str, ...]
    image_size: int


def vet(path: Path) -> Vetted:
    """Look at the files of a model directory that `flavor` wrote.

    Raises `UserError`, one line that names the file, for anything that this project does not write.
    """
    files = {one.relative_to(path).as_posix() for one in path.rglob("*") if not one.is_dir()}
    files.discard("registered_model_meta")
    linked = sorted(one.name for one in path.rglob("*") if one.is_symlink())
    if linked:
        raise expected("model", "plain files", f"the link {linked[0]}")
    model = _description(path)
    loader = model.flavors["python_function"].get("loader_module")
    if loader == "mlflow.keras":
        _check_files(files, _ENVIRONMENT | _EXAMPLES | _KERAS_FILES)
        _vet_keras_flavor(path, model)
        archive, kind = path / "data" / "model.keras", "keras"
    elif loader == "mlflow.pyfunc.loaders.code_model":
        folder = _vet_ensemble_flavor(model)
        _check_files(files, _ENVIRONMENT | _EXAMPLES | set(_ENSEMBLE_CODE) | {f"{folder}/{n}" for n in _ENSEMBLE_FILES})
        for file, ours in _ENSEMBLE_CODE.items():
            _vet_code(path / file, file, ours)
        _vet_arrays(path / folder / "level1.npz")
        _vet_facts(path / folder / "ensemble.json")
        archive, kind = path / folder / "members.keras", "ensemble"
    else:
        raise expected("model: MLmodel: loader_module", "that of a Keras model or of an ensemble", f"'{loader}'")
    images = vet_keras(archive)
    return _signature(model, kind, images)


def vet_keras(path: Path) -> dict[str, tuple[int, ...]]:
    """Look at a `.keras` file; answers the shapes of its inputs by name. Raises `UserError`."""
    field = f"model: {path.name}"
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if names != _ARCHIVE:
                found = ", ".join(sorted(names ^ _ARCHIVE)[:3])
                raise expected(field, f"{', '.join(sorted(_ARCHIVE))} alone", f"a difference in {found}")
            config = json.loads(archive.read("config.json"))
            with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:  # in place, it seeks for seconds
                _vet_weights(weights, field)
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, KeyError) as problem:
        raise expected(field, "a Keras file", f"none: {str(problem)[:80]}") from None
    if not isinstance(config, dict) or config.get(_SERIALIZED) != "Functional":
        raise expected(f"{field}: config.json", "a functional model", "another")
    for module, name in _classes(config):
        if name not in CLASSES.get(module, set()):
            raise expected(f"{field}: config.json", "layers that this project uses", f"{module or '?'}.{name}")
    return dict(_inputs_of(config))


def _description(path: Path) -> Model:
    try:
        model = Model.load(str(path))
    except (MlflowException, OSError, yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError) as problem:
        raise expected("model: MLmodel", "the description of a model", f"none: {_line(problem)}") from None
    if not isinstance(model.flavors, dict) or not isinstance(model.flavors.get("python_function"), dict):
        raise expected("model: MLmodel", "the flavor python_function", "none")
    return model


def _vet_keras_flavor(path: Path, model: Model) -> None:
    flavor = model.flavors.get("keras")
    if set(model.flavors) != {"keras", "python_function"} or not isinstance(flavor, dict):
        raise expected("model: MLmodel", "the flavors keras and python_function", ", ".join(model.flavors))
    if "code" in model.flavors["python_function"]:
        raise expected("model: MLmodel", "no code", "the folder of it that python_function names")
    if flavor.get("data") != "data" or flavor.get("save_exported_model") or flavor.get("custom_objects"):
        raise expected("model: MLmodel", "a .keras file in 'data' without custom objects", "another kind of save")
    module = (path / "data" / "keras_module.txt").read_text(errors="replace").strip()
    if module != "keras":
        raise expected("model: data/keras_module.txt", "'keras'", f"'{module[:40]}'")


def _vet_ensemble_flavor(model: Model) -> str:
    """The folder of an ensemble's files."""
    flavor = model.flavors["python_function"]
    if set(model.flavors) != {"python_function"} or flavor.get("code") != "code" or flavor.get("python_model"):
        raise expected("model: MLmodel", "an ensemble logged from code", "another kind of save")
    if PurePosixPath(str(flavor.get("model_code_path"))).name != "served.py":
        raise expected("model: MLmodel: model_code_path", "served.py", f"'{flavor.get('model_code_path')}'")
    try:
        (artifact,) = flavor["artifacts"].items()
        name, folder = artifact[0], PurePosixPath(artifact[1]["path"])
    except (KeyError, TypeError, ValueError, AttributeError):
        name, folder = "", PurePosixPath()
    if name != "ensemble" or folder.parent != PurePosixPath("artifacts") or folder.name == "..":
        raise expected("model: MLmodel: artifacts", "the folder of an ensemble alone", "others")
    return str(folder)


def _check_files(found: set[str], allowed: set[str]) -> None:
    foreign, missing = sorted(found - allowed), sorted(allowed - found)
    if foreign:
        raise expected("model", "no other files than this project's", foreign[0])
    if missing:
        raise expected("model", f"the file {missing[0]}", "none")


def _vet_code(path: Path, name: str, ours: str) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = KNOWN_CODE[ours] | {hashlib.sha256((_ENSEMBLES / ours).read_bytes()).hexdigest()}
    if digest not in known:
        raise expected(f"model: {name}", "this project's code", f"other code, sha256 {digest[:12]}")


def _vet_arrays(path: Path) -> None:
    """Arrays of numbers and texts; a pickled one is not read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                file[name]
    except (zipfile.BadZipFile, OSError, ValueError, TypeError, EOFError) as problem:
        raise expected("model: level1.npz", "arrays", f"none: {_line(problem)}") from None


def _vet_facts(path: Path) -> None:
    try:
        facts = json.loads(path.read_text())
        named = facts["members"] and all(isinstance(name, str) for name in facts["members"])
        fine = named and 0 <= float(facts["threshold"]) <= 1
    except (OSError, ValueError, KeyError, TypeError):
        fine = False
    if not fine:
        raise expected("model: ensemble.json", "the names of members and a threshold", "something else")


def _vet_weights(weights: h5py.File, field: str) -> None:
    """Weights lie in the file itself: a link to another would read whatever file it names."""

    def link(name: str, found: Any) -> str | None:
        return name if isinstance(found, h5py.ExternalLink | h5py.SoftLink) else None

    def elsewhere(name: str, found: Any) -> str | None:
        return name if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual) else None

    away = weights.visititems_links(link) or weights.visititems(elsewhere)
    if away:
        raise expected(f"{field}: model.weights.h5", "weights in the file itself", f"a link at {away}")


def _classes(config: Any) -> Iterator[tuple[str | None, str]]:
    """Every class that a configuration names, with its module."""
    if isinstance(config, dict):
        if _SERIALIZED in config:
            yield config.get("module"), str(config[_SERIALIZED])
        for value in config.values():
            yield from _classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from _classes(value)


def _inputs_of(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer in config.get("config", {}).get("layers", []):
        if layer.get(_SERIALIZED) == "InputLayer":
            settings = layer.get("config", {})
            shape = settings.get("batch_shape") or []
            yield str(settings.get("name")), tuple(-1 if size is None else int(size) for size in shape)


def _signature(model: Model, kind: str, images: dict[str, tuple[int, ...]]) -> Vetted:
    """The inputs and columns of a signature that fits the network."""
    signature = model.signature
    if signature is None or signature.inputs is None or signature.outputs is None:
        raise expected("model: MLmodel: signature", "inputs and outputs", "none")
    try:
        shapes = {one.name or PATCH: tuple(one.shape) for one in signature.inputs.inputs}
        columns = tuple(str(one.name) for one in signature.outputs.inputs)
    except AttributeError:
        raise expected("model: MLmodel: signature", "inputs that are arrays", "others") from None
    wanted = sorted(images.values())
    if (
        not set(shapes) <= {*ROWS, CONDITION, ABNORMALITY_TYPE}
        or PATCH not in shapes
        or sorted(shapes.values()) != wanted
    ):
        takes = f"{', '.join(ROWS)} of the network's shape {wanted}"
        raise expected("model: MLmodel: signature: inputs", takes, ", ".join(f"{n} {s}" for n, s in shapes.items()))
    if kind == "ensemble" and columns[:2] != ("probability", "decision"):
        raise expected("model: MLmodel: signature: outputs", "probability, decision, …", ", ".join(columns))
    if kind == "keras" and [tuple(one.shape) for one in signature.outputs.inputs if hasattr(one, "shape")] != [(-1, 1)]:
        raise expected("model: MLmodel: signature: outputs", "one probability, (-1, 1)", str(signature.outputs))
    return Vetted(kind, tuple(shapes), columns if kind == "ensemble" else (), shapes[PATCH][1])


def _line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:120]
