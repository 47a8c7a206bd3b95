"""What a candidate has to pass, on made-up predictions."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from mammo_mlflow.evaluation.calibration import calibration_error
from mammo_mlflow.evaluation.gates import better, calibrated, covered, no_loss
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.paired import delong

(AUC,) = parse_objectives("roc_auc")
(LOSS,) = parse_objectives("log_loss")


def posterior(skill, seed, n=2000):
    """Labels and calibrated probabilities (n,)."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, n)
    return labels, 1 / (1 + np.exp(-skill * random.normal(skill * (labels - 0.5), 1)))


def predicted(probabilities, labels, threshold=0.5):
    n = np.arange(len(labels))
    return OutOfFold(
        labels=labels,
        probabilities=probabilities,
        folds=n // 2 % 4,
        groups=n // 2,
        patches=n,
        threshold=threshold,
    )


def test_calibrated_probabilities_have_no_error_on_average(simulation):
    squares = [calibration_error(*posterior(1.5, seed, 300)) ** 2 for seed in simulation(60)]
    assert np.mean(squares) < 0.002  # ECE² without the correction averages about 0.008


@pytest.mark.parametrize("shift", [0.1, 0.2])
def test_a_constant_shift_is_the_error(shift):
    labels, p = posterior(0.5, 0, 20_000)
    assert calibration_error(labels, np.clip(p + shift, 0, 1)) == pytest.approx(shift, abs=0.01)


def test_the_calibration_error_of_a_hand_count():
    # ten patches are one bin: mean 0.6, frequency 0.5, chance 0.25 / 9
    labels, p = np.array([0, 1] * 5), np.full(10, 0.9)
    assert calibration_error(labels, p) == pytest.approx(math.sqrt(0.16 - 0.25 / 9))
    assert math.isnan(calibration_error(labels[:8], p[:8]))


def test_better_needs_an_interval_above_nothing():
    labels, strong = posterior(2.0, 1)
    weak = np.random.default_rng(2).permutation(strong)
    first, second = predicted(strong, labels), predicted(weak, labels)
    assert better(first, second, AUC).passed
    assert better(first, second, LOSS).passed
    assert not better(second, first, AUC).passed
    assert not better(second, first, LOSS).passed
    assert not better(first, first, AUC).passed


def test_the_interval_is_delongs_and_wider_for_many_settings():
    labels, p = posterior(1.5, 3, 600)
    nearly = np.clip(p + np.random.default_rng(4).normal(0, 0.25, 600), 0, 1)
    first, second = predicted(p, labels), predicted(nearly, labels)
    wanted = delong(labels, p, nearly, first.folds, first.groups)
    for error, k, width in ((0.025, 1, "95 %"), (0.025, 10, "99.5 %"), (0.02, 30, "99.8667 %")):
        said = better(first, second, AUC, error, k).said
        assert f"{width} interval" in said
        low = float(said.split("[")[1].split(",")[0])
        assert low == pytest.approx(wanted.value - norm.isf(error / k) * wanted.error, abs=1e-4)


def test_no_candidate_of_noise_beats_the_champion(simulation):
    """Twenty candidates of no skill against a champion of none, forty times: about one passes."""
    passed = 0
    for seed in simulation(40):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 2, 200)
        champion, *others = (predicted(random.random(200), labels) for _ in range(21))
        passed += any(better(one, champion, AUC, 0.025, len(others)).passed for one in others)
    assert passed <= 4


def test_neither_rate_may_be_lost_at_the_stored_thresholds():
    labels, p = posterior(1.0, 5)
    low, high = predicted(p, labels, 0.3), predicted(p, labels, 0.7)
    assert no_loss("sensitivity", low, high).passed
    assert not no_loss("sensitivity", high, low).passed
    assert no_loss("specificity", high, low, 0.05).passed
    assert not no_loss("specificity", low, high, 0.05).passed
    assert no_loss("specificity", low, high, 0.9).passed
    for rate in ("sensitivity", "specificity"):
        assert no_loss(rate, low, low).passed


def test_a_threshold_that_calls_everything_positive_does_not_pass():
    labels, p = posterior(2.0, 7, 350)
    everything, champion = predicted(p, labels, 1e-9), predicted(p, labels)
    assert no_loss("sensitivity", everything, champion).passed
    gate = no_loss("specificity", everything, champion, 0.05)
    assert not gate.passed
    assert gate.said.startswith("specificity 0.000 at 1e-09, the champion's 0.8")


def test_equal_models_keep_their_rates_and_great_losses_are_seen(simulation):
    """Models of equal skill that differ in chance: a comparison of points stops half of them."""
    n, kept, seen, points = 350, 0, 0, 0
    for seed in simulation(40):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 2, n)
        first, second = (
            predicted(1 / (1 + np.exp(-2 * (2 * (labels - 0.5) + 0.8 * common + 0.6 * random.normal(size=n)))), labels)
            for common in [random.normal(size=n)]
            for _ in range(2)
        )
        kept += no_loss("sensitivity", first, second).passed and no_loss("specificity", first, second, 0.05).passed
        points += first.decided[labels == 1].mean() >= second.decided[labels == 1].mean()
        lost = predicted(first.probabilities, labels, 0.1)  # about a fifth of the specificity
        seen += not no_loss("specificity", lost, second, 0.05).passed
    assert points < 30
    assert kept >= 35
    assert seen >= 38


def test_calibrated_is_a_bound():
    labels, p = posterior(0.5, 6, 5000)
    shifted = predicted(np.clip(p + 0.2, 0, 1), labels)
    assert calibrated(shifted, 0.25).passed
    assert not calibrated(shifted, 0.15).passed
    few = calibrated(predicted(p[:5], labels[:5]), 1.0)  # too few to tell
    assert not few.passed and few.said.endswith("at most 1, found none: fewer than 10 patches")


def test_a_recalibrated_candidate_is_judged_within_folds():
    """One fold's map 0.2 too high, the other's as much too low: over all folds they are right on average."""
    random = np.random.default_rng(0)
    p, folds = random.uniform(0.2, 0.8, 4000), np.repeat([0, 1], 2000)
    labels = (random.random(4000) < p + np.array([-0.2, 0.2])[folds]).astype(int)
    data = OutOfFold(labels=labels, probabilities=p, folds=folds)
    assert calibrated(data, 0.1).passed
    assert not calibrated(data, 0.1, recalibrated=True).passed
    few = OutOfFold(labels=np.tile([0, 1], 10), probabilities=p[:20], folds=np.repeat([0, 1], [15, 5]))
    assert calibrated(few, 1, recalibrated=True).said.endswith("found none: fewer than 10 patches of a fold")


def test_the_gate_of_coverage_says_what_it_could_not_tell():
    labels, p = np.tile([0, 1], 4), np.linspace(0.1, 0.9, 8)
    data = OutOfFold(labels=labels, probabilities=p, folds=np.repeat([0, 1], 4), groups=np.repeat([0, 1], 4))
    gate = covered(data, 0.8)
    assert gate.passed and "without which nothing is known against it" in gate.said and "\n" not in gate.said
