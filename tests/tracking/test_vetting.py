"""Hostile and broken models, registered as anybody may register them: one line, and nothing of theirs runs."""

import io
import json
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import mlflow.pyfunc
import numpy as np
import pytest
import yaml
from support import hide_hub

from mammo_mlflow.engine.flavor import save_answering_model, save_keras_model
from mammo_mlflow.errors import UserError
from mammo_mlflow.files import tree_sha256
from mammo_mlflow.jobs.contracts import EnsembleJob
from mammo_mlflow.level1 import Combiner
from mammo_mlflow.names import Artifact, Tag
from mammo_mlflow.tracking.logged_models import log_model
from mammo_mlflow.tracking.registry import register, verified_model
from mammo_mlflow.tracking.vetting import SERVED_CODE, vet

pytestmark = pytest.mark.usefixtures("keras")

SIZE = 8
DINOV2 = "keras_hub.src.models.dinov2.dinov2"
SERVED, LEVEL1_CODE = SERVED_CODE.values()
PATCHES = {"patch": np.zeros((2, SIZE, SIZE, 1), np.uint16)}


def network(columns=1, layer=None):
    inputs = keras.layers.Input((SIZE, SIZE, 1), name="patch")
    x = keras.layers.Conv2D(2, 3, activation="relu")(inputs)
    x = x if layer is None else layer(x)
    outputs = keras.layers.Dense(columns, activation="sigmoid")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


@pytest.fixture(scope="module")
def keras_model(tmp_path_factory):
    """The directory of a model as this project makes it."""
    path = tmp_path_factory.mktemp("keras") / "model"
    save_keras_model(network(), path, PATCHES, {})
    return path


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    """The directory of an ensemble of two."""
    folder = tmp_path_factory.mktemp("ensemble") / "files"
    folder.mkdir()
    network(2).save(folder / Artifact.MEMBERS)
    Combiner("weights", {"weights": np.array([0.5, 0.5])}).save(folder / Artifact.LEVEL1)
    (folder / Artifact.ENSEMBLE).write_text(json.dumps({"members": ["one", "two"], "threshold": 0.5}))
    job = EnsembleJob(
        name="",
        code=(SERVED, LEVEL1_CODE),
        parts=(),
        names=("one", "two"),
        flips=(),
        level1=folder / Artifact.LEVEL1,
        threshold=0.5,
        examples=PATCHES,
        metadata={},
        output=folder.with_name("model"),
    )
    save_answering_model(job, network(2), folder)
    return job.output


class Evil:
    """Unpickled, it writes a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (Path.write_text, (self.canary, "ran"))


class EvilModel(mlflow.pyfunc.PythonModel):
    def __init__(self, canary):
        self.evil = Evil(canary)

    def predict(self, context, model_input):
        return model_input


def described(path, change):
    """Change the MLmodel file, as a dictionary."""
    found = yaml.safe_load((path / "MLmodel").read_text())
    change(found)
    (path / "MLmodel").write_text(yaml.safe_dump(found))


def rezipped(path, change):
    """Change the members of a Keras file, as a dictionary of bytes."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


def configured(change):
    """A change of the network's configuration."""

    def spoil(path, canary):
        def edit(members):
            config = json.loads(members["config.json"])
            change(config)
            members["config.json"] = json.dumps(config).encode()

        rezipped(path / "data" / "model.keras", edit)

    return spoil


def foreign_class(module, name):
    def change(config):
        layer = config["config"]["layers"][1]
        layer["module"], layer["class_name"], layer["registered_name"] = module, name, None
        layer["config"] = {"command": "true"}

    return configured(change)


def rewritten(name, content):
    def spoil(path, canary):
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content(canary) if callable(content) else content)

    return spoil


def code(canary):
    return f"import pathlib\npathlib.Path({str(canary)!r}).write_text('ran')\n".encode()


def pickled(canary):
    return pickle.dumps(Evil(canary))


def appended(name):
    return lambda path, canary: (path / name).write_bytes((path / name).read_bytes() + b"\n" + code(canary))


def removed(name):
    return lambda path, canary: (path / name).unlink()


def in_description(change):
    return lambda path, canary: described(path, change)


def signed(part, text):
    return in_description(lambda found: found["signature"].update({part: text}))


def pickled_model(path, canary):
    shutil.rmtree(path)
    mlflow.pyfunc.save_model(str(path), python_model=EvilModel(canary), pip_requirements=["mlflow"])


def lambda_layer(path, canary):
    network(layer=keras.layers.Lambda(lambda x: x * 2)).save(path / "data" / "model.keras")


def sequential(path, canary):
    model = keras.Sequential([keras.layers.Input((SIZE, SIZE, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.save(path / "data" / "model.keras")


def half(path, canary):
    file = path / "data" / "model.keras"
    file.write_bytes(file.read_bytes()[:900])


def linked_weights(path, canary):
    def edit(members):
        buffer = io.BytesIO(members["model.weights.h5"])
        with h5py.File(buffer, "a") as file:
            file["elsewhere"] = h5py.ExternalLink("/etc/hostname", "/")
        members["model.weights.h5"] = buffer.getvalue()

    rezipped(path / "data" / "model.keras", edit)


def pickled_array(path, canary):
    (file,) = path.rglob(Artifact.LEVEL1)
    np.savez(file, kind=np.array("weights"), note=np.array(""), weights=np.array([Evil(canary)], dtype=object))


def other_facts(path, canary):
    (file,) = path.rglob(Artifact.ENSEMBLE)
    file.write_text("{}")


def more_in_the_folder(path, canary):
    (file,) = path.rglob(Artifact.ENSEMBLE)
    file.with_name("more.pkl").write_bytes(pickled(canary))


def renamed(names):
    def spoil(path, canary):
        (file,) = path.rglob(Artifact.ENSEMBLE)
        file.write_text(json.dumps({"members": names, "threshold": 0.5}))

    return spoil


def other_kind(path, canary):
    (file,) = path.rglob(Artifact.LEVEL1)
    np.savez(file, kind=np.array("zzz"), note=np.array(""), weights=np.array([0.5, 0.5]))


TWO_INPUTS = json.dumps(
    [
        {"type": "tensor", "name": name, "tensor-spec": {"dtype": "uint16", "shape": [-1, SIZE, SIZE, 1]}}
        for name in ("patch", "baseline")
    ]
)
OTHER_SHAPE = '[{"type": "tensor", "tensor-spec": {"dtype": "uint16", "shape": [-1, 9, 9, 1]}}]'
TABLE = '[{"type": "double", "name": "x", "required": true}]'

KERAS = {
    "a pickled model": (pickled_model, "loader_module"),
    "a Lambda layer": (lambda_layer, "Lambda"),
    "a class that is a function": (foreign_class("os", "system"), "os.system"),
    "a class of other code": (foreign_class("evil", "Layer"), "evil.Layer"),
    "a layer that loads a SavedModel": (foreign_class("keras.layers", "TFSMLayer"), "TFSMLayer"),
    "a layer of keras-hub that is in no backbone": (foreign_class(f"{DINOV2}_layers", "DINOV2MLP"), "DINOV2MLP"),
    "a model of keras-hub": (foreign_class(f"{DINOV2}_backbone", "DINOV2Backbone"), "DINOV2Backbone"),
    "a module in place of Keras": (rewritten("data/keras_module.txt", b"evil"), "keras_module.txt"),
    "pickled custom objects": (rewritten("data/custom_objects.cloudpickle", pickled), "custom_objects.cloudpickle"),
    "a folder of code": (rewritten("code/evil.py", code), "code/evil.py"),
    "a loader of its own": (
        in_description(lambda found: found["flavors"]["python_function"].update(loader_module="evil")),
        "loader_module",
    ),
    "code that the description names": (
        in_description(lambda found: found["flavors"]["python_function"].update(code="data")),
        "no other keys",
    ),
    "another flavor": (in_description(lambda found: found["flavors"].update(sklearn={})), "flavors"),
    "no network": (removed("data/model.keras"), "the file data/model.keras"),
    "no description": (removed("MLmodel"), "MLmodel"),
    "a description that is none": (rewritten("MLmodel", b"\x00{:"), "MLmodel"),
    "a description that is a list": (rewritten("MLmodel", b"[1, 2]"), "MLmodel"),
    "half a network": (half, "what this project makes"),
    "a pickle called .keras": (rewritten("data/model.keras", pickled), "what this project makes"),
    "more in the Keras file": (
        lambda path, canary: rezipped(
            path / "data/model.keras", lambda members: members.update({"x.py": code(canary)})
        ),
        "x.py",
    ),
    "weights in another file": (linked_weights, "a link at elsewhere"),
    "a network that is not functional": (sequential, "functional"),
    "a configuration that is a list": (
        lambda path, canary: rezipped(
            path / "data/model.keras", lambda members: members.update({"config.json": b"[]"})
        ),
        "functional",
    ),
    "no signature": (in_description(lambda found: found.pop("signature")), "signature"),
    "a signature of another shape": (signed("inputs", OTHER_SHAPE), "signature: inputs"),
    "a signature of a table": (signed("inputs", TABLE), "signature"),
    "a signature with other answers": (signed("outputs", OTHER_SHAPE), "signature: outputs"),
    "a folder elsewhere": (
        lambda path, canary: described(
            path, lambda found: found["flavors"]["python_function"].update(data=str(canary.parent))
        ),
        "python_function: data",
    ),
    "a function of its own": (
        in_description(lambda found: found["flavors"]["python_function"].update(predict_fn="fit")),
        "predict_fn",
    ),
    "training values that are none": (
        in_description(lambda found: found.update(metadata={"mammo": {"training_values": {"patch": {"lowest": 1}}}})),
        "training_values",
    ),
    "training values that are a text": (
        in_description(lambda found: found.update(metadata={"mammo": {"training_values": "x"}})),
        "training_values",
    ),
    "metadata that is a number": (in_description(lambda found: found.update(metadata=5)), ""),
    "an example elsewhere": (
        in_description(lambda found: found["saved_input_example_info"].update(artifact_path="../example.json")),
        "saved_input_example_info",
    ),
    "inputs of other names": (
        lambda path, canary: described(path, lambda found: found["signature"].update(inputs=TWO_INPUTS)),
        "signature: inputs",
    ),
    "a module that is a list": (configured(lambda config: config["config"]["layers"][1].update(module=[])), ""),
    "layers that are a text": (configured(lambda config: config["config"].update(layers="x")), ""),
    "a shape that is a number": (
        configured(lambda config: config["config"]["layers"][0]["config"].update(batch_shape=5)),
        "",
    ),
    "a signature that is a number": (in_description(lambda found: found.update(signature=5)), "MLmodel"),
    "a flavor that is a number": (in_description(lambda found: found["flavors"].update({5: 5})), ""),
    "a deep configuration": (
        lambda path, canary: rezipped(
            path / "data/model.keras", lambda found: found.update({"config.json": b"[" * 99999 + b"]" * 99999})
        ),
        "",
    ),
    "a pickle beside it": (rewritten("model.pkl", pickled), "model.pkl"),
}
ENSEMBLE = {
    "code with more in it": (appended("served.py"), "served.py"),
    "a module with more in it": (appended("code/level1.py"), "code/level1.py"),
    "another module": (rewritten("code/keras.py", code), "code/keras.py"),
    "a pickled array": (pickled_array, "level1.npz"),
    "other facts": (other_facts, "ensemble.json"),
    "a pickle among its files": (more_in_the_folder, "more.pkl"),
    "a folder elsewhere": (
        lambda path, canary: described(
            path, lambda found: found["flavors"]["python_function"].update(data=str(canary.parent))
        ),
        "python_function: expected no other keys than this project's, found data",
    ),
    "fewer names than members": (renamed(["one"]), "the 1 members of ensemble.json"),
    "other names than columns": (renamed(["two", "one"]), "probability, decision, two, one"),
    "a text for names": (renamed("ab"), "ensemble.json: members"),
    "another kind of level 1": (other_kind, "level1.npz"),
    "a folder outside": (
        in_description(
            lambda found: found["flavors"]["python_function"]["artifacts"]["ensemble"].update(path="artifacts/..")
        ),
        "artifacts",
    ),
    "a pickled model beside its code": (
        in_description(lambda found: found["flavors"]["python_function"].update(python_model="python_model.pkl")),
        "no other keys",
    ),
}


@pytest.fixture
def registered(client, writer, tmp_path, request):
    """Register a directory with the sha256 of its files, as one who means harm would: registered(path) -> uri."""

    def add(path):
        run = writer.start_run("run", parent=None, tags={}, params={})
        name = f"mammo-{abs(hash(request.node.name))}"
        logged = log_model(writer, run.id, "model", path, {}, tmp_path / "fetched")
        number = register(writer, name, logged, run.id, {"mammo.task": "mass_calc"}, "")
        return f"models:/{name}/{number}"

    return add


@pytest.mark.parametrize("made", ["keras_model", "ensemble"])
def test_what_this_project_makes_is_taken(client, registered, tmp_path, request, made):
    found = verified_model(client, registered(request.getfixturevalue(made)), tmp_path / "taken")
    assert found.made_of.image_size == SIZE
    assert found.made_of.inputs == ("patch",)
    assert (found.made_of.columns[2:] == ("one", "two")) == (made == "ensemble")


@pytest.mark.parametrize(
    ("made", "case"), [*(("keras_model", case) for case in KERAS), *(("ensemble", case) for case in ENSEMBLE)]
)
def test_hostile_and_broken_models_are_refused(client, registered, tmp_path, monkeypatch, request, made, case):
    spoil, said = (KERAS if made == "keras_model" else ENSEMBLE)[case]
    canary, lair = tmp_path / "canary", tmp_path / "lair"
    lair.mkdir()
    (lair / "evil.py").write_bytes(code(canary))
    monkeypatch.syspath_prepend(str(lair))
    path = shutil.copytree(request.getfixturevalue(made), tmp_path / "model")
    spoil(path, canary)
    canary.unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"^model") as refused:
        verified_model(client, registered(path), tmp_path / "taken")
    (line,) = refused.value.lines
    assert said in line
    assert "\n" not in line
    assert not canary.exists()
    assert "evil" not in sys.modules


def test_other_files_than_those_registered_are_refused(client, registered, keras_model, tmp_path):
    uri = registered(keras_model)
    name, version = uri.removeprefix("models:/").split("/")
    client.set_model_version_tag(name, version, Tag.FILES_SHA256, tree_sha256(tmp_path))
    with pytest.raises(UserError, match="they were changed"):
        verified_model(client, uri, tmp_path / "taken")
    client.delete_model_version_tag(name, version, Tag.FILES_SHA256)
    with pytest.raises(UserError, match="without the sha256 of its files"):
        verified_model(client, uri, tmp_path / "taken")


def test_a_model_of_keras_hub_is_not_loaded_without_it(keras_model, tmp_path, monkeypatch):
    path = shutil.copytree(keras_model, tmp_path / "model")
    foreign_class(f"{DINOV2}_layers", "DINOV2Layer")(path, None)
    how = hide_hub(monkeypatch)
    with pytest.raises(UserError, match=f"^model: expected the package keras-hub for its DINOv2 {how}$"):
        vet(path)


def test_a_link_is_no_file(keras_model, tmp_path):
    path = shutil.copytree(keras_model, tmp_path / "model")
    network_file = path / "data" / "model.keras"
    network_file.rename(tmp_path / "elsewhere")
    network_file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="plain files, found the link"):
        vet(path)
