import numpy as np
import pytest
from PIL import Image
from support_collection import draw_film

from mammo_mlflow.data.cbis_ddsm.cutting import Box, Breast, box_of, cut_pair, find_breast, resize
from mammo_mlflow.data.cbis_ddsm.settings import INTERPOLATIONS, SIDES, CropSettings
from mammo_mlflow.errors import UserError

EVERYWHERE = Breast(np.ones((60, 40), bool), 4)
NOTHING = np.zeros((240, 160), bool)
"""No abnormality on the film."""


def ramp(rows, columns):
    """Every pixel another value."""
    return (np.arange(rows)[:, None] * 251 + np.arange(columns)).astype(np.uint16)


@pytest.mark.parametrize("side", [1, 21, 33, 149, 150, 151, 230, 471, 1999])
def test_nearest_takes_the_whole_number_below(side):
    line = np.arange(side, dtype=np.uint16)
    image = np.tile(line, (side, 1))
    assert resize(image, 150, "nearest")[0].tolist() == [i * side // 150 for i in range(150)]
    assert resize(image.T, 150, "nearest")[:, 0].tolist() == [i * side // 150 for i in range(150)]


def test_area_averages_as_pillows_box_filter_does():
    image = draw_film("area")[100:220, 20:80]
    wanted = np.asarray(Image.fromarray(image.astype(np.float32)).resize((30, 30), Image.Resampling.BOX))
    np.testing.assert_array_equal(resize(image, 30, "area"), np.rint(wanted).astype(np.uint16))
    halves = image.reshape(60, 2, 30, 2).mean((1, 3))
    smaller = resize(image[:60], 30, "area")
    assert abs(smaller.astype(float) - halves[:30]).max() <= 0.51


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_no_interpolation_leaves_16_bits(interpolation):
    image = np.zeros((40, 40), np.uint16)
    image[10:20] = 65_535
    resized = resize(image, 64, interpolation)
    assert (resized.dtype, resized.shape) == (np.uint16, (64, 64))
    assert resized.min() == 0 and resized.max() == 65_535


def test_the_box_of_a_mask_is_tight():
    mask = np.zeros((50, 70), bool)
    mask[49, 69] = mask[3, 8] = True
    assert box_of(mask) == Box(8, 3, 62, 47)
    mask[:] = False
    mask[7, 9] = True
    assert box_of(mask) == Box(9, 7, 1, 1)


def test_pairs_never_touch_what_is_marked_or_leave_the_film():
    rng = np.random.default_rng(0)
    film, found = ramp(240, 160), 0
    for _ in range(400):
        width, height = (int(n) for n in rng.integers(5, 60, 2))
        box = Box(int(rng.integers(0, 160 - width)), int(rng.integers(0, 240 - height)), width, height)
        taken = np.zeros(film.shape, bool)
        box.pixels(taken)[:] = True
        taken[rng.integers(0, 240, 12), rng.integers(0, 160, 12)] = True
        pair = cut_pair(film, box, lambda: EVERYWHERE, taken, CropSettings(size=32))
        np.testing.assert_array_equal(pair.abnormality, resize(box.pixels(film), 32, "nearest"))
        if pair.baseline is None:
            refused = pair.why.split("; ")
            assert [one.split(":")[0] for one in refused] == list(SIDES)
            continue
        found += 1
        beside = pair.baseline_box
        assert beside.inside(film.shape) and (beside.width, beside.height) == (width, height)
        assert not beside.pixels(taken).any()
        np.testing.assert_array_equal(pair.baseline, resize(beside.pixels(film), 32, "nearest"))
    assert 250 < found < 400


def test_the_side_with_most_tissue_or_the_first_that_was_asked_for():
    mask = np.ones((60, 40), bool)
    mask[:, :10] = False  # 40 pixels on the left are no breast
    breast = lambda: Breast(mask, 4)  # noqa: E731
    film, box = ramp(240, 160), Box(44, 100, 20, 20)
    assert cut_pair(film, box, breast, NOTHING, CropSettings(size=32, tissue=0)).side == "right"
    assert cut_pair(film, box, breast, NOTHING, CropSettings(size=32, baseline_side="below,right")).side == "below"
    left = cut_pair(film, box, breast, NOTHING, CropSettings(size=32, baseline_side="left"))
    assert (left.baseline, left.why) == (None, "left: 20 % tissue")
    assert cut_pair(film, box, breast, NOTHING, CropSettings(size=32, baseline_side="left", tissue=0.1)).side == "left"


def test_a_margin_stops_at_the_films_edge():
    film = ramp(240, 160)
    pair = cut_pair(film, Box(2, 230, 20, 10), lambda: EVERYWHERE, NOTHING, CropSettings(size=32, margin=0.5))
    assert pair.box == Box(0, 225, 32, 15)


def test_a_box_outside_the_film_and_a_constant_patch_are_refused():
    film = ramp(240, 160)
    for box in (Box(150, 0, 11, 5), Box(0, 236, 5, 5), Box(0, 0, 0, 5)):
        with pytest.raises(UserError, match="box: expected one in the film of 160×240 pixels"):
            cut_pair(film, box, lambda: EVERYWHERE, NOTHING, CropSettings())
    with pytest.raises(UserError, match="found a constant patch, every pixel 7"):
        cut_pair(np.full((240, 160), 7, np.uint16), Box(0, 0, 9, 9), lambda: EVERYWHERE, NOTHING, CropSettings())


def test_the_breast_is_found_beside_letters_and_a_white_edge():
    film = draw_film("breast", (660, 440))
    film[40:80, 380:420] = 60_000  # a letter
    film[:, -12:] = 65_535  # the film's edge
    breast = find_breast(film)
    assert breast.tissue_share(Box(60, 280, 100, 100)) == 1
    assert breast.tissue_share(Box(380, 40, 40, 40)) == 0
    assert breast.tissue_share(Box(428, 0, 12, 660)) < 0.02
    assert 0.9 < breast.mask.mean() / ((film > 9_000) & (film < 65_000)).mean() < 1.1


def test_tissue_is_counted_by_pixels():
    mask = np.zeros((60, 40), bool)
    mask[:, 10:] = True  # from pixel 40 on
    for left, share in ((39, 19 / 20), (21, 1 / 20), (40, 1), (20, 0), (33, 13 / 20)):
        assert Breast(mask, 4).tissue_share(Box(left, 101, 20, 17)) == pytest.approx(share)


def test_a_film_that_is_all_tissue_is_all_breast():
    film = draw_film("breast", (660, 440))[200:440, 20:200]
    assert find_breast(film).mask.mean() > 0.98


def test_nothing_on_a_film_is_said():
    for value in (0, 900):
        with pytest.raises(UserError, match="film: expected a breast on it"):
            find_breast(np.full((400, 300), value, np.uint16))
    film = np.zeros((400, 300), np.uint16)
    film[100, 50:60] = 9
    pair = cut_pair(film, Box(45, 95, 20, 20), lambda: find_breast(film), np.zeros(film.shape, bool), CropSettings())
    assert pair.baseline is None
    assert "expected a breast on it" in pair.why


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"margin": -0.1}, "margin: expected a number from 0 to 4"),
        ({"size": 16}, "size: expected a whole number from 32 to 1024"),
        ({"interpolation": "nearst"}, "did you mean 'nearest'"),
        ({"baseline_side": "abvoe"}, "did you mean 'above'"),
        ({"baseline_side": "left,any"}, "baseline_side: unknown 'any'"),
        ({"tissue": 1.5}, "tissue: expected a number from 0 to 1"),
    ],
)
def test_impossible_cuts(wrong, said):
    with pytest.raises(UserError, match=said):
        CropSettings(**wrong)
