"""Both sides of a pair are transformed alike, or each on its own, on line and from stored views."""

import ml_dtypes
import numpy as np
import pytest

from mammo_mlflow.engine.backend import fastest_feed
from mammo_mlflow.engine.batches import Batches
from mammo_mlflow.engine.inputs import (
    CombinedReader,
    NumberReader,
    PatchReader,
    StoredActivations,
    all_views,
    combine_readers,
)

pytestmark = pytest.mark.usefixtures("keras")

ROWS = np.arange(6)


@pytest.fixture
def tensor(tmp_path):
    """A file in which baseline and abnormality of a pair are the same patch."""
    patches = np.random.default_rng(0).integers(0, 65_535, (6, 32, 32)).astype(np.uint16)
    np.save(tmp_path / "tensor.npy", patches.repeat(2, axis=0))
    return tmp_path / "tensor.npy"


@pytest.mark.parametrize("independent", [False, True])
def test_on_line_pairs(tensor, independent):
    baseline = PatchReader(tensor, 0, "paper", 0, own_views=independent)
    both = CombinedReader({"baseline": baseline, "patch": PatchReader(tensor, 1, "paper", 0)})
    plain, first, second = (both(ROWS, np.full(6, view)) for view in range(3))
    np.testing.assert_array_equal(plain["baseline"], plain["patch"])
    for seen in (first, second):
        assert np.array_equal(seen["baseline"], seen["patch"]) is not independent
    assert not np.array_equal(first["patch"], plain["patch"])
    assert not np.array_equal(first["patch"], second["patch"])
    assert not np.array_equal(first["baseline"], second["baseline"])


@pytest.mark.parametrize("view", [0, 1])
def test_an_input_of_other_places_has_their_patches_and_transforms(tensor, tmp_path, view):
    places, views = np.array([1, 0, 2, 5, 4, 3]), np.full(6, view)
    alike, placed = (PatchReader(tensor, 1, "paper", places=given) for given in (None, places))
    np.testing.assert_array_equal(placed(ROWS, views), alike(places, views))
    np.save(tmp_path / "stored.npy", np.random.default_rng(0).normal(size=(6, 3, 2)).astype(np.float32))
    alike, placed = (StoredActivations(tmp_path / "stored.npy", places=given) for given in (None, places))
    np.testing.assert_array_equal(placed(ROWS[2:], views[2:]), alike(places[2:], views[2:]))
    np.testing.assert_array_equal(placed.in_memory(10**6), alike.in_memory(10**6)[places])


def test_another_seed_transforms_otherwise_and_none_not_at_all(tensor):
    views = np.ones(6, int)
    found = [
        PatchReader(tensor, 1, policy, seed)(ROWS, views) for policy, seed in (("paper", 0), ("paper", 1), ("none", 0))
    ]
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2][..., 0], np.load(tensor)[1::2])


class Stored:
    """Inputs of one side that tell their row and view."""

    def __init__(self, side):
        self.table = np.stack(np.broadcast_arrays(side, np.arange(6.0)[:, None], np.arange(4.0)), axis=-1)

    def __call__(self, rows, views):
        return self.table[rows, views]

    def in_memory(self, limit):
        return self.table if self.table.nbytes <= limit else None


@pytest.fixture
def sides():
    return {"baseline": Stored(0.0), "patch": Stored(1.0)}


def made(read, columns):
    return Batches(read, ROWS, np.arange(6) % 2, 2, 3, [0], columns)


@pytest.mark.parametrize("columns", [1, 2])
def test_stored_pairs(sides, columns):
    views = []
    for epoch in range(4):
        batches = made(CombinedReader(sides), columns)
        for _ in range(epoch + 1):
            batches.on_epoch_end()
        for index in range(len(batches)):
            inputs, labels = batches[index]
            assert set(inputs["baseline"][:, 0]) == {0.0}
            assert set(inputs["patch"][:, 0]) == {1.0}
            np.testing.assert_array_equal(inputs["baseline"][:, 1], inputs["patch"][:, 1])
            np.testing.assert_array_equal(inputs["patch"][:, 1] % 2, labels)
            views.append([inputs["baseline"][:, 2], inputs["patch"][:, 2]])
    baseline, patch = np.concatenate(views, axis=1)
    assert set(baseline) == set(patch) == {1.0, 2.0, 3.0}
    assert np.array_equal(baseline, patch) is (columns == 1)


@pytest.mark.parametrize("columns", [1, 2])
def test_the_fast_feed_is_the_same_batches(sides, columns):
    read = (
        CombinedReader(sides | {"type": NumberReader(np.linspace(0, 1, 6), 3)})
        if columns == 1
        else CombinedReader(sides)
    )
    feed, steps = fastest_feed(made(read, columns), 2)
    batches, found = made(read, columns), list(feed.as_numpy_iterator())
    assert steps == len(batches)
    assert len(found) == 2 * steps
    for number, (inputs, labels) in enumerate(found):
        if number % steps == 0:
            batches.on_epoch_end()
        wanted, same = batches[number % steps]
        np.testing.assert_array_equal(labels, same)
        assert set(inputs) == set(wanted)
        for name, values in wanted.items():
            np.testing.assert_array_equal(inputs[name], values)


def test_what_is_too_big_together_is_not_held(sides):
    each = sides["patch"].table.nbytes
    assert CombinedReader(sides).in_memory(2 * each).keys() == sides.keys()
    assert CombinedReader(sides).in_memory(2 * each - 1) is None
    assert combine_readers({"patch": sides["patch"]}) is sides["patch"]


@pytest.fixture
def pairs(tmp_path):
    """A file in which every patch is another one."""
    np.save(tmp_path / "pairs.npy", np.random.default_rng(1).integers(0, 65_535, (12, 16, 16)).astype(np.uint16))
    return tmp_path / "pairs.npy"


def test_the_plain_view_is_the_patch_as_it_is_in_the_file(pairs):
    rows, stored = np.array([4, 0, 5]), np.load(pairs)
    for first, own_views in ((0, True), (0, False), (1, False)):
        found = PatchReader(pairs, first, "paper", 7, own_views)(rows, np.zeros(3, int))
        assert found.shape == (3, 16, 16, 1) and found.dtype == np.float32
        np.testing.assert_array_equal(found[..., 0], stored[2 * rows + first])


def test_independent_sides_differ_in_every_pair(tensor):
    views = np.ones(6, int)
    baseline, patch = (
        PatchReader(tensor, first, "paper", 0, own)(ROWS, views) for first, own in ((0, True), (1, False))
    )
    assert [row for row in ROWS if np.allclose(baseline[row], patch[row], atol=1)] == []


def test_each_pair_has_a_transform_of_its_own_whatever_is_read_beside_it(tmp_path):
    """Of a file that holds the same patch again and again."""
    same = np.random.default_rng(0).integers(0, 65_535, (1, 16, 16)).astype(np.uint16)
    np.save(tmp_path / "same.npy", same.repeat(12, axis=0))
    read = PatchReader(tmp_path / "same.npy", 1, "paper", 0)
    found = read(ROWS, np.full(6, 2))
    assert len(np.unique(found.reshape(6, -1), axis=0)) == 6
    np.testing.assert_array_equal(read(np.array([5, 2]), np.full(2, 2)), found[[5, 2]])


def test_no_rows_are_no_patches(pairs):
    assert PatchReader(pairs, 1, "paper", 0)(np.zeros(0, int), np.zeros(0, int)).shape == (0, 16, 16, 1)


def test_stored_views_are_those_of_on_line_training_patch_by_patch(tensor):
    """The plain patch, then its views; a baseline and its abnormality alike."""
    rows = np.array([3, 1])
    both = [all_views(PatchReader(tensor, first, "paper"), rows, 2).reshape(2, 3, 32, 32, 1) for first in (0, 1)]
    np.testing.assert_array_equal(*both)
    for view in range(3):
        wanted = PatchReader(tensor, 1, "paper", 0)(rows, np.full(2, view))
        np.testing.assert_array_equal(both[1][:, view], wanted)


def test_a_number_is_the_same_in_every_view():
    number = NumberReader(np.array([0.25, 0.5, 1.0]), 2)
    for view in range(3):
        found = number(np.array([2, 0]), np.full(2, view))
        np.testing.assert_array_equal(found, [[1.0], [0.25]])
        assert found.dtype == np.float32
    np.testing.assert_array_equal(number.in_memory(36), [[[0.25]] * 3, [[0.5]] * 3, [[1.0]] * 3])
    assert number.in_memory(35) is None


def test_each_input_has_its_column_in_the_order_they_are_given(sides):
    views = np.array([[1, 3], [2, 2], [3, 0]])
    rows = np.array([0, 4, 5])
    for names in (["baseline", "patch"], ["patch", "baseline"]):
        found = CombinedReader({name: sides[name] for name in names})(rows, views)
        assert list(found) == names
        for name, column in zip(names, views.T, strict=True):
            np.testing.assert_array_equal(found[name][:, 1:], np.stack([rows, column], axis=1))


def test_what_one_reader_cannot_hold_none_does(sides, pairs):
    assert CombinedReader(sides | {"patch": PatchReader(pairs, 1, "paper", 0)}).in_memory(10**9) is None


def test_two_columns_are_drawn_without_regard_to_one_another():
    """Each of the nine pairs of three views comes up as often as it should, within five standard deviations."""
    rows = np.arange(3600)
    batches = Batches(lambda rows, views: rows, rows, rows % 2, 16, 3, [0], columns=2)
    _, views = batches.draw(0)
    assert views.shape == (225, 16, 2)
    counts = np.unique(views.reshape(-1, 2), axis=0, return_counts=True)[1]
    assert len(counts) == 9
    assert np.abs(counts - 400).max() < 5 * np.sqrt(3600 * (1 / 9) * (8 / 9))


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("names", [("baseline", "patch"), ("patch", "baseline")])
def test_stored_files_are_fed_fast_as_they_are_read(names, columns, tmp_path):
    """Whatever the names of the inputs, of float32 and of bfloat16: what the plain reader gives, batch by batch."""
    rng, readers = np.random.default_rng(0), {}
    for name, kind in zip(names, (np.float32, ml_dtypes.bfloat16), strict=True):
        values = rng.normal(0, 1, (6, 4, 2, 2)).astype(kind)
        np.save(tmp_path / f"{name}.npy", values if kind is np.float32 else values.view(np.uint16))
        readers[name] = StoredActivations(tmp_path / f"{name}.npy")
    read = CombinedReader(readers)
    found = list(fastest_feed(made(read, columns), 3)[0].as_numpy_iterator())
    drawn = [pair for epoch in range(3) for pair in zip(*made(read, columns).draw(epoch), strict=True)]
    assert len(found) == len(drawn) == 9
    for (inputs, labels), (rows, views) in zip(found, drawn, strict=True):
        wanted = read(rows, views)
        assert {name: one.dtype for name, one in inputs.items()} == dict.fromkeys(wanted, np.dtype(np.float32))
        for name, values in wanted.items():
            np.testing.assert_array_equal(inputs[name], values)
        np.testing.assert_array_equal(labels, rows % 2)
