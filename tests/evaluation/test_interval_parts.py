"""The formulas behind the intervals, against independent ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from scipy.stats import t as student

from mammo_mlflow.evaluation.auc_interval import auc_estimate, placement_variance, score_interval
from mammo_mlflow.evaluation.dependence import (
    effective_number,
    exceedance_covariance,
    patient_correlation,
    variance_freedom,
)
from mammo_mlflow.evaluation.mean_interval import mean_estimate
from mammo_mlflow.evaluation.rate_interval import rate_estimates, wilson


def binormal(n: int, auc: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return labels, norm.cdf(rng.normal(size=n) + math.sqrt(2) * norm.ppf(auc) * labels - 1)


def test_wilsons_interval_is_the_published_one():
    """Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3."""
    published = [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ]
    for right, n, ends in published:
        assert wilson(right / n, n, 1.959964) == pytest.approx(ends, abs=6e-5)


@pytest.mark.parametrize(
    ("first", "second", "correlation"), [(0.3, 0.3, 0.5), (-1.2, 0.8, 0.7), (0.0, 2.0, 0.95), (1, 1, 0)]
)
def test_the_covariance_above_two_bounds_is_the_bivariate_normals(first, second, correlation):
    both = multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], allow_singular=True).cdf([-first, -second])
    assert exceedance_covariance(first, second, correlation) == pytest.approx(
        both - norm.sf(first) * norm.sf(second), abs=1e-5
    )
    assert exceedance_covariance(math.inf, second, correlation) == 0


def test_the_placement_variance_is_that_of_normal_scores():
    grid = np.linspace(-9, 9, 100_001)
    density = norm.pdf(grid) / norm.pdf(grid).sum()
    for auc in (0.3, 0.7, 0.97, 0.999):
        placed = norm.cdf(grid + math.sqrt(2) * norm.ppf(auc))
        assert density @ placed == pytest.approx(auc)
        assert placement_variance(auc) == pytest.approx(density @ (placed - auc) ** 2, rel=1e-6)
    assert placement_variance(0.5) == pytest.approx(1 / 12)


def test_the_correlation_of_patients_is_found():
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(4000), rng.integers(1, 4, 4000))
    labels = (rng.random(4000) < 0.4).astype(int)[patients]
    for wanted in (0, 0.4, 0.7):
        shared, own = rng.normal(size=4000)[patients], rng.normal(size=len(patients))
        scores = math.sqrt(wanted) * shared + math.sqrt(1 - wanted) * own + 2 * labels
        assert patient_correlation(labels, norm.cdf(scores - 1), patients) == pytest.approx(wanted, abs=0.03)
    assert patient_correlation(labels, norm.cdf(scores), np.arange(len(labels))) == 0
    assert patient_correlation(labels, np.full(len(labels), 0.3), patients) == 0


def test_the_effective_number_of_equal_patients_is_their_number():
    assert effective_number(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_number(np.array([10.0, 1, 1])) < 1.5


def test_a_variance_of_few_has_few_degrees_of_freedom():
    assert variance_freedom(np.random.default_rng(0).normal(size=200_000)) == pytest.approx(200_000, rel=0.05)
    assert variance_freedom(np.append(np.full(100, 0.001), 1)) == pytest.approx(2, abs=0.1)
    assert variance_freedom(np.array([1.0, -1, 1])) == variance_freedom(np.zeros(3)) == math.inf


def test_the_ends_of_a_score_interval_are_where_the_error_reaches():
    for auc in (0.62, 0.9, 0.99):
        ends = score_interval(auc, 1 / 40, 2.0)
        for end in ends:
            assert abs(auc - end) == pytest.approx(2 * math.sqrt(placement_variance(end) / 40), rel=1e-6)
        assert ends[0] < auc < ends[1] < 1
        assert score_interval(1 - auc, 1 / 40, 2.0) == pytest.approx((1 - ends[1], 1 - ends[0]))


@pytest.mark.parametrize("decimals", [8, 1])  # 1: many ties
def test_at_large_n_the_auc_interval_is_delongs(decimals):
    labels, p = binormal(4000, 0.75)
    p = np.round(p, decimals)
    a, b = p[labels == 1][:, None], p[labels == 0][None, :]
    won = (a > b) + 0.5 * (a == b)
    v10, v01 = won.mean(axis=1), won.mean(axis=0)
    sd = math.sqrt(v10.var(ddof=1) / v10.size + v01.var(ddof=1) / v01.size)
    found = auc_estimate(labels, p, None, np.arange(4000), 0.95)
    assert found.value == pytest.approx(won.mean())
    assert (found.low, found.high) == pytest.approx((won.mean() - 1.96 * sd, won.mean() + 1.96 * sd), abs=0.002)


def test_the_variance_of_an_auc_is_the_jackknifes():
    """Of a set whose patients have both classes, against AUCs with each patient left out."""
    rng = np.random.default_rng(5)
    patients = np.repeat(np.arange(60), 3)
    labels = rng.integers(0, 2, 180)
    p = norm.cdf(labels + rng.normal(size=60)[patients] + rng.normal(size=180))

    def auc(kept: np.ndarray) -> float:
        a, b = p[kept & (labels == 1)][:, None], p[kept & (labels == 0)][None, :]
        return float(((a > b) + 0.5 * (a == b)).mean())

    left = np.array([auc(patients != one) for one in range(60)])
    error = math.sqrt(59 / 60 * ((left - left.mean()) ** 2).sum())
    found = auc_estimate(labels, p, None, patients, 0.95)
    whole = auc(np.ones(180, bool))
    scale = error**2 / placement_variance(whole)
    wanted = score_interval(whole, scale, float(student.ppf(0.975, 60)))
    assert (found.low, found.high) == pytest.approx(wanted, abs=0.006)


def test_rates_of_independent_patches_are_wilsons():
    labels, p = binormal(4000, 0.8)
    found = rate_estimates(labels, p, 0.5, np.arange(4000), 0.95)
    predicted = p >= 0.5
    for name, right, of in (
        ("accuracy", predicted == labels, labels >= 0),
        ("sensitivity", predicted, labels == 1),
        ("specificity", ~predicted, labels == 0),
        ("precision", labels == 1, predicted),
    ):
        wanted = wilson(float(right[of].mean()), int(of.sum()), 1.96)
        assert (found[name].low, found[name].high) == pytest.approx(wanted, abs=5e-4), name
    sensitivity, specificity = found["sensitivity"].value, found["specificity"].value
    sd = math.sqrt(sensitivity * (1 - sensitivity) / 2000 + specificity * (1 - specificity) / 2000) / 2
    width = found["balanced_accuracy"].high - found["balanced_accuracy"].low
    assert width == pytest.approx(2 * 1.96 * sd, rel=0.01)


def test_a_rate_of_few_errors_knows_the_correlation_of_patients_from_all_scores():
    """Two errors, of two patients: their own variance could not tell that patches are alike."""
    rng = np.random.default_rng(2)
    patients = np.repeat(np.arange(40), 4)
    shared = np.repeat(rng.normal(size=40), 4)
    labels = np.repeat(np.arange(40) % 2, 4)
    alike = norm.cdf(shared + 0.1 * rng.normal(size=160) + 5 * labels - 2.5)
    unlike = norm.cdf(rng.normal(size=160) + 5 * labels - 2.5)
    widths = []
    for p in (alike, unlike):
        wrong = p.copy()
        wrong[[4, 12]] = 0.4
        found = rate_estimates(labels, wrong, 0.5, patients, 0.95)["sensitivity"]
        widths.append(found.high - found.low)
    assert widths[0] > 1.4 * widths[1]


def test_the_mean_of_unskewed_losses_has_students_interval():
    values = np.concatenate([np.linspace(0.2, 0.8, 31)] * 2)
    found = mean_estimate(values, np.arange(62), 0.95)
    reach = student.ppf(0.975, 61) * values.std(ddof=1) / math.sqrt(62)
    assert (found.low, found.high) == pytest.approx((0.5 - reach, 0.5 + reach), rel=1e-9)
    skewed = mean_estimate(values**6, np.arange(62), 0.95)
    assert skewed.high - skewed.value > 1.2 * (skewed.value - skewed.low)
    patients = np.array([*range(8), 7, 7, 7])  # eight, of whom one has most of the patches
    assert mean_estimate(np.arange(8.0), np.arange(8), 0.95).reason == ""
    assert mean_estimate(np.arange(11.0), patients, 0.95).reason == "fewer than 8 effective patients"
    assert mean_estimate(np.append(np.zeros(30), 5), np.arange(31), 0.99).low >= 0
