"""Samplers: each draws from a space as its file says, goes on where it was stopped, and repeats nothing."""

import importlib.util
import shutil
from dataclasses import dataclass

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage

from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import build
from mammo_mlflow.search.sampling import SAMPLERS, Proposer, Stored, check_sampler, distribution_of
from mammo_mlflow.search.spaces import read_space
from mammo_mlflow.search.storage import Storage
from mammo_mlflow.search.study import _store

PAPER = {k: v for k, v in build("mass_calc", {"backbone": "vgg16"}).flat().items() if k not in ("task", "family")}
MIXED = """
  optimizer: {choices: [adam, sgd]}
  momentum: {low: 0.5, high: 0.95, step: 0.1, when: {optimizer: sgd}}
  learning_rate: {low: 1e-5, high: 1e-2, log: true}
  batch_size: {low: 16, high: 60, step: 16}
  unfrozen_layers: {low: 0, high: 3}
  tuning_learning_rate: {low: 1e-7, high: 1e-4, log: true, when: {unfrozen_layers: {low: 1}}}
"""
TWELVE = """
  optimizer: {choices: [adam, sgd]}
  momentum: {low: 0.1, high: 0.5, step: 0.2, when: {optimizer: sgd}}
  unfrozen_layers: {low: 0, high: 2}
"""
FRACTIONS = """
  dropout: {low: 0.1, high: 0.6, step: 0.1}
  momentum: {low: 0.1, high: 0.9, step: 0.2}
"""
NUMBERS = """
  learning_rate: {low: 1e-5, high: 1e-1, log: true}
  momentum: {low: 0.0, high: 0.99}
  dropout: {low: 0.0, high: 0.9}
"""
WITHOUT_THE_PAPERS = NUMBERS.replace("low: 0.0, high: 0.9}", "low: 0.1, high: 0.4}")
"""The paper's dropout of 0.5 is outside."""

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="pip install torch")
EACH = [pytest.param(name, marks=needs_torch if name == "gp" else ()) for name in SAMPLERS]


@dataclass
class Drawn:
    """A study whose trials are drawn and stored as a coordinator does it, and told a value at once."""

    space: object
    sampler: str
    seed: int
    storage: object
    directions: tuple = ("minimize",)

    def __post_init__(self):
        self.open()

    def open(self):
        """Begin, or go on as another process does."""
        self.study = optuna.create_study(
            storage=self.storage,
            study_name="study",
            sampler=Stored(),
            directions=self.directions,
            load_if_exists=True,
        )
        self.proposer = Proposer(self.sampler, self.seed, self.space.points(PAPER))

    def propose(self, trial):
        others = [other.params for other in self.study.trials if other.number != trial.number]
        frozen = self.study.trials[trial.number]
        known = {item.name: PAPER[item.name] for item in self.space.parameters} if trial.number == 0 else {}
        return self.proposer.propose(self.study, frozen, others, self.draw, known, known_only=trial.number == 0)

    def draw(self, suggest):
        return self.space.draw(PAPER, lambda item: suggest(item.name, distribution_of(item)))

    def trial(self, value=lambda params: 0.0):
        trial = self.study.ask()
        preview, values = self.propose(trial)
        self.study.sampler.values = preview.params
        for name, drawn_from in preview.distributions.items():
            _store(trial, name, drawn_from)
        told = value(values)
        self.study.tell(trial, [told] if len(self.directions) == 1 else [told, -told])
        assert self.study.trials[trial.number].params == preview.params
        return values

    def trials(self, count, value=lambda params: 0.0):
        return [self.trial(value) for _ in range(count)]

    @property
    def params(self):
        return [trial.params for trial in self.study.trials]


@pytest.fixture
def drawn(tmp_path, empty_stores):
    """A study of a space's text; `stored` is the name of its SQLite file, where it has one."""
    made = []
    shutil.copy(empty_stores / "optuna.db", tmp_path)

    def make(text, sampler, seed=0, stored=None, **more):
        made.append(sampler)
        path = tmp_path / f"space{len(made)}.yaml"
        path.write_text(f"family: pretrained\nparameters:\n{text}", encoding="utf-8")
        storage = Storage(f"sqlite:///{tmp_path}/{stored}").rdb if stored else InMemoryStorage()
        return Drawn(read_space(path, "pretrained", "vgg16"), sampler, seed, storage, **more)

    return make


def loss(values):
    """Least at a learning rate of 1e-4, momentum 0.3 and dropout 0.2."""
    rate, momentum = np.log10(values["learning_rate"]) + 4, values["momentum"] - 0.3
    return float(rate**2 + (4 * momentum) ** 2 + (4 * (values["dropout"] - 0.2)) ** 2)


@pytest.mark.parametrize("sampler", EACH)
def test_every_sampler_draws_what_the_space_allows(drawn, sampler, recwarn, capfd):
    if sampler == "grid":
        pytest.skip("a grid needs an end")
    study = drawn(MIXED, sampler, stored="optuna.db")
    for values in study.trials(16, value=lambda values: values["learning_rate"]):
        build("mass_calc", values)
    for params in study.params[1:]:
        expected = {"optimizer", "learning_rate", "batch_size", "unfrozen_layers"}
        expected |= {"momentum"} if params["optimizer"] == "sgd" else set()
        expected |= {"tuning_learning_rate"} if params["unfrozen_layers"] else set()
        assert params.keys() == expected
        by_name = {item.name: item for item in study.space.parameters}
        assert all(by_name[name].contains(value) for name, value in params.items()), params
    assert len({params["learning_rate"] for params in study.params[1:]}) > 8
    assert not recwarn.list
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", [MIXED, TWELVE], ids=["mixed", "twelve"])
@pytest.mark.parametrize("sampler", EACH)
def test_a_study_goes_on_as_it_would_have(drawn, sampler, text, tmp_path):
    if sampler == "grid" and text == MIXED:
        pytest.skip("a grid needs an end")

    def value(values):
        return values["learning_rate"] * (1 + values["unfrozen_layers"]) + values["momentum"]

    straight, other = (drawn(text, sampler, seed) for seed in (3, 4))
    stopped = drawn(text, sampler, 3, stored="optuna.db")
    straight.trials(12, value)
    other.trials(12, value)
    for count in (1, 5, 6):
        stopped.storage = Storage(f"sqlite:///{tmp_path}/optuna.db").rdb
        stopped.open()
        stopped.trials(count, value)
    assert stopped.params == straight.params
    assert stopped.params != other.params


@pytest.mark.parametrize("sampler", EACH)
def test_a_trial_that_was_cut_off_is_drawn_again_as_it_was(drawn, sampler):
    if sampler == "qmc":
        pytest.skip("it skips the point of its sequence that was being drawn")
    study = drawn(TWELVE, sampler)
    study.trials(4)
    trial = study.study.ask()
    first = study.propose(trial)
    study.open()
    assert study.propose(trial)[1] == first[1]


@pytest.mark.parametrize(("text", "count"), [(TWELVE, 12), (FRACTIONS, 30)], ids=["twelve", "fractions"])
@pytest.mark.parametrize("sampler", EACH)
def test_no_set_is_drawn_twice_and_every_one_is_drawn(drawn, sampler, text, count, recwarn, capfd):
    study = drawn(text, sampler)
    first = study.trials(1) and study.params[0]
    whole = first in study.space.points(PAPER)  # else the paper's setting is no point of the space
    for _ in range(count - whole):
        assert not study.proposer.exhausted(study.params)
        study.trial(lambda values: values["momentum"])
    assert study.proposer.exhausted(study.params)
    tried = [tuple(sorted(params.items())) for params in study.params]
    assert len(set(tried)) == len(tried)
    points = {tuple(sorted(point.items())) for point in study.space.points(PAPER)}
    assert set(tried[0 if whole else 1 :]) == points
    assert not recwarn.list
    assert capfd.readouterr().err == ""


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


@pytest.mark.parametrize("text", [NUMBERS, WITHOUT_THE_PAPERS], ids=["inside", "outside"])
@pytest.mark.parametrize("sampler", ["tpe", "cmaes", pytest.param("gp", marks=needs_torch)])
def test_a_sampler_that_learns_draws_better_than_chance(drawn, sampler, text):
    """Each trial has a sampler of its own: what it has learnt has to come from the study."""
    count = 24 if sampler == "gp" else 60
    study, chance = drawn(text, sampler), drawn(text, "random")
    learnt, drawn_blindly = (np.array([loss(values) for values in one.trials(count, loss)]) for one in (study, chance))
    assert np.median(learnt[-count // 3 :]) < np.median(drawn_blindly[-count // 3 :]) / 3


def test_cmaes_hands_its_state_from_generation_to_generation(drawn):
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


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", pytest.param("gp", marks=needs_torch)])
def test_two_objectives(drawn, sampler, recwarn, capfd):
    study = drawn(MIXED, sampler, directions=("minimize", "maximize"))
    check_sampler(sampler, 2)
    study.trials(14, value=lambda values: values["learning_rate"])
    assert len({params["learning_rate"] for params in study.params}) == 14
    assert not recwarn.list
    assert capfd.readouterr().err == ""


def test_cmaes_takes_one_objective_only():
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
    assert f"pip install 'mammo-mlflow[{sampler}]'" in str(raised.value)
