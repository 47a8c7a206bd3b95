"""Samplers by name, and how a trial's parameters are drawn with them.

The same seed and history give the same draws, and no set of draws comes twice. A trial's draws are settled before they
are stored. Each trial has a sampler of its own, seeded by the study's seed and the trial's number, so that an
interrupted study goes on as it would have. Optuna's private names are used in `optuna_private.py` alone.
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
from optuna.trial import FrozenTrial

from mammo_mlflow.checks import Value
from mammo_mlflow.errors import expected, how_to_install, unknown_name
from mammo_mlflow.search.optuna_private import ShownStudy, can_give, draft_trial, store_parameter
from mammo_mlflow.search.parameters import Parameter

ATTEMPTS = 20
"""How often a set is drawn again that was drawn before; then one of those left is taken at random."""

GRID = "grid"

Values = Mapping[str, Value]
SuggestValue = Callable[[str, BaseDistribution], Value]
"""Gives the value of a parameter, by its name and distribution."""
Draw = Callable[[SuggestValue], dict[str, Value]]
"""Draws the parameters of a trial through the function it is given, and makes the experiment's values of them."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A kind of sampler: its class in `optuna.samplers` and the settings of that.

    `package`: a package it needs beside Optuna, installed by the extra of the sampler's name. `objectives`: the most it
    takes. `shared`: it models only the parameters that all trials have, and draws the others at random.
    `one_sequence`: its draws are one sequence over all trials, seeded by the study's seed alone.
    """

    optuna_name: str
    settings: Mapping[str, object] = field(default_factory=dict)
    package: str = ""
    objectives: int = 2
    shared: bool = False
    one_sequence: bool = False

    def make(self, study_seed: int, seed: int) -> BaseSampler:
        """Make the Optuna sampler for one trial; `seed` is the trial's."""
        settings: dict[str, object] = {"seed": study_seed if self.one_sequence else seed, **self.settings}
        if self.shared:
            settings |= {"independent_sampler": RandomSampler(seed), "warn_independent_sampling": False}
        with warnings.catch_warnings(action="ignore"):  # what Optuna calls experimental is what it recommends here
            return getattr(optuna.samplers, self.optuna_name)(**settings)


# groups of parameters that are drawn together: conditional ones keep their joint model
_TPE = {"multivariate": True, "group": True, "constant_liar": True}
_QMC = {"scramble": True, "warn_asynchronous_seeding": False}
SAMPLERS = {
    "tpe": Sampler(optuna_name="TPESampler", settings=_TPE),
    "random": Sampler(optuna_name="RandomSampler"),
    "gp": Sampler(optuna_name="GPSampler", package="torch", shared=True),
    "cmaes": Sampler(optuna_name="CmaEsSampler", package="cmaes", objectives=1, shared=True),
    "qmc": Sampler(optuna_name="QMCSampler", settings=_QMC, shared=True, one_sequence=True),
    GRID: Sampler(optuna_name="RandomSampler"),  # `TrialProposer` takes the points in turn
}


def check_sampler(name: str, objectives: int) -> None:
    """Check a sampler. Raises `UserError` for an unknown one, a missing package, or too many objectives."""
    if name not in SAMPLERS:
        raise unknown_name("sampler", name, SAMPLERS)
    row = SAMPLERS[name]
    if row.package and importlib.util.find_spec(row.package) is None:
        wanted = f"the package {row.package} for '{name}' ({how_to_install(f'mammo-mlflow[{name}]')})"
        raise expected("sampler", wanted, "none")
    if objectives > row.objectives:
        able = ", ".join(other for other, one in SAMPLERS.items() if one.objectives >= objectives)
        raise expected("sampler", f"one that takes two objectives ({able})", f"'{name}'")


def distribution_of(parameter: Parameter) -> BaseDistribution:
    """Make the Optuna distribution for a parameter of a search space."""
    if parameter.low is None or parameter.high is None:
        return CategoricalDistribution(parameter.choices or ())
    with warnings.catch_warnings(action="ignore"):  # an end that no step reaches is moved to the last one before it
        if parameter.kind is int:
            step = int(parameter.grid or 1)
            return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log, step=step)
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


@dataclass(frozen=True)
class DraftTrial:
    """A trial's draws before they are stored: `params`, their `distributions`, and the experiment's `values`."""

    params: dict[str, Value]
    distributions: dict[str, BaseDistribution]
    values: dict[str, Value]

    def store(self, trial: optuna.Trial) -> None:
        """Store the draws as the parameters of a trial, except those that an interrupted process has stored."""
        for name, drawn_from in self.distributions.items():
            if name not in trial.params:
                store_parameter(trial, name, self.params[name], drawn_from)

    def as_trial(self, number: int, attributes: Mapping[str, Any], noted: Mapping[str, Any]) -> FrozenTrial:
        """The draws as a new trial, with attributes for its user and what its sampler noted."""
        return draft_trial(number, self.params, self.distributions, attributes, noted)


def _on_step(distribution: BaseDistribution, value: Value) -> Value:
    """A drawn float rounded to its step in decimals, so that it is 0.3 and not 0.1 + 0.2; other values as they are."""
    if not isinstance(distribution, FloatDistribution) or distribution.step is None:
        return value
    low, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
    return float(low + step * round((float(value) - distribution.low) / distribution.step))


class TrialProposer:
    """Proposes the parameters of one study's trials, by a sampler of `SAMPLERS`.

    `seed`: the study's; `points`: all sets of draws that the space allows, None where they are infinite.
    """

    def __init__(self, sampler: str, seed: int, points: Sequence[Values] | None) -> None:
        self._name, self._seed, self._points = sampler, seed, points
        if points is not None:
            self._points = [points[i] for i in np.random.default_rng(seed).permutation(len(points))]

    def exhausted(self, taken: Iterable[Values]) -> bool:
        """Whether all sets of draws that the space allows have been `taken`."""
        return self._points is not None and not self._left(taken)

    def propose(
        self,
        study: ShownStudy,
        trial: FrozenTrial,
        draw: Draw,
        known: Values,
        known_only: bool = False,
    ) -> DraftTrial:
        """Draw a trial's parameters: the `known` ones as they are, others by the sampler. No parameter is stored.

        With `known_only` the draft keeps only the known ones, and of these those that lie in the space. `draw` is
        called until no other trial has its draws, at most `ATTEMPTS` times, the last time with a set of those left.
        """
        row = SAMPLERS[self._name]
        taken = [other.params for other in study.shown if other.number != trial.number]
        study.common = row.shared
        for attempt in range(ATTEMPTS):
            seed = int(np.random.SeedSequence([self._seed, trial.number, attempt]).generate_state(1)[0])
            left = self._left(taken) if self._name == GRID or attempt else None
            fixed = {**left[0], **known} if left and (self._name == GRID or attempt == ATTEMPTS - 1) else known
            study.noted.clear()
            found = _propose(study, trial, row.make(self._seed, seed), draw, fixed, known_only)
            if known or found.params not in taken:
                break
        return found

    def _left(self, taken: Iterable[Values]) -> list[Values]:
        """The sets of draws that the space allows and that are not taken, in random order."""
        seen = list(taken)
        return [point for point in self._points or () if point not in seen]


def _propose(
    study: optuna.Study, trial: FrozenTrial, sampler: BaseSampler, draw: Draw, known: Values, known_only: bool
) -> DraftTrial:
    """One draw of `TrialProposer.propose` with a sampler that was made for it."""
    params: dict[str, Value] = {}
    distributions: dict[str, BaseDistribution] = {}
    with warnings.catch_warnings(action="ignore"):
        space = sampler.infer_relative_search_space(study, trial)
        relative = sampler.sample_relative(study, trial, space)

    def suggest(name: str, distribution: BaseDistribution) -> Value:
        if name in known:
            value = known[name]
            if not can_give(distribution, value):
                return value
        elif name in relative and space.get(name) == distribution:
            value = _on_step(distribution, relative[name])
        else:
            value = _on_step(distribution, sampler.sample_independent(study, trial, name, distribution))
        if name in known or not known_only:
            params[name], distributions[name] = value, distribution
        return value

    return DraftTrial(params, distributions, draw(suggest))
