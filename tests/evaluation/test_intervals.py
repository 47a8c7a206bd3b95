from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn import metrics as sk

from mammo_mlflow.evaluation import intervals
from mammo_mlflow.evaluation.intervals import (
    bootstrap_difference,
    cluster_note,
    metric_estimate,
    resampling_note,
    roc_band,
    score_estimates,
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


def test_every_rate_has_its_point_and_its_interval():
    labels, p = draw(120)
    found = score_estimates(labels, p, threshold=0.4)
    points = scores(labels, p, 0.4)
    assert {name: estimate.value for name, estimate in found.items()} == {name: points[name] for name in RATES}
    assert all(one.low < one.value < one.high and not one.reason for one in found.values())


def test_a_resample_is_scored_as_sklearn_scores_weights():
    labels, p = draw(80)
    p = np.round(p, 1)
    (weights,) = intervals._resampled(80, None, 3, 0)
    assert weights.shape == (3, 80) and (weights.sum(axis=1) == 80).all() and weights.max() > 1
    found = intervals.weighted.rates(labels, p, 0.5)(weights)
    for row, weight in enumerate(weights):
        assert found["roc_auc"][row] == pytest.approx(sk.roc_auc_score(labels, p, sample_weight=weight))
        assert found["f1"][row] == pytest.approx(sk.f1_score(labels, p >= 0.5, sample_weight=weight))


@pytest.mark.parametrize("name", RATES)
def test_copies_of_a_patch_narrow_the_interval_only_where_patients_are_not_known(name):
    labels, p = draw(100)
    patients = np.repeat(np.arange(100), 4)
    once = score_estimates(labels, p)[name]
    naive = score_estimates(labels.repeat(4), p.repeat(4))[name]
    clustered = score_estimates(labels.repeat(4), p.repeat(4), groups=patients)[name]
    assert width(naive) == pytest.approx(width(once) / 2, rel=0.15)
    assert width(clustered) == pytest.approx(width(once), rel=0.03)


def test_patients_may_have_any_name():
    labels, p = draw(60)
    numbers = np.arange(60) // 2
    by_number = score_estimates(labels, p, groups=numbers)
    assert score_estimates(labels, p, groups=[f"P_{n:05d}" for n in numbers]) == by_number


@pytest.mark.parametrize("name", RATES)
def test_confidence_widens(name):
    labels, p = draw(100)
    wide, narrow = (score_estimates(labels, p, confidence=c)[name] for c in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_confidence_is_a_share():
    for estimate in (
        lambda: score_estimates([0, 1], [0.1, 0.9], confidence=95),
        lambda: bootstrap_difference([0, 1], [0.1, 0.9], [0.2, 0.8], confidence=95),
    ):
        with pytest.raises(ValueError, match="confidence"):
            estimate()


def test_a_perfect_separation_is_no_point():
    labels = np.repeat([0, 1], 12)
    found = score_estimates(labels, np.where(labels == 1, 0.9, 0.1))
    for name in ("roc_auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1"):
        assert found[name].value == found[name].high == 1 and 0.6 < found[name].low < 0.95, name
    reversed_auc = score_estimates(1 - labels, np.where(labels == 1, 0.9, 0.1))["roc_auc"]
    assert (reversed_auc.low, reversed_auc.value) == (0, 0)
    assert reversed_auc.high == pytest.approx(1 - found["roc_auc"].low)


def test_what_cannot_be_told_stands_without_an_interval_and_says_why():
    one_class = score_estimates([1, 1, 1, 1], [0.9, 0.2, 0.6, 0.8])
    assert str(one_class["roc_auc"]) == str(one_class["balanced_accuracy"]) == "- (patches of one class)"
    assert str(one_class["specificity"]) == "- (patches of one class)"
    assert str(score_estimates([0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4])["precision"]) == "- (no patch is called class 1)"
    assert width(one_class["accuracy"]) > 0 and one_class["sensitivity"].low > 0
    assert str(one_class["precision"]) == "1.000 (no interval: patches of one class)"
    one_patient = score_estimates([0, 1, 1], [0.1, 0.2, 0.6], groups=["P_1"] * 3)
    assert str(one_patient["roc_auc"]) == "1.000 (no interval: fewer than 3 patients of a class)"
    assert str(one_patient["accuracy"]) == "0.667 (no interval: fewer than 3 patients)"
    assert (
        str(one_patient["brier"]) == f"{one_patient['brier'].value:.3f} (no interval: fewer than 8 effective patients)"
    )
    two = score_estimates([0, 1], [0.2, 0.9])
    assert all(math.isnan(one.low) and math.isnan(one.high) and one.reason for one in two.values())
    equal = score_estimates(np.arange(40) % 2, np.full(40, 0.5))
    assert str(equal["roc_auc"]) == "0.500 (no interval: all probabilities are equal)"
    assert str(equal["log_loss"]) == "0.693 (no interval: all losses are equal)"
    assert width(equal["accuracy"]) == pytest.approx(0.3, abs=0.03)


def test_a_class_of_two_patients_has_no_interval_however_many_their_patches():
    labels, p = draw(90)
    groups = np.where(labels == 1, np.arange(90) % 2, 100 + np.arange(90))
    found = score_estimates(labels, p, groups=groups)
    without = {name for name, one in found.items() if math.isnan(one.low)}
    assert without == {"roc_auc", "balanced_accuracy", "sensitivity", "brier", "log_loss"}


def test_a_metric_by_name_is_the_same_estimate():
    labels, p = draw(90)
    groups, folds = np.arange(90) // 2, np.arange(90) // 2 % 3
    found = score_estimates(labels, p, groups=groups)
    for name in RATES:
        assert metric_estimate(name, labels, p, None, groups) == found[name]
    assert metric_estimate("brier", labels, p, folds, groups) == found["brier"]
    with pytest.raises(ValueError, match="metric"):
        metric_estimate("nonsense", labels, p)


def test_fold_auc_interval_ignores_the_folds_calibration():
    labels, p = draw(400)
    folds = np.arange(400) % 2
    shifted = np.where(folds == 1, 0.6 + 0.4 * p, 0.4 * p)
    plain, moved = (metric_estimate("roc_auc", labels, q, folds) for q in (p, shifted))
    assert moved == plain
    assert plain.value == pytest.approx(fold_auc(labels, p, folds))
    parts = [(labels[folds == f], p[folds == f]) for f in (0, 1)]
    pairs = np.array([y.sum() * (1 - y).sum() for y, _ in parts])
    sd = math.sqrt(sum((w / pairs.sum() * delong_sd(*part)) ** 2 for w, part in zip(pairs, parts, strict=True)))
    assert width(plain) == pytest.approx(2 * 1.95996 * sd, rel=0.05)
    assert score_estimates(labels, shifted)["roc_auc"].value < plain.low  # the pooled AUC would have been another


def test_one_fold_is_none_and_a_fold_of_one_class_weighs_nothing():
    labels, p = draw(80)
    alone = score_estimates(labels, p)["roc_auc"]
    assert metric_estimate("roc_auc", labels, p, np.zeros(80)) == alone
    more = (np.append(labels, [1] * 5), np.append(p, np.full(5, 0.3)), np.append(np.zeros(80), [1] * 5))
    assert metric_estimate("roc_auc", *more).value == pytest.approx(alone.value)
    assert width(metric_estimate("roc_auc", *more)) == pytest.approx(width(alone), rel=0.02)


def test_a_fold_with_one_patient_of_a_class_leaves_no_interval():
    labels, p = draw(80)
    folds = np.zeros(80, int)
    folds[np.append(np.flatnonzero(labels == 1)[:1], np.flatnonzero(labels == 0)[:5])] = 1
    found = metric_estimate("roc_auc", labels, p, folds)
    assert (math.isnan(found.low), found.reason) == (True, "one patient of a class in a fold")


def test_a_sensitivity_at_a_specificity_has_a_wider_interval_than_at_a_known_threshold():
    labels, p = draw(336)
    at = "sensitivity_at_specificity=0.9"
    found = metric_estimate(at, labels, p)
    known = score_estimates(labels, p, np.quantile(p[labels == 0], 0.9))["sensitivity"]
    assert found.low < found.value < found.high and width(found) > 1.1 * width(known)
    assert metric_estimate(at, labels, p, None, seed=1) != found
    perfect = metric_estimate(at, labels, labels * 0.8 + 0.1, None, np.arange(336) // 4)
    assert 0.85 < perfect.low < perfect.value == perfect.high == 1
    assert "patients of a class" in metric_estimate(at, [0, 1, 1], [0.1, 0.8, 0.9], None).reason


def test_differences_follow_the_seed_and_not_the_blocks(monkeypatch):
    labels, p = draw(50)
    other = draw(50, seed=4)[1]
    first = bootstrap_difference(labels, p, other, resamples=300)
    monkeypatch.setattr(intervals, "BLOCK_CELLS", 7 * 50)
    in_blocks = bootstrap_difference(labels, p, other, resamples=300)
    assert (in_blocks.low, in_blocks.high) == pytest.approx((first.low, first.high))
    assert bootstrap_difference(labels, p, other, resamples=300, seed=1) != first


@pytest.mark.parametrize("clustered", [False, True])
def test_the_percentiles_are_scipys(clustered):
    """scipy.stats.bootstrap, of patches and of patients, on a difference of accuracies: to 1e-3."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 4, 900) if clustered else np.ones(2000, int)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = rng.integers(0, 2, len(groups))
    shift = rng.normal(size=len(sizes))[groups]
    p = 1 / (1 + np.exp(-2 * (labels - 0.5) - shift))
    other = np.clip(p + rng.normal(0, 0.2, len(p)), 0, 1)
    given = (labels, p, other, None, groups if clustered else None)
    found = bootstrap_difference(*given, resamples=40_000, metric="accuracy")
    sums = np.bincount(groups, ((p >= 0.5) == labels) * 1.0 - ((other >= 0.5) == labels))

    def ratio(total, count, axis):
        return total.sum(axis=axis) / count.sum(axis=axis)

    wanted = bootstrap(
        (sums, sizes.astype(float)), ratio, paired=True, n_resamples=40_000, method="percentile", batch=500, rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-3)


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
        repeated = [array.repeat(times) for array in (labels, p, folds)]
        assert found[row] == pytest.approx(out_of_fold(metric, *repeated))


@pytest.mark.parametrize("metric", METRICS)
def test_a_difference_of_any_metric_and_its_standard_error(metric):
    labels, p = draw(300)
    folds, worse = np.arange(300) % 3, np.clip(p + np.random.default_rng(2).normal(0, 0.2, 300), 0, 1)
    found = bootstrap_difference(labels, p, worse, folds, metric=metric)
    assert found.value == pytest.approx(
        out_of_fold(metric, labels, p, folds) - out_of_fold(metric, labels, worse, folds)
    )
    assert found.low < found.value < found.high
    assert found.error == pytest.approx(width(found) / (2 * 1.95996), rel=0.15)
    alone = metric_estimate(metric, labels, p, folds)
    assert alone.low < alone.value == out_of_fold(metric, labels, p, folds) < alone.high


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
    assert cluster_note(None) == "patches assumed independent"
    assert cluster_note(["P_1", "P_2"]) == "patients as clusters"


@pytest.mark.parametrize("groups", [["P_1"], ["P_1", None]])
def test_wrong_groups_are_refused(groups):
    with pytest.raises(ValueError, match="groups"):
        score_estimates([0, 1], [0.1, 0.9], groups=groups)
