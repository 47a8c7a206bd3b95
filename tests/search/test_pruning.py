"""Pruning over folds: what it saves, and that the best trial is not lost to it."""

import shutil

import optuna
import pytest
from optuna.trial import TrialState
from support_studies import FOLDS, TRIALS, Laboratory

from mammo_mlflow.errors import UserError
from mammo_mlflow.search.pruning import make_pruner, over_folds
from mammo_mlflow.testing.samplers import warnings_of


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory, empty_stores, keras):
    return Laboratory(shutil.copytree(empty_stores, tmp_path_factory.mktemp("pruning") / "where"))


@pytest.mark.parametrize(("sampler", "seeds"), [("random", 10), ("tpe", 2)])
def test_pruning_saves_a_third_of_the_folds_and_keeps_the_best_trial(laboratory, simulation, sampler, seeds):
    shares = []
    for seed in simulation(seeds):
        study, values = laboratory.simulated(sampler, seed)
        best = values.index(max(values))
        assert study.trials[best].state == TrialState.COMPLETE, f"seed {seed} lost the best trial"
        assert study.best_trial.number == best
        shares.append(1 - sum(map(trained_folds, study.trials)) / (TRIALS * FOLDS))
    assert sum(shares) / len(shares) >= 0.3


def trained_folds(trial):
    return len(trial.intermediate_values)


def seen(study):
    return [(trial.state, trial.params, trial.intermediate_values) for trial in study.trials]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_study_in_both_stores_goes_as_the_simulated_one(laboratory, simulation, sampler):
    study, trained = laboratory.study(sampler, "auto", 0)
    wanted, values = laboratory.simulated(sampler, 0)
    assert seen(study) == seen(wanted)
    assert len(study.trials) == TRIALS
    assert trained == sum(map(trained_folds, study.trials)) < TRIALS * FOLDS
    assert study.best_trial.number == values.index(max(values))


def test_without_a_pruner_every_fold_is_trained_and_the_same_trials_are_drawn(laboratory, simulation):
    study, trained = laboratory.study("random", "none", 0)
    assert trained == TRIALS * FOLDS
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    pruned, values = laboratory.simulated("random", 0)
    assert [trial.value for trial in study.trials] == pytest.approx(values)
    assert study.best_trial.number == values.index(max(values))
    assert [trial.params for trial in pruned.trials] == [trial.params for trial in study.trials]


def test_names(recwarn):
    for name in ("auto", "median", "percentile", "percentile=75", "percentile=0.5"):
        made = make_pruner(name, 1, 2)
        assert isinstance(made, optuna.pruners.PercentilePruner)
        assert not over_folds(made)
    assert make_pruner("none", 1, 5) is make_pruner("none", 2, 5) is make_pruner("auto", 2, 5) is None
    assert not over_folds(None)
    assert over_folds(make_pruner("wilcoxon", 1, 6))
    assert not warnings_of(recwarn)


@pytest.mark.parametrize(
    ("name", "objectives", "folds", "line"),
    [
        ("medain", 1, 5, "pruner: unknown 'medain', did you mean 'median'?"),
        ("median=3", 1, 5, "pruner: unknown 'median=3'"),
        ("", 1, 5, "pruner: unknown ''"),
        ("median", 2, 5, "pruner: expected none with two objectives, found 'median'"),
        ("wilcoxon", 1, 5, "pruner: expected at least 6 folds for wilcoxon, found 5"),
        ("percentile=", 1, 5, "pruner: expected 'percentile=' and a number in (0, 100), found 'percentile='"),
        ("percentile=100", 1, 5, "pruner: expected 'percentile=' and a number in (0, 100), found 'percentile=100'"),
        ("percentile=nan", 1, 5, "pruner: expected 'percentile=' and a number in (0, 100), found 'percentile=nan'"),
        ("percentile=many", 1, 5, "pruner: expected 'percentile=' and a number in (0, 100), found 'percentile=many'"),
    ],
)
def test_refusals(name, objectives, folds, line):
    with pytest.raises(UserError) as raised:
        make_pruner(name, objectives, folds)
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)
