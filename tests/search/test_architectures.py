import subprocess
import sys

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from mammo_mlflow.errors import UserError
from mammo_mlflow.search.architectures import distribution, start_draws, suggest

DISTRIBUTIONS = [
    ({"kind": "categorical", "choices": ["a", "b"]}, CategoricalDistribution(["a", "b"]), "b"),
    ({"kind": "int", "low": 1, "high": 3, "step": 2, "log": False}, IntDistribution(1, 3, step=2), 3),
    ({"kind": "int", "low": 1, "high": 64, "step": 1, "log": True}, IntDistribution(1, 64, log=True), 7),
    ({"kind": "float", "low": 0.0, "high": 0.5, "step": 0.1, "log": False}, FloatDistribution(0, 0.5, step=0.1), 0.2),
    (
        {"kind": "float", "low": 1e-5, "high": 0.1, "step": None, "log": True},
        FloatDistribution(1e-5, 0.1, log=True),
        1e-3,
    ),
]


@pytest.mark.parametrize(("facts", "wanted", "value"), DISTRIBUTIONS)
def test_distributions_become_optunas(facts, wanted, value):
    assert distribution(facts) == wanted
    trial = FixedTrial({"x": value})
    assert suggest(trial, "x", facts) == value
    assert trial.distributions == {"x": wanted}


@pytest.mark.parametrize("use", [distribution, lambda facts: suggest(FixedTrial({}), "x", facts)])
def test_an_unknown_kind_is_named(use):
    with pytest.raises(UserError, match="distribution: unknown 'integer', did you mean 'int'"):
        use({"kind": "integer", "low": 1, "high": 3})


@pytest.mark.parametrize(
    ("values", "draws"),
    [
        (
            {"dense": "256", "dropout": 0.0, "batch_norm": True},
            {"dense_layers": 1, "dense_1": 256, "dropout": 0.0, "batch_norm": True},
        ),
        ({"dense": "512-64", "dropout": 0.3}, {"dense_layers": 2, "dense_1": 512, "dense_2": 64, "dropout": 0.3}),
        ({"dense": "100", "dropout": 0.25, "batch_norm": False}, {"batch_norm": False}),
        ({"dense": "64-64-64-64", "dropout": 0.6}, {}),
        ({"learning_rate": 1e-3}, {}),
    ],
)
def test_a_known_setting_as_draws(values, draws):
    assert start_draws("head", values) == draws


def test_an_unknown_architecture_is_named():
    with pytest.raises(UserError, match="architecture: unknown 'heads', did you mean 'head'"):
        start_draws("heads", {})


def test_the_coordinators_side_needs_neither_keras_nor_keras_tuner():
    heavy = {"keras", "keras_tuner", "tensorflow"}
    code = f"import sys, mammo_mlflow.search.architectures; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
