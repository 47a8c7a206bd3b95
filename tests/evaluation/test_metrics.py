from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation.metrics import COUNTS, RATES, fold_auc, mean_sd, out_of_fold, scores


@pytest.fixture
def sample():
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 200)
    return labels, np.round(np.clip(random.normal(0.4 + 0.25 * labels, 0.25), 0.01, 0.99), 2)  # rounded: ties


@pytest.mark.parametrize("threshold", [0.5, 0.37])
def test_scores_agree_with_sklearn(sample, threshold):
    labels, p = sample
    predicted = p >= threshold
    tn, fp, fn, tp = sk.confusion_matrix(labels, predicted).ravel()
    assert scores(labels, p, threshold) == pytest.approx(
        {
            "accuracy": sk.accuracy_score(labels, predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
            "roc_auc": sk.roc_auc_score(labels, p),
            "sensitivity": sk.recall_score(labels, predicted),
            "specificity": sk.recall_score(labels, predicted, pos_label=0),
            "precision": sk.precision_score(labels, predicted),
            "f1": sk.f1_score(labels, predicted),
            "brier": sk.brier_score_loss(labels, p),
            "log_loss": sk.log_loss(labels, p),
            "true_negative": tn,
            "false_positive": fp,
            "false_negative": fn,
            "true_positive": tp,
        }
    )
    assert set(scores(labels, p)) == {*RATES, *COUNTS}


def test_a_probability_at_the_threshold_is_positive():
    found = scores([0, 1], [0.4, 0.4], threshold=0.4)
    assert (found["false_positive"], found["true_positive"]) == (1, 1)


def test_what_one_class_leaves_undefined_is_nan():
    positives, negatives = scores([1, 1], [0.9, 0.2]), scores([0, 0], [0.9, 0.2])
    assert {name for name, value in positives.items() if math.isnan(value)} == {
        "balanced_accuracy",
        "roc_auc",
        "specificity",
    }
    assert {name for name, value in negatives.items() if math.isnan(value)} == {
        "balanced_accuracy",
        "roc_auc",
        "sensitivity",
        "f1",
    }
    assert positives["accuracy"] == negatives["accuracy"] == 0.5


def test_precision_without_a_positive_prediction_is_nan_and_f1_is_0():
    found = scores([0, 1], [0.1, 0.2])
    assert math.isnan(found["precision"])
    assert found["f1"] == 0 and found["sensitivity"] == 0


def test_log_loss_of_a_sure_mistake_is_finite_and_the_same_in_any_float_type():
    p = np.array([1.0, 1.0, 0.0])
    wanted = (-math.log(1e-7) - 2 * math.log(1 - 1e-7)) / 3
    assert scores([0, 1, 0], p)["log_loss"] == pytest.approx(wanted)
    assert scores([0, 1, 0], p.astype(np.float32))["log_loss"] == pytest.approx(wanted)


def test_fold_auc_by_hand():
    # Fold a: 2 positives, 2 negatives, 3 of 4 pairs won. Fold b, whose probabilities all lie far higher: 1 positive,
    # 1 negative, won. Fold c: a tie. Weighted by pairs: (3 + 1 + 0.5) / 6.
    folds = ["a"] * 4 + ["b"] * 2 + ["c"] * 2
    labels = [0, 1, 0, 1, 0, 1, 0, 1]
    p = [0.10, 0.15, 0.20, 0.25, 0.90, 0.95, 0.5, 0.5]
    assert fold_auc(labels, p, folds) == pytest.approx(4.5 / 6)
    assert sk.roc_auc_score(labels, p) == pytest.approx((1 + 2 + 4 + 2.5) / 16)  # calibration spoils the pooled one


def test_fold_auc_is_the_pair_weighted_mean(sample):
    labels, p = sample
    folds = np.arange(200) % 7
    parts = [(sk.roc_auc_score(labels[folds == f], p[folds == f]), labels[folds == f]) for f in range(7)]
    weights = [y.sum() * (1 - y).sum() for _, y in parts]
    assert len(set(weights)) > 1
    assert fold_auc(labels, p, folds) == pytest.approx(np.average([auc for auc, _ in parts], weights=weights))


def test_a_fold_of_one_class_weighs_nothing():
    assert fold_auc([0, 1, 1, 1], [0.2, 0.7, 0.1, 0.1], [0, 0, 1, 1]) == 1
    assert math.isnan(fold_auc([0, 0, 1, 1], [0.2, 0.7, 0.1, 0.1], [0, 0, 1, 1]))


def sensitivity_by_sklearn(labels, p, specificity):
    false, true, _ = sk.roc_curve(labels, p, drop_intermediate=False)
    return true[1 - false >= specificity - 1e-9].max()


@pytest.mark.parametrize("specificity", [0.5, 0.9, 0.97])
def test_sensitivity_at_a_specificity_is_the_folds_weighted_by_positives(sample, specificity):
    labels, p = sample
    folds = np.arange(200) % 7
    parts = [(labels[folds == f], p[folds == f]) for f in range(7)]
    wanted = np.average(
        [sensitivity_by_sklearn(*part, specificity) for part in parts], weights=[y.sum() for y, _ in parts]
    )
    found = out_of_fold(f"sensitivity_at_specificity={specificity}", labels, p, folds)
    assert found == pytest.approx(wanted)
    assert 0 < found < 1


def test_sensitivity_at_a_specificity_by_hand():
    metric = "sensitivity_at_specificity=0.9"
    negatives, positives = [0.1 * n for n in range(10)], [0.95, 0.85, 0.75, 0.2]
    folds, labels = ["a"] * 14, [0] * 10 + [1] * 4
    # one false alarm in ten, 0.9, is a specificity of 0.9: 0.95 and 0.85 are found
    assert out_of_fold(metric, labels, negatives + positives, folds) == 0.5
    # a positive tied with the second false alarm is not
    assert out_of_fold(metric, labels, [*negatives, 0.95, 0.8, 0.75, 0.2], folds) == 0.25
    # a fold without negatives weighs nothing, one without positives neither
    more = [*labels, 1, 1, 0], [*negatives, *positives, 0.9, 0.9, 1.0], [*folds, "b", "b", "c"]
    assert out_of_fold(metric, *more) == 0.5
    assert math.isnan(out_of_fold(metric, [1, 1, 0], [0.9, 0.9, 0.1], ["b", "b", "c"]))


def test_rates_of_folds_are_pooled(sample):
    labels, p = sample
    for name in ("accuracy", "balanced_accuracy", "log_loss"):
        assert out_of_fold(name, labels, p, np.arange(200) % 7) == scores(labels, p)[name]
    with pytest.raises(ValueError, match="acuracy"):
        out_of_fold("acuracy", labels, p, np.arange(200) % 7)


def test_mean_sd():
    assert mean_sd([1.0, 2.0, 3.0]) == (2.0, 1.0)
    mean, sd = mean_sd([0.7])
    assert mean == 0.7 and math.isnan(sd)
    assert all(math.isnan(value) for value in mean_sd([]))


@pytest.mark.parametrize(
    ("labels", "p", "error"),
    [
        ([], [], ValueError),
        ([0, 1], [0.5], ValueError),
        ([[0, 1]], [[0.5, 0.5]], ValueError),
        ([0, 2], [0.5, 0.5], ValueError),
        ([0, 1], [0.5, math.nan], UserError),
        ([0, 1], [0.5, 1.01], UserError),
    ],
)
def test_wrong_input_is_refused(labels, p, error):
    with pytest.raises(error):
        scores(labels, p)


@pytest.mark.parametrize("folds", [[0], [0, None], [0.0, math.nan]])
def test_wrong_folds_are_refused(folds):
    with pytest.raises(ValueError, match="folds"):
        fold_auc([0, 1], [0.1, 0.9], folds)
