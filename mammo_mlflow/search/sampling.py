"""Samplers by name, and a trial's draws: the same for the same seed and history, and never a set that was drawn before.

A trial's draws are settled before they are stored. Each trial has a sampler of its own, seeded by the study's seed and
the trial's number, so that an interrupted study goes on as it would have.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from mammo_mlflow.errors import expected, unknown_name
from mammo_mlflow.search.spaces import Parameter

ATTEMPTS = 20
"""Draws of a set that was not drawn before, until one is taken at random from what is left."""

GRID = "grid"

Draw = Callable[[Callable[[str, BaseDistribution], Any]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A sampler by its name in `optuna.samplers`; `package` is what it needs, the extra of its own name.

    `shared`: it models the parameters that all trials have, and draws the others at random. `one_sequence`: seeded by
    the study's own seed, not by the trial's.
    """

    optuna_name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    package: str = ""
    objectives: int = 2
    shared: bool = False
    one_sequence: bool = False

    def make(self, study_seed: int, seed: int) -> BaseSampler:
        """The sampler of one trial."""
        settings: dict[str, Any] = {"seed": study_seed if self.one_sequence else seed, **self.settings}
        if self.shared:
            settings |= {"independent_sampler": RandomSampler(seed), "warn_independent_sampling": False}
        made: BaseSampler = getattr(optuna.samplers, self.optuna_name)(**settings)
        return made


# groups of parameters that are drawn together: conditional ones keep their joint model
_TPE = {"multivariate": True, "group": True, "constant_liar": True}
_QMC = {"scramble": True, "warn_asynchronous_seeding": False}
SAMPLERS = {
    "tpe": Sampler(optuna_name="TPESampler", settings=_TPE),
    "random": Sampler(optuna_name="RandomSampler"),
    "gp": Sampler(optuna_name="GPSampler", package="torch", shared=True),
    "cmaes": Sampler(optuna_name="CmaEsSampler", package="cmaes", objectives=1, shared=True),
    "qmc": Sampler(optuna_name="QMCSampler", settings=_QMC, shared=True, one_sequence=True),
    GRID: Sampler(optuna_name="RandomSampler"),  # `Proposer` takes the points in turn
}


def check_sampler(name: str, objectives: int) -> None:
    """Raise `UserError` for an unknown sampler, one whose package is missing, or one that takes one objective only."""
    if name not in SAMPLERS:
        raise unknown_name("sampler", name, SAMPLERS)
    row = SAMPLERS[name]
    if row.package and importlib.util.find_spec(row.package) is None:
        wanted = f"the package {row.package} for '{name}' (pip install 'mammo-mlflow[{name}]')"
        raise expected("sampler", wanted, "none")
    if objectives > row.objectives:
        able = ", ".join(other for other, one in SAMPLERS.items() if one.objectives >= objectives)
        raise expected("sampler", f"one that takes two objectives ({able})", f"'{name}'")


def distribution_of(parameter: Parameter) -> BaseDistribution:
    """Optuna's distribution of a parameter."""
    if parameter.low is None or parameter.high is None:
        return CategoricalDistribution(parameter.choices or ())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an end that no step reaches is moved to the last one before it
        if parameter.kind is int:
            step = 1 if parameter.step is None else int(parameter.step)
            return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log, step=step)
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


class Stored(BaseSampler):
    """The sampler of the study itself: it hands out what was settled for the trial that is being stored."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is sampled here."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is sampled here."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The settled value."""
        return self.values[param_name]


class Comparable(optuna.Study):
    """A study without its first trial while that lacks something that every other complete trial has.

    It does where the space leaves out the paper's value. Samplers that model the parameters all trials share would
    otherwise never model that one.
    """

    def __init__(self, study: optuna.Study) -> None:
        super().__init__(study.study_name, study._storage)

    def _get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:  # what samplers ask
        trials = super()._get_trials(*args, **kwargs)
        names = [trial.params.keys() for trial in trials if trial.number and trial.state == TrialState.COMPLETE]
        shared = set(names[0]).intersection(*names[1:]) if names else set()
        return [trial for trial in trials if trial.number or shared <= trial.params.keys()]


class Preview:
    """One set of draws, not stored: the known ones as they are, the others by a sampler.

    With `known_only` the others are answered but not kept, and neither are known values outside the space.
    """

    def __init__(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        sampler: BaseSampler,
        known: Mapping[str, Any],
        known_only: bool = False,
    ) -> None:
        self._known_only = known_only
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self._study, self._trial, self._sampler, self._known = study, trial, sampler, known
        self._space = sampler.infer_relative_search_space(study, trial)
        self._relative = sampler.sample_relative(study, trial, self._space)

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """A value for this parameter: the known one, else the sampler's."""
        if name in self._known:
            value = self._known[name]
            if not fits(distribution, value):
                return value
        elif name in self._relative and self._space.get(name) == distribution:
            value = _on_step(distribution, self._relative[name])
        else:
            drawn = self._sampler.sample_independent(self._study, self._trial, name, distribution)
            value = _on_step(distribution, drawn)
        if name in self._known or not self._known_only:
            self.params[name], self.distributions[name] = value, distribution
        return value


def fits(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution can give this value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def _on_step(distribution: BaseDistribution, value: Any) -> Any:
    """A drawn fraction as a file's reader would write it: 0.3, and not the sum of 0.1 and 0.2."""
    if not isinstance(distribution, FloatDistribution) or distribution.step is None:
        return value
    low, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
    return float(low + step * round((value - distribution.low) / distribution.step))


class Proposer:
    """Settles the draws of one study's trials. `points`: every set of draws, where they can be counted."""

    def __init__(self, sampler: str, seed: int, points: list[dict[str, Any]] | None) -> None:
        self._name, self._seed, self._points = sampler, seed, points
        if points is not None:
            self._points = [points[i] for i in np.random.default_rng(seed).permutation(len(points))]

    def exhausted(self, taken: Iterable[Mapping[str, Any]]) -> bool:
        """Whether every set has been drawn."""
        return self._points is not None and not self._left(taken)

    def propose(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        taken: Sequence[Mapping[str, Any]],
        draw: Draw,
        known: Mapping[str, Any],
        known_only: bool = False,
    ) -> tuple[Preview, dict[str, Any]]:
        """The draws of a trial and the values that `draw` made of them; see `Preview` for `known` and `known_only`.

        `draw` may be called several times, until its draws are none of `taken`; where none is found they are repeated.
        """
        for attempt in range(ATTEMPTS):
            seed = int(np.random.SeedSequence([self._seed, trial.number, attempt]).generate_state(1)[0])
            left = self._left(taken) if self._name == GRID or attempt else None
            fixed = {**left[0], **known} if left and (self._name == GRID or attempt == ATTEMPTS - 1) else known
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what Optuna calls experimental is what it recommends here
                row = SAMPLERS[self._name]
                sampler, seen = row.make(self._seed, seed), Comparable(study) if row.shared else study
                preview = Preview(seen, trial, sampler, fixed, known_only)
            values = draw(preview.suggest)
            if known or preview.params not in taken:
                break
        return preview, values

    def _left(self, taken: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        seen = list(taken)
        return [point for point in self._points or () if point not in seen]
