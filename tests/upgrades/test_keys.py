"""The keys by which finished work is found again are those of the last release: whoever moves one sees it here.

Another key trains the folds of every user again: see docs/extending.md for the version that is meant.
"""

import json

import pytest
from support_keys import RELEASED, all_keys, experiments, keys_of, planner

from mammo_mlflow import experiment
from mammo_mlflow.ensembles import methods
from mammo_mlflow.models import weights
from mammo_mlflow.planning import activations

THEN = json.loads(RELEASED.read_text())


@pytest.fixture(scope="module")
def found():
    return all_keys()


@pytest.mark.parametrize("kind", THEN)
def test_keys_are_those_of_the_last_release(found, kind):
    """New experiments, studies and ensembles may have joined them."""
    then, now = THEN[kind], found[kind]
    assert {name: now.get(name) for name in then} == then


def test_no_two_share_their_keys(found):
    """Else code whose keys leave out what they have to tell apart would pass."""
    texture = "quick mass_calc texture laws", "quick benign_malignant texture laws"  # the paper's, once more
    plans = [one["plan"] for name, one in found["experiments"].items() if name not in texture]
    for keys in (plans, found["studies"].values(), found["ensembles"].values()):
        assert len(set(keys)) == len(keys)


def test_each_version_is_that_of_what_it_changes(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    made, one = planner(tmp_path), experiments()["paper mass_calc pretrained vgg16"]
    parts = ("plan", "fits", "activations")

    def keys():
        found = keys_of(made.plans([one])[0])
        return [found[part] for part in parts]

    before = keys()

    def moved():
        return {part for part, then, now in zip(parts, before, keys(), strict=True) if then != now}

    for module, name in ((weights, "RANDOM_WEIGHTS_VERSION"), (methods, "ENSEMBLE_VERSION")):
        monkeypatch.setattr(module, name, 99)
    assert moved() == set()
    monkeypatch.setattr(activations, "ACTIVATIONS_VERSION", 99)
    assert moved() == {"activations"}
    monkeypatch.undo()
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr(experiment, "RESULTS_VERSION", 99)
    assert moved() == {"plan", "fits"}
