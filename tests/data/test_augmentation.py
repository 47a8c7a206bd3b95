import time

import numpy as np
import pytest

from mammo_mlflow.data.augmentation import ALL_FLIPS, POLICIES, draw_transforms
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import FLIPS

PAIRS = np.arange(2_000)


def linear(transforms):
    """The 2 by 2 matrices in (x, y)."""
    return transforms[:, [0, 1, 3, 4]].reshape(-1, 2, 2)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_transform_depends_on_its_own_pair_alone(policy):
    whole = draw_transforms(policy, PAIRS, 3, 150, seed=5)
    assert whole.shape == (2_000, 8)
    assert whole.dtype == np.float32
    assert not whole[:, 6:].any()
    chosen = np.array([1_900, 7, 7, 42])
    np.testing.assert_array_equal(draw_transforms(policy, chosen, 3, 150, seed=5), whole[chosen])


@pytest.mark.parametrize("change", [{"view": 4}, {"seed": 6}, {"pairs": PAIRS + 1}])
def test_another_view_seed_or_pair_is_another_transform(change):
    base = {"policy": "scratch", "pairs": PAIRS, "view": 3, "size": 150, "seed": 5}
    same = (draw_transforms(**base) == draw_transforms(**{**base, **change})).all(axis=1)
    assert not same.any()


def test_views_and_pairs_do_not_mirror_one_another():
    one, two = draw_transforms("paper", np.array([1]), 2, 150), draw_transforms("paper", np.array([2]), 1, 150)
    assert (one != two).any()


def test_none_is_the_identity():
    np.testing.assert_array_equal(draw_transforms("none", PAIRS[:3], 0, 150), [[1, 0, 0, 0, 1, 0, 0, 0]] * 3)


@pytest.mark.parametrize("policy", ["paper", "rotation5"])
def test_rotations_and_flips_leave_the_centre_and_lengths(policy):
    transforms = draw_transforms(policy, PAIRS, 0, 150).astype(float)
    centre = np.array([74.5, 74.5])
    np.testing.assert_allclose(
        linear(transforms) @ centre + transforms[:, [2, 5]], np.tile(centre, (2_000, 1)), atol=1e-4
    )
    np.testing.assert_allclose(np.abs(np.linalg.det(linear(transforms))), 1, atol=1e-5)


def test_paper_turns_by_every_angle_and_flips_half():
    matrices = linear(draw_transforms("paper", PAIRS, 0, 150).astype(float))
    angles = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    counts = np.histogram(angles, 12, (-np.pi, np.pi))[0]
    assert counts.min() > 120
    assert counts.max() < 215
    assert 900 < (np.linalg.det(matrices) < 0).sum() < 1_100


def test_rotation5_stays_within_five_degrees():
    matrices = linear(draw_transforms("rotation5", PAIRS, 0, 150).astype(float))
    angles = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert 4.9 < np.abs(angles).max() <= 5.001
    assert (angles > 0).any()
    assert (angles < 0).any()


def test_shift_moves_by_at_most_a_tenth_of_the_side():
    transforms = draw_transforms("shift", PAIRS, 0, 150)
    np.testing.assert_array_equal(linear(transforms), np.tile(np.eye(2), (2_000, 1, 1)))
    assert 14.8 < np.abs(transforms[:, [2, 5]]).max() <= 15
    assert abs(np.corrcoef(transforms[:, 2], transforms[:, 5])[0, 1]) < 0.1


def test_scratch_zooms_by_at_most_a_tenth():
    lengths = np.linalg.svd(linear(draw_transforms("scratch", PAIRS, 0, 150).astype(float)), compute_uv=False)
    assert 0.899 < lengths.min() < 0.91
    assert 1.09 < lengths.max() < 1.101


def test_unknown_policy_names_the_nearest():
    with pytest.raises(UserError, match="augmentation: unknown 'papre', did you mean 'paper'"):
        draw_transforms("papre", PAIRS, 0, 150)


def test_thousands_are_drawn_at_once():
    start = time.perf_counter()
    draw_transforms("scratch", np.arange(24_000), 0, 150)
    assert time.perf_counter() - start < 1


def test_the_flips_are_the_eight_symmetries_of_a_square():
    size = 5
    patch = np.random.default_rng(0).permutation(size * size).reshape(size, size)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    seen = set()
    for view in range(len(FLIPS)):
        row, same = draw_transforms(ALL_FLIPS, np.array([3, 99]), view, size, seed=view)
        np.testing.assert_array_equal(row, same)
        columns, rows = row[0] * x + row[1] * y + row[2], row[3] * x + row[4] * y + row[5]
        seen.add(patch[rows.astype(int), columns.astype(int)].tobytes())
    turned = [np.rot90(one, quarter) for one in (patch, patch.T) for quarter in range(4)]
    assert seen == {one.tobytes() for one in turned}
    np.testing.assert_array_equal(draw_transforms(ALL_FLIPS, np.array([0]), 0, size)[0], [1, 0, 0, 0, 1, 0, 0, 0])
