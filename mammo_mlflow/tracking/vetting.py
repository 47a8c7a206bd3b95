"""Check the files of a registered model for anything this project does not write, without loading or running them.

A matching sha256 says that files are those that were registered, not that they are safe: pickles, code, Lambda layers
and classes from elsewhere are refused here, whoever registered them.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
from mlflow.models import Model

from mammo_mlflow.backbones import check_hub
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.experiment import ABNORMALITY_TYPE, PATCH, ROWS
from mammo_mlflow.files import file_sha256, read_small
from mammo_mlflow.level1 import load
from mammo_mlflow.names import METADATA, TRAINING_VALUES, Artifact
from mammo_mlflow.pixels import PixelRange, read_ranges

_ENVIRONMENT = {"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt"}
_EXAMPLES = {"input_example.json", "serving_input_example.json"}
_KERAS_FILES = {"data/keras_module.txt", "data/model.keras"}
_ENSEMBLE_FILES = {Artifact.ENSEMBLE, Artifact.LEVEL1, Artifact.MEMBERS}
_PACKAGE = Path(__file__).parents[1]
SERVED_CODE = {"served.py": _PACKAGE / "ensembles" / "served.py", "code/level1.py": _PACKAGE / "level1.py"}
"""The code of an ensemble: its file in the model's directory, and the same file in this package."""
KNOWN_CODE: dict[str, set[str]] = {
    "served.py": set(),
    "level1.py": {
        "9c4643ec5be91d0514dc59d8f8a1f3788f0ba34c0c8633b00e8692e01121570a",
        "cc1762f5092892588cf4e57958dc35d8c6246de2f5e8d6ebbacb1c130906c9a9",
    },
}
"""The sha256 of what earlier versions of this project shipped in an ensemble, beside what this one ships."""

_KERAS_KEYS = {"env", "loader_module", "python_version", "data"}
_ENSEMBLE_KEYS = {"artifacts", "cloudpickle_version", "code", "env", "loader_module", "model_code_path"}
_ENSEMBLE_KEYS |= {"python_version", "streamable"}
_ARCHIVE = {"metadata.json", "config.json", "model.weights.h5"}
_SERIALIZED = "class_name"
CLASSES_FILE = Path(__file__).with_name("classes.json")
CLASSES: dict[str, list[str]] = json.loads(CLASSES_FILE.read_text())
"""The classes that a model's configuration may name, by module: those of every row of this project's tables.

`python tests/support_models.py` builds them all and writes the file.
"""


@dataclass(frozen=True, kw_only=True)
class Vetted:
    """A model directory that is safe to load; `kind` is `keras` or `ensemble`, `columns` an ensemble's outputs.

    `inputs` are the names of its inputs, `image_size` the side of its patches in pixels. `ranges` are the values of its
    training patches by input; empty where the model was made before they were stored.
    """

    kind: str
    inputs: tuple[str, ...]
    columns: tuple[str, ...]
    image_size: int
    ranges: dict[str, PixelRange]


@contextmanager
def _one_line(field: str) -> Iterator[None]:
    """Turn any exception of the block into a `UserError` about `field`: the file may be anybody's."""
    try:
        yield
    except UserError:
        raise
    except Exception as problem:
        said = (str(problem).strip().splitlines() or [type(problem).__name__])[0][:120]
        raise expected(field, "what this project makes", f"something else: {said}") from None


@_one_line("model")
def vet(path: Path) -> Vetted:
    """Check the files of an MLflow model directory before it is loaded.

    Raises `UserError`, one line that names the file, for anything that this project does not write.
    """
    files = {one.relative_to(path).as_posix() for one in path.rglob("*") if not one.is_dir()}
    files.discard("registered_model_meta")
    linked = sorted(one.name for one in path.rglob("*") if one.is_symlink())
    if linked:
        raise expected("model", "plain files", f"the link {linked[0]}")
    with _one_line("model: MLmodel"):
        model = Model.load(str(path))
    if not isinstance(model.flavors, dict) or not isinstance(model.flavors.get("python_function"), dict):
        raise expected("model: MLmodel", "the flavor python_function", "none")
    members: tuple[str, ...] | None = None
    loader = model.flavors["python_function"].get("loader_module")
    if loader == "mlflow.keras":
        _check_files(files, _ENVIRONMENT | _EXAMPLES | _KERAS_FILES)
        _vet_keras_flavor(path, model)
        archive = path / "data" / "model.keras"
    elif loader == "mlflow.pyfunc.loaders.code_model":
        folder = _vet_ensemble_flavor(model)
        _check_files(files, _ENVIRONMENT | _EXAMPLES | set(SERVED_CODE) | {f"{folder}/{n}" for n in _ENSEMBLE_FILES})
        for file, ours in SERVED_CODE.items():
            digest = file_sha256(path / file)
            if digest not in KNOWN_CODE[ours.name] | {file_sha256(ours)}:
                raise expected(f"model: {file}", "this project's code", f"other code, sha256 {digest[:12]}")
        members = _vet_facts(path / folder / Artifact.ENSEMBLE)
        with _one_line(f"model: {Artifact.LEVEL1}"):
            joined = load(path / folder / Artifact.LEVEL1).members
        if joined != len(members):
            raise expected(f"model: {Artifact.LEVEL1}", f"the {len(members)} members of {Artifact.ENSEMBLE}", joined)
        archive = path / folder / Artifact.MEMBERS
    else:
        raise expected("model: MLmodel: loader_module", "that of a Keras model or of an ensemble", f"'{loader}'")
    examples = model.saved_input_example_info or {}
    if {examples.get("artifact_path"), examples.get("serving_input_path")} != _EXAMPLES:
        raise expected("model: MLmodel: saved_input_example_info", "the examples beside it", str(examples)[:80])
    images = vet_keras(archive)
    with _one_line(f"model: MLmodel: metadata: {TRAINING_VALUES}"):
        ranges = ranges_of_model(model)
    with _one_line("model: MLmodel: signature"):
        return _signature(model, images, members, ranges)


def ranges_of_model(model: Model) -> dict[str, PixelRange]:
    """Read the pixel ranges of a model's training patches by input; empty where they were not stored."""
    return read_ranges(((model.metadata or {}).get(METADATA) or {}).get(TRAINING_VALUES))


def vet_keras(path: Path) -> dict[str, tuple[int, ...]]:
    """Check a `.keras` file, and return the shapes of its inputs by name, -1 for the batch. Raises `UserError`."""
    with _one_line(field := f"model: {path.name}"):
        config = _vet_archive(path, field)
        layers = [
            layer.get("config", {})
            for layer in config.get("config", {}).get("layers", [])
            if layer.get(_SERIALIZED) == "InputLayer"
        ]
        return {
            str(one.get("name")): tuple(-1 if size is None else int(size) for size in one.get("batch_shape") or [])
            for one in layers
        }


def _vet_archive(path: Path, field: str) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        if names != _ARCHIVE:
            found = ", ".join(sorted(names ^ _ARCHIVE)[:3])
            raise expected(field, f"{', '.join(sorted(_ARCHIVE))} alone", f"a difference in {found}")
        if sum(one.file_size for one in archive.infolist()) > path.stat().st_size:  # Keras compresses nothing
            raise expected(field, "an archive without compression", "a compressed one")
        config = json.loads(archive.read("config.json"))
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:  # in place, it seeks for seconds
            _vet_weights(weights, field)
    if not isinstance(config, dict) or config.get(_SERIALIZED) != "Functional":
        raise expected(f"{field}: config.json", "a functional model", "another")
    for module, name in classes(config):
        if name not in CLASSES.get(module, []):
            raise expected(f"{field}: config.json", "layers that this project uses", f"{module or '?'}.{name}")
    if any(module.startswith("keras_hub.") for module, _ in classes(config)):
        check_hub("model", "its DINOv2")
    return config


def _vet_keras_flavor(path: Path, model: Model) -> None:
    flavor = model.flavors.get("keras")
    if set(model.flavors) != {"keras", "python_function"} or not isinstance(flavor, dict):
        raise expected("model: MLmodel", "the flavors keras and python_function", ", ".join(model.flavors))
    _check_keys(model, _KERAS_KEYS)
    if model.flavors["python_function"].get("data", "data") != "data":
        raise expected("model: MLmodel: python_function: data", "'data'", "another folder")
    if flavor.get("data") != "data" or flavor.get("save_exported_model") or flavor.get("custom_objects"):
        raise expected("model: MLmodel", "a .keras file in 'data' without custom objects", "another kind of save")
    module = (path / "data" / "keras_module.txt").read_text(errors="replace").strip()
    if module != "keras":
        raise expected("model: data/keras_module.txt", "'keras'", f"'{module[:40]}'")


def _vet_ensemble_flavor(model: Model) -> str:
    """The folder of an ensemble's files."""
    flavor = model.flavors["python_function"]
    _check_keys(model, _ENSEMBLE_KEYS)
    if set(model.flavors) != {"python_function"} or flavor.get("code") != "code":
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


def _check_keys(model: Model, known: set[str]) -> None:
    """MLflow follows some of these to other files, or to code: none that this project does not write."""
    more = sorted(map(str, set(model.flavors["python_function"]) - known))
    if more:
        raise expected("model: MLmodel: python_function", "no other keys than this project's", more[0])


def _check_files(found: set[str], allowed: set[str]) -> None:
    foreign, missing = sorted(found - allowed), sorted(allowed - found)
    if foreign:
        raise expected("model", "no other files than this project's", foreign[0])
    if missing:
        raise expected("model", f"the file {missing[0]}", "none")


def _vet_facts(path: Path) -> tuple[str, ...]:
    """The names of the members."""
    with _one_line(f"model: {Artifact.ENSEMBLE}"):
        facts = json.loads(read_small(path))
        names = facts["members"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise expected(f"model: {Artifact.ENSEMBLE}: members", "names", str(names)[:40])
        if not 0 <= float(facts["threshold"]) <= 1:
            raise expected(f"model: {Artifact.ENSEMBLE}: threshold", "a number in [0, 1]", facts["threshold"])
        return tuple(names)


def _vet_weights(weights: h5py.File, field: str) -> None:
    """Weights lie in the file itself: a link to another would read whatever file it names."""

    def link(name: str, found: object) -> str | None:
        return name if isinstance(found, h5py.ExternalLink | h5py.SoftLink) else None

    def elsewhere(name: str, found: object) -> str | None:
        return name if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual) else None

    away = weights.visititems_links(link) or weights.visititems(elsewhere)
    if away:
        raise expected(f"{field}: model.weights.h5", "weights in the file itself", f"a link at {away}")


def classes(config: object) -> Iterator[tuple[str, str]]:
    """Find every module and class that a Keras configuration names; the module of a tensor is ""."""
    if isinstance(config, dict):
        if _SERIALIZED in config:
            yield str(config.get("module") or ""), str(config[_SERIALIZED])
        for value in config.values():
            yield from classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from classes(value)


def _signature(
    model: Model, images: dict[str, tuple[int, ...]], members: tuple[str, ...] | None, ranges: dict[str, PixelRange]
) -> Vetted:
    """The inputs and columns of a signature that fits the network and, of an ensemble, the names of its members."""
    signature, field = model.signature, "model: MLmodel: signature"
    if signature is None or signature.inputs is None or signature.outputs is None:
        raise expected(field, "inputs and outputs", "none")
    found = {one.name or PATCH: tuple(one.shape) for one in signature.inputs.inputs}
    network = images if len(images) > 1 else dict.fromkeys([PATCH], next(iter(images.values())))
    if found != network or not set(found) <= {*ROWS, ABNORMALITY_TYPE} or PATCH not in found:
        raise expected(f"{field}: inputs", f"those of the network, {_shapes(network)}", _shapes(found))
    outputs = signature.outputs.inputs
    wanted = () if members is None else ("probability", "decision", *members)
    columns = tuple(str(one.name) for one in outputs)
    if members is None and [getattr(one, "shape", ()) for one in outputs] != [(-1, 1)]:
        raise expected(f"{field}: outputs", "one probability, (-1, 1)", str(signature.outputs))
    if members is not None and columns != wanted:
        raise expected(f"{field}: outputs", ", ".join(wanted), ", ".join(columns))
    kind = "keras" if members is None else "ensemble"
    return Vetted(kind=kind, inputs=tuple(found), columns=wanted, image_size=found[PATCH][1], ranges=ranges)


def _shapes(inputs: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in inputs.items())
