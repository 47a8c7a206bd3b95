import numpy as np
import pandas as pd
import pytest

from mammo_mlflow.data.patches import TASKS, Split, targets
from mammo_mlflow.data.splits import folds_frame, folds_sha256, inner_holdout, make_folds, make_holdout
from mammo_mlflow.errors import UserError

TASK = "benign_malignant"


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
    numbers = make_folds(types, ids, folds, seed, TASK)
    assert numbers.dtype == np.int16
    assert set(numbers) == set(range(folds))
    for patient in np.unique(ids):
        assert len(set(numbers[ids == patient])) == 1


@pytest.mark.parametrize("grouped", [True, False])
def test_folds_are_stratified_by_the_four_types(grouped):
    types, ids = population()
    numbers = make_folds(types, ids if grouped else None, 4, 0, TASK)
    for kind in range(1, 5):
        share = (types == kind).mean()
        for number in range(4):
            found = (types[numbers == number] == kind).mean()
            assert abs(found - share) < (0.06 if grouped else 0.01)


def test_folds_depend_on_the_seed_alone():
    types, ids = population()
    first = make_folds(types, ids, 4, 1, TASK)
    np.testing.assert_array_equal(first, make_folds(types, ids, 4, 1, TASK))
    assert (first != make_folds(types, ids, 4, 2, TASK)).any()


def test_duplicates_stay_together_when_patients_are_unknown():
    types, _ = population()
    copies = np.arange(len(types))
    copies[100:200] = copies[:100]
    types[100:200] = types[:100]
    numbers = make_folds(types, None, 4, 0, TASK, copies)
    np.testing.assert_array_equal(numbers[100:200], numbers[:100])
    assert (make_folds(types, None, 4, 0, TASK)[100:200] != numbers[:100]).any()


def test_a_duplicate_joins_its_two_patients():
    types, ids = population()
    copies = np.arange(len(types))
    pairs = [(index, len(types) - 1 - index) for index in range(0, 60, 4)]
    for one, other in pairs:
        copies[other] = one
    numbers = make_folds(types, ids, 4, 0, TASK, copies)
    for one, other in pairs:
        assert len(set(numbers[(ids == ids[one]) | (ids == ids[other])])) == 1


@pytest.mark.parametrize("folds", [1, 0, -3])
def test_at_least_two_folds(folds):
    types, ids = population()
    with pytest.raises(UserError, match=f"^folds: expected at least 2, found {folds}$"):
        make_folds(types, ids, folds, 0, TASK)


@pytest.mark.parametrize("folds", [2, 4])
@pytest.mark.parametrize("grouped", [True, False])
def test_folds_are_the_same_for_both_tasks(grouped, folds):
    types, ids = population()
    both = [make_folds(types, ids if grouped else None, folds, 0, task) for task in TASKS]
    np.testing.assert_array_equal(*both)


def test_folds_of_four_types_stay_what_they_were():
    types, ids = population()
    found = [folds_sha256(make_folds(types, known, 4, 0, TASK))[:12] for known in (ids, None)]
    assert found == ["52d81dde7511", "f591e883102d"]


@pytest.mark.parametrize("kinds", [(1, 2), (3, 4), (1, 2, 4), (1, 4), (2, 3)])
@pytest.mark.parametrize("grouped", [True, False])
def test_a_question_needs_its_own_two_classes_alone(kinds, grouped):
    types, ids = population()
    kept = np.isin(types, kinds)
    types, ids = types[kept], ids[kept] if grouped else None
    every = np.arange(len(types))
    numbers = make_folds(types, ids, 4, 0, TASK)
    held = make_holdout(types, ids, 0.3, 0, TASK) == 0
    fit, watched = inner_holdout(every[numbers != 0], types, ids, TASK)
    for rows in (*(numbers == fold for fold in range(4)), held, ~held, fit, watched):
        assert set(targets(types[rows], TASK)) == {0, 1}


@pytest.mark.parametrize(
    ("task", "types", "line"),
    [
        ("mass_calc", [1, 2], "mass and calcification abnormalities in train_labels.npy, found 24 mass and no calc"),
        ("mass_calc", [3, 3], "mass and calcification abnormalities in train_labels.npy, found no mass and 24 calc"),
        ("benign_malignant", [1, 3], "benign and malignant abnormalities in train_labels.npy, found 24 benign and no"),
    ],
)
def test_a_class_that_is_not_there_is_said_by_task(task, types, line):
    for split in (make_folds, make_holdout):
        with pytest.raises(UserError, match=f"^{task}: expected {line}"):
            split(np.repeat(types, 12), None, 0.3 if split is make_holdout else 4, 0, task)


def test_too_few_patches_of_a_class_are_named():
    types = np.repeat([1, 2, 3, 4], [9, 2, 9, 1])
    make_folds(types, None, 4, 0, "mass_calc")
    wanted = "folds: expected at most 3 for benign_malignant, the number of patches with a malignant abnormality"
    with pytest.raises(UserError, match=f"^{wanted}, found 4$"):
        make_folds(types, None, 4, 0, TASK)


def test_too_few_patients_of_a_class_are_named():
    types = np.repeat([1, 2], 12)
    ids = np.array([f"p{index}" for index in range(24)])
    ids[12:24] = np.repeat(["a", "b"], 6)
    wanted = "folds: expected at most 2 for benign_malignant, the number of patients with a malignant abnormality"
    with pytest.raises(UserError, match=f"^{wanted}, found 3$"):
        make_folds(types, ids, 3, 0, TASK)


@pytest.mark.parametrize("rare", [1, 2, 3])
def test_a_type_of_fewer_patients_than_folds_is_no_obstacle_and_is_said(rare, caplog):
    types = np.repeat([1, 2, 3, 4], [20, 10, 20, rare])
    ids = np.array([f"p{index}" for index in range(len(types))])
    for task in TASKS:
        numbers = make_folds(types, ids, 4, 0, task)
        assert all(set(targets(types[numbers == fold], task)) == {0, 1} for fold in range(4))
    assert f"too few patients for one in each of 4 folds: {rare} with a calcification malignant" in caplog.text


def test_classes_of_rare_types_alone_are_what_is_stratified(caplog):
    types = np.repeat([1, 2, 3, 4], [2, 2, 2, 2])
    numbers = make_folds(types, None, 4, 0, TASK)
    assert all(set(targets(types[numbers == fold], TASK)) == {0, 1} for fold in range(4))
    assert "stratified by benign and malignant alone" in caplog.text


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
        make_folds(types, None, 2, 0, "mass_calc")


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
        make_folds(types, ids, 2, 0, TASK)


@pytest.mark.parametrize("grouped", [True, False])
def test_inner_holdout_is_a_tenth_and_keeps_patients_whole(grouped):
    types, ids = population()
    training = np.flatnonzero(make_folds(types, ids, 4, 0, TASK) != 0)
    fit, held = inner_holdout(training, types, ids if grouped else None, TASK, seed=3)
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
    first = inner_holdout(every, types, ids, TASK, seed=1)[1]
    np.testing.assert_array_equal(first, inner_holdout(every[::-1], types, ids, TASK, seed=1)[1])
    assert set(first) != set(inner_holdout(every, types, ids, TASK, seed=2)[1])


def test_inner_holdout_keeps_duplicates_together():
    types, _ = population()
    types = np.repeat(types, 2)
    copies = np.arange(len(types)) // 2
    fit, held = inner_holdout(np.arange(len(types)), types, None, TASK, seed=0, duplicate_groups=copies)
    assert len(held)
    assert not set(copies[fit]) & set(copies[held])


@pytest.mark.parametrize("seed", range(5))
def test_inner_holdout_of_a_handful_has_every_class_on_both_sides(seed):
    types = np.repeat([1, 2, 3, 4], 4)
    ids = np.repeat([f"p{index}" for index in range(8)], 2)
    for side in inner_holdout(np.arange(16), types, ids, TASK, seed=seed):
        for task in ("mass_calc", "benign_malignant"):
            assert set(targets(types[side], task)) == {0, 1}


def test_inner_holdout_of_one_patient_a_class_is_refused():
    types = np.repeat([1, 4], 5)
    with pytest.raises(UserError, match="inner holdout: 5 mass abnormalities"):
        inner_holdout(np.arange(10), types, np.repeat(["a", "b"], 5), "mass_calc", seed=0)


@pytest.mark.parametrize("fraction", [0, 1, 1.5, -0.1])
def test_fraction_is_between_zero_and_one(fraction):
    types, ids = population()
    with pytest.raises(UserError, match="fraction: expected"):
        inner_holdout(np.arange(len(types)), types, ids, TASK, fraction=fraction)


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
