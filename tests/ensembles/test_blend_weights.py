from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from mammo_mlflow.ensembles import blend_weights
from mammo_mlflow.ensembles.blend_weights import PAPER_LEVELS, average, candidates, greedy, grid, grid_fine
from mammo_mlflow.errors import UserError
from mammo_mlflow.search.blending import study_weights


def plain(name, data, blend):
    """The objective by scikit-learn, greater better; ROC AUC as the folds' mean weighted by pairs."""
    blend = np.round(blend, 12)
    if name == "accuracy":
        return accuracy_score(data.labels, blend >= 0.5)
    if name == "log_loss":
        return -log_loss(data.labels, np.clip(blend, 1e-7, 1 - 1e-7))
    total = pairs = 0
    for fold in np.unique(data.folds):
        y, p = data.labels[data.folds == fold], blend[data.folds == fold]
        weight = y.sum() * (1 - y).sum()
        total, pairs = total + weight * roc_auc_score(y, p), pairs + weight
    return total / pairs


def brute_force(name, data, levels):
    tried = {}
    for combination in itertools.product(sorted(levels, reverse=True), repeat=data.members):
        if sum(combination):
            weight = np.array(combination) / sum(combination)
            tried.setdefault(tuple(np.round(weight, 6)), weight)
    best = None
    for weight in sorted(tried.values(), key=np.count_nonzero):
        score = plain(name, data, data.probabilities @ weight)
        if best is None or score > best[1] + 1e-12:
            best = weight, score
    return *best, len(tried)


@pytest.mark.parametrize("name", ["roc_auc", "accuracy", "log_loss"])
@pytest.mark.parametrize("decimals", [8, 1])
def test_grid_equals_trying_all(made, objective, name, decimals):
    data = made(decimals=decimals, n=80)
    left = grid(data, objective(name), left_out=(None, 0, 3))
    for found, fold in zip(left, (None, 0, 3), strict=True):
        weight, score, count = brute_force(name, data.without(fold), PAPER_LEVELS)
        assert found.weights == pytest.approx(weight)
        assert abs(found.score) == pytest.approx(abs(score), abs=1e-12)
        assert found.evaluated == count
        assert found.note == ""


def test_one_fold_is_enough_to_choose_weights(made, objective):
    data = made(folds=1, n=60)
    assert grid(data, objective())[0].weights == pytest.approx(brute_force("roc_auc", data, PAPER_LEVELS)[0])


def test_finer_levels(made, objective):
    data = made(n=60, members=2)
    (found,) = grid_fine(data, objective())
    weight, score, count = brute_force("roc_auc", data, np.arange(11) / 10)
    assert found.weights == pytest.approx(weight)
    assert (found.score, found.evaluated) == (pytest.approx(score), count)
    assert (found.note, grid_fine(made(n=40, members=6), objective())[0].note) == ("steps of 1/10", "steps of 1/5")


def test_candidates_are_no_multiples_of_one_another():
    found = candidates(np.array([1, 0.5, 0]), 4)
    assert found.sum(axis=1) == pytest.approx(1)
    assert (np.diff((found > 0).sum(axis=1)) >= 0).all()
    assert len(np.unique(np.round(found, 9), axis=0)) == len(found)
    everything = {tuple(np.round(np.array(c) / sum(c), 9)) for c in itertools.product((0, 0.5, 1), repeat=4) if sum(c)}
    assert {tuple(row) for row in np.round(found, 9)} == everything
    assert len(candidates(np.array([1.0, 0.67, 0.34, 0]), 6)) < 4**6 - 3
    np.testing.assert_array_equal(candidates(np.array([1.0, 0.0]), 2), [[1, 0], [0, 1], [0.5, 0.5]])


@pytest.mark.parametrize("name", ["roc_auc", "log_loss"])
def test_greedy_equals_the_naive_loop(made, objective, name):
    data = made(n=100, members=5, decimals=2)
    p = data.probabilities

    def score(bag):
        return plain(name, data, p[:, bag].mean(axis=1))

    ranked = sorted(range(5), key=lambda j: -score([j]))
    tops = [ranked[: k + 1] for k in range(5)]
    bag = list(max(tops, key=score))
    while len(bag) < 12:
        joined = max(range(5), key=lambda j: round(score([*bag, j]), 12))
        if score([*bag, joined]) <= score(bag) + 1e-12:
            break
        bag.append(joined)
    (found,) = greedy(data, objective(name), bag=12)
    assert found.weights == pytest.approx(np.bincount(bag, minlength=5) / len(bag))
    assert abs(found.score) == pytest.approx(abs(score(bag)), abs=1e-12)
    assert np.count_nonzero(greedy(data, objective(name), bag=1)[0].weights) == 1


def test_beyond_six_members_one_weight_at_a_time(made, objective, monkeypatch):
    data = made(members=7, n=60)
    (found,) = grid(data, objective())
    alone = max(plain("roc_auc", data, column) for column in data.probabilities.T)
    assert found.note == "one weight at a time: all 4^7 combinations are too many to try"
    assert found.score == pytest.approx(plain("roc_auc", data, data.probabilities @ found.weights))
    assert found.score >= alone
    assert found.evaluated < 1000
    for member, level in itertools.product(range(7), PAPER_LEVELS):  # no single change gains
        changed = found.weights / found.weights.max()
        changed[member] = level
        assert plain("roc_auc", data, data.probabilities @ (changed / changed.sum())) <= found.score + 1e-9
    monkeypatch.setattr(blend_weights, "EXHAUSTIVE_BLENDS", 100)
    assert grid(made(members=4, n=60), objective())[0].note


@pytest.mark.parametrize("search", [average, grid, grid_fine, greedy])
def test_weights_are_weights(made, objective, search):
    for found in search(made(), objective(), left_out=(None, 1)):
        assert found.weights.shape == (3,)
        assert (found.weights >= 0).all()
        assert found.weights.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("search", [grid, grid_fine, greedy])
def test_ties_go_to_fewer_members_then_to_the_first(made, objective, search):
    data = made()
    data.probabilities[:] = data.probabilities[:, :1]
    np.testing.assert_array_equal(search(data, objective())[0].weights, [1, 0, 0])


@pytest.mark.parametrize("search", [grid, greedy])
def test_a_perfect_member_is_taken_alone(made, objective, search):
    data = made(members=8)
    data.probabilities[:, 5] = 0.4 + 0.2 * data.labels
    np.testing.assert_array_equal(search(data, objective())[0].weights, np.eye(8)[5])


def test_refusals(made, objective):
    with pytest.raises(UserError, match=r"^levels: expected at least two different numbers, none below 0, found '1'$"):
        grid(made(), objective(), levels=[1])
    data = made()
    data.folds[:] = data.labels
    with pytest.raises(UserError, match=r"^objective: expected folds in which roc_auc is defined, found none$"):
        average(data, objective())


def test_weights_by_a_study_are_no_worse_than_where_it_starts(made, objective):
    data = made(n=80)
    found = blend_weights.optimised(data, objective(), study_weights, (None, 1))
    for one, fold in zip(found, (None, 1), strict=True):
        rest = data.without(fold)
        assert one.weights.sum() == pytest.approx(1)
        assert (one.weights >= 0).all()
        starts = [plain("roc_auc", rest, rest.probabilities @ w) for w in (np.full(3, 1 / 3), *np.eye(3))]
        assert one.score == pytest.approx(plain("roc_auc", rest, rest.probabilities @ one.weights))
        assert one.score >= max(starts) - 1e-12
        assert one.evaluated > 100
