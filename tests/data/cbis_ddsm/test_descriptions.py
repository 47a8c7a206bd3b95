import csv

import pytest
from support_collection import plan, write_descriptions

from mammo_mlflow.data.cbis_ddsm.descriptions import read_descriptions, shared_patients
from mammo_mlflow.errors import Faults, UserError

MASSES = "mass_case_description_train_set.csv"


@pytest.fixture
def folder(tmp_path):
    write_descriptions(tmp_path, plan(16))
    return tmp_path


def edit(path, change):
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(change(rows))


def without(name):
    def change(rows):
        place = rows[0].index(name)
        return [row[:place] + row[place + 1 :] for row in rows]

    return change


def put(name, value, number=1):
    def change(rows):
        rows[number][rows[0].index(name)] = value
        return rows

    return change


def test_published_files_with_their_quirks(folder):
    text = (folder / MASSES).read_text()
    assert "breast_density" in text and '\n"' in text  # a line break in the last column
    assert "breast density" in (folder / "calc_case_description_train_set.csv").read_text()
    told = read_descriptions(folder)
    assert sorted(one.subject for one in told.abnormalities) == sorted(row.subject for row in plan(16))
    assert (told.left_out, told.warnings) == ((), ())
    by_subject = {one.subject: one for one in told.abnormalities}
    for row in plan(16):
        one = by_subject[row.subject]
        assert (one.density, one.shape_or_type, one.subtlety) == (str(1 + int(row.patient[2:]) % 4), "ROUND", "3")
        assert one.type == 1 + 2 * (row.kind != "mass") + (row.pathology == "MALIGNANT")
        assert one.source_file.startswith(f"{row.film}/") and one.source_file.endswith(".dcm")


def test_mirrors_rename_and_reorder_columns(folder):
    wanted = read_descriptions(folder).abnormalities
    names = {
        "patient_id": "Patient ID",
        "left or right breast": "laterality",
        "image view": "VIEW",
        "abnormality id": "abnormality_id",
        "breast_density": "BreastDensity",
        "image file path": "image_file_path",
    }

    def renamed(rows):
        header = [names.get(title, title.replace(" ", "_")) for title in rows[0]]
        return [list(reversed(row)) for row in (header, *rows[1:])]

    for path in folder.glob("*.csv"):
        edit(path, renamed)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_descriptions(folder).abnormalities == wanted


def test_without_paths_the_files_name_tells_the_split(folder):
    subjects = [one.subject for one in read_descriptions(folder).abnormalities]
    for path in folder.glob("*.csv"):
        edit(path, without("image file path"))
        edit(path, without("abnormality type"))
    assert [one.subject for one in read_descriptions(folder).abnormalities] == subjects


def test_a_missing_column_is_one_line_for_each_file(folder):
    edit(folder / MASSES, without("pathology"))
    edit(folder / "calc_case_description_test_set.csv", without("image view"))
    with pytest.raises(Faults) as raised:
        read_descriptions(folder)
    assert len(raised.value.lines) == 2
    assert raised.value.lines[1].startswith(f"{MASSES}: header: expected a column 'pathology', found patient_id, ")


def test_a_missing_column_that_only_describes_is_a_warning(folder):
    edit(folder / MASSES, without("subtlety"))
    told = read_descriptions(folder)
    assert told.warnings == (f"{MASSES}: no column subtlety: nothing is known of it in the groups files",)
    assert {one.subtlety for one in told.abnormalities} == {"", "3"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("pathology", "BENING", "pathology: expected BENIGN, BENIGN_WITHOUT_CALLBACK, MALIGNANT, found 'BENING'"),
        ("left or right breast", "UP", "left or right breast: expected LEFT or RIGHT, found 'UP'"),
        ("image view", "", "image view: expected CC or MLO, found ''"),
        ("abnormality id", "1" * 5000, "abnormality id: expected a whole number"),
        ("abnormality id", "0", "abnormality id: expected a whole number, found '0'"),
        ("patient_id", "7", "patient_id: expected a patient such as P_00001, found '7'"),
        ("abnormality type", "cyst", "abnormality type: expected mass or calcification"),
    ],
)
def test_a_value_that_cannot_be_leaves_its_row_out(folder, name, value, said):
    count = len(read_descriptions(folder).abnormalities)
    edit(folder / MASSES, put(name, value))
    told = read_descriptions(folder)
    (entry,) = told.left_out
    assert (entry.file, entry.row, entry.reason) == (MASSES, 1, "bad value")
    assert said in entry.detail
    assert len(told.abnormalities) == count - 1


def test_repeated_rows_count_once_and_contradictions_not_at_all(folder):
    subjects = [one.subject for one in read_descriptions(folder).abnormalities]
    edit(folder / MASSES, lambda rows: [*rows, rows[1]])
    told = read_descriptions(folder)
    assert [one.subject for one in told.abnormalities] == subjects
    assert [(entry.reason, entry.detail) for entry in told.left_out] == [
        ("duplicate row", f"the same as row 1 of {MASSES}")
    ]
    first = told.left_out[0].abnormality
    edit(folder / MASSES, put("pathology", "MALIGNANT", -1))
    edit(folder / MASSES, put("pathology", "BENIGN", 1))
    told = read_descriptions(folder)
    assert [one.subject for one in told.abnormalities] == [one for one in subjects if one != first]
    assert {(entry.abnormality, entry.reason) for entry in told.left_out} == {(first, "contradictory rows")}


def test_the_same_file_twice_is_read_once(folder):
    (folder / "copy").mkdir()
    (folder / "copy" / MASSES).write_bytes((folder / MASSES).read_bytes())
    told = read_descriptions(folder)
    assert told.warnings == (f"copy/{MASSES}: the same file as {MASSES}, read once",)
    assert told.left_out == ()


def test_other_csvs_are_passed_over(folder):
    wanted = read_descriptions(folder)
    (folder / "metadata.csv").write_text("Series UID,Subject ID,Series Description\n1,2,3\n")
    (folder / "empty.csv").write_text("")
    (folder / "results.csv").write_text("model,pathology\nx,y\n")
    assert read_descriptions(folder) == wanted


def test_a_csv_that_cannot_be_read_is_told_whatever_its_name(folder):
    (folder / MASSES).rename(folder / "masses.csv")
    (folder / "masses.csv").write_bytes((folder / "masses.csv").read_bytes().replace(b"ROUND", b"R\xf6UND"))
    told = read_descriptions(folder)
    assert told.warnings == ("masses.csv: expected CSV in UTF-8, found bytes that are not UTF-8; passed over",)


def test_semicolons_and_ids_that_pandas_wrote(folder):
    wanted = read_descriptions(folder)
    path = folder / MASSES
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    place = rows[0].index("abnormality id")
    with path.open("w", newline="") as file:
        lines = [[*row[:place], f"{row[place]}.0", *row[place + 1 :]] for row in rows[1:]]
        csv.writer(file, delimiter=";").writerows([rows[0], *lines])
    told = read_descriptions(folder)
    assert (told.abnormalities, told.left_out) == (wanted.abnormalities, ())
    assert told.warnings == (f"{MASSES}: semicolons between its columns, read as such",)


@pytest.mark.parametrize("row", ["end", "P_00001,3,LEFT", ",".join("x" * 20)])
def test_a_row_of_another_width_is_left_out(folder, row):
    count = len(read_descriptions(folder).abnormalities)
    with (folder / MASSES).open("a") as file:
        file.write(f"\n{row}\n")
    told = read_descriptions(folder)
    (entry,) = told.left_out
    assert (entry.reason, entry.detail) == ("bad value", f"expected 14 values, found {row.count(',') + 1}")
    assert len(told.abnormalities) == count


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b"patient_id\xff\n"), "expected CSV in UTF-8"),
        (lambda path: path.write_text('patient_id,"pathology\n'), "expected CSV, found something else"),
        (lambda path: path.write_text(""), "found an empty file"),
    ],
)
def test_a_description_that_is_none(folder, spoil, said):
    spoil(folder / MASSES)
    with pytest.raises(UserError, match=f"^{MASSES}.*{said}"):
        read_descriptions(folder)


def test_no_description_at_all(tmp_path):
    with pytest.raises(UserError, match=r"expected the collection.s case descriptions .*, found no CSV"):
        read_descriptions(tmp_path)
    (tmp_path / "metadata.csv").write_text("Series UID\n1\n")
    with pytest.raises(UserError, match="found 1 other CSVs"):
        read_descriptions(tmp_path)


def merge(folder):
    """All rows in one table as pandas writes it: an index, columns with `_`, `nan` and `3.0`."""
    rows = []
    for path in sorted(folder.glob("*case_description*.csv")):
        with path.open(newline="") as file:
            table = list(csv.reader(file))
        titles = [title.replace(" ", "_") for title in table[0]]
        rows += [dict(zip(titles, row, strict=True)) for row in table[1:]]
    titles = list(dict.fromkeys(title for row in rows for title in row))
    with (folder / "merged.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Unnamed: 0", *titles])
        for number, row in enumerate(rows):
            whole = [row.get(title, "nan") for title in titles]
            floats = ("breast_density", "subtlety")
            writer.writerow([number, *(f"{v}.0" if t in floats else v for t, v in zip(titles, whole, strict=True))])


def test_one_merged_table_alone_and_beside_the_originals(folder):
    wanted = read_descriptions(folder)
    merge(folder)
    beside = read_descriptions(folder)
    assert beside.abnormalities == wanted.abnormalities  # the very rows, of the originals' files
    assert beside.left_out == ()
    count = len(wanted.abnormalities)
    assert beside.warnings == (f"merged.csv: {count} of its rows stand in other files too, read once",)
    for path in folder.glob("*case_description*.csv"):
        path.unlink()
    alone = read_descriptions(folder)
    assert [one.subject for one in alone.abnormalities] == [one.subject for one in wanted.abnormalities]
    assert [(one.density, one.shape_or_type, one.subtlety) for one in alone.abnormalities] == [
        (one.density, one.shape_or_type, one.subtlety) for one in wanted.abnormalities
    ]
    assert (alone.left_out, alone.warnings) == ((), ())


def test_two_columns_of_one_field_are_a_fault_where_a_row_contradicts_itself(folder):
    merge(folder)
    for path in folder.glob("*case_description*.csv"):
        path.unlink()
    count = len(read_descriptions(folder).abnormalities)
    edit(folder / "merged.csv", put("mass_shape", "OVAL"))
    edit(folder / "merged.csv", put("calc_type", "PUNCTATE"))
    told = read_descriptions(folder)
    (entry,) = told.left_out
    assert len(told.abnormalities) == count - 1
    assert (entry.file, entry.row, entry.reason) == ("merged.csv", 1, "bad value")
    assert "expected one value of the two columns, found" in entry.detail and "PUNCTATE" in entry.detail


def test_a_merged_table_that_contradicts_the_originals_names_the_field(folder):
    count = len(read_descriptions(folder).abnormalities)
    merge(folder)
    with (folder / "merged.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    place = rows[0].index("pathology")
    rows[1][place] = "MALIGNANT" if rows[1][place] != "MALIGNANT" else "BENIGN"
    with (folder / "merged.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    told = read_descriptions(folder)
    assert len(told.abnormalities) == count - 1
    assert {entry.reason for entry in told.left_out} == {"contradictory rows"}
    assert len(told.left_out) == 2
    assert "one abnormality, told differently: pathology " in told.left_out[0].detail
    assert "row 1 of merged.csv" in told.left_out[0].detail


def test_what_systems_leave_beside_files_is_not_looked_at(folder):
    wanted = read_descriptions(folder)
    for name in (f"._{MASSES}", f"__MACOSX/._{MASSES}", f".Trash-0/{MASSES}", f"__MACOSX/{MASSES}"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        \xb0")
    assert read_descriptions(folder) == wanted


def test_a_table_of_somebodys_beside_the_descriptions_stops_nothing(folder):
    wanted = read_descriptions(folder)
    (folder / "mine.csv").write_text("patient_id,view,side,score\nP_00001,CC,LEFT,0.3\n")
    told = read_descriptions(folder)
    assert (told.abnormalities, told.left_out) == (wanted.abnormalities, ())
    (said,) = told.warnings
    assert said.startswith("mine.csv: header: expected a column 'abnormality id'") and said.endswith("; passed over")
    for path in folder.glob("*case_description*.csv"):
        path.unlink()
    with pytest.raises(Faults, match=r"^mine\.csv: header: expected a column 'abnormality id'"):
        read_descriptions(folder)


def test_patients_with_spaces_lines_of_windows_and_blanks_that_people_write(folder):
    wanted = read_descriptions(folder).abnormalities
    path = folder / MASSES
    edit(path, lambda rows: [rows[0], *([row[0].replace("_", " "), *row[1:]] for row in rows[1:])])
    edit(path, put("subtlety", "n/a"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    told = read_descriptions(folder)
    assert [one.subject for one in told.abnormalities] == [one.subject for one in wanted]
    assert (told.left_out, told.warnings) == ((), ())


def test_shared_patients(folder):
    assert shared_patients(read_descriptions(folder).abnormalities) == {"P_00001"}
