import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from mammo_mlflow.evaluation.calibration import calibration_error, calibration_estimates, logistic_line
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.recalibration import RECALIBRATIONS, cross_fitted, fit_isotonic
from mammo_mlflow.experiment import CALIBRATIONS


def drawn(n=1000, seed=0, slope=2.0, shift=0.5):
    """Labels of patients with two patches, and probabilities that are too extreme and too high."""
    rng = np.random.default_rng(seed)
    patients = np.arange(n) // 2
    z = rng.normal(size=n) + rng.normal(size=n)[patients]
    return (rng.random(n) < expit(z)).astype(int), expit(slope * z + shift), patients


def test_a_line_is_that_of_scikit_learn():
    labels, p, _ = drawn()
    wanted = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(p)[:, None], labels)
    assert logistic_line(logit(p), labels) == pytest.approx((wanted.coef_[0, 0], wanted.intercept_[0]), abs=1e-4)
    assert logistic_line(np.array([0.0, 1, 2, 3]), np.array([0, 0, 1, 1])) is None  # separated


def test_an_isotonic_map_is_that_of_scikit_learn_away_from_0_and_1():
    labels, p, _ = drawn()
    found = fit_isotonic(labels, p)
    wanted = IsotonicRegression(y_min=1 / 1002, y_max=1001 / 1002, out_of_bounds="clip").fit(p, labels)
    grid = np.linspace(0, 1, 500)
    assert found(grid) == pytest.approx(wanted.predict(grid))


@pytest.mark.parametrize("kind", RECALIBRATIONS)
def test_no_map_turns_the_order_over_or_is_sure(kind):
    labels, p, _ = drawn()
    for given in (p, 1 - p, np.full(1000, 0.3)):
        answered = RECALIBRATIONS[kind](labels, given)(np.sort(given))
        assert (np.diff(answered) >= 0).all()
        assert answered.min() > 0 and answered.max() < 1
    apart = RECALIBRATIONS[kind](np.arange(20) % 2, np.arange(20) % 2 * 1.0)
    assert 0 < apart(np.array([0.0]))[0] < 0.2 < 0.8 < apart(np.array([1.0]))[0] < 1


def test_recalibration_mends_what_is_measured_and_every_kind_is_an_option():
    labels, p, patients = drawn(2000)
    before = calibration_estimates(labels, p, patients)
    assert before["calibration_slope"].high < 1
    assert before["calibration_intercept"].high < 0
    assert before["calibration_error"].low > 0.05
    data = OutOfFold(labels=labels, probabilities=p, folds=patients % 4, groups=patients)
    after = calibration_estimates(labels, cross_fitted("platt", data), patients)
    assert after["calibration_slope"].low < 1 < after["calibration_slope"].high
    assert after["calibration_error"].low == 0
    assert after["calibration_error"].value < 0.03
    assert ("none", *RECALIBRATIONS) == CALIBRATIONS


def test_calibration_that_cannot_be_told_says_why():
    labels, p, patients = drawn(12)
    assert calibration_estimates(labels, p, patients)["calibration_slope"].reason == "fewer than 8 patients"
    found = calibration_estimates(np.ones(40, int), np.linspace(0.1, 0.9, 40))
    assert found["calibration_slope"].reason == "patches of one class"


def test_what_patients_have_in_common_widens_the_intervals():
    labels, p, _ = drawn()
    once, twice = np.arange(1000), np.tile(np.arange(1000), 2)
    alone = calibration_estimates(labels, p, once)
    together = calibration_estimates(np.tile(labels, 2), np.tile(p, 2), twice)
    for name in ("calibration_slope", "calibration_intercept"):
        assert together[name].low == pytest.approx(alone[name].low, abs=1e-3)


@pytest.mark.parametrize("metric", ["calibration_slope", "calibration_intercept"])
def test_intervals_cover(metric, simulation):
    inside = []
    for seed in simulation(200):
        labels, p, patients = drawn(336, seed, slope=1.0, shift=0.0)
        found = calibration_estimates(labels, p, patients)[metric]
        inside.append(found.low <= (1.0 if metric == "calibration_slope" else 0.0) <= found.high)
    assert np.mean(inside) > 0.9


def test_the_error_within_folds_shows_what_cancels_over_them():
    """Each fold is as far from right as the others, in the other direction."""
    labels, p, patients = drawn(4000, slope=1.0, shift=0.0)
    away = expit(logit(p) + np.where(patients % 2 == 0, 0.8, -0.8))
    over, within = (
        calibration_estimates(labels, away, patients, folds)["calibration_error"] for folds in (None, patients % 2)
    )
    assert over.high < within.low
    assert within.low > 0.08
    alone = calibration_estimates(labels, p, patients)["calibration_error"]
    assert alone.value == pytest.approx(calibration_error(labels, p))
