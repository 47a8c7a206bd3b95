import numpy as np
import pandas as pd
import pytest

from mammo_mlflow.data.patches import Split, targets
from mammo_mlflow.data.splits import folds_frame, folds_sha256, inner_holdout, make_folds
from mammo_mlflow.errors import UserError


def population(patients=150, seed=0):
    """Types and patients of 1 to 4 rows each, all of one type most of the time."""
    rng = np.random.default_rng(seed)
    types, ids = [], []
    for patient in range(patients):
        kind = rng.choice(4, p=[0.34, 0.2, 0.31, 0.15]) + 1
        for _ in range(rng.integers(1, 5)):
            types.append(kind if rng.random() < 0.8 else rng.integers(1, 5))
            ids.append(f"P_{patient:05d}")
    return np.array(types, np.int8), np.array(ids)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("folds", [2, 4, 10])
def test_no_patient_is_on_two_sides(folds, seed):
    types, ids = population(seed=seed)
    numbers = make_folds(types, ids, folds, seed)
    assert numbers.dtype == np.int16
    assert set(numbers) == set(range(folds))
    for patient in np.unique(ids):
        assert len(set(numbers[ids == patient])) == 1


@pytest.mark.parametrize("grouped", [True, False])
def test_folds_are_stratified_by_the_four_types(grouped):
    types, ids = population()
    numbers = make_folds(types, ids if grouped else None, 4, 0)
    for kind in range(1, 5):
        share = (types == kind).mean()
        for number in range(4):
            found = (types[numbers == number] == kind).mean()
            assert abs(found - share) < (0.06 if grouped else 0.01)


def test_folds_depend_on_the_seed_alone():
    types, ids = population()
    first = make_folds(types, ids, 4, 1)
    np.testing.assert_array_equal(first, make_folds(types, ids, 4, 1))
    assert (first != make_folds(types, ids, 4, 2)).any()


def test_duplicates_stay_together_when_patients_are_unknown():
    types, _ = population()
    copies = np.arange(len(types))
    copies[100:200] = copies[:100]
    types[100:200] = types[:100]
    numbers = make_folds(types, None, 4, 0, copies)
    np.testing.assert_array_equal(numbers[100:200], numbers[:100])
    assert (make_folds(types, None, 4, 0)[100:200] != numbers[:100]).any()


def test_a_duplicate_joins_its_two_patients():
    types, ids = population()
    copies = np.arange(len(types))
    pairs = [(index, len(types) - 1 - index) for index in range(0, 60, 4)]
    for one, other in pairs:
        copies[other] = one
    numbers = make_folds(types, ids, 4, 0, copies)
    for one, other in pairs:
        assert len(set(numbers[(ids == ids[one]) | (ids == ids[other])])) == 1


@pytest.mark.parametrize("folds", [1, 0, -3])
def test_at_least_two_folds(folds):
    types, ids = population()
    with pytest.raises(UserError, match=f"^folds: expected at least 2, found {folds}$"):
        make_folds(types, ids, folds, 0)


def test_too_few_patches_of_a_type_are_named():
    types = np.repeat([1, 2, 3, 4], [9, 9, 9, 3])
    with pytest.raises(
        UserError, match="folds: expected at most 3, the number of patches with a calcification malignant"
    ):
        make_folds(types, None, 4, 0)


def test_too_few_patients_of_a_type_are_named():
    types = np.repeat([1, 2, 3, 4], 12)
    ids = np.array([f"p{index}" for index in range(48)])
    ids[12:24] = np.repeat(["a", "b"], 6)
    with pytest.raises(
        UserError, match="folds: expected at most 2, the number of patients with a mass malignant, found 3"
    ):
        make_folds(types, ids, 3, 0)


def test_a_fold_without_a_class_is_refused(monkeypatch):
    types = np.tile([1, 2, 3, 4], 6)

    class Lopsided:
        def __init__(self, *arguments, **options):
            pass

        def split(self, *arguments):
            yield None, np.flatnonzero(types <= 2)
            yield None, np.flatnonzero(types > 2)

    monkeypatch.setattr("mammo_mlflow.data.splits.StratifiedKFold", Lopsided)
    with pytest.raises(UserError, match="fold 0 of 2 has no calcification patch"):
        make_folds(types, None, 2, 0)


def test_a_torn_patient_is_refused(monkeypatch):
    types, ids = population()

    class Torn:
        def __init__(self, *arguments, **options):
            pass

        def split(self, *arguments):
            yield None, np.arange(0, len(types), 2)
            yield None, np.arange(1, len(types), 2)

    monkeypatch.setattr("mammo_mlflow.data.splits.StratifiedGroupKFold", Torn)
    with pytest.raises(UserError, match="two folds"):
        make_folds(types, ids, 2, 0)


@pytest.mark.parametrize("grouped", [True, False])
def test_inner_holdout_is_a_tenth_and_keeps_patients_whole(grouped):
    types, ids = population()
    training = np.flatnonzero(make_folds(types, ids, 4, 0) != 0)
    fit, held = inner_holdout(training, types, ids if grouped else None, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([fit, held])), training)
    assert abs(len(held) / len(training) - 0.1) < 0.03
    for kind in range(1, 5):
        wanted = 0.1 * (types[training] == kind).sum()
        assert abs((types[held] == kind).sum() - wanted) <= 2
    if grouped:
        assert not set(ids[fit]) & set(ids[held])


def test_inner_holdout_depends_on_the_seed_alone():
    types, ids = population()
    every = np.arange(len(types))
    first = inner_holdout(every, types, ids, seed=1)[1]
    np.testing.assert_array_equal(first, inner_holdout(every[::-1], types, ids, seed=1)[1])
    assert set(first) != set(inner_holdout(every, types, ids, seed=2)[1])


def test_inner_holdout_keeps_duplicates_together():
    types, _ = population()
    types = np.repeat(types, 2)
    copies = np.arange(len(types)) // 2
    fit, held = inner_holdout(np.arange(len(types)), types, None, seed=0, duplicate_groups=copies)
    assert len(held)
    assert not set(copies[fit]) & set(copies[held])


@pytest.mark.parametrize("seed", range(5))
def test_inner_holdout_of_a_handful_has_every_class_on_both_sides(seed):
    types = np.repeat([1, 2, 3, 4], 4)
    ids = np.repeat([f"p{index}" for index in range(8)], 2)
    for side in inner_holdout(np.arange(16), types, ids, seed=seed):
        for task in ("mass_calc", "benign_malignant"):
            assert set(targets(types[side], task)) == {0, 1}


def test_inner_holdout_of_one_patient_a_class_is_refused():
    types = np.repeat([1, 4], 5)
    with pytest.raises(UserError, match="inner holdout: 5 mass abnormalities"):
        inner_holdout(np.arange(10), types, np.repeat(["a", "b"], 5), seed=0)


@pytest.mark.parametrize("fraction", [0, 1, 1.5, -0.1])
def test_fraction_is_between_zero_and_one(fraction):
    types, ids = population()
    with pytest.raises(UserError, match="fraction: expected"):
        inner_holdout(np.arange(len(types)), types, ids, fraction=fraction)


def test_folds_sha256_is_of_the_numbers_and_not_their_type():
    numbers = np.array([0, 1, 2, 1])
    assert folds_sha256(numbers) == folds_sha256(numbers.astype(np.int16))
    assert folds_sha256(numbers) != folds_sha256(numbers[::-1])


def test_folds_frame_has_patients_where_known():
    groups = pd.DataFrame({"patient_id": ["a", "b"]})
    types = np.array([1, 4], np.int8)
    known = folds_frame(Split("train", np.zeros((4, 2, 2), np.uint16), types, groups), np.array([1, 0], np.int16))
    assert known.to_dict("list") == {"patch": [0, 1], "fold": [1, 0], "type": [1, 4], "patient_id": ["a", "b"]}
    unknown = folds_frame(Split("train", np.zeros((4, 2, 2), np.uint16), types, None), np.array([1, 0], np.int16))
    assert list(unknown.columns) == ["patch", "fold", "type"]
