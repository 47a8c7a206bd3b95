from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mammo_mlflow.ensembles.blend_weights import grid
from mammo_mlflow.ensembles.methods import METHODS, fit_ensembles
from mammo_mlflow.ensembles.nested import nested_predictions
from mammo_mlflow.ensembles.stackers import STACKERS
from mammo_mlflow.errors import UserError
from mammo_mlflow.testing.combiners import CombinerContract, StackerContract


class TestAverage(CombinerContract):
    fits_its_rows = False

    @pytest.fixture
    def method(self):
        return "average"


class TestSearchedWeights(CombinerContract):
    @pytest.fixture(params=sorted(set(METHODS) - {"average", *STACKERS}))
    def method(self, request):
        return request.param


class TestStacked(CombinerContract):
    beats_the_average = False

    @pytest.fixture(params=sorted(set(STACKERS) - {"svm", "dense"}))
    def method(self, request):
        return request.param


class TestStackedOfFewNoisyRows(CombinerContract):
    """An SVM's sigmoid may turn noise around, and dense stops early."""

    beats_the_average = fits_its_rows = False

    @pytest.fixture(params=["svm", "dense"])
    def method(self, request):
        return request.param


class TestStackers(StackerContract):
    @pytest.fixture(params=STACKERS)
    def stacker(self, request):
        return request.param


def test_all_methods_are_given_in_the_order_of_the_table(made, objective):
    data = made()
    found = fit_ensembles(data, objective(), resamples=20)
    assert list(found) == list(METHODS)


def test_each_folds_weights_are_those_of_the_other_folds(made, objective):
    data = made(n=80)
    _, found = nested_predictions(METHODS["grid"], data, objective("balanced_accuracy"))
    for fold in range(4):
        (one,) = grid(data.without(fold), objective("balanced_accuracy"))
        rows = data.folds == fold
        np.testing.assert_allclose(found[rows], data.probabilities[rows] @ one.weights, atol=1e-9)


def test_nested_stacking_equals_the_plain_loop(made, objective):
    data = made()
    _, found = nested_predictions(METHODS["logistic"], data, objective())
    for fold in range(4):
        rows = data.folds == fold
        scaler = StandardScaler().fit(data.probabilities[~rows])
        model = LogisticRegression().fit(scaler.transform(data.probabilities[~rows]), data.labels[~rows])
        theirs = model.predict_proba(scaler.transform(data.probabilities[rows]))[:, 1]
        np.testing.assert_allclose(found[rows], theirs, atol=1e-6)


def test_groups_are_optional_and_folds_may_be_any_names(made, objective):
    data = made()
    names = np.array(["d", "b", "a", "c"])[data.folds]
    with_names, with_numbers = (
        fit_ensembles(replace(data, folds=folds, groups=None), objective(), ["greedy", "svm"], resamples=20)
        for folds in (names, data.folds)
    )
    for name, one in with_names.items():
        np.testing.assert_array_equal(one.probabilities, with_numbers[name].probabilities)


def test_refusals(made, objective):
    data = made()
    with pytest.raises(UserError, match=r"^methods: unknown 'greed', did you mean 'greedy'\?"):
        fit_ensembles(data, objective(), ["greed"])
    with pytest.raises(UserError, match=r"^objective: expected a metric of predictions, found 'seconds'$"):
        fit_ensembles(data, objective("roc_auc,seconds").__class__("seconds", "minimize"))
    with pytest.raises(UserError, match=r"^folds: expected at least 2 for nested cross-validation, found 1$"):
        fit_ensembles(replace(data, folds=np.zeros(120)), objective(), ["average"])
    with pytest.raises(UserError, match=r"^folds: expected both classes without any one fold, found one class"):
        fit_ensembles(replace(data, folds=data.labels, groups=None), objective(), ["average"])
    with pytest.raises(UserError, match=r"^labels: expected patches of both classes, found 120 of class 1$"):
        fit_ensembles(replace(data, labels=np.ones(120)), objective())
    with pytest.raises(UserError, match=r"^probabilities: expected numbers in \[0, 1\], found 120 of 120"):
        data.saying(data.probabilities * np.array([1, np.nan, 1]))
    with pytest.raises(ValueError, match=r"^groups: expected every patient in one fold, found one in two$"):
        replace(data, folds=np.arange(120) % 2)
    with pytest.raises(ValueError, match=r"^probabilities: expected \(n,\) or \(n, m\), m > 0, found \(120, 0\)$"):
        data.saying(data.probabilities[:, :0])
