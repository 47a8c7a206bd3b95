"""Masks as some of the published ones are: of another size, with specks, inverted, framed."""

import json
import shutil

import numpy as np
import pandas as pd
import pydicom
import pytest
from support_collection import ODD, Row, draw_film, draw_mask, odd_mask, plan, write_collection, write_dicom

from mammo_mlflow.data.cbis_ddsm.cutting import Box
from mammo_mlflow.data.cbis_ddsm.ingest import ingest
from mammo_mlflow.data.cbis_ddsm.locating import find_crop, mask_fault, without_specks
from mammo_mlflow.data.cbis_ddsm.one_film import cut_one_film
from mammo_mlflow.data.cbis_ddsm.settings import CropSettings, IngestSettings
from mammo_mlflow.errors import UserError

from .conftest import content

SHAPE = (660, 440)
ROWS = plan(28, shape=SHAPE)
TWINS = [row for row in ROWS if sum(other.film == row.film for other in ROWS) > 1]
KINDS = dict(zip([row.subject for row in ROWS if row not in TWINS], [*ODD, *ODD], strict=False))
KEEP = IngestSettings(CropSettings(size=32), shared_patients="keep")


def run(source, out, how="match", workers=1):
    settings = IngestSettings(CropSettings(size=32, locate=how), shared_patients="keep")
    return ingest(source, out, source, settings, workers, lambda *_: None)


def table(made):
    found = [
        pd.read_csv(made.directory / f"{stem}_groups.csv", dtype=str, keep_default_na=False)
        for stem in ("train", "public_test")
    ]
    found = pd.concat(found)
    found.index = [f"{path.split('/')[0]}_{n}" for path, n in zip(found.source_file, found.abnormality_id, strict=True)]
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A collection with two masks of each odd kind."""
    root = tmp_path_factory.mktemp("odd") / "collection"
    write_collection(root, ROWS, shape=SHAPE, odd=KINDS)
    return root


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    return run(source, tmp_path_factory.mktemp("made") / "out")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same collection, every mask as it should be."""
    root = tmp_path_factory.mktemp("plain")
    write_collection(root / "collection", ROWS, shape=SHAPE)
    return run(root / "collection", root / "out")


def test_every_kind_is_rescued_with_the_very_box_or_left_out_by_its_name(made):
    found = table(made)
    left_out = {one.abnormality: one.reason for one in made.left_out}
    for row in ROWS:
        kind = KINDS.get(row.subject)
        if ODD.get(kind, "").endswith("mask") and kind != "speck":
            assert left_out[row.subject] == ODD[kind]
            continue
        line = found.loc[row.subject]
        assert line["box"] == " ".join(map(str, row.box)), kind
        assert line["located"] == ODD.get(kind, "mask")
        assert line["stray"] == ("1" if kind == "speck" else "0")
        if kind is None or kind == "speck":
            assert line["score"] == ""
        else:
            assert float(line["score"]) > 0.99
    rescued = sum(kind in ("larger", "smaller", "stretched", "cut") for kind in KINDS.values())
    (said,) = [line for line in made.warnings if "odd masks" in line]
    assert said.startswith(f"{rescued + 2} boxes are of odd masks: 4 matched, 4 rescaled, 2 without stray pixels")


def test_rescued_patches_are_those_of_whole_masks(made, plain):
    for stem in ("train", "public_test"):
        wanted = np.load(plain.directory / f"{stem}_tensor.npy")[1::2]
        patches = np.load(made.directory / f"{stem}_tensor.npy")[1::2]
        held = [one.tobytes() for one in wanted]
        assert all(one.tobytes() in held for one in patches)


def test_workers_do_not_matter(system, source, made, tmp_path):
    assert content(run(source, tmp_path / "out", workers=2).directory) == content(made.directory)


def test_nothing_odd_no_new_column(plain):
    assert list(table(plain).columns)[-1] == "unmarked"
    assert "locate" not in json.loads((plain.directory / "prepare.json").read_text())


def test_it_is_turned_off_by_a_parameter(source, made, tmp_path):
    off = run(source, tmp_path / "out", how="mask")
    reasons = {one.abnormality: one.reason for one in off.left_out}
    found = table(off)
    assert "located" not in found.columns
    for subject, kind in KINDS.items():
        if kind == "speck":
            row = next(row for row in ROWS if row.subject == subject)
            assert found.loc[subject, "box"].split()[3] == str(row.box[3] + 16)
        else:
            assert reasons[subject] == (ODD[kind] if kind in ("inverted", "framed") else "no mask of the film's size")
    scaled = table(run(source, tmp_path / "scaled", how="rescale"))
    assert set(scaled["located"]) == {"mask", "rescaled"}


def test_a_directory_of_other_ways_is_left_as_it_is_and_the_difference_told(source, tmp_path):
    run(source, tmp_path / "out", how="mask")
    before = content(tmp_path / "out")
    with pytest.raises(
        UserError, match=r"by an earlier version \(.* there, .* now; .*locate=mask follows.*left as it is"
    ):
        run(source, tmp_path / "out")
    assert content(tmp_path / "out") == before
    assert not run(source, tmp_path / "out", how="mask").anew


def one_row(tmp_path, film, crop, mask):
    """A collection of a single row with that film, crop and mask; what an ingest gives for it."""
    row = Row("Test", "mass", "P_00001", "LEFT", "CC", 1, "BENIGN", (1, 1, 1, 1))
    other = Row("Test", "mass", "P_00002", "LEFT", "CC", 1, "BENIGN", (120, 300, 40, 30))
    root = tmp_path / "collection"
    write_collection(root, [row, other], shape=film.shape)
    for path in root.rglob("*.dcm"):
        item = pydicom.dcmread(path)
        if "P_00001" in item.PatientID:
            kind = item.SeriesDescription
            pixels = film if kind.startswith("full") else (crop if item.BitsAllocated == 16 else mask)
            write_dicom(path, np.ascontiguousarray(pixels), item.PatientID, kind)
    return next((one for one in run(root, tmp_path / "out").left_out if one.abnormality == row.subject), None)


RNG = np.random.default_rng(0)
FILM = draw_film("refused", SHAPE)
REFUSED = {
    "noise": (FILM, RNG.integers(0, 65_535, (40, 30)).astype(np.uint16), "is nowhere on the film"),
    "another film": (FILM, draw_film("other", SHAPE)[300:340, 100:130], "is nowhere on the film"),
    "periodic": (np.tile(FILM[300:330, 100:120], (22, 22)), FILM[300:330, 100:120], "fits several places"),
    "fine periodic": (np.tile(FILM[300:303, 100:103], (220, 147))[:660, :440], None, "fits several places"),
    "tiny": (FILM, FILM[300:305, 100:130], "is too small to be looked for"),
    "larger than the film": (FILM, draw_film("other", (900, 500)), "is larger than the film"),
    "flat": (FILM, np.full((40, 30), 9_000, np.uint16), "there is not one crop to look for"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_crop_whose_place_is_not_sure_leaves_its_row_out(tmp_path, name):
    film, crop, said = REFUSED[name]
    crop = film[300:340, 100:130] if crop is None else crop
    mask = odd_mask(draw_mask(SHAPE, (100, 300, 30, 40)), (100, 300, 30, 40), "stretched")
    entry = one_row(tmp_path, film, crop, mask)
    assert entry.reason == "no mask of the film's size"
    assert said in entry.detail


def test_a_scaled_mask_whose_crop_is_another_films_is_left_out(tmp_path):
    mask = odd_mask(draw_mask(SHAPE, (100, 300, 30, 40)), (100, 300, 30, 40), "larger")
    entry = one_row(tmp_path, FILM, draw_film("other", SHAPE)[300:340, 100:130], mask)
    assert entry.reason == "mask and crop disagree"


@pytest.mark.parametrize(("height", "width"), [(25, 22), (90, 60), (250, 180)])
def test_a_crop_is_found_to_the_pixel(height, width):
    film = draw_film("found", (1200, 800))
    for top, left in ((501, 203), (433, 7), (600, 111)):
        found = find_crop(film, film[top : top + height, left : left + width])
        assert (found.box, found.how) == (Box(left, top, width, height), "matched")
        assert found.score == pytest.approx(1)


def test_a_stray_pixel_and_the_size_of_the_crop():
    mask = draw_mask((200, 150), (60, 80, 22, 25)) > 0
    mask[119, 70] = True
    assert without_specks(mask, [(25, 22)]).box == Box(60, 80, 22, 25)
    assert without_specks(mask, [(25, 22)]).stray == 1
    assert without_specks(mask, [(40, 22)]).box == Box(60, 80, 22, 40)  # the crop has it too
    assert without_specks(mask, []).box == Box(60, 80, 22, 25)  # a speck, less than 1 %
    mask[110:120, 60:80] = True
    assert without_specks(mask, []).box == Box(60, 80, 22, 40)  # two parts, no crop to tell
    assert without_specks(mask, [(10, 20)]).box == Box(60, 110, 20, 10)  # the smaller one is the crop's


def test_a_lesion_at_the_edge_is_no_frame():
    assert mask_fault(draw_mask((200, 150), (0, 50, 60, 90)) > 0) == ""
    strip = draw_mask((200, 150), (40, 50, 60, 90)) > 0
    strip[:, -4:] = True
    assert mask_fault(strip) == "framed mask"
    inner = draw_mask((200, 150), (40, 50, 60, 90)) > 0
    inner[5:8, 5:-5] = inner[-8:-5, 5:-5] = inner[5:-5, 5:8] = inner[5:-5, -8:-5] = True
    assert mask_fault(inner) == "framed mask"


@pytest.mark.parametrize("kind", ["larger", "smaller", "speck", "stretched", "inverted", "framed"])
def test_one_film_and_an_odd_mask(tmp_path, kind):
    box = (100, 300, 60, 50)
    write_dicom(tmp_path / "film.dcm", FILM, "Mass-Test_P_00001_LEFT_CC", "full mammogram images")
    mask = odd_mask(draw_mask(SHAPE, box), box, kind)
    write_dicom(tmp_path / "mask.dcm", mask, "Mass-Test_P_00001_LEFT_CC_1", "ROI mask images")
    said = {
        "stretched": r"mask.dcm: expected the film's size, 440×660 pixels, or its aspect, found 572×726",
        "inverted": "mask.dcm: expected a mask of the abnormality, found an inverted mask: more than half",
        "framed": "mask.dcm: expected a mask of the abnormality, found a framed mask: what is marked runs along",
    }
    if kind in said:
        with pytest.raises(UserError, match=said[kind]):
            cut_one_film(tmp_path / "film.dcm", [], [tmp_path / "mask.dcm"], CropSettings(size=32))
        return
    (pair,) = cut_one_film(tmp_path / "film.dcm", [], [tmp_path / "mask.dcm"], CropSettings(size=32))
    found = (pair.box.x, pair.box.y, pair.box.width, pair.box.height)
    assert max(abs(a - b) for a, b in zip(found, box, strict=True)) <= (0 if kind == "speck" else 2)
    word = "1 marked pixels were taken for specks" if kind == "speck" else "pixels were scaled to the film's"
    assert word in pair.note


def test_an_interrupted_command_ends_with_the_same_bytes(system, source, made, tmp_path, monkeypatch):
    from mammo_mlflow.data.cbis_ddsm import ingest as module

    monkeypatch.setattr(module, "_write_arrays", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(source, tmp_path / "out")
    monkeypatch.undo()
    for path in sorted((tmp_path / "out.partial" / "films").glob("*.npz"))[::2]:
        path.unlink()
    assert content(run(source, tmp_path / "out", workers=2).directory) == content(made.directory)
    shutil.rmtree(tmp_path / "out")
