"""The tests that every method of `METHODS` and stacker of `STACKERS` passes: subclass them with a fixture."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest

from mammo_mlflow.ensembles.methods import METHODS, fit_ensembles
from mammo_mlflow.ensembles.nested import nested_predictions
from mammo_mlflow.ensembles.stackers import STACKERS
from mammo_mlflow.evaluation.intervals import metric_estimate
from mammo_mlflow.evaluation.metrics import out_of_fold
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.out_of_fold import OutOfFold

NOISE_SEEDS = 20
(AUC,) = parse_objectives("roc_auc")


def drawn(
    n: int = 120,
    members: int = 3,
    seed: int = 0,
    signal: float = 1.0,
    decimals: int = 8,
    folds: int = 4,
    patches: int = 2,
) -> OutOfFold:
    """Draw out-of-fold predictions of noisy members: patients have several patches, folds differ in calibration."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, n)
    groups = np.arange(n) // patches
    numbers = groups % folds
    logits = signal * (labels[:, None] - 0.5) + 0.7 * random.normal(size=(n, 1)) + random.normal(size=(n, members))
    logits += 0.5 * numbers[:, None]
    probabilities = np.round(1 / (1 + np.exp(-logits)), decimals)
    return OutOfFold(labels=labels, probabilities=probabilities, folds=numbers, groups=groups)


class CombinerContract:
    """Tests that a method gives a combiner and an honest nested score: a fold's labels never enter its predictions."""

    fits_its_rows = True
    """Whether its score where it was chosen is better than chance on noise: not an average's, which chooses nothing."""
    beats_the_average = True
    """Whether it is a search that has the average among its points."""

    @pytest.fixture
    def method(self) -> str:
        """Fixture: the method's name."""
        raise NotImplementedError

    @pytest.fixture
    def simulation(self) -> Callable[[int], Iterable[int]]:
        """Fixture: a function from a number of repetitions to their seeds, `range` by default."""
        return range

    def test_it_gives_both_figures(self, method: str) -> None:
        data = drawn()
        found = fit_ensembles(data, AUC, [method, "average"], resamples=50)
        one, average = found[method], found["average"]
        assert one.method == method
        p = one.combiner.predict(data.probabilities)
        assert one.chosen_on == pytest.approx(out_of_fold("roc_auc", data.labels, p, data.folds))
        honest = metric_estimate("roc_auc", data.labels, one.probabilities, data.folds, data.groups, resamples=50)
        assert one.nested == honest
        if self.beats_the_average:
            assert one.chosen_on >= average.chosen_on
        assert average.nested.value == pytest.approx(average.chosen_on)

    def test_a_fold_is_predicted_without_its_labels(self, method: str) -> None:
        data, changed = drawn(), drawn()
        changed.labels[changed.folds == 2] ^= 1
        one, two = (nested_predictions(METHODS[method], d, AUC, seed=0)[1] for d in (data, changed))
        np.testing.assert_array_equal(one[data.folds == 2], two[data.folds == 2])

    def test_members_of_pure_noise_are_worth_chance(
        self, method: str, simulation: Callable[[int], Iterable[int]]
    ) -> None:
        honest, optimistic = [], []
        for seed in simulation(NOISE_SEEDS):
            random = np.random.default_rng(seed)
            members, labels = random.random((160, 4)), random.permutation(np.arange(160) % 2)
            data = OutOfFold(labels=labels, probabilities=members, folds=np.arange(160) // 40)
            level1, p = nested_predictions(METHODS[method], data, AUC, seed)
            honest.append(out_of_fold("roc_auc", data.labels, p, data.folds))
            optimistic.append(out_of_fold("roc_auc", data.labels, level1.predict(data.probabilities), data.folds))
        error = np.std(honest, ddof=1) / np.sqrt(NOISE_SEEDS)
        assert 0.002 < error < 0.02
        assert abs(np.mean(honest) - 0.5) < 3.5 * error
        if self.fits_its_rows:
            assert np.mean(optimistic) > 0.5 + 3.5 * error


class StackerContract:
    """Tests that a stacker is reproducible with a seed, and not harmed by a member of pure noise."""

    @pytest.fixture
    def stacker(self) -> str:
        """Fixture: the stacker's name."""
        raise NotImplementedError

    def test_the_same_seed_gives_the_same_model(self, stacker: str) -> None:
        data = drawn()
        one, two = (STACKERS[stacker](data.probabilities, data.labels, data.units, 1) for _ in range(2))
        for array, same in zip(one.arrays.values(), two.arrays.values(), strict=True):
            np.testing.assert_array_equal(array, same)

    def test_a_constant_member_does_no_harm(self, stacker: str) -> None:
        data = drawn()
        data.probabilities[:, 1] = 0.5
        p = STACKERS[stacker](data.probabilities, data.labels, data.units, 0).predict(data.probabilities)
        assert np.isfinite(p).all()
