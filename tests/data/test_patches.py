import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from mammo_mlflow.data.patches import TASKS, Split, read_patch_set, targets
from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
from mammo_mlflow.errors import UserError


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return make_phantom(PhantomSettings(train=24, test=16, size=32), tmp_path_factory.mktemp("phantom"))


@pytest.fixture
def data(phantom, tmp_path):
    return shutil.copytree(phantom, tmp_path / "set")


def edit(path, change):
    array = np.load(path)
    np.save(path, change(array), allow_pickle=True)


def put(array, row, value):
    array = array.astype(np.float64 if isinstance(value, float) else array.dtype)
    array[row] = value
    return array


def test_targets_split_the_four_types_by_task():
    assert targets([1, 2, 3, 4], "mass_calc").tolist() == [0, 0, 1, 1]
    assert targets(np.array([1, 2, 3, 4], np.int8), "benign_malignant").tolist() == [0, 1, 0, 1]
    assert targets([1], "mass_calc").dtype == np.int8
    assert TASKS["mass_calc"] == ("mass", "calcification")


def test_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="task: unknown 'mass_cal', did you mean 'mass_calc'"):
        targets([1], "mass_cal")


def test_a_good_directory_is_read_whole(data):
    patches = read_patch_set(data)
    tensor, labels = np.load(data / "train_tensor.npy"), np.load(data / "train_labels.npy")
    assert (len(patches.train), len(patches.test), patches.image_size) == (24, 16, 32)
    np.testing.assert_array_equal(patches.train.abnormality, tensor[1::2])
    np.testing.assert_array_equal(patches.train.baseline, tensor[0::2])
    np.testing.assert_array_equal(patches.train.types, labels[1::2])
    assert isinstance(patches.train.patches, np.memmap)
    assert patches.phantom
    assert patches.warnings == ()
    assert patches.train.patient_ids[0].startswith("PHANTOM")
    assert sum(patches.class_counts()["train"].values()) == 24
    assert patches.class_counts()["test"]["mass benign"] == int((np.load(data / "public_test_labels.npy") == 1).sum())


def test_every_file_is_hashed_as_sha256sum_would(data):
    patches = read_patch_set(data)
    assert len(patches.files) == 6
    for name, found in patches.files.items():
        assert found == hashlib.sha256((data / name).read_bytes()).hexdigest()


def test_fingerprint_is_json_and_moves_with_the_directory(data, tmp_path):
    before = read_patch_set(data).describe()
    assert json.loads(json.dumps(before)) == before
    assert read_patch_set(shutil.copytree(data, tmp_path / "elsewhere")).describe() == before


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("train_tensor.npy", "train_sha256"),
        ("train_groups.csv", "train_sha256"),
        ("public_test_labels.npy", "test_sha256"),
    ],
)
def test_one_changed_file_changes_its_own_split_alone(data, name, changed):
    before = read_patch_set(data).describe()
    if name.endswith("tensor.npy"):
        edit(data / name, lambda array: put(array, (0, 0, 0), 1))
    elif name.endswith("csv"):
        (data / name).write_text((data / name).read_text().replace("CC", "ML"))
    else:
        edit(data / name, lambda array: array.astype(np.float32))
    after = read_patch_set(data).describe()
    kept = {"train_sha256", "test_sha256"} - {changed}
    assert after[changed] != before[changed]
    assert all(after[key] == before[key] for key in kept)


def test_more_rows_than_one_block_are_hashed(tmp_path):
    data = make_phantom(PhantomSettings(train=70, test=16, size=32), tmp_path)
    edit(data / "train_tensor.npy", lambda array: put(array, 139, array[1]))
    patches = read_patch_set(data)
    assert patches.files["train_tensor.npy"] == hashlib.sha256((data / "train_tensor.npy").read_bytes()).hexdigest()
    assert patches.train_duplicates[69] == 0
    assert "row 139 repeats row 1" in patches.warnings[0]


def test_groups_are_optional(data):
    (data / "train_groups.csv").unlink()
    patches = read_patch_set(data)
    assert patches.train.patient_ids is None
    assert patches.describe()["patients"]["train"] is None
    assert "train_groups.csv" not in patches.files


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def replace_groups(change):
    def apply(path):
        path.write_text(change(path.read_text()))

    return apply


def npy(change):
    return lambda path: edit(path, change)


TENSOR, LABELS, GROUPS = "train_tensor.npy", "train_labels.npy", "train_groups.csv"
BROKEN = {
    "tensor missing": (TENSOR, lambda path: path.unlink(), "train_tensor.npy: expected a file, found none"),
    "labels missing": (LABELS, lambda path: path.unlink(), "train_labels.npy: expected a file, found none"),
    "a directory": (LABELS, lambda path: (path.unlink(), path.mkdir()), "expected a file, found something else"),
    "object tensor": (TENSOR, npy(lambda a: np.array([{}, 1], object)), "train_tensor.npy: .*Python objects"),
    "object labels": (LABELS, npy(lambda a: a.astype(object)), "train_labels.npy: .*Python objects"),
    "truncated": (TENSOR, truncate, "expected 98432 bytes .* found 98332: the file is truncated"),
    "too long": (TENSOR, lambda path: path.write_bytes(path.read_bytes() + b"x"), "the file is too long"),
    "header cut": (TENSOR, lambda path: path.write_bytes(path.read_bytes()[:40]), "expected a .npy array"),
    "empty": (TENSOR, lambda path: path.write_bytes(b""), r"train_tensor.npy: .*empty file \(0 bytes\)"),
    "empty labels": (LABELS, lambda path: path.write_bytes(b""), r"train_labels.npy: .*empty file \(0 bytes\)"),
    "not npy": (TENSOR, lambda path: path.write_text("hello"), "train_tensor.npy: expected a .npy array"),
    "zero rows": (TENSOR, npy(lambda a: a[:0]), "train_tensor.npy: rows: expected at least 2, found 0"),
    "zero labels": (LABELS, npy(lambda a: a[:0]), "train_labels.npy: rows: expected at least 2, found 0"),
    "float": (TENSOR, npy(lambda a: a.astype("f4")), "train_tensor.npy: dtype: expected uint16, found float32"),
    "byte order": (TENSOR, npy(lambda a: a.astype(">u2")), "dtype: expected uint16, found uint16 in big-endian order"),
    "fortran": (TENSOR, npy(np.asfortranarray), "expected C order"),
    "image size": (TENSOR, npy(lambda a: a[:, :31]), r"expected \(2n, 32, 32\), found \(48, 31, 32\)"),
    "channels": (TENSOR, npy(lambda a: a[..., None]), r"expected \(2n, 32, 32\), found \(48, 32, 32, 1\)"),
    "odd rows": (TENSOR, npy(lambda a: a[:-1]), "train_tensor.npy: rows: expected an even number .*47, odd"),
    "labels short": (
        LABELS,
        npy(lambda a: a[:-2]),
        "train_labels.npy: rows: expected 48 as in train_tensor.npy, found 46",
    ),
    "labels odd": (LABELS, npy(lambda a: np.append(a, 0)), "train_labels.npy: rows: expected an even number .*49, odd"),
    "labels 2d": (LABELS, npy(lambda a: a[:, None]), r"train_labels.npy: shape: expected \(2n,\), found \(48, 1\)"),
    "labels text": (LABELS, npy(lambda a: a.astype(str)), "train_labels.npy: dtype: expected an integer or float"),
    "nan": (LABELS, npy(lambda a: put(a, 3, np.nan)), "row 3: expected a finite label, found nan"),
    "inf": (LABELS, npy(lambda a: put(a, 3, np.inf)), "row 3: expected a finite label, found inf"),
    "half": (LABELS, npy(lambda a: put(a, 5, 1.5)), "row 5: expected a whole number, found 1.5"),
    "five": (LABELS, npy(lambda a: put(a, 7, 5)), "row 7: expected a label from 0 to 4, found 5"),
    "negative": (LABELS, npy(lambda a: put(a, 7, -1)), "row 7: expected a label from 0 to 4, found -1"),
    "even row": (LABELS, npy(lambda a: put(a, 6, 2)), "row 6: expected 0 .* found 2"),
    "odd row": (LABELS, npy(lambda a: put(a, 9, 0)), "row 9: expected 1 to 4 .* found 0"),
    "swapped": (LABELS, npy(lambda a: a[::-1]), r"row 0: expected 0 .*24 such rows"),
    "groups short": (GROUPS, replace_groups(lambda t: t[: t.rindex("PHANTOM")]), "rows: expected 24, .* found 23"),
    "groups long": (GROUPS, replace_groups(lambda t: t + t.splitlines()[-1] + "\n"), "rows: expected 24, .* found 25"),
    "no patient_id": (
        GROUPS,
        replace_groups(lambda t: t.replace("patient_id", "pid")),
        "a column patient_id, found pid",
    ),
    "empty patient": (GROUPS, replace_groups(lambda t: t.replace("PHANTOM_TRAIN_00001", " ")), "row 0: patient_id"),
    "two columns": (GROUPS, replace_groups(lambda t: t.replace("side", "view", 1)), "every column once"),
    "ragged": (
        GROUPS,
        replace_groups(lambda t: t.replace("LEFT", "LEFT,x", 1)),
        r"row \d+: expected 6 values, found 7",
    ),
    "groups empty": (GROUPS, lambda path: path.write_bytes(b""), "train_groups.csv: .*found an empty file"),
    "not utf-8": (GROUPS, lambda path: path.write_bytes(b"patient_id\n\xff\xfe"), "train_groups.csv: .*not UTF-8"),
    "not csv": (GROUPS, lambda path: path.write_text('patient_id\n"a'), "train_groups.csv: expected CSV"),
    "phantom not json": ("phantom.json", lambda path: path.write_text("{"), "phantom.json: expected a JSON object"),
    "phantom size": ("phantom.json", lambda path: path.write_text('{"size": "x"}'), "phantom.json: size: expected"),
    "real size": ("phantom.json", lambda path: path.unlink(), r"expected \(2n, 150, 150\), found \(48, 32, 32\)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_line_that_names_it(data, case):
    name, damage, message = BROKEN[case]
    damage(data / name)
    with pytest.raises(UserError, match=message) as caught:
        read_patch_set(data)
    assert "\n" not in str(caught.value)
    assert str(data) in str(caught.value)


def test_the_test_split_is_checked_as_well(data):
    edit(data / "public_test_labels.npy", lambda a: put(a, 1, 9))
    with pytest.raises(UserError, match=r"public_test_labels\.npy: row 1"):
        read_patch_set(data)


def test_all_faults_come_in_one_line(data):
    edit(data / "train_tensor.npy", lambda array: array.astype(np.float32)[:, :30])
    edit(data / "public_test_labels.npy", lambda labels: put(labels, 1, 9))
    (data / "train_groups.csv").write_text("")
    with pytest.raises(UserError) as caught:
        read_patch_set(data)
    line = str(caught.value)
    assert all(part in line for part in ("dtype", "shape", "public_test_labels.npy", "train_groups.csv"))
    assert "\n" not in line


@pytest.mark.parametrize("kind", ["nothing there", "a file"])
def test_a_directory_must_be_one(tmp_path, kind):
    path = tmp_path / "absent"
    if kind == "a file":
        path.write_text("x")
    with pytest.raises(UserError, match=f"expected a directory, found {kind}"):
        read_patch_set(path)


def test_labels_may_be_floats(data):
    before = read_patch_set(data).train.types
    edit(data / "train_labels.npy", lambda labels: labels.astype(np.float64))
    np.testing.assert_array_equal(read_patch_set(data).train.types, before)


def test_a_byte_order_mark_and_blank_lines_in_groups_are_no_fault(data):
    path = data / "train_groups.csv"
    before = read_patch_set(data).train.patient_ids
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    np.testing.assert_array_equal(read_patch_set(data).train.patient_ids, before)


def test_a_patient_in_both_splits_is_a_warning(data):
    path = data / "public_test_groups.csv"
    patients = read_patch_set(data).test.patient_ids
    path.write_text(path.read_text().replace(patients[0], "PHANTOM_TRAIN_00001"))
    assert any("1 patients in both (first: PHANTOM_TRAIN_00001)" in line for line in read_patch_set(data).warnings)


def test_constant_patches_are_counted(data):
    edit(data / "train_tensor.npy", lambda a: put(put(a, 4, 0), 11, 777))
    assert "train_tensor.npy: 2 constant patches (first: row 4)" in read_patch_set(data).warnings


def test_a_patch_with_equal_corners_is_not_constant(data):
    edit(data / "train_tensor.npy", lambda a: put(put(a, (4, 0, 0), 5), (4, 31, 31), 5))
    assert read_patch_set(data).warnings == ()


def test_a_class_without_a_patch_is_a_warning(data):
    edit(data / "public_test_labels.npy", lambda labels: np.where(labels == 4, 3, labels))
    assert "public_test_labels.npy: no calcification malignant" in read_patch_set(data).warnings


def test_duplicates_inside_and_across_are_counted(data):
    edit(data / "train_tensor.npy", lambda a: put(put(a, 9, a[3]), 13, a[3]))
    tensor = np.load(data / "train_tensor.npy")
    edit(data / "public_test_tensor.npy", lambda a: put(a, 5, tensor[1]))
    patches = read_patch_set(data)
    assert any(
        "train_tensor.npy: 2 exact duplicates" in line and "row 9 repeats row 3" in line for line in patches.warnings
    )
    assert any("1 abnormalities are in train_tensor.npy (first: row 5 is" in line for line in patches.warnings)
    assert patches.train_duplicates[[1, 4, 6]].tolist() == [1, 1, 1]
    assert len(np.unique(patches.train_duplicates)) == 22


def test_equal_baselines_are_no_duplicates(data):
    edit(data / "train_tensor.npy", lambda a: put(a, 8, a[2]))
    assert read_patch_set(data, duplicates="error").warnings == ()


@pytest.mark.parametrize("stem", ["train", "public_test"])
def test_duplicates_can_be_an_error(data, stem):
    edit(data / f"{stem}_tensor.npy", lambda a: put(a, 9, a[3]))
    with pytest.raises(UserError, match=f"{stem}_tensor.npy: 1 exact duplicates") as caught:
        read_patch_set(data, duplicates="error")
    assert "\n" not in str(caught.value)


def test_duplicates_takes_two_words(data):
    with pytest.raises(UserError, match="duplicates: unknown 'eror', did you mean 'error'"):
        read_patch_set(data, duplicates="eror")


def other_views(**columns):
    """The other views of four films: two of one lesion, one of it as a calcification, one of another patient."""
    table = pd.DataFrame(
        {"patient_id": list("aaab"), "side": "LEFT", "abnormality_id": "1", "view": ["CC", "MLO", "CC", "MLO"]}
    )
    return Split("train", np.zeros((8, 1, 1)), np.array([1, 2, 3, 1]), table.assign(**columns)).other_views().tolist()


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({}, [1, 0, 2, 3]),
        ({"view": "CC"}, [0, 1, 2, 3]),
        ({"side": ["LEFT", "RIGHT", "LEFT", "LEFT"]}, [0, 1, 2, 3]),
        ({"patient_id": "a"}, [1, 0, 2, 0]),
    ],
)
def test_the_other_view_is_of_the_same_lesion_or_its_own(columns, wanted):
    assert other_views(**columns) == wanted


def test_what_does_not_tell_views_is_one_line():
    def other_views(table):
        return Split("train", np.zeros((2, 1, 1)), np.array([1]), table).other_views()

    with pytest.raises(UserError, match=r"^train_groups.csv: columns: expected .*, found no abnormality_id, view$"):
        other_views(pd.DataFrame({"patient_id": ["a"], "side": ["LEFT"]}))
    with pytest.raises(UserError, match=r"^train_groups.csv: expected a file with patient_id, .*, found none$"):
        other_views(None)
