"""The tests that every sampler of `SAMPLERS` passes: subclass `SamplerContract` with its name."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage

from mammo_mlflow.evaluation.objectives import Direction
from mammo_mlflow.experiment import build
from mammo_mlflow.search.optuna_private import ShownStudy
from mammo_mlflow.search.parameters import SearchSpace
from mammo_mlflow.search.sampling import (
    SAMPLERS,
    DraftTrial,
    SuggestValue,
    TrialProposer,
    check_sampler,
    distribution_of,
)
from mammo_mlflow.search.spaces import read_space
from mammo_mlflow.search.storage import Storage

PAPER = {k: v for k, v in build("mass_calc", {"backbone": "vgg16"}).flat().items() if k not in ("task", "family")}
"""The setting that a study starts from."""
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

Values = dict[str, Any]


def warnings_of(recwarn: pytest.WarningsRecorder) -> list[warnings.WarningMessage]:
    """The warnings that a user would see.

    Not so deprecations: they are for whoever keeps a library, told once a process, to whichever test comes first.
    """
    return [said for said in recwarn if not issubclass(said.category, DeprecationWarning)]


@dataclass(kw_only=True)
class Drawn:
    """A study whose trials are drawn and stored as by a coordinator, with values computed at once by `loss`."""

    space: SearchSpace
    sampler: str
    seed: int
    storage: BaseStorage
    directions: tuple[Direction, ...] = ("minimize",)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Create the study, or open it again as another process would."""
        self.study = optuna.create_study(
            storage=self.storage,
            study_name="study",
            sampler=RandomSampler(),
            directions=self.directions,
            load_if_exists=True,
        )
        self.proposer = TrialProposer(self.sampler, self.seed, self.space.points(PAPER))

    def propose(self, trial: optuna.Trial) -> DraftTrial:
        """Propose the parameters of a trial; return the draws and the experiment's values."""
        shown = ShownStudy(self.study, self.study.trials)
        frozen = self.study.trials[trial.number]
        known = {item.name: PAPER[item.name] for item in self.space.parameters} if trial.number == 0 else {}
        return self.proposer.propose(shown, frozen, self._draw, known, known_only=trial.number == 0)

    def _draw(self, suggest: SuggestValue) -> Values:
        return self.space.draw(PAPER, lambda item: suggest(item.name, distribution_of(item)))

    def trial(self, value: Callable[[Values], float] = lambda values: 0.0) -> Values:
        """Run one more trial and return the values that it drew."""
        trial = self.study.ask()
        draft = self.propose(trial)
        draft.store(trial)
        told = value(draft.values)
        self.study.tell(trial, [told] if len(self.directions) == 1 else [told, -told])
        assert self.study.trials[trial.number].params == draft.params
        return draft.values

    def trials(self, count: int, value: Callable[[Values], float] = lambda values: 0.0) -> list[Values]:
        """Run a number of further trials."""
        return [self.trial(value) for _ in range(count)]

    @property
    def params(self) -> list[Values]:
        """The drawn parameters of each trial."""
        return [trial.params for trial in self.study.trials]


def loss(values: Values) -> float:
    """Return the loss of parameter values, least at learning rate 1e-4, momentum 0.3 and dropout 0.2."""
    rate, momentum = np.log10(values["learning_rate"]) + 4, values["momentum"] - 0.3
    return float(rate**2 + (4 * momentum) ** 2 + (4 * (values["dropout"] - 0.2)) ** 2)


class Draw(Protocol):
    """The protocol of a function that makes a study of a search space's text, in the SQLite file `stored` if given."""

    def __call__(
        self,
        text: str,
        sampler: str,
        seed: int = 0,
        stored: str | None = None,
        directions: tuple[Direction, ...] = ("minimize",),
    ) -> Drawn:
        """A new study."""


def draw_from(folder: Path) -> Draw:
    """Return a `Draw` that makes studies whose files lie in a folder."""

    def make(
        text: str,
        sampler: str,
        seed: int = 0,
        stored: str | None = None,
        directions: tuple[Direction, ...] = ("minimize",),
    ) -> Drawn:
        path = folder / f"space{len(list(folder.glob('space*')))}.yaml"
        path.write_text(f"family: pretrained\nparameters:\n{text}", encoding="utf-8")
        storage = Storage(f"sqlite:///{folder}/{stored}").rdb if stored else InMemoryStorage()
        space = read_space(path, "pretrained", "vgg16")
        return Drawn(space=space, sampler=sampler, seed=seed, storage=storage, directions=directions)

    return make


class SamplerContract:
    """Tests that a sampler draws from a search space as declared, resumes an interrupted study, repeats no draws."""

    sampler: str
    """Its name."""
    finite = False
    """Whether it needs a space whose sets can be counted."""
    learns = 0
    """The trials after which it draws better than chance; 0: it never does."""
    objectives = 2
    """The most objectives that it takes."""
    draws_again = True
    """Whether a trial that was cut off while it was drawn is drawn again as it was."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        package = SAMPLERS[self.sampler].package
        if package and importlib.util.find_spec(package) is None:
            pytest.skip(f"pip install {package}")

    @pytest.fixture
    def drawn(self, tmp_path: Path) -> Draw:
        """Fixture: a function that makes studies, as drawn(TWELVE, "tpe", seed)."""
        return draw_from(tmp_path)

    def test_it_draws_what_the_space_allows(
        self, drawn: Draw, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
    ) -> None:
        if self.finite:
            pytest.skip("the space has no end")
        study = drawn(MIXED, self.sampler, stored="optuna.db")
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
        assert not warnings_of(recwarn)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("text", [MIXED, TWELVE], ids=["mixed", "twelve"])
    def test_a_study_goes_on_as_it_would_have(self, drawn: Draw, text: str, tmp_path: Path) -> None:
        if self.finite and text == MIXED:
            pytest.skip("the space has no end")

        def value(values: Values) -> float:
            return float(values["learning_rate"] * (1 + values["unfrozen_layers"]) + values["momentum"])

        straight, other = (drawn(text, self.sampler, seed) for seed in (3, 4))
        stopped = drawn(text, self.sampler, 3, stored="optuna.db")
        straight.trials(12, value)
        other.trials(12, value)
        for count in (1, 5, 6):
            stopped.storage = Storage(f"sqlite:///{tmp_path}/optuna.db").rdb
            stopped.open()
            stopped.trials(count, value)
        assert stopped.params == straight.params
        assert stopped.params != other.params

    def test_a_trial_that_was_cut_off_is_drawn_again_as_it_was(self, drawn: Draw) -> None:
        if not self.draws_again:
            pytest.skip("it says that it does not")
        study = drawn(TWELVE, self.sampler)
        study.trials(4)
        trial = study.study.ask()
        first = study.propose(trial)
        study.open()
        assert study.propose(trial) == first

    @pytest.mark.parametrize(("text", "count"), [(TWELVE, 12), (FRACTIONS, 30)], ids=["twelve", "fractions"])
    def test_no_set_is_drawn_twice_and_every_one_is_drawn(
        self, drawn: Draw, text: str, count: int, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
    ) -> None:
        study = drawn(text, self.sampler)
        first = study.trials(1) and study.params[0]
        every = study.space.points(PAPER) or []
        whole = first in every  # else the paper's setting is no point of the space
        for _ in range(count - whole):
            assert not study.proposer.exhausted(study.params)
            study.trial(lambda values: values["momentum"])
        assert study.proposer.exhausted(study.params)
        tried = [tuple(sorted(params.items())) for params in study.params]
        assert len(set(tried)) == len(tried)
        points = {tuple(sorted(point.items())) for point in every}
        assert set(tried[0 if whole else 1 :]) == points
        assert not warnings_of(recwarn)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("text", [NUMBERS, WITHOUT_THE_PAPERS], ids=["inside", "outside"])
    def test_one_that_learns_draws_better_than_chance(self, drawn: Draw, text: str) -> None:
        """Test that a sampler that learns draws better than at random, though each trial has a new one."""
        if not self.learns:
            pytest.skip("it says that it does not")
        found, blind = (
            np.array([loss(values) for values in drawn(text, name).trials(self.learns, loss)])
            for name in (self.sampler, "random")
        )
        last = -self.learns // 3
        assert np.median(found[last:]) < np.median(blind[last:]) / 3

    def test_two_objectives(
        self, drawn: Draw, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
    ) -> None:
        if self.objectives < 2 or self.finite:
            pytest.skip("it takes one alone, or the space has no end")
        study = drawn(MIXED, self.sampler, directions=("minimize", "maximize"))
        check_sampler(self.sampler, 2)
        study.trials(14, value=lambda values: values["learning_rate"])
        assert len({params["learning_rate"] for params in study.params}) == 14
        assert not warnings_of(recwarn)
        assert capfd.readouterr().err == ""
