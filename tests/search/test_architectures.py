import subprocess
import sys

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import build
from mammo_mlflow.models.architecture_ranges import block_counts, filters
from mammo_mlflow.presets import preset_values
from mammo_mlflow.search.architectures import distribution_from, start_draws
from mammo_mlflow.search.optuna_private import can_give

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
    assert distribution_from(facts) == wanted
    assert can_give(wanted, value)


def test_an_unknown_kind_is_named():
    with pytest.raises(UserError, match="distribution: unknown 'integer', did you mean 'int'"):
        distribution_from({"kind": "integer", "low": 1, "high": 3})


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
        ({"dense": "none"}, {}),
        ({"learning_rate": 1e-3}, {}),
    ],
)
def test_a_known_setting_as_draws(values, draws):
    assert start_draws("head", values) == draws


M1 = {
    "block_count": 4,
    **{f"filters_{number}": width for number, width in enumerate((32, 64, 128, 256), 1)},
    **{f"convolutions_{number}": count for number, count in enumerate((3, 2, 2, 1), 1)},
    "convolution_batch_norm": True,
    "pool_dropout": 0.1,
    **{"dense_layers": 2, "dense_1": 2048, "dense_2": 2048, "dropout": 0.5, "dense_batch_norm": True},
    "regularised": False,
}


@pytest.mark.parametrize(
    ("name", "more"), [("m1", {}), ("m1_balanced", {}), ("m2", {"regularised": True, "l1": 1e-5, "l2": 1e-4})]
)
def test_the_papers_networks_as_draws(name, more):
    values = build("mass_calc", preset_values("paper", name, "mass_calc", "scratch"), "scratch").flat()
    assert start_draws("scratch", values) == M1 | more


def test_the_authors_m1_as_draws_leaves_its_penalty_out():
    values = build("mass_calc", preset_values("paper", "m1_author", "mass_calc", "scratch"), "scratch").flat()
    assert start_draws("scratch", values) == {name: value for name, value in M1.items() if name != "regularised"}


@pytest.mark.parametrize(
    ("values", "draws"),
    [
        ({"blocks": "64"}, {"block_count": 1, "filters_1": 64, "convolutions_1": 1}),
        ({"blocks": "32-64"}, {}),
        ({"blocks": "32-32/2"}, {}),
        ({"blocks": "32,64/2"}, {}),
        ({"blocks": "32-32-32-32"}, {}),
        ({"blocks": "32,48"}, {}),
        ({"blocks": "128"}, {}),
        ({"l1": 0.0, "l2": 1e-4}, {}),
        ({"l1": 0.5, "l2": 0.5}, {}),
        ({"l1": 0.0, "l2": 0.0, "pool_dropout": 0.25}, {"regularised": False}),
        ({"dense": "64"}, {}),
    ],
)
def test_known_values_of_a_network_as_draws(values, draws):
    assert start_draws("scratch", values) == draws


@pytest.mark.parametrize(
    ("size", "stride", "counts"),
    [
        (150, 2, (3, 5)),
        (150, 1, (4, 5)),
        (75, 2, (2, 5)),
        (32, 2, (1, 4)),
        (299, 2, (4, 5)),
        (1024, 2, (6, 7)),
        (3, 2, (1, 1)),
    ],
)
def test_as_many_blocks_as_the_patches_have_room_for(size, stride, counts):
    assert block_counts(size, stride) == counts


def test_the_filters_of_a_block():
    assert [filters(block) for block in (1, 2, 4, 5, 6)] == [
        (8, 16, 32, 64),
        (16, 32, 64, 128),
        (64, 128, 256, 512),
        *[(128, 256, 512)] * 2,
    ]


def test_an_unknown_architecture_is_named():
    with pytest.raises(UserError, match="architecture: unknown 'heads', did you mean 'head'"):
        start_draws("heads", {})


def test_the_coordinators_side_needs_neither_keras_nor_keras_tuner(system):
    heavy = {"keras", "keras_tuner", "tensorflow"}
    code = f"import sys, mammo_mlflow.search.architectures; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
