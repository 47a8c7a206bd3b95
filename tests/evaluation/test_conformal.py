"""Answer sets cover each class as often as was asked, whatever its frequency and however many patches a patient has."""

import numpy as np
import pytest
from scipy.special import expit

from mammo_mlflow.answer_sets import REFER, AnswerLimits, read_limits
from mammo_mlflow.evaluation.conformal import answer_limits, coverage_curve, cross_fitted_sets, set_estimates
from mammo_mlflow.evaluation.figures import answer_sets
from mammo_mlflow.evaluation.gates import covered
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.names import Tag


def draw(rng, patients, apart, share=0.5, largest=6):
    """Labels, probabilities and patients, whose sizes and levels differ; `apart`: how far the classes lie apart."""
    sizes = rng.integers(1, largest + 1, patients)
    groups = np.repeat(np.arange(patients), sizes)
    labels = (rng.random(len(groups)) < share).astype(int)
    level = rng.normal(size=patients)[groups] + rng.normal(size=len(groups))
    return labels, expit(apart * (labels - 0.5) + level), groups


def of_folds(labels, probabilities, groups, folds=4):
    return OutOfFold(labels=labels, probabilities=probabilities, folds=groups % folds, groups=groups)


@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_each_class_is_covered_in_new_patients_whatever_its_frequency(coverage):
    rng, found = np.random.default_rng(0), []
    for _ in range(100):
        limits = answer_limits(*draw(rng, 80, 2.0), coverage)
        labels, probabilities, _ = draw(rng, 400, 2.0, share=0.1)
        right = limits(probabilities)
        found.append([np.mean(np.isin(right[labels == value], (value, REFER))) for value in (0, 1)])
    mean = np.mean(found, axis=0)
    assert np.all(mean > coverage - 0.01)
    assert np.all(mean < coverage + 0.03)


def test_one_patient_with_many_patches_counts_as_one():
    """Without patients their patches would set the limit."""
    rng = np.random.default_rng(0)
    labels, probabilities, groups = draw(rng, 60, 2.0, largest=2)
    many = np.full(500, 0.001)
    labels, probabilities = np.append(labels, np.ones(500, int)), np.append(probabilities, many)
    together = answer_limits(labels, probabilities, np.append(groups, np.full(500, 60)), 0.8)
    apart = answer_limits(labels, probabilities, None, 0.8)
    assert together.low > 0.05
    assert apart.low == pytest.approx(0.001)


def test_without_signal_nearly_all_is_referred_and_with_much_little():
    rng = np.random.default_rng(0)
    shares = []
    for apart in (0.0, 6.0):
        data = of_folds(*draw(rng, 300, apart))
        found = set_estimates(data.labels, cross_fitted_sets(data, 0.9), data.groups)
        shares.append(found["referred"].value)
        assert found["referred"].low <= shares[-1] < found["referred"].high
    assert shares[0] > 0.75
    assert shares[1] < 0.05


def test_classes_that_lie_apart_leave_no_gap_without_an_answer():
    labels = np.repeat([0, 1], 50)
    probabilities = np.concatenate([np.linspace(0, 0.2, 50), np.linspace(0.8, 1, 50)])
    limits = answer_limits(labels, probabilities, None, 0.9)
    assert limits.low == limits.high
    assert 0.2 < limits.low < 0.8
    np.testing.assert_array_equal(limits(probabilities), labels)


def test_too_few_patients_are_always_covered():
    limits = answer_limits(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]), np.arange(4), 0.95)
    assert (limits.low, limits.high) == (0.0, 1.0)
    assert set(limits([0.0, 0.5, 1.0])) == {REFER}


def test_no_fold_is_judged_by_its_own_patches():
    data = of_folds(*draw(np.random.default_rng(1), 60, 2.0))
    turned = np.where(data.folds == 0, 1 - data.labels, data.labels)
    other = OutOfFold(labels=turned, probabilities=data.probabilities, folds=data.folds, groups=data.groups)
    mine = data.folds == 0
    np.testing.assert_array_equal(cross_fitted_sets(data, 0.8)[mine], cross_fitted_sets(other, 0.8)[mine])


def test_the_gate_of_coverage():
    rng = np.random.default_rng(2)
    labels, probabilities, groups = draw(rng, 300, 2.0)
    kept = covered(of_folds(labels, probabilities, groups), 0.9)
    assert kept.passed
    assert "of 0.9" in kept.said
    # a fold of patients of whom all is otherwise
    lost = covered(of_folds(labels, np.where(groups % 4 == 0, 1 - probabilities, probabilities), groups), 0.9)
    assert not lost.passed


def test_limits_are_read_as_they_were_written():
    limits = AnswerLimits(0.25, 0.625, 0.9)
    assert read_limits(limits.tags) == limits
    assert limits.in_words([0.1, 0.5, 0.7], ("benign", "malignant")) == ["benign", "refer", "malignant"]
    for told in ({}, {Tag.ANSWER_SETS: "x"}, {Tag.ANSWER_SETS: "{}"}, {Tag.ANSWER_SETS: "[1]"}):
        assert read_limits(told) is None


def test_the_figure_has_a_line_for_each_class():
    data = of_folds(*draw(np.random.default_rng(3), 100, 2.0))
    figure = answer_sets(coverage_curve(data), ("benign", "malignant"), "title", "PHANTOM")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["benign", "malignant"]
