"""What a candidate has to pass, on made-up predictions."""

import math

import numpy as np
import pytest

from mammo_mlflow.evaluation.calibration import calibration_error
from mammo_mlflow.evaluation.gates import Predictions, better, calibrated, sensitive
from mammo_mlflow.evaluation.objectives import parse_objectives

(AUC,) = parse_objectives("roc_auc")
(LOSS,) = parse_objectives("log_loss")


def posterior(skill, seed, n=2000):
    """Labels and calibrated probabilities (n,)."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, n)
    return labels, 1 / (1 + np.exp(-skill * random.normal(skill * (labels - 0.5), 1)))


def predicted(probabilities, labels, threshold=0.5):
    n = np.arange(len(labels))
    return Predictions(n, labels, n % 4, n // 2, probabilities, threshold)


def test_calibrated_probabilities_have_no_error_on_average():
    squares = [calibration_error(*posterior(1.5, seed, 300)) ** 2 for seed in range(60)]
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
    assert better(first, second, AUC, 1).passed
    assert better(first, second, LOSS, 1).passed
    assert not better(second, first, AUC, 1).passed
    assert not better(second, first, LOSS, 1).passed
    assert not better(first, first, AUC, 1).passed


def test_many_candidates_widen_the_interval():
    labels, p = posterior(1.5, 3, 600)
    nearly = np.clip(p + np.random.default_rng(4).normal(0, 0.25, 600), 0, 1)
    alone, many = (better(predicted(p, labels), predicted(nearly, labels), AUC, k).said for k in (1, 10))
    low = [float(said.split("[")[1].split(",")[0]) for said in (alone, many)]
    assert low[1] < low[0]
    assert "95 % interval" in alone
    assert "99.5 % interval" in many


def test_no_candidate_of_noise_beats_the_champion():
    """Twenty candidates of no skill against a champion of none, forty times: about one passes."""
    passed = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 2, 200)
        champion, *others = (predicted(random.random(200), labels) for _ in range(21))
        passed += any(better(one, champion, AUC, len(others)).passed for one in others)
    assert passed <= 4


def test_sensitivity_at_the_stored_thresholds():
    labels, p = posterior(1.0, 5)
    low, high = predicted(p, labels, 0.3), predicted(p, labels, 0.7)
    assert sensitive(low, high).passed
    assert not sensitive(high, low).passed
    assert sensitive(low, low).passed


def test_calibrated_is_a_bound():
    labels, p = posterior(0.5, 6, 5000)
    shifted = predicted(np.clip(p + 0.2, 0, 1), labels)
    assert calibrated(shifted, 0.25).passed
    assert not calibrated(shifted, 0.15).passed
    assert not calibrated(predicted(p[:5], labels[:5]), 1.0).passed  # too few to tell
