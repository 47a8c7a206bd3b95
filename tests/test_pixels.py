"""Values of patches: what is refused, and what looks like another scale than the training patches'."""

from pathlib import Path

import numpy as np
import pytest

from mammo_mlflow.data.cbis_ddsm.ingest import ingest
from mammo_mlflow.data.cbis_ddsm.settings import IngestSettings
from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
from mammo_mlflow.errors import UserError
from mammo_mlflow.pixels import describe_ranges, odd_values, range_of, read_ranges, summarise, whole_numbers

FILMS = Path(__file__).parent / "data" / "cbis_ddsm" / "fixture"
SIDES = {"patch": 1, "baseline": 0}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Eight patches cut from real films: CBIS-DDSM, CC BY 3.0, see the fixture's ATTRIBUTION.md."""
    out = tmp_path_factory.mktemp("real") / "out"
    made = ingest(FILMS, out, FILMS, IngestSettings(), 1, lambda *_: None)
    return np.load(made.directory / "public_test_tensor.npy")


@pytest.fixture(scope="module")
def training(phantom):
    return np.load(phantom / "train_tensor.npy", mmap_mode="r")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2", np.int64, np.float32, np.float64])
def test_whole_numbers_of_any_type_pass_as_uint16(dtype):
    taken = whole_numbers("x", np.array([[0, 12, 255]], dtype))
    assert taken.dtype == np.uint16
    assert taken.tolist() == [[0, 12, 255]]
    assert whole_numbers("x", [[0, 12836.0], [65535, 1]]).tolist() == [[0, 12836], [65535, 1]]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([[0, 0.5]], "0.5"),
        ([[1, 12836.5]], "12836.5"),
        ([[1, "12836"]], '"12836"'),
        ([["12836"]], '"12836"'),
        ([[1, -1]], "-1"),
        ([[1, 65536]], "65536"),
        ([[1, 10**30]], str(10**30)),
        ([[1, float("nan")]], "NaN"),
        ([[1, float("inf")]], "Infinity"),
        ([[1, None]], "null"),
        ([[True, False]], "true"),
        ([[1, {}]], "an object"),
        ([[1, 2], [3]], "lists of different lengths"),
        ([[1, 2], 3], "lists of different lengths"),
        ("text", '"text"'),
        (np.array([1, 0.25], np.float32), "0.25"),
    ],
)
def test_anything_else_is_a_line(values, found):
    with pytest.raises(UserError) as refused:
        whole_numbers("inputs: patch 3", values)
    wanted = "raw 16-bit values, whole numbers from 0 to 65535"
    assert str(refused.value) == f"inputs: patch 3: expected {wanted}, found {found}"


def test_patches_of_films_and_of_the_phantom_look_as_they_should(real, training, phantom, cache):
    """Real patches beside the phantom's range and their own, the phantom's test patches beside its training ones."""
    test = np.load(phantom / "public_test_tensor.npy")
    larger = np.load(make_phantom(PhantomSettings(64, 16, 64), cache) / "train_tensor.npy")
    for first in SIDES.values():
        known = range_of(training[first::2])
        for patches in (real, training, test, larger):
            assert not any(odd_values(patches[first::2], known))
            assert not any(odd_values(patches[first::2], None))
        assert not any(odd_values(test[first::2], range_of(real[first::2])))
        few = range_of(real[first : first + 4 : 2])  # half of them beside the other half
        assert not any(odd_values(real[first + 4 :: 2], few))


@pytest.mark.parametrize(
    ("change", "said", "without"),
    [
        (lambda patch: patch // 257, "no value above 255, as of 8 bits", "no value above 255, as of 8 bits"),
        (lambda patch: patch // 16, "as of another scale (training patches reach ", ""),
        (lambda patch: patch * 0, "all values are 0", "all values are 0"),
        (lambda patch: patch * 0 + 12836, "all values are the same", "all values are the same"),
    ],
)
def test_other_scales_are_told_with_and_without_a_range(real, training, change, said, without):
    for patches in (real, training):
        (told,) = odd_values(change(patches[1:2]), range_of(training[1::2]))
        assert said in told
        assert odd_values(change(patches[1:2]), None) == [without]


def test_sixteen_bits_are_too_many_for_a_model_of_twelve(training):
    known = range_of(training[1::2] // 16)
    assert f"values above {2 * known.highest}, as of another scale" in odd_values(training[1:2], known)[0]
    assert odd_values(training[1:2] // 16, known) == [""]
    dark = range_of(np.array([[100, 9000]], np.uint16))
    assert odd_values(np.array([[10000, 12000]], np.uint16), dark) == [
        "no value in the range of the training patches, 100 to 9000"
    ]


def test_patches_of_eight_bits_are_right_for_a_model_of_eight(training):
    eight = training[1::2] // 257
    assert not any(odd_values(eight, range_of(eight)))


def test_the_range_is_stored_as_json_and_read_again(training):
    stored = describe_ranges(training, SIDES)
    assert read_ranges(stored) == {name: range_of(training[first::2]) for name, first in SIDES.items()}
    assert stored["patch"]["maximum"] == int(training[1::2].max())
    assert read_ranges(None) == {}
    with pytest.raises(UserError, match="training values of patch: expected whole numbers"):
        read_ranges({"patch": stored["patch"] | {"lowest": "x"}})


def test_a_summary_names_the_first_few_rows():
    odd = {"patch": ["", "a", "b", *["a"] * 7], "baseline": [""] * 10}
    assert summarise(odd, range(10)) == ["patch: a: 8 of 10 (rows 1, 3, 4, 5, 6, ...)", "patch: b: 1 of 10 (row 2)"]
