from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation.intervals import bootstrap_difference
from mammo_mlflow.evaluation.metrics import fold_auc
from mammo_mlflow.evaluation.objectives import Objective
from mammo_mlflow.evaluation.paired import delong, verdict

AUC = Objective("roc_auc", "maximize")


def draw(n=120, lead=0.0, seed=0, decimals=8, shared=0.8):
    """Two classifiers of the same patches, correlated, the first better by `lead`."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, n)
    common = shared * random.normal(size=n)
    pair = [(1 + extra) * labels + common + random.normal(size=n) for extra in (lead, 0)]
    return labels, *(np.round(1 / (1 + np.exp(-z)), decimals) for z in pair)


def part(labels, a, b, clusters):
    """Pairs, difference and variance of one fold from all pairs directly (DeLong 1988, Obuchowski 1997)."""
    kernel = []
    for p in (a, b):
        positive, negative = p[labels == 1][:, None], p[labels == 0][None, :]
        kernel.append((positive > negative) + 0.5 * (positive == negative))
    d = kernel[0] - kernel[1]
    P, N = d.shape
    theta = d.mean()
    v10, v01 = d.mean(axis=1), d.mean(axis=0)
    if clusters is None:
        return P * N, theta, v10.var(ddof=1) / P + v01.var(ddof=1) / N
    of_positive, of_negative = clusters[labels == 1], clusters[labels == 0]
    s10 = s01 = s11 = 0.0
    for cluster in np.unique(clusters):
        x = (v10[of_positive == cluster] - theta).sum()
        y = (v01[of_negative == cluster] - theta).sum()
        s10, s01, s11 = s10 + x * x, s01 + y * y, s11 + x * y
    i10, i01, i = (len(np.unique(c)) for c in (of_positive, of_negative, clusters))
    s10, s01, s11 = s10 * i10 / ((i10 - 1) * P), s01 * i01 / ((i01 - 1) * N), s11 * i / (i - 1)
    return P * N, theta, s10 / P + s01 / N + 2 * s11 / (P * N)


@pytest.mark.parametrize("decimals", [8, 1])
@pytest.mark.parametrize("with_folds", [False, True])
@pytest.mark.parametrize("with_groups", [False, True])
def test_delong_equals_all_pairs_one_by_one(decimals, with_folds, with_groups):
    labels, a, b = draw(lead=0.4, decimals=decimals)
    clusters = np.arange(120) // 3 if with_groups else None
    folds = np.arange(120) // 3 % 4 if with_folds else None
    found = delong(labels, a, b, folds, clusters)
    choices = [np.full(120, True)] if folds is None else [folds == fold for fold in range(4)]
    parts = [part(labels[c], a[c], b[c], None if clusters is None else clusters[c]) for c in choices]
    pairs, differences, variances = np.array(parts).T
    share = pairs / pairs.sum()
    value, error = share @ differences, math.sqrt(share**2 @ variances)
    assert found.value == pytest.approx(value, abs=1e-9)
    assert found.error == pytest.approx(error, abs=1e-9)
    assert found.p == pytest.approx(2 * norm.sf(abs(value) / error), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((value - 1.959964 * error, value + 1.959964 * error), abs=1e-6)
    of = np.zeros(120) if folds is None else folds
    assert found.value == pytest.approx(fold_auc(labels, a, of) - fold_auc(labels, b, of))


def test_one_patch_a_patient_is_the_plain_form():
    labels, a, b = draw()
    one, two = delong(labels, a, b), delong(labels, a, b, groups=np.random.default_rng(0).permutation(120))
    assert (one.value, one.error, one.p) == pytest.approx((two.value, two.error, two.p), abs=1e-12)


def test_patches_given_twice_tell_nothing_new():
    labels, a, b = draw()
    twice = [np.repeat(x, 2) for x in (labels, a, b)]
    assert delong(*twice, groups=np.arange(240) // 2).error == pytest.approx(delong(labels, a, b).error, rel=1e-9)
    assert delong(*twice).error < 0.75 * delong(labels, a, b).error


@pytest.mark.parametrize("with_groups", [False, True])
def test_the_error_is_the_bootstraps(with_groups):
    labels, a, b = draw(n=400, lead=0.3)
    folds, groups = np.arange(400) // 2 % 4, np.arange(400) // 2 if with_groups else None
    theirs = bootstrap_difference(labels, a, b, folds, groups, resamples=1500)
    assert delong(labels, a, b, folds, groups).error == pytest.approx(theirs.error, rel=0.12)


def test_p_is_that_of_swapping_the_classifiers():
    labels, a, b = draw(n=200, lead=0.35, seed=3, shared=0.0)
    found, random = delong(labels, a, b), np.random.default_rng(0)
    ranks = [np.argsort(np.argsort(p)) for p in (a, b)]  # swapped within a patch, as Venkatraman & Begg (1996) do
    beyond = 0
    for _ in range(1000):
        swapped = np.where(random.random(200) < 0.5, ranks, ranks[::-1])
        sums = [np.argsort(np.argsort(r + 1e-6 * random.random(200)))[labels == 1].sum() for r in swapped]
        beyond += abs(sums[0] - sums[1]) / (labels.sum() * (1 - labels).sum()) >= abs(found.value)
    assert 0.005 < found.p < 0.2
    assert found.p == pytest.approx(beyond / 1000, abs=0.03)


def test_equal_classifiers_are_rejected_as_often_as_promised(simulation):
    ps = [delong(*draw(n=120, seed=seed), np.arange(120) % 3).p for seed in simulation(400)]
    assert 0.02 < np.mean(np.array(ps) < 0.05) < 0.085  # 3 binomial standard errors


def test_ends():
    labels, a, _ = draw()
    same = delong(labels, a, a**3)
    assert (same.value, same.low, same.high, same.error, same.p) == (0, 0, 0, 0, 1)
    assert math.isnan(delong(labels, a, 1 - a, folds=labels).value)
    few = delong([0, 0, 1], [0.1, 0.2, 0.3], [0.1, 0.4, 0.3])
    assert (few.value, math.isnan(few.error), math.isnan(few.p)) == (0.5, True, True)
    part_of = delong(labels, a, 1 - a, folds=np.where(np.arange(120) < 60, 0, 1 + labels))
    whole = delong(labels[:60], a[:60], 1 - a[:60])
    assert part_of == whole  # folds of one class have no pairs
    with pytest.raises(ValueError, match="groups: expected every patient in one fold"):
        delong(labels, a, a, folds=np.arange(120) % 2, groups=np.arange(120) // 2)
    with pytest.raises(UserError, match="probabilities"):
        delong(labels, a, a + 1)


@pytest.mark.parametrize(
    ("order", "outcome", "words"),
    [
        ((0, 1), "better", "The ensemble beats its best member: lead in roc_auc +0."),
        ((1, 0), "worse", "The ensemble is worse than its best member: lead in roc_auc -0."),
        ((0, 0), "same", "The ensemble is not distinguishable from its best member: lead in roc_auc +0.0000"),
    ],
)
def test_verdicts(order, outcome, words):
    labels, *pair = draw(n=300, lead=1.0)
    found = verdict(AUC, labels, pair[order[0]], pair[order[1]], groups=np.arange(300) // 2, resamples=300)
    assert found.outcome == outcome
    assert found.sentence.startswith(words)
    assert "(patients resampled), DeLong's p " in found.sentence
    if outcome != "same":
        assert found.sentence.endswith("p < 0.001.")
        assert found.delong.value == pytest.approx(found.lead.value)


def test_it_says_where_the_interval_and_delongs_test_disagree():
    """A reader who is shown an interval above 0 beside "not distinguishable" would take one of them for a mistake."""
    found = verdict(AUC, *draw(n=40, lead=0.6, seed=236), resamples=400)
    assert (found.outcome, found.lead.low > 0, found.delong.p > 0.05) == ("same", True, True)
    assert found.sentence.endswith("; the two disagree.")


def test_a_lead_is_positive_where_less_is_better():
    labels, a, b = draw(n=300, lead=2.0)
    found = verdict(Objective("log_loss", "minimize"), labels, a, b, resamples=300, names=("m2 v1", "M1"))
    assert found.lead.value == -bootstrap_difference(labels, a, b, resamples=5, metric="log_loss").value
    assert (found.delong, found.outcome) == (None, "better" if found.lead.low > 0 else "same")
    assert found.sentence.startswith(("m2 v1 beats M1: lead in log_loss +", "m2 v1 is not distinguishable from M1"))
    assert found.sentence.endswith("(patches assumed independent).")


def test_both_tests_have_to_agree(monkeypatch):
    labels, a, b = draw(n=300, lead=1.0)
    real = delong(labels, a, b)
    unsure = type(real)(real.value, real.low, real.high, real.error, 0.06)
    monkeypatch.setattr("mammo_mlflow.evaluation.paired.delong", lambda *arguments: unsure)
    assert verdict(AUC, labels, a, b, resamples=100).outcome == "same"


def test_what_cannot_be_told():
    labels, a, b = draw()
    found = verdict(AUC, labels, a, b, groups=np.zeros(120), resamples=20)
    assert found.outcome == "unknown"
    assert found.sentence.startswith("Whether the ensemble beats its best member cannot be told: lead in roc_auc ")
    assert found.sentence.endswith(", without an interval.")
    assert "roc_auc is undefined" in verdict(AUC, labels, a, b, folds=labels, resamples=20).sentence
