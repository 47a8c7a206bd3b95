"""The shipped samplers keep the contract of every sampler, and each what is its own."""

import importlib.util
import shutil

import numpy as np
import pytest

from mammo_mlflow.errors import UserError, how_to_install
from mammo_mlflow.search.sampling import SAMPLERS, check_sampler
from mammo_mlflow.testing.samplers import (
    NUMBERS,
    PAPER,
    TWELVE,
    WITHOUT_THE_PAPERS,
    SamplerContract,
    draw_from,
    loss,
)


class Shipped(SamplerContract):
    @pytest.fixture
    def drawn(self, empty_stores, tmp_path):
        shutil.copy(empty_stores / "optuna.db", tmp_path)  # to make its tables takes a second
        return draw_from(tmp_path)


class TestTPE(Shipped):
    sampler, learns = "tpe", 60


class TestRandom(Shipped):
    sampler = "random"


class TestGaussianProcesses(Shipped):
    sampler, learns = "gp", 24


class TestCMAES(Shipped):
    sampler, learns, objectives = "cmaes", 60, 1


class TestQuasiMonteCarlo(Shipped):
    sampler, draws_again = "qmc", False  # it skips the point of its sequence that was being drawn


class TestGrid(Shipped):
    sampler, finite = "grid", True


def test_every_sampler_is_under_the_contract():
    assert {one.sampler for one in Shipped.__subclasses__()} == set(SAMPLERS)


@pytest.fixture
def drawn(tmp_path):
    return draw_from(tmp_path)


def test_a_grid_is_visited_in_an_order_of_its_seed(drawn):
    orders = []
    for seed in (0, 0, 1):
        study = drawn(TWELVE, "grid", seed)
        study.trials(12)
        orders.append(study.params)
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][1:] != [point for point in study.space.points(PAPER) if point != orders[0][0]]


def test_the_first_trial_keeps_of_the_paper_what_the_space_contains(drawn):
    text = """
  optimizer: {choices: [rmsprop, sgd]}
  learning_rate: {low: 1e-6, high: 1e-1, log: true}
  dropout: {low: 0.6, high: 0.9}
  batch_size: {low: 13, high: 61, step: 16}
  unfrozen_layers: {low: 0, high: 3}
"""
    study = drawn(text, "random")
    study.trial()
    assert PAPER["optimizer"] == "adam"
    assert PAPER["dropout"] < 0.6
    assert 13 < PAPER["batch_size"] < 61
    assert study.params == [{name: PAPER[name] for name in ("learning_rate", "unfrozen_layers")}]


def test_cmaes_hands_its_state_from_generation_to_generation(drawn):
    pytest.importorskip("cmaes", reason="needs cmaes: pip install 'mammo-mlflow[cmaes]'")
    study = drawn(NUMBERS, "cmaes")
    study.trials(40, loss)
    generations = [trial.system_attrs.get("cma:generation", -1) for trial in study.study.trials]
    assert generations == sorted(generations)
    assert generations[-1] == 5  # of 7 trials each


@pytest.mark.parametrize("text", [NUMBERS, WITHOUT_THE_PAPERS], ids=["inside", "outside"])
def test_qmc_spreads_its_draws_evenly(drawn, text):
    study = drawn(text, "qmc")
    study.trials(18)
    first = 1 if text == NUMBERS else 2  # the sequence begins once a trial has all the parameters
    for item in study.space.parameters:
        scale = np.log10 if item.log else np.asarray
        values = scale([params[item.name] for params in study.params[first : first + 16]])
        low, high = scale(item.low), scale(item.high)
        assert sorted(np.floor(16 * (values - low) / (high - low))) == list(range(16))


def test_cmaes_takes_one_objective_only():
    pytest.importorskip("cmaes", reason="needs cmaes: pip install 'mammo-mlflow[cmaes]'")
    check_sampler("cmaes", 1)
    with pytest.raises(UserError, match=r"^sampler: expected one that takes two objectives \(.*\), found 'cmaes'$"):
        check_sampler("cmaes", 2)


def test_an_unknown_sampler_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r"^sampler: unknown 'tpf', did you mean 'tpe'\?.*\bgrid\b") as raised:
        check_sampler("tpf", 1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("sampler", "package"), [("gp", "torch"), ("cmaes", "cmaes")])
def test_a_missing_package_names_the_extra_that_brings_it(sampler, package, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else there(name))
    with pytest.raises(UserError) as raised:
        check_sampler(sampler, 1)
    assert "\n" not in str(raised.value)
    assert how_to_install(f"mammo-mlflow[{sampler}]") in str(raised.value)
