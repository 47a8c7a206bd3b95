"""Parts of real films (CC BY 3.0, see fixture/ATTRIBUTION.md) from end to end."""

from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from mammo_mlflow.data.cbis_ddsm.ingest import ingest
from mammo_mlflow.data.cbis_ddsm.one_film import cut_one_film, pairs_array, parse_boxes
from mammo_mlflow.data.cbis_ddsm.settings import CropSettings, IngestSettings
from mammo_mlflow.errors import UserError

FIXTURE = Path(__file__).parent / "fixture"
FILM = FIXTURE / "Mass-Test_P_00820_RIGHT_CC" / "1-1.dcm"
MASK = FIXTURE / "Mass-Test_P_00820_RIGHT_CC_1" / "1-1.dcm"
BOX = "166,63,245,248"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    return ingest(FIXTURE, out, FIXTURE, IngestSettings(), 1, lambda *_: None)


def test_patches_are_the_boxes_pixels_and_baselines_lie_beside_them(made):
    patches = np.load(made.directory / "public_test_tensor.npy")
    labels = np.load(made.directory / "public_test_labels.npy")
    table = pd.read_csv(made.directory / "public_test_groups.csv", dtype=str)
    assert labels.tolist() == [0, 1, 0, 1, 0, 2, 0, 1]
    assert table["baseline_side"].tolist() == ["left", "right", "right", "below"]
    for index, line in table.iterrows():
        film = pydicom.dcmread(FIXTURE / line["source_file"].split("/")[0] / "1-1.dcm").pixel_array
        for column, row in (("baseline_box", 2 * index), ("box", 2 * index + 1)):
            x, y, width, height = map(int, line[column].split())
            down, across = ([side * i // 150 for i in range(150)] for side in (height, width))
            np.testing.assert_array_equal(patches[row], film[y:, x:][np.ix_(down, across)])


def test_a_row_whose_files_are_not_here_is_listed(made):
    assert [(one.abnormality, one.reason) for one in made.left_out] == [("Mass-Test_P_00173_RIGHT_MLO_1", "no mask")]


def test_real_film_is_no_phantom_and_carries_its_attribution(made):
    assert not made.synthetic
    assert not (made.directory / "phantom.json").exists()
    assert "CC BY 3.0" in (made.directory / "ATTRIBUTION.txt").read_text()


@pytest.mark.parametrize("masked", [False, True])
def test_one_film_is_cut_as_the_ingest_cuts_it(made, masked):
    boxes, masks = ([], [MASK]) if masked else (parse_boxes(BOX), [])
    (pair,) = cut_one_film(FILM, boxes, masks, CropSettings())
    patches = np.load(made.directory / "public_test_tensor.npy")
    np.testing.assert_array_equal(pairs_array([pair], need_baseline=True), patches[-2:])


def test_a_baseline_keeps_off_every_box_of_the_film():
    below = parse_boxes(f"{BOX}; 200,400,30,30")
    first, _ = cut_one_film(FILM, below, [], CropSettings(tissue=0.2))
    assert first.side != "below"


def test_what_a_film_cannot_give_is_one_line(tmp_path):
    with pytest.raises(UserError, match="box: expected x,y,width,height in pixels of the film, found '1,2,3'"):
        parse_boxes("1,2,3")
    with pytest.raises(UserError, match="box: expected one in the film of 600×620 pixels, found 590 0 20 20"):
        cut_one_film(FILM, parse_boxes("590,0,20,20"), [], CropSettings())
    with pytest.raises(UserError, match=r"1-1.dcm: expected a mask of two values, found an image of more"):
        cut_one_film(FILM, [], [FILM], CropSettings())
    other = FIXTURE / "Mass-Test_P_00173_LEFT_CC_1" / "1-1.dcm"
    with pytest.raises(UserError, match=r"expected the film's size, 600×620 pixels, or its aspect, found 720×420"):
        cut_one_film(FILM, [], [other], CropSettings())
    text = tmp_path / "text.dcm"
    text.write_text("no film")
    with pytest.raises(UserError, match=r"text.dcm: expected a DICOM file, found something else"):
        cut_one_film(text, parse_boxes(BOX), [], CropSettings())
    whole = cut_one_film(FILM, parse_boxes("0,0,600,620"), [], CropSettings())
    assert not pairs_array(whole, need_baseline=False)[0].any()
    with pytest.raises(UserError, match="box 0 0 600 620: expected room for a baseline beside it, found left: outside"):
        pairs_array(whole, need_baseline=True)
