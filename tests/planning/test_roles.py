"""What a parameter is declared to move (`roles`) it moves, and nothing else: other values of every one, tried out."""

from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mammo_mlflow import experiment, model_spec, training_spec
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import NETWORKS, ModelSpec, build, parameters
from mammo_mlflow.jobs.contracts import DescribeJob
from mammo_mlflow.jobs.descriptions import Description, LayerCut, Network
from mammo_mlflow.jobs.devices import Devices
from mammo_mlflow.models.weights import NetworkWeights
from mammo_mlflow.planning.planner import Planner, _build_plan

PATCHES = 48
TASK = "benign_malignant"
BESIDE = {"optimizer": "sgd", "early_stop": 3, "unfrozen_layers": 1, "precision": "float32", "dense": "8"}
"""Beside these every parameter counts, but for a few."""
OTHERWISE = {
    "weight_decay": {"optimizer": "adamw"},
    "focal_gamma": {"loss": "focal"},
    "weight_average": {"early_stop": 0},
}
"""What these few stand beside instead."""
NAMES = [
    n
    for module in (experiment, model_spec, training_spec)
    for t in vars(module).values()
    if isinstance(t, tuple)
    for n in t
]
TEXTS = ["random", "8/2-8,16-16", "16-8", "balanced", "youden", *(name for name in NAMES if isinstance(name, str))]
TRIED = [("pretrained", "vgg16"), ("scratch", "m1"), ("siamese", "vgg16"), ("siamese", "scratch"), ("texture", "laws")]
TRIED += [("conditioned", "a"), ("conditioned", "c")]
EVERY = [pytest.param(item, id=item.name) for item in parameters()]


@pytest.fixture(autouse=True)
def _tensorflow(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")


def beside(family, backbone, **more):
    """The values that others are tried beside, as far as the network has them."""
    frozen = {"unfrozen_layers": 0} if backbone == "scratch" else {}
    known = {item.name for item in parameters(family)}
    return {name: v for name, v in {"backbone": backbone, **BESIDE, **frozen, **more}.items() if name in known}


def others(family, values, item):
    """Experiments with other values of a parameter, all that are possible."""
    at = values.get(item.name, item.default)
    if isinstance(at, str):
        tried = NETWORKS[family] if item.name == "backbone" else TEXTS
    else:
        tried = [type(at)(number) for number in (1 - at, at + 1, at / 2, at + 0.3, at + 7)]
    found = []
    for value in tried:
        try:
            found += [build(TASK, values | {item.name: value}, family)] if value != at and len(found) < 4 else []
        except UserError:
            continue
    assert found or item.name == "backbone", f"no other value of {item.name} is known here"
    return found


ROWS = np.arange(PATCHES)
TRAIN = SimpleNamespace(types=ROWS % 4 + 1, patient_ids=np.array([f"p{row // 2}" for row in ROWS]))


@cache
def folds_of(cv, task):
    """The folds of such a cross-validation of these patches."""
    return Planner(SimpleNamespace(train=TRAIN, train_duplicates=ROWS), None, None).folds(cv, task)


def plan(made, identity="weights"):
    """Its plan, whose weights are these, on data of which nothing but the hashes counts."""
    hashes = {
        "train_sha256": "train",
        "test_sha256": "test",
        "files": {"train_tensor.npy": "tensor"},
        "directory": Path("data"),
    }
    data = SimpleNamespace(train=TRAIN, image_size=32, train_duplicates=ROWS, **hashes)
    tuned = LayerCut(9 - made.model.unfrozen_layers, (4, 4, 64), "float32") if made.model.unfrozen_layers else None
    described = Description(features=LayerCut(9, (512,), "float32"), tuned=tuned, head=(512,), parameters=1000)
    weights = NetworkWeights(kind="file", label="", identity=identity, source="")
    return _build_plan(made, data, weights, folds_of(made.cv, made.task), described, Devices())


@cache
def seen(made):
    """The keys of its folds and of all of it; and what they do not say by themselves, by the word for it.

    That is which activations of its own encoder are needed, and what each fold is trained, stopped and scored on.
    """
    found = plan(made)
    folds = [fit for fit in found.fits if fit.fold is not None]
    rows = [[one.tolist() for one in (fit.job.train_rows, fit.job.inner_rows, fit.validation_rows)] for fit in folds]
    entries = () if made.family == "conditioned" else plan(made, made.model.weights).activations()
    moved = {"activations": [entry.key for entry in entries], "judging": (found.labels.tolist(), made.sides, rows)}
    return [fit.key for fit in folds], found.key, moved


@pytest.mark.parametrize("item", EVERY)
def test_a_parameter_moves_what_it_is_declared_to_and_nothing_else(item):
    moves, users, moved = item.metadata["moves"], item.metadata["users"], set()
    for family, backbone in TRIED:
        values = beside(family, backbone, **OTHERWISE.get(item.name, {}))
        made = build(TASK, values, family)
        if family not in users.families or users.whole not in (None, made.trained_whole) or not users.counts(made):
            continue
        folds, key, known = seen(made)
        for one in others(family, values, item):
            other_folds, other_key, other = seen(one)
            moved |= {word for word in known if other[word] != known[word]}
            assert (other_folds == folds) == bool(moves & {"final", "source"})
            assert (other_key == key) == ("source" in moves)
    assert moved == moves & {"activations", "judging"}


@pytest.mark.parametrize(("family", "backbone"), TRIED)
def test_what_does_not_count_is_in_no_key(family, backbone):
    """Fine tuning without unfrozen layers, say: its folds are found whatever it is."""
    values = beside(family, backbone, optimizer="adam", early_stop=0, unfrozen_layers=0)
    made = build(TASK, values, family)
    for item in parameters(family):
        if not item.metadata["users"].counts(made):
            assert all(seen(one)[0] == seen(made)[0] for one in others(family, values, item)), item.name


@pytest.fixture(scope="module")
def description(keras):
    """What a child says of the whole of a network, where nothing is left out as not moving the cut."""
    from mammo_mlflow.engine.activations import describe_network

    @cache
    def ask(made):
        network = Network(
            family=made.family, model=made.model, image_size=52, precision="float32", sides=tuple(made.sides)
        )
        return replace(describe_network(DescribeJob(name="", network=network, threads=1), None), patches_per_second=0.0)

    return ask


@pytest.mark.parametrize("item", [pytest.param(item, id=item.name) for item in fields(ModelSpec)])
def test_cuts_move_with_what_is_declared_to_move_them(item, description):
    users = item.metadata["users"]
    for family, backbone in (("siamese", "scratch"), ("pretrained", "vgg16")):
        values = beside(family, backbone, blocks="4/2-4,8", pooling="flatten")
        made = build(TASK, values, family)
        if family in users.families and users.whole in (None, made.trained_whole):
            moved = any(description(one) != description(made) for one in others(family, values, item))
            assert moved == ("cut" in item.metadata["moves"])
            return
    assert "cut" not in item.metadata["moves"]
