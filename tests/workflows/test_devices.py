"""What commands compute on: told in the log, tagged, in the keys; and models of one device beside those of another."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from support import PHANTOM, Store

from mammo_mlflow.errors import UserError
from mammo_mlflow.jobs.devices import USUAL, Card, Devices
from mammo_mlflow.testing.scripted import Script
from mammo_mlflow.workflows.ensemble import members_table

pytestmark = pytest.mark.usefixtures("system")  # whole commands, too slow for the quick tier

GB = 10**9
CARD = Card(number=0, name="NVIDIA H200", memory=150 * GB, free=120 * GB, bfloat16=True)
CARDS = Devices(backend="jax", kind="gpu", cards=(CARD,))
FEW = (*PHANTOM, "--epochs", "2", "--dense", "8")
ENCODER = ("--backbone", "scratch", "--blocks", "8/2-8,8")
NAME = "mammo-{}-siamese-scratch"
CONDITIONED = ("--backbone", "a", "--features-from", NAME.format("benign_malignant"))
CONDITIONED += ("--condition-from", NAME.format("mass_calc"), "--views", "2")


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    return tmp_path_factory.mktemp("devices")


@pytest.fixture(scope="module")
def run(where, pretend):
    """A command in one store for all, on cards that are pretended or as it finds: run("siamese", …, on=CARDS)."""

    def call(name, *arguments, on=None, code=0, script=None):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("KERAS_BACKEND", raising=False)
            patch.setenv("KERAS_HOME", str(where))
            if on is not None:
                patch.setattr("mammo_mlflow.workflows.workbench.find_devices", lambda *_: on)
            outcome = pretend(where, *arguments, name=name, script=script)
        assert outcome.code == code, outcome.err
        return outcome

    return call


@pytest.fixture(scope="module")
def trained(run):
    """Both Siamese models, trained on a card."""
    tasks = ("mass_calc", "benign_malignant")
    return [run("siamese", "--task", task, *ENCODER, *FEW, on=CARDS) for task in tasks]


@pytest.fixture(scope="module")
def store(trained, where):
    return Store(where)


def test_the_log_the_table_and_the_tags_tell_of_the_card(trained, store):
    for outcome in trained:
        assert " INFO devices: NVIDIA H200 (150 GB, 120 GB free, bfloat16) with JAX\n" in outcome.err
        assert "\ncomputed on NVIDIA H200 with JAX\n" in outcome.out
    for run in store.runs():
        tags = run.data.tags
        assert (tags["mammo.keras_backend"], tags["mammo.device"]) == ("jax", "gpu")
        assert tags["mammo.device_name"] == "NVIDIA H200"
        if "precision" in run.data.params:
            assert run.data.params["precision"] == "bfloat16"


def test_on_another_device_a_model_is_another_and_on_the_same_it_is_found(run, store):
    task = ("siamese", "--task", "mass_calc", *ENCODER, *FEW, "--precision", "bfloat16", "--seed", "3")
    keys = []
    for on in (CARDS, None, CARDS, None):
        outcome = run(*task, on=on)
        top = store.tops()[-1]
        trained = [one for one in store.children(top) if "mammo.reused_from" not in one.data.tags]
        keys.append((top.data.tags["mammo.key"], bool(trained)))
    assert "computed on" not in outcome.out
    assert top.data.tags["mammo.device"] == "cpu"
    assert "mammo.device_name" not in top.data.tags
    (card, *_), (processor, *_) = keys[:2]
    assert keys == [(card, True), (processor, True), (card, False), (processor, False)]
    assert card != processor


def test_models_trained_on_a_card_are_built_on_elsewhere(run, store):
    """By the device that their versions name their keys are found; what is built on them says its own."""
    outcome = run("conditioned", *CONDITIONED, *FEW, "--devices", "cpu")
    assert re.search(r" INFO devices: the processor.* with TensorFlow: devices=cpu\n", outcome.err)
    tags = store.tops()[-1].data.tags
    assert (tags["mammo.family"], tags["mammo.device"], tags["mammo.keras_backend"]) == (
        "conditioned",
        "cpu",
        "tensorflow",
    )
    again = run("conditioned", *CONDITIONED, *FEW, on=CARDS)
    assert "computed on NVIDIA H200 with JAX" in again.out
    of_cards = store.tops()[-1].data.tags
    assert of_cards["mammo.device"] == "gpu"
    assert of_cards["mammo.key"] != tags["mammo.key"]


def test_a_version_that_does_not_name_its_device_is_not_taken_for_one_of_the_processor(run, store):
    name = NAME.format("benign_malignant")
    store.client.delete_model_version_tag(name, "1", "mammo.device")
    try:
        said = run("conditioned", *CONDITIONED, *FEW, "--learning-rate", "0.002", code=2).err
        assert f"found {name} v1, made by other code" in said
    finally:
        store.client.set_model_version_tag(name, "1", "mammo.device", "gpu")


def test_members_of_an_ensemble_may_be_of_different_devices(run, store):
    run("scratch", "--task", "mass_calc", "--backbone", "m2", "--blocks", "8/2,8", *FEW, "--dense", "8")
    members = f"{NAME.format('mass_calc')}/1,mammo-mass_calc-scratch-m2"
    stop = Script(fail={"assembling": UserError("reached: expected no more of a script")})
    outcome = run("ensemble", "--task", "mass_calc", "--members", members, *PHANTOM, code=2, script=stop)
    assert outcome.complaints == ["mammo_mlflow: reached: expected no more of a script"]
    header, rows = members_table(fitted("gpu", "cpu"))
    assert (header[-1], [row[-1] for row in rows]) == ("trained on", ["a card with JAX", USUAL])
    assert len(members_table(fitted("cpu", "cpu"))[0]) == 3


def fitted(*kinds):
    """An ensemble as far as the table of its members asks, each trained on a kind of device."""
    tags = [Devices(backend="jax" if kind == "gpu" else "tensorflow", kind=kind).tags for kind in kinds]
    members = [SimpleNamespace(name="m", base_model=SimpleNamespace(version=SimpleNamespace(tags=t))) for t in tags]
    data = SimpleNamespace(probabilities=np.zeros((3, len(kinds))))
    return SimpleNamespace(members=members, data=data, score=np.mean, objective=SimpleNamespace(name="roc_auc"))


def test_features_of_a_base_model_are_those_of_what_computes_them(run, store, pretend):
    """The cache has them once for each device."""
    entries = len(list((pretend.cache / "activations").iterdir()))
    for on in (None, CARDS):
        run("conditioned", *CONDITIONED, *FEW, "--learning-rate", "0.003", on=on)
    assert len(list((pretend.cache / "activations").iterdir())) == entries  # made by the commands before
    run("conditioned", *CONDITIONED[:-1], "3", *FEW)
    added = len(list((pretend.cache / "activations").iterdir())) - entries
    run("conditioned", *CONDITIONED[:-1], "3", *FEW, on=CARDS)
    assert added > 0
    assert len(list((pretend.cache / "activations").iterdir())) == entries + 2 * added


def test_gpu_where_there_is_none_is_a_line_before_anything_is_written(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("mammo_mlflow.jobs.devices.DRIVER_FILES", ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    outcome = cli("--task", "mass_calc", "--devices", "gpu", "--executor", "inline", "--cache-dir", "cache", *PHANTOM)
    (line,) = outcome.complaints
    assert line.startswith("mammo_mlflow: devices: expected a card that JAX can use, found none: no card is here (")
    assert outcome.code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--devices", "cuda", "devices: unknown 'cuda', did you mean 'cpu'? (one of: auto, cpu, gpu)"),
        ("--card-memory-gb", "-1", "card_memory_gb: expected a number from 0 to 1,000,000,000, found -1.0"),
        ("--card-memory-gb", "much", "card_memory_gb: expected"),
    ],
)
def test_bad_values_are_a_line(cli, option, value, said):
    outcome = cli("--task", "mass_calc", option, value)
    (line,) = outcome.complaints
    assert said in line
    assert outcome.code == 2
