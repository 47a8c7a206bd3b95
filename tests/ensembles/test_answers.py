"""An ensemble's map and answer sets: fitted on nested predictions, kept in level 1, none of a fold by itself."""

import numpy as np
import pytest

from mammo_mlflow.answer_sets import read_limits
from mammo_mlflow.ensembles.answers import EnsembleAnswers
from mammo_mlflow.ensembles.methods import METHODS
from mammo_mlflow.ensembles.nested import nested_predictions
from mammo_mlflow.ensembles.registered_ensemble import EnsembleSpec, ensemble_key
from mammo_mlflow.evaluation.conformal import answer_limits
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.recalibration import RECALIBRATIONS
from mammo_mlflow.level1 import Combiner, load

SPEC = {"members": "a,b", "method": "average", "objective": "roc_auc", "threshold": "0.5", "folds": 4, "seed": 0}


@pytest.fixture
def nested(made):
    """A combiner fitted on all rows, its members' predictions, and the nested ones."""
    data, (objective,) = made(), parse_objectives("roc_auc")
    combiner, probabilities = nested_predictions(METHODS["average"], data, objective)
    return combiner, data, data.saying(probabilities)


@pytest.mark.parametrize("kind", RECALIBRATIONS)
def test_each_fold_goes_through_a_map_of_the_others_and_the_model_through_one_of_all(nested, kind, tmp_path):
    combiner, data, said = nested
    answers = EnsembleAnswers(nested=said, calibrate=kind, coverage=0.0)
    for fold in np.unique(said.folds):
        mine = said.folds == fold
        found = RECALIBRATIONS[kind](said.labels[~mine], said.probabilities[~mine])
        np.testing.assert_allclose(answers.predictions.probabilities[mine], found(said.probabilities[mine]))
    answers.through_map(combiner).save(tmp_path / "level1.npz")
    registered, whole = load(tmp_path / "level1.npz"), RECALIBRATIONS[kind](said.labels, said.probabilities)
    assert registered.members == combiner.members
    expected = whole(combiner.predict(data.probabilities))
    np.testing.assert_allclose(registered.predict(data.probabilities), expected, atol=1e-12)
    assert np.isfinite(registered.predict([[0.0] * combiner.members, [1.0] * combiner.members])).all()
    assert {"oof_uncalibrated_brier", "oof_calibration_slope"} <= set(answers.estimates())
    assert kind in answers.tags["mammo.recalibrated"]


def test_answer_sets_are_of_what_the_model_answers_after_its_map(nested):
    _, _, said = nested
    answers = EnsembleAnswers(nested=said, calibrate="platt", coverage=0.8)
    mapped = answers.predictions
    limits = answer_limits(mapped.labels, mapped.probabilities, mapped.groups, 0.8)
    assert answers.limits == read_limits(answers.tags) == limits
    found = answers.estimates()
    assert found["oof_coverage_0"].low < found["oof_coverage_0"].high
    assert 0 <= found["oof_referred"].value <= 1


def test_without_either_nothing_changes(nested):
    combiner, _, said = nested
    plain = EnsembleAnswers(nested=said, calibrate="none", coverage=0.0)
    assert plain.predictions is said and plain.through_map(combiner) is combiner
    assert (plain.limits, plain.tags, plain.estimates()) == (None, {}, {})


def test_what_was_added_moves_a_key_only_where_it_is_asked_for():
    def key(flips=(), **more):
        return ensemble_key(["a", "b"], "average", EnsembleSpec(**SPEC, **more), "test", flips)

    same = {key(), key(calibrate="none", coverage=0.0), key(flips=(False, False))}
    others = {key(calibrate="platt"), key(coverage=0.9), key(flips=(False, True))}
    assert len(same) == 1 and len(same | others) == 4


@pytest.mark.parametrize(
    ("arrays", "kind", "said"),
    [
        ({}, "platt", "expected weights, map_slope, map_intercept, map_least, found weights"),
        ({}, "plat", "expected a map of platt, isotonic, found 'plat'"),
        ({"map_x": np.array([0.0])}, "", "expected weights, found weights, map_x"),
        ({"map_x": np.array([0.0]), "map_y": np.array([np.nan])}, "isotonic", "map_y: expected finite numbers"),
    ],
)
def test_a_map_that_is_not_whole_is_refused(arrays, kind, said):
    with pytest.raises(ValueError, match=said):
        Combiner("weights", {"weights": np.array([0.5, 0.5])} | arrays, map=kind)
