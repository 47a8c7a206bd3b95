from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.metrics import roc_curve

from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation.metrics import scores
from mammo_mlflow.evaluation.thresholds import MARGIN, ThresholdPolicy, choose_threshold, parse_policy

LABELS = np.array([0, 0, 1, 0, 1, 1])
P = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.9])


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("0.5", ThresholdPolicy("fixed", 0.5)),
        (0.25, ThresholdPolicy("fixed", 0.25)),
        (" Youden ", ThresholdPolicy("youden")),
        ("sensitivity=0.9", ThresholdPolicy("sensitivity", 0.9)),
        ("sensitivity = 1", ThresholdPolicy("sensitivity", 1.0)),
    ],
)
def test_policies(text, policy):
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yuoden", "threshold: unknown 'yuoden', did you mean 'youden'?"),
        ("sensitivty=0.9", "did you mean 'sensitivity=0.9'?"),
        ("youden=1", "threshold: unknown 'youden=1'"),
        ("", "threshold: unknown ''"),
        ("0", r"threshold: expected a number in \(0, 1\), found '0'"),
        ("1", r"in \(0, 1\)"),
        ("nan", r"in \(0, 1\)"),
        ("sensitivity", "'sensitivity=' and a number"),
        ("sensitivity=", "'sensitivity=' and a number"),
        ("sensitivity=high", "found 'sensitivity=high'"),
        ("sensitivity=0", r"in \(0, 1\]"),
        ("sensitivity=90", r"in \(0, 1\]"),
        ("sensitivity=nan", r"in \(0, 1\]"),
    ],
)
def test_a_wrong_policy_is_one_line(text, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_policy(text)
    assert "\n" not in str(caught.value)


def test_a_fixed_threshold_needs_no_patches():
    assert choose_threshold("0.37", [], []) == 0.37


def test_youden_lies_midway_between_neighbours():
    # J at 0.3: 1 - 1/3; at 0.7: 2/3 - 0. Equal, so the lower one, between 0.2 and 0.3.
    assert choose_threshold("youden", LABELS, P) == pytest.approx(0.25)


def test_youden_reaches_the_best_of_the_roc_curve():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 300)
    p = np.round(np.clip(random.normal(0.4 + 0.2 * labels, 0.2), 0, 1), 2)
    false, true, _ = roc_curve(labels, p, drop_intermediate=False)
    found = scores(labels, p, choose_threshold("youden", labels, p))
    assert found["sensitivity"] + found["specificity"] - 1 == pytest.approx((true - false).max())


@pytest.mark.parametrize(
    ("wanted", "threshold"), [("0.3", 0.8), ("0.34", 0.65), ("0.6666666666666666", 0.65), ("0.7", 0.25), ("1", 0.25)]
)
def test_sensitivity_gives_the_highest_threshold_that_reaches_it(wanted, threshold):
    assert choose_threshold(f"sensitivity={wanted}", LABELS, P) == pytest.approx(threshold)


def test_tied_patches_move_together():
    labels, p = np.array([0, 1, 1, 0, 1]), np.array([0.2, 0.4, 0.4, 0.4, 0.9])
    assert choose_threshold("sensitivity=0.5", labels, p) == pytest.approx(0.3)


def test_where_all_must_be_positive_the_threshold_lies_below_the_lowest():
    assert choose_threshold("sensitivity=1", [1, 0], [0.2, 0.8]) == pytest.approx(0.1)
    assert choose_threshold("youden", [1, 0], [0.2, 0.8]) == pytest.approx(0.1)  # worse than chance: J is 0 at best
    assert choose_threshold("sensitivity=1", [1, 0], [0.0, 0.8]) == 0.0
    assert choose_threshold("youden", [1, 0], [0.5, 0.5]) == pytest.approx(0.25)


@pytest.mark.parametrize("policy", ["youden", "sensitivity=0.8", "sensitivity=0.5"])
def test_float_error_never_moves_a_patch(policy):
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 400)
    p = np.clip(0.5 + 0.1 * labels + random.integers(-40, 40, 400) / 100, 0.01, 0.99)
    p = p + random.uniform(0, 2e-7, 400)  # neighbours closer than a float32 can be trusted
    threshold = choose_threshold(policy, labels, p)
    assert np.abs(p - threshold).min() >= MARGIN / 2
    for error in (-2e-7, 2e-7):
        assert ((p + error >= threshold) == (p >= threshold)).all()


@pytest.mark.parametrize(("policy", "labels"), [("youden", [1, 1]), ("youden", [0, 0]), ("sensitivity=0.9", [0, 0])])
def test_the_impossible_is_said(policy, labels):
    with pytest.raises(UserError, match=r"threshold: expected .* positive, \d negative"):
        choose_threshold(policy, labels, [0.2, 0.8])


def test_sensitivity_can_be_chosen_without_negatives():
    assert choose_threshold("sensitivity=0.5", [1, 1], [0.2, 0.8]) == pytest.approx(0.5)


def test_the_bound_of_a_wanted_sensitivity_holds_as_often_as_it_says():
    """Over data sets of patients whose patches are alike, of whom the sensitivity of the population is known."""
    rng, held = np.random.default_rng(0), []
    for _ in range(150):
        groups = np.repeat(np.arange(100), rng.integers(1, 5, 100))
        labels = rng.integers(0, 2, len(groups))
        score = 1.5 * labels + rng.normal(size=100)[groups] + rng.normal(size=len(groups))
        threshold = choose_threshold("sensitivity=0.9@95%", labels, expit(score), groups)
        held.append(norm.sf((logit(threshold) - 1.5) / np.sqrt(2)) >= 0.9)
        assert threshold < choose_threshold("sensitivity=0.9", labels, expit(score))
    assert 0.9 < np.mean(held) < 1


@pytest.mark.parametrize(
    "policy",
    [
        "sensitivity=0.9@",
        "sensitivity=0.9@40%",
        "sensitivity=1@95%",
        "sensitivity=0.9@x",
        "sensitivity=0.9@95",
        "sensitivity=0.9@0%",
        "sensitivity=0.9@101%",
        "sensitivity=0.9@95%%",
        "0.9@95%%",
        "@95",
        "youden@95%",
        "sensitivity@95%",
        "sensitivity=@95%",
    ],
)
def test_a_bound_that_is_none(policy):
    with pytest.raises(UserError, match=r"^threshold: expected 'sensitivity=S@C%'.*found '[^\n]*'$"):
        choose_threshold(policy, [0, 1], [0.1, 0.9])


def test_too_few_patients_for_a_bound():
    with pytest.raises(UserError, match=r"for a bound of 0.95, found a bound of 0\.\d+ where all 10"):
        choose_threshold("sensitivity=0.95@95%", np.repeat([0, 1], 10), np.linspace(0, 1, 20), np.arange(20))
