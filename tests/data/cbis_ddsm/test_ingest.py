import csv
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import JPEGLSLossless
from support_collection import CROP, FILM, MASK, draw_film, draw_mask, plan, write_collection, write_dicom

from mammo_mlflow.data.cbis_ddsm.ingest import ingest
from mammo_mlflow.data.cbis_ddsm.settings import CropSettings, IngestSettings
from mammo_mlflow.data.patches import read_patch_set
from mammo_mlflow.errors import UserError

from .conftest import ROWS, SMALL, content

SHARED = {row.patient for row in ROWS if row.split == "Test"} & {row.patient for row in ROWS if row.split != "Test"}
KEPT = [row for row in ROWS if row.split == "Test" or row.patient not in SHARED]
STEM = "train"
ALONE = next(row for row in KEPT if row.split != "Test" and sum(other.film == row.film for other in ROWS) == 1)
"""A training row that is alone on its film."""


def groups(directory, stem="train"):
    return pd.read_csv(directory / f"{stem}_groups.csv", dtype=str, keep_default_na=False)


def place(root, subject, wanted):
    """The path of a subject's film, crop or mask, told by what it holds."""
    for path in sorted(root.rglob("*.dcm")):
        item = pydicom.dcmread(path)
        kind = FILM if item.SeriesDescription == FILM else (MASK, CROP)[item.BitsAllocated == 16]
        if item.PatientID == subject and kind == wanted:
            return path
    raise LookupError(subject)


def left_out(made, row):
    """Why a row gives no patch, or nothing."""
    return next((f"{one.reason}: {one.detail}" for one in made.left_out if one.abnormality == row.subject), "")


def subjects(directory):
    """What stands in the arrays, in order."""
    found = []
    for stem in ("train", "public_test"):
        if (directory / f"{stem}_groups.csv").exists():
            table = groups(directory, stem)
            found += [
                f"{path.split('/')[0]}_{number}"
                for path, number in zip(table["source_file"], table["abnormality_id"], strict=True)
            ]
    return found


def test_every_row_is_found_and_cut_by_its_box(made):
    assert len(SHARED) == 1
    assert sorted(subjects(made.directory)) == sorted(row.subject for row in KEPT)
    by_subject = {row.subject: row for row in ROWS}
    seen = 0
    for stem in ("train", "public_test"):
        patches = np.load(made.directory / f"{stem}_tensor.npy")
        labels = np.load(made.directory / f"{stem}_labels.npy")
        for index, (_, line) in enumerate(groups(made.directory, stem).iterrows()):
            row = by_subject[f"{line['source_file'].split('/')[0]}_{line['abnormality_id']}"]
            x, y, width, height = row.box
            assert line["box"] == f"{x} {y} {width} {height}"
            film = draw_film(row.film)
            steps = [[side * i // 32 for i in range(32)] for side in (height, width)]
            wanted = [[film[y + down, x + across] for across in steps[1]] for down in steps[0]]
            np.testing.assert_array_equal(patches[2 * index + 1], wanted)
            left, top, across, down = map(int, line["baseline_box"].split())
            assert (across, down) == (width, height)
            beside = {"left": (x - width, y), "right": (x + width, y), "above": (x, y - height)}
            assert (left, top) == beside.get(line["baseline_side"], (x, y + height))
            for other in ROWS:
                if (other.patient, other.side, other.view) == (row.patient, row.side, row.view):
                    assert not draw_mask(film.shape, other.box)[top : top + down, left : left + across].any()
            assert patches[2 * index].min() >= 9_000 and patches[2 * index].max() > 20_000  # tissue
            assert labels[2 * index] == 0
            assert labels[2 * index + 1] == 1 + 2 * (row.kind != "mass") + (row.pathology == "MALIGNANT")
            seen += 1
    assert seen == len(KEPT)


def test_the_directory_passes_the_platforms_own_checks(made):
    found = read_patch_set(made.directory)
    assert found.image_size == 32
    assert found.phantom  # the films say that a program drew them
    assert found.class_counts() == made.counts
    assert set(found.train.patient_ids).isdisjoint(found.test.patient_ids)


@pytest.mark.parametrize(("layout", "workers", "seed"), [("nbia", 1, 5), ("flat", 2, 8), ("published", 3, 1)])
def test_layout_order_and_workers_do_not_matter(system, made, tmp_path, layout, workers, seed):
    root = tmp_path / "collection"
    write_collection(root, ROWS, layout, seed)
    for path in root.glob("*.csv"):  # rows in another order, in files of other names
        with path.open(newline="") as file:
            lines = list(csv.reader(file))
        if "case_description" in path.name:
            order = random.Random(seed).sample(lines[1:], len(lines) - 1)
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([lines[0], *order])
    again = ingest(root, tmp_path / "out", root, SMALL, workers, lambda *_: None)
    ours, theirs = content(again.directory), content(made.directory)
    del ours["left_out.csv"], theirs["left_out.csv"]  # it tells the rows' numbers
    assert ours == theirs


def test_patients_in_both_splits_leave_the_training_set_or_stay(made, prepare):
    train = [row for row in ROWS if row.patient in SHARED and row.split != "Test"]
    assert train
    for row in train:
        assert left_out(made, row).startswith("patient in both splits")
    test = [row for row in ROWS if row.patient in SHARED and row.split == "Test"]
    assert test and not any(left_out(made, row) for row in test)
    kept = prepare(IngestSettings(CropSettings(size=32), shared_patients="keep"))
    assert sorted(subjects(kept.directory)) == sorted(row.subject for row in ROWS)
    assert not kept.left_out


def test_without_callback_is_benign_or_excluded(made, prepare):
    without = [row for row in KEPT if row.pathology == "BENIGN_WITHOUT_CALLBACK"]
    assert without and {row.subject for row in without} <= set(subjects(made.directory))
    fewer = prepare(IngestSettings(CropSettings(size=32), without_callback="exclude"))
    assert not {row.subject for row in without} & set(subjects(fewer.directory))
    assert all(left_out(fewer, row).startswith("without callback") for row in without)


def test_a_margin_widens_the_box_and_a_side_is_kept_to(prepare):
    wide = prepare(IngestSettings(CropSettings(size=32, margin=0.25, baseline_side="right")))
    table = pd.concat([groups(wide.directory), groups(wide.directory, "public_test")])
    assert set(table["baseline_side"]) == {"right"}
    by_subject = {row.subject: row for row in ROWS}
    for (_, line), subject in zip(table.iterrows(), subjects(wide.directory), strict=True):
        x, y, width, height = by_subject[subject].box
        across, down = round(width / 4), round(height / 4)
        assert line["box"] == f"{x - across} {y - down} {width + 2 * across} {height + 2 * down}"


def test_a_second_command_finds_it_done_and_other_parameters_are_refused(prepare):
    first = prepare()
    before = content(first.directory)
    again = prepare()
    assert (again.anew, again.counts, again.left_out) == (False, first.counts, first.left_out)
    with pytest.raises(UserError, match=r"out: expected a directory that is not there yet, found .* other parameters"):
        prepare(IngestSettings(CropSettings(size=32, margin=0.5)))
    assert content(first.directory) == before


def test_changed_films_are_never_taken_for_the_old_ones(prepare, collection):
    first = prepare()
    before = content(first.directory)
    rewrite(place(collection, ALONE.subject, MASK), draw_mask((330, 220), (60, 150, 21, 17)))
    with pytest.raises(
        UserError,
        match=r"made of other files or by an earlier version \(train_groups.csv, train_tensor.npy\); it is left as",
    ):
        prepare()
    assert content(first.directory) == before
    assert "60 150 21 17" in (prepare(out="anew").directory / f"{STEM}_groups.csv").read_text()


def test_a_folder_of_the_users_beside_it_is_left_alone(prepare, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"nothing but an ingest's own files in '.*out.partial', found 'thesis.txt'"):
        prepare()
    assert (tmp_path / "out.partial" / "thesis.txt").read_text() == "precious"


def test_a_damaged_leftover_is_made_again(made, prepare, tmp_path, monkeypatch):
    from mammo_mlflow.data.cbis_ddsm import ingest as module

    monkeypatch.setattr(module, "_write_arrays", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare()
    monkeypatch.undo()
    for number, path in enumerate((tmp_path / "out.partial" / "films").glob("*.npz")):
        path.write_bytes((b"", path.read_bytes()[:100], b"PK")[number % 3])
    assert content(prepare().directory) == content(made.directory)


def test_odd_places(prepare, collection, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "far")
    assert prepare(out="link").directory == tmp_path / "far"
    with pytest.raises(UserError, match="out: expected a directory to make, found '/'"):
        prepare(out="/")
    with pytest.raises(UserError, match=r"csv: expected a directory, found .*nothing there"):
        prepare(out="other", descriptions=tmp_path / "no")


def test_links_in_circles_and_files_that_are_named_by_their_uid(made, prepare, collection):
    for name in ("a", "b"):
        (collection / name).symlink_to(collection)
    path = place(collection, ALONE.film, FILM)
    path.rename(path.with_name("1.2.840.113"))
    (collection / os.fsdecode(b"f\xff.dcm")).write_text("junk")
    found = prepare()
    assert subjects(found.directory) == subjects(made.directory)
    assert [(one.file.encode("ascii", "backslashreplace"), one.reason) for one in found.left_out if not one.row] == [
        (b"f\\udcff.dcm", "unreadable file")
    ]


def test_a_directory_of_something_else_is_left_alone(prepare, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="which `prepare` did not make"):
        prepare()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    assert not list(tmp_path.glob("*.partial"))


def test_its_own_groups_files_are_no_descriptions(prepare, collection):
    first = prepare(out="collection/patches")
    again = prepare(out="again")
    assert content(again.directory) == content(first.directory)


@pytest.mark.parametrize("half", ["Training", "Test"])
def test_half_a_collection_is_ingested_and_says_what_it_lacks(tmp_path, half):
    root = tmp_path / "half"
    write_collection(root, [row for row in plan(12) if row.split == half])
    made = ingest(root, tmp_path / "out", root, SMALL, 1, lambda *_: None)
    assert list(made.counts) == [{"Training": "train", "Test": "test"}[half]]
    lacks, has = ("test", "train") if half == "Training" else ("train", "test")
    with pytest.raises(UserError, match=f"found the {has} set alone; `prepare` with the {lacks} set's files"):
        read_patch_set(made.directory)


KILLER = """
import sys
from pathlib import Path
from mammo_mlflow.data.cbis_ddsm.ingest import ingest
from mammo_mlflow.data.cbis_ddsm.settings import CropSettings, IngestSettings
if __name__ == "__main__":
    source, out = map(Path, sys.argv[1:3])
    ingest(source, out, source, IngestSettings(CropSettings(size=32)), 2, lambda *now: print(*now, flush=True))
"""


def test_killed_at_ten_moments_it_ends_with_the_same_bytes(made, published, kill, tmp_path):
    script, out = tmp_path / "killer.py", tmp_path / "out"
    script.write_text(KILLER)
    line = [sys.executable, str(script), str(published), str(out)]
    moments = random.Random(0).sample(range(1, 90), 9)  # lines of progress: headers, then films
    for moment in [*moments, 10_000]:
        process = subprocess.Popen(line, stdout=subprocess.PIPE, start_new_session=True)
        for _ in itertools.islice(process.stdout, moment):
            pass
        time.sleep(random.Random(moment).random() / 50)
        kill(process)  # not its workers, which have to end by themselves
        process.wait()
        process.stdout.read()  # ends when the last of them has gone
        assert not out.exists() or content(out) == content(made.directory)
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    assert content(out) == content(made.directory)
    assert not list(tmp_path.glob("*.partial"))


def test_finished_films_are_not_cut_again(prepare, collection, monkeypatch, tmp_path):
    from mammo_mlflow.data.cbis_ddsm import ingest as module

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_split", full)
    with pytest.raises(OSError, match="No space"):
        prepare()
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "out.partial" / "films").glob("*.npz"))) == len({row.film for row in KEPT})
    monkeypatch.undo()
    monkeypatch.setattr("mammo_mlflow.data.cbis_ddsm.films._cut_patches", full)
    assert prepare().anew


def test_too_small_a_disk_is_found_before_the_work(prepare, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"out: expected 0.1 MB free beside '.*', found 0.0 MB"):
        prepare()
    assert not list(tmp_path.glob("out*"))


def spoil_bytes(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewrite(path, pixels=None, description=None, **changes):
    item = pydicom.dcmread(path)
    pixels = item.pixel_array if pixels is None else pixels
    write_dicom(path, pixels, item.PatientID, description or item.SeriesDescription, changes)


def compress(path):
    item = pydicom.dcmread(path)
    item.file_meta.TransferSyntaxUID = JPEGLSLossless
    item.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8" + b"\0" * 40])
    item.save_as(path)


EMPTY = np.zeros((330, 220), np.uint8)
SPOILT = {
    "truncated film": (FILM, spoil_bytes, "unreadable file: .*expected a whole DICOM file, found a damaged or trunc"),
    "truncated mask": (MASK, spoil_bytes, "unreadable file: .*expected a whole DICOM file"),
    "text named .dcm": (
        FILM,
        lambda path: path.write_text("a letter to Doe"),
        "no film: no full mammogram with PatientID",
    ),
    "empty file": (FILM, lambda path: path.write_bytes(b""), "no film"),
    "film gone": (FILM, lambda path: path.unlink(), "no film: no full mammogram"),
    "mask gone": (MASK, lambda path: path.unlink(), "no mask of the film's size"),
    "without pixels": (FILM, lambda path: rewrite(path, PixelData=None), "unreadable file: .*without pixels"),
    "mask without pixels": (MASK, lambda path: rewrite(path, PixelData=None), "unreadable file: .*without pixels"),
    "no decoder": (FILM, compress, r"JPEG-LS Lossless.*pip install .*\[dicom\]'\), found none installed"),
    "mask of another size": (
        MASK,
        lambda path: rewrite(path, EMPTY[:200]),
        r"no mask of the film's size: film of 330×220 .*200×220",
    ),
    "empty mask": (MASK, lambda path: rewrite(path, EMPTY), "no mask: .*expected a mask with something marked"),
    "full mask": (MASK, lambda path: rewrite(path, EMPTY + 255), "no mask: .*expected a mask with something marked"),
    "grey mask": (
        MASK,
        lambda path: rewrite(path, draw_film("grey") // 7),
        "no mask: .*more than|no mask: .*two values",
    ),
    "8 bit film": (FILM, lambda path: rewrite(path, draw_film("8").astype(np.uint8)), "expected a film of 16 bits"),
    "12 bit film": (
        FILM,
        lambda path: rewrite(path, BitsStored=12, HighBit=11),
        "expected a film of 16 bits a pixel, found 12",
    ),
    "inverted film": (FILM, lambda path: rewrite(path, PhotometricInterpretation="MONOCHROME1"), "MONOCHROME2"),
    "colour film": (
        FILM,
        lambda path: rewrite(path, Rows=110, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="RGB"),
        "unreadable file: .*several frames, or colours",
    ),
    "many frames": (
        FILM,
        lambda path: rewrite(path, NumberOfFrames=2**31 - 1),
        "unreadable file: .*several frames, or colours",
    ),
    "black film": (
        FILM,
        lambda path: rewrite(path, np.zeros((330, 220), np.uint16)),
        "no patch: .*a constant patch, every pixel 0",
    ),
    "mask at the border": (MASK, lambda path: rewrite(path, draw_mask((330, 220), (0, 0, 12, 12))), "no baseline|^$"),
    "mask over all": (
        MASK,
        lambda path: rewrite(path, draw_mask((330, 220), (0, 0, 220, 330))),
        "no baseline: left: outside",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_file_costs_its_row_alone(made, prepare, collection, name):
    wanted, spoil, reason = SPOILT[name]
    spoil(place(collection, ALONE.subject if wanted != FILM else ALONE.film, wanted))
    found = prepare()
    assert re.search(reason, left_out(found, ALONE)), left_out(found, ALONE)
    others = [one for one in subjects(made.directory) if one != ALONE.subject]
    assert [one for one in subjects(found.directory) if one != ALONE.subject] == others
    if not left_out(found, ALONE):
        return
    keep = [one != ALONE.subject for one in subjects(made.directory)]
    for stem, mine in (
        ("train", keep[: len(groups(made.directory))]),
        ("public_test", keep[len(groups(made.directory)) :]),
    ):
        whole, rest = (np.load(one.directory / f"{stem}_tensor.npy") for one in (made, found))
        np.testing.assert_array_equal(whole[np.repeat(mine, 2)], rest)


def test_a_mask_of_two_others_abnormality_keeps_baselines_off(prepare, collection):
    """Where the neighbour's mask is ambiguous, or its row is left out, what is marked is still marked."""
    pair = [row for row in KEPT if sum(other.film == row.film for other in KEPT) == 2][:2]
    first, second = pair
    x, y, width, height = first.box
    beside = (x + width, y, width, height)
    rewrite(place(collection, second.subject, MASK), draw_mask((330, 220), beside))
    other = collection / "other.dcm"
    shutil.copy(place(collection, second.subject, MASK), other)
    rewrite(other, draw_mask((330, 220), (5, 5, 20, 20)), SOPInstanceUID="2.25.7")
    found = prepare(IngestSettings(CropSettings(size=32, baseline_side="right")))
    assert left_out(found, second).startswith("ambiguous mask")
    assert left_out(found, first) == "no baseline: right: on an abnormality"


def test_a_neighbour_without_a_mask_is_told(prepare, collection):
    first, second = [row for row in KEPT if sum(other.film == row.film for other in KEPT) == 2][:2]
    place(collection, second.subject, MASK).unlink()
    found = prepare()
    assert left_out(found, second).startswith("no mask of the film's size")
    stem = "public_test" if first.split == "Test" else "train"
    table = groups(found.directory, stem)
    assert table[table["unmarked"] != ""]["source_file"].str.startswith(first.film).tolist() == [True]
    assert any("may lie on it" in line for line in found.warnings)


def test_what_systems_leave_beside_files_is_not_listed(made, prepare, collection):
    film = place(collection, ALONE.film, FILM)
    junk = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(200)
    for name in (
        film.with_name(f"._{film.name}"),
        collection / "__MACOSX" / f"._{film.name}",
        collection / ".DS_Store",
        film.with_name("Thumbs.db"),
        film.with_name("desktop.ini"),
        collection / ".hidden" / "1-1.dcm",
    ):
        name.parent.mkdir(exist_ok=True)
        name.write_bytes(junk)
    assert content(prepare().directory) == content(made.directory)


def test_a_mirror_of_pictures_says_what_it_lacks(prepare, collection, tmp_path):
    for path in collection.rglob("*.dcm"):
        path.rename(path.with_suffix(".jpg"))
    (collection / "dicom_info.csv").write_text("file_path,image_path,PatientID\n")
    with pytest.raises(UserError, match=r"source: expected DICOM .* The Cancer Imaging Archive has them \(doi .*JPEG"):
        prepare()
    assert not list(tmp_path.glob("out*"))


def test_a_mended_file_is_read_the_next_time(made, prepare, collection):
    path = place(collection, ALONE.film, FILM)
    whole = path.read_bytes()
    spoil_bytes(path)
    assert left_out(prepare(out="first"), ALONE)
    path.write_bytes(whole)
    assert content(prepare(out="second").directory) == content(made.directory)


def test_two_films_under_one_name_are_ambiguous_and_copies_are_not(made, prepare, collection):
    path = place(collection, ALONE.film, FILM)
    shutil.copy(path, collection / "copy.dcm")
    assert content(prepare(out="copies").directory) == content(made.directory)
    for uid in (None, "2.25.7"):  # another image under the same name, and under one of its own
        rewrite(collection / "copy.dcm", draw_film("another"), **({"SOPInstanceUID": uid} if uid else {}))
        assert "ambiguous film: 2 different full mammograms" in left_out(prepare(out=f"two-{uid}"), ALONE)


def test_two_masks_of_one_abnormality_are_ambiguous(prepare, collection):
    path = place(collection, ALONE.subject, MASK)
    other = collection / "other.dcm"
    shutil.copy(path, other)
    rewrite(other, draw_mask((330, 220), (50, 50, 20, 20)), SOPInstanceUID="2.25.7")
    assert left_out(prepare(), ALONE) == "ambiguous mask: 2 different masks of one abnormality"


def test_files_without_a_row_are_listed_and_never_named(made, prepare, collection, tmp_path):
    film = draw_film("stranger")
    write_dicom(collection / "stranger.dcm", film, "Doe^Jane 1931", FILM)
    write_dicom(collection / "unknown.dcm", film, "Mass-Test_P_09999_LEFT_CC", FILM)
    (collection / "letter.dcm").write_text("Dear Mrs Doe")
    (collection / "notes").write_text("no DICOM, and not called so")
    found = prepare()
    listed = {one.file: one.reason for one in found.left_out if not one.abnormality}
    assert listed == {
        "stranger.dcm": "file without a row",
        "unknown.dcm": "file without a row",
        "letter.dcm": "unreadable file",
    }
    assert subjects(found.directory) == subjects(made.directory)
    for path in found.directory.iterdir():
        assert b"Doe" not in path.read_bytes()


def test_a_film_in_the_wrong_folder_is_known_by_its_header(made, prepare, collection):
    path = place(collection, ALONE.film, FILM)
    other = next(row for row in KEPT if row.film != ALONE.film)
    path.rename(collection / other.film / "000009.dcm")
    assert content(prepare().directory) == content(made.directory)


def test_nothing_at_all_says_why(collection, prepare, tmp_path):
    for path in collection.rglob("*.dcm"):
        path.write_text("not DICOM")
    with pytest.raises(UserError, match=r"source: .* found none of \d+: .*unreadable file, .*no film"):
        prepare()
    for path in collection.rglob("*.dcm"):
        path.unlink()
    with pytest.raises(UserError, match=r"source: expected DICOM files \(\*.dcm\) below '.*', found none"):
        prepare()
    assert not list(tmp_path.glob("out*"))


def test_two_commands_do_not_make_one_directory(prepare, tmp_path):
    from filelock import FileLock

    (tmp_path / "out.partial").mkdir()
    with FileLock(tmp_path / "out.partial" / "lock"), pytest.raises(UserError, match="another command is making"):
        prepare()
    assert prepare().anew


def test_what_it_says_of_itself(made):
    said = json.loads((made.directory / "prepare.json").read_text())
    assert said["counts"] == made.counts
    assert (said["size"], said["margin"], said["interpolation"]) == (32, 0.0, "nearest")
    assert said["left_out"] == {"patient in both splits": len(ROWS) - len(KEPT)}
