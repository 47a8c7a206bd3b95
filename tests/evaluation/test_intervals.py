from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn import metrics as sk

from mammo_mlflow.evaluation import intervals
from mammo_mlflow.evaluation.intervals import (
    bootstrap_difference,
    bootstrap_fold_auc,
    bootstrap_metric,
    bootstrap_scores,
    resampling_note,
    roc_band,
)
from mammo_mlflow.evaluation.metrics import RATES, fold_auc, out_of_fold, scores


def draw(n: int, seed: int = 0, distance: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, n)
    return labels, 1 / (1 + np.exp(-random.normal(distance * (labels - 0.5), 1)))


def placements(labels: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's placement values of positives and negatives (DeLong et al. 1988)."""
    a, b = p[labels == 1][:, None], p[labels == 0][None, :]
    won = (a > b) + 0.5 * (a == b)
    return won.mean(axis=1), won.mean(axis=0)


def delong_sd(labels: np.ndarray, p: np.ndarray) -> float:
    v10, v01 = placements(labels, p)
    return math.sqrt(v10.var(ddof=1) / v10.size + v01.var(ddof=1) / v01.size)


def width(estimate) -> float:
    return estimate.high - estimate.low


@pytest.mark.parametrize("decimals", [8, 1])  # 1: many ties
def test_the_auc_interval_is_as_wide_as_delongs(decimals):
    labels, p = draw(336)
    p = np.round(p, decimals)
    auc = bootstrap_scores(labels, p, resamples=4000)["roc_auc"]
    assert auc.value == pytest.approx(sk.roc_auc_score(labels, p))
    assert width(auc) == pytest.approx(2 * 1.95996 * delong_sd(labels, p), rel=0.1)
    assert auc.low < auc.value < auc.high


def test_the_accuracy_interval_is_as_wide_as_the_binomial():
    labels, p = draw(336)
    accuracy = bootstrap_scores(labels, p, resamples=4000)["accuracy"]
    share = accuracy.value
    assert width(accuracy) == pytest.approx(2 * 1.95996 * math.sqrt(share * (1 - share) / 336), rel=0.1)


@pytest.mark.parametrize("clustered", [False, True])
def test_the_intervals_are_scipys(clustered):
    """scipy.stats.bootstrap, of patches and of patients, on means: to 1e-3, whatever the two draw."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 4, 900) if clustered else np.ones(2000, int)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = rng.integers(0, 2, len(groups))
    shift = rng.normal(size=len(sizes))[groups]
    p = 1 / (1 + np.exp(-2 * (labels - 0.5) - shift))
    found = bootstrap_scores(labels, p, groups=groups if clustered else None, resamples=40_000)
    for name, values in (("accuracy", (p >= 0.5) == labels), ("brier", (p - labels) ** 2)):
        sums = np.bincount(groups, values)

        def ratio(total, count, axis):
            return total.sum(axis=axis) / count.sum(axis=axis)

        wanted = bootstrap(
            (sums, sizes.astype(float)), ratio, paired=True, n_resamples=40_000, method="percentile", batch=500, rng=1
        ).confidence_interval
        assert found[name].low == pytest.approx(wanted.low, abs=1e-3)
        assert found[name].high == pytest.approx(wanted.high, abs=1e-3)


def test_every_rate_has_its_point_and_no_count_has_an_interval():
    labels, p = draw(120)
    found = bootstrap_scores(labels, p, threshold=0.4, resamples=50)
    points = scores(labels, p, 0.4)
    assert {name: estimate.value for name, estimate in found.items()} == {name: points[name] for name in RATES}


def test_a_resample_is_scored_as_sklearn_scores_weights():
    labels, p = draw(80)
    p = np.round(p, 1)
    (weights,) = intervals._resampled(80, None, 3, 0)
    assert weights.shape == (3, 80) and (weights.sum(axis=1) == 80).all() and weights.max() > 1
    found = intervals.weighted.rates(labels, p, 0.5)(weights)
    for row, weight in enumerate(weights):
        assert found["roc_auc"][row] == pytest.approx(sk.roc_auc_score(labels, p, sample_weight=weight))
        assert found["f1"][row] == pytest.approx(sk.f1_score(labels, p >= 0.5, sample_weight=weight))


def test_copies_of_a_patch_widen_the_interval_only_where_patients_are_known():
    labels, p = draw(100)
    patients = np.repeat(np.arange(100), 4)
    once = bootstrap_scores(labels, p)["roc_auc"]
    naive = bootstrap_scores(labels.repeat(4), p.repeat(4))["roc_auc"]
    clustered = bootstrap_scores(labels.repeat(4), p.repeat(4), groups=patients)["roc_auc"]
    assert width(naive) == pytest.approx(width(once) / 2, rel=0.15)
    assert (clustered.low, clustered.high) == pytest.approx((once.low, once.high))


def test_patients_may_have_any_name():
    labels, p = draw(60)
    numbers = np.arange(60) // 2
    by_number = bootstrap_scores(labels, p, groups=numbers)["accuracy"]
    assert bootstrap_scores(labels, p, groups=[f"P_{n:05d}" for n in numbers])["accuracy"] == by_number


def test_results_follow_the_seed_and_not_the_blocks(monkeypatch):
    labels, p = draw(50)
    first = bootstrap_scores(labels, p, resamples=300)
    monkeypatch.setattr(intervals, "BLOCK_CELLS", 7 * 50)
    in_blocks = bootstrap_scores(labels, p, resamples=300)
    for name in RATES:
        assert (in_blocks[name].low, in_blocks[name].high) == pytest.approx((first[name].low, first[name].high))
    assert bootstrap_scores(labels, p, resamples=300, seed=1)["brier"] != first["brier"]


def test_confidence_widens():
    labels, p = draw(100)
    wide, narrow = (bootstrap_scores(labels, p, confidence=c)["brier"] for c in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.high < wide.high
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_scores(labels, p, confidence=95)


def test_resamples_of_one_class_are_left_out():
    labels, p = np.array([1, 0, 0, 0]), np.array([0.9, 0.1, 0.2, 0.3])  # a third of the resamples miss the positive
    found = bootstrap_scores(labels, p)
    assert (found["roc_auc"].low, found["roc_auc"].high) == (1, 1)
    assert (found["sensitivity"].low, found["sensitivity"].high) == (1, 1)


def test_one_class_and_one_patient_have_no_interval():
    one_class = bootstrap_scores([1, 1, 1], [0.9, 0.2, 0.6])
    assert str(one_class["roc_auc"]) == "undefined"
    assert width(one_class["accuracy"]) > 0
    one_patient = bootstrap_scores([0, 1, 1], [0.1, 0.2, 0.6], groups=["P_1"] * 3)
    assert one_patient["roc_auc"].value == 1 and math.isnan(one_patient["roc_auc"].low)


def test_fold_auc_interval_ignores_the_folds_calibration():
    labels, p = draw(400)
    folds = np.arange(400) % 2
    shifted = np.where(folds == 1, 0.6 + 0.4 * p, 0.4 * p)
    plain, moved = (bootstrap_fold_auc(folds, labels, q) for q in (p, shifted))
    assert moved == plain
    assert plain.value == pytest.approx(fold_auc(folds, labels, p))
    parts = [(labels[folds == f], p[folds == f]) for f in (0, 1)]
    pairs = np.array([y.sum() * (1 - y).sum() for y, _ in parts])
    sd = math.sqrt(sum((w / pairs.sum() * delong_sd(*part)) ** 2 for w, part in zip(pairs, parts, strict=True)))
    assert width(plain) == pytest.approx(2 * 1.95996 * sd, rel=0.1)
    assert bootstrap_scores(labels, shifted)["roc_auc"].value < plain.low  # the pooled AUC would have been another


def test_the_difference_is_paired():
    labels, first = draw(336)
    second = np.clip(first + np.random.default_rng(5).normal(0, 0.15, 336), 0, 1)
    found = bootstrap_difference(labels, first, second, resamples=4000)
    assert found.value == pytest.approx(sk.roc_auc_score(labels, first) - sk.roc_auc_score(labels, second))
    (a10, a01), (b10, b01) = placements(labels, first), placements(labels, second)
    sd = math.sqrt((a10 - b10).var(ddof=1) / a10.size + (a01 - b01).var(ddof=1) / a01.size)
    assert width(found) == pytest.approx(2 * 1.95996 * sd, rel=0.1)
    unpaired = math.hypot(delong_sd(labels, first), delong_sd(labels, second))
    assert sd < 0.6 * unpaired


def test_the_difference_of_equals_is_0_and_folds_and_patients_count():
    labels, p = draw(100)
    same = bootstrap_difference(labels, p, p**2)  # one ranking
    assert (same.value, same.low, same.high) == (0, 0, 0)
    folds = np.arange(100) % 2
    second = np.where(folds == 1, 0.5 + 0.5 * p, 0.5 * p)  # the same within folds only
    assert bootstrap_difference(labels, p, second).value > 0.02
    assert bootstrap_difference(labels, p, second, folds=folds).high == 0
    noisy = draw(100, seed=9, distance=0)[1]
    clustered = bootstrap_difference(labels.repeat(4), p.repeat(4), noisy.repeat(4), groups=np.arange(100).repeat(4))
    assert width(clustered) > 1.6 * width(bootstrap_difference(labels.repeat(4), p.repeat(4), noisy.repeat(4)))


METRICS = ("roc_auc", "accuracy", "balanced_accuracy", "log_loss", "sensitivity_at_specificity=0.9")


@pytest.mark.parametrize("metric", METRICS)
def test_a_resample_counts_as_repeated_rows(metric):
    labels, p = draw(90)
    p, folds = np.round(p, 2), np.arange(90) % 3
    weights = np.random.default_rng(1).integers(0, 3, (4, 90))
    found = intervals.weighted.statistic(metric, labels, p, folds)(weights.astype(float))
    for row, times in enumerate(weights):
        repeated = [array.repeat(times) for array in (folds, labels, p)]
        assert found[row] == pytest.approx(out_of_fold(metric, *repeated))


@pytest.mark.parametrize("metric", METRICS)
def test_a_difference_of_any_metric_and_its_standard_error(metric):
    labels, p = draw(300)
    folds, worse = np.arange(300) % 3, np.clip(p + np.random.default_rng(2).normal(0, 0.2, 300), 0, 1)
    found = bootstrap_difference(labels, p, worse, folds, metric=metric)
    assert found.value == pytest.approx(
        out_of_fold(metric, folds, labels, p) - out_of_fold(metric, folds, labels, worse)
    )
    assert found.low < found.value < found.high
    assert found.error == pytest.approx(width(found) / (2 * 1.95996), rel=0.15)
    alone = bootstrap_metric(metric, folds, labels, p)
    assert alone.low < alone.value == out_of_fold(metric, folds, labels, p) < alone.high


def test_a_difference_of_one_patient_has_no_error():
    assert math.isnan(bootstrap_difference([0, 1], [0.1, 0.9], [0.9, 0.1], groups=["P_1"] * 2).error)


def test_the_roc_band_holds_the_curve_and_is_as_wide_as_the_binomial():
    labels, p = draw(400)
    grid, low, high = roc_band(labels, p)
    false, true, _ = sk.roc_curve(labels, p)
    curve = np.interp(grid, false, true)
    assert grid[0] == 0 and grid[-1] == 1 and low[-1] == high[-1] == 1
    assert (low <= curve + 1e-9).all() and (curve <= high + 1e-9).all()
    assert (np.diff(low) >= 0).all() and (np.diff(high) >= 0).all()
    patients = np.arange(400).repeat(3)
    _, low_3, high_3 = roc_band(labels.repeat(3), p.repeat(3), groups=patients)
    assert low_3 == pytest.approx(low) and high_3 == pytest.approx(high)
    at = 30
    least = 2 * 1.95996 * math.sqrt(curve[at] * (1 - curve[at]) / labels.sum())  # at a threshold known beforehand
    assert least < high[at] - low[at] < 2.5 * least


def test_ties_make_the_band_a_diagonal():
    grid, low, high = roc_band([0, 1, 0, 1], [0.5] * 4, resamples=50)
    assert low == pytest.approx(grid) and high == pytest.approx(grid)


def test_no_band_for_one_class():
    _, low, high = roc_band([1, 1], [0.4, 0.5], resamples=10)
    assert np.isnan(low).all() and np.isnan(high).all()


def test_the_note_says_what_was_resampled():
    assert resampling_note(None) == "patches assumed independent"
    assert resampling_note(["P_1", "P_2"]) == "patients resampled"


@pytest.mark.parametrize("groups", [["P_1"], ["P_1", None]])
def test_wrong_groups_are_refused(groups):
    with pytest.raises(ValueError, match="groups"):
        bootstrap_scores([0, 1], [0.1, 0.9], groups=groups)
