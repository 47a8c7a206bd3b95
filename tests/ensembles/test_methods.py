from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mammo_mlflow.ensembles.methods import METHODS, choose
from mammo_mlflow.ensembles.nested import nested
from mammo_mlflow.ensembles.stackers import STACKERS
from mammo_mlflow.ensembles.weights import grid
from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation.intervals import metric_estimate
from mammo_mlflow.evaluation.metrics import out_of_fold
from mammo_mlflow.evaluation.out_of_fold import OutOfFold

NOISE_SEEDS = 20


def test_every_method_gives_both_figures(made, objective):
    data = made()
    found = choose(data, objective(), resamples=50)
    assert list(found) == list(METHODS)
    for name, one in found.items():
        assert one.method == name
        p = one.level1.predict(data.probabilities)
        assert one.chosen_on == pytest.approx(out_of_fold("roc_auc", data.labels, p, data.folds))
        assert one.nested == metric_estimate(
            "roc_auc", data.labels, one.probabilities, data.folds, data.groups, resamples=50
        )
        if name not in ("average", *STACKERS):
            assert one.chosen_on >= found["average"].chosen_on
    assert found["average"].nested.value == pytest.approx(found["average"].chosen_on)


@pytest.mark.parametrize("name", METHODS)
def test_a_fold_is_predicted_without_its_labels(name, made, objective):
    data, changed = made(), made()
    changed.labels[changed.folds == 2] ^= 1
    one, two = (nested(METHODS[name], d, objective(), seed=0)[1] for d in (data, changed))
    np.testing.assert_array_equal(one[data.folds == 2], two[data.folds == 2])


def test_each_folds_weights_are_those_of_the_other_folds(made, objective):
    data = made(n=80)
    _, found = nested(METHODS["grid"], data, objective("balanced_accuracy"))
    for fold in range(4):
        (one,) = grid(data.without(fold), objective("balanced_accuracy"))
        rows = data.folds == fold
        np.testing.assert_allclose(found[rows], data.probabilities[rows] @ one.weights, atol=1e-9)


def test_nested_stacking_equals_the_plain_loop(made, objective):
    data = made()
    _, found = nested(METHODS["logistic"], data, objective())
    for fold in range(4):
        rows = data.folds == fold
        scaler = StandardScaler().fit(data.probabilities[~rows])
        model = LogisticRegression().fit(scaler.transform(data.probabilities[~rows]), data.labels[~rows])
        theirs = model.predict_proba(scaler.transform(data.probabilities[rows]))[:, 1]
        np.testing.assert_allclose(found[rows], theirs, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_members_of_pure_noise_are_worth_chance(name, objective, simulation):
    honest, optimistic = [], []
    for seed in simulation(NOISE_SEEDS):
        random = np.random.default_rng(seed)
        members, labels = random.random((160, 4)), random.permutation(np.arange(160) % 2)
        data = OutOfFold(labels=labels, probabilities=members, folds=np.arange(160) // 40)
        level1, p = nested(METHODS[name], data, objective(), seed)
        honest.append(out_of_fold("roc_auc", data.labels, p, data.folds))
        optimistic.append(out_of_fold("roc_auc", data.labels, level1.predict(data.probabilities), data.folds))
    error = np.std(honest, ddof=1) / np.sqrt(NOISE_SEEDS)
    assert 0.002 < error < 0.02
    assert abs(np.mean(honest) - 0.5) < 3.5 * error
    if name not in ("average", "svm", "dense"):  # an SVM's sigmoid may turn noise around, and dense stops early
        assert np.mean(optimistic) > 0.5 + 3.5 * error


def test_groups_are_optional_and_folds_may_be_any_names(made, objective):
    data = made()
    names = np.array(["d", "b", "a", "c"])[data.folds]
    with_names, with_numbers = (
        choose(replace(data, folds=folds, groups=None), objective(), ["greedy", "svm"], resamples=20)
        for folds in (names, data.folds)
    )
    for name, one in with_names.items():
        np.testing.assert_array_equal(one.probabilities, with_numbers[name].probabilities)


def test_refusals(made, objective):
    data = made()
    with pytest.raises(UserError, match=r"^methods: unknown 'greed', did you mean 'greedy'\?"):
        choose(data, objective(), ["greed"])
    with pytest.raises(UserError, match=r"^objective: expected a metric of predictions, found 'seconds'$"):
        choose(data, objective("roc_auc,seconds").__class__("seconds", "minimize"))
    with pytest.raises(UserError, match=r"^folds: expected at least 2 for nested cross-validation, found 1$"):
        choose(replace(data, folds=np.zeros(120)), objective(), ["average"])
    with pytest.raises(UserError, match=r"^folds: expected both classes without any one fold, found one class"):
        choose(replace(data, folds=data.labels, groups=None), objective(), ["average"])
    with pytest.raises(UserError, match=r"^labels: expected patches of both classes, found 120 of class 1$"):
        choose(replace(data, labels=np.ones(120)), objective())
    with pytest.raises(UserError, match=r"^probabilities: expected numbers in \[0, 1\], found 120 of 120"):
        data.saying(data.probabilities * np.array([1, np.nan, 1]))
    with pytest.raises(ValueError, match=r"^groups: expected every patient in one fold, found one in two$"):
        replace(data, folds=np.arange(120) % 2)
    with pytest.raises(ValueError, match=r"^probabilities: expected \(n,\) or \(n, m\), m > 0, found \(120, 0\)$"):
        data.saying(data.probabilities[:, :0])
