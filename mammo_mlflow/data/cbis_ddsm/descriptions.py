"""Read the case-description CSVs, a row for each abnormality, as published or as mirrors have changed them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from mammo_mlflow.data.arrays import read_csv
from mammo_mlflow.data.cbis_ddsm.walking import walk
from mammo_mlflow.data.patches import PREPARED_FILE
from mammo_mlflow.errors import Faults, UserError, expected
from mammo_mlflow.files import file_sha256

SPLITS = {"train": "Training", "test": "Test"}
"""Each split, and its word in the collection's PatientIDs."""
KINDS = {"mass": "Mass", "calcification": "Calc"}
"""Each kind of abnormality, and its word in PatientIDs."""
UNREADABLE = "unreadable file"
"""The reason for leaving out what cannot be read."""
PATHOLOGIES = {"BENIGN": 0, "BENIGN_WITHOUT_CALLBACK": 0, "MALIGNANT": 1}
"""Each pathology of the collection, and its target for benign_malignant."""
SUBJECT = re.compile(r"(Mass|Calc)-(Training|Test)_(P_[0-9]+)_(LEFT|RIGHT)_(CC|MLO)(?:_([0-9]+))?")
"""The pattern of the collection's PatientIDs: a film's, or with a number at its end an abnormality's."""

_MISSING_BY_PANDAS = {"nan", "none", "null", "<na>"}
"""Spellings of a missing value by pandas."""
_MISSING_BY_HAND = {"", "n/a", "na", "-"}
"""Spellings of a missing value by people; they are kept, and do not contradict another file's value."""
_COLUMN_NAMES = {
    "patient": ("patientid", "patient"),
    "side": ("leftorrightbreast", "laterality", "breastside", "breast", "side"),
    "view": ("imageview", "view"),
    "number": ("abnormalityid", "lesionid"),
    "pathology": ("pathology",),
    "kind": ("abnormalitytype", "lesiontype"),
    "density": ("breastdensity", "density"),
    "shape_or_type": ("massshape", "calctype", "shape", "type"),
    "margins_or_distribution": ("massmargins", "calcdistribution", "margins", "distribution"),
    "assessment": ("assessment", "birads"),
    "subtlety": ("subtlety",),
    "source_file": ("imagefilepath", "imagepath"),
}
"""The fields of a row, and the column names of each (letters and digits alone, in lower case)."""
_FIELDS = {name: field for field, names in _COLUMN_NAMES.items() for name in names}
REQUIRED = {
    "patient": ("patient_id", "a patient such as P_00001", "P_[0-9]{1,9}"),
    "side": ("left or right breast", "LEFT or RIGHT", "LEFT|RIGHT"),
    "view": ("image view", "CC or MLO", "CC|MLO"),
    "number": ("abnormality id", "a whole number", r"0{0,3}[1-9][0-9]{0,3}(\.0*)?"),
    "pathology": ("pathology", ", ".join(PATHOLOGIES), "|".join(PATHOLOGIES).replace("_", "[ _]")),
}
"""The required fields: the column's published name, its allowed values in words, and as a pattern."""
_FROM_FILE_NAME = {
    "kind": ("abnormality type", "mass or calcification, here or in the file's name", "|".join(KINDS)),
    "split": ("split", "train or test in the file's name or in 'image file path'", "|".join(SPLITS)),
}
"""The same for the fields that the name of a file or path may give instead of a column."""
_NUMBERS = {"density": "breast density", "assessment": "assessment", "subtlety": "subtlety"}
"""The numeric fields and their columns' published names; a missing column gives a warning."""
_DESCRIBING = (*_NUMBERS, "shape_or_type", "margins_or_distribution", "pathology")
MIN_COLUMNS = 3
"""The number of required columns from which a CSV is taken for a case description; one with fewer, such as the NBIA
Data Retriever's `metadata.csv`, is one only if it is named so."""


@dataclass(frozen=True, kw_only=True)
class Abnormality:
    """A row of a case description: `split` train or test, `kind` mass or calcification, `number` the id on the film.

    `file` and `row` tell where it was read; the other fields are the columns as text.
    """

    split: str
    kind: str
    patient: str
    side: str
    view: str
    number: int
    pathology: str
    density: str = ""
    shape_or_type: str = ""
    margins_or_distribution: str = ""
    assessment: str = ""
    subtlety: str = ""
    source_file: str = ""
    file: str = ""
    row: int = 0

    @property
    def film_subject(self) -> str:
        """The PatientID in the DICOM file of the abnormality's film."""
        return f"{KINDS[self.kind]}-{SPLITS[self.split]}_{self.patient}_{self.side}_{self.view}"

    @property
    def subject(self) -> str:
        """The PatientID in the DICOM files of the abnormality's crop and mask."""
        return f"{self.film_subject}_{self.number}"

    @property
    def type(self) -> int:
        """The label: 1 mass benign, 2 mass malignant, 3 calcification benign, 4 calcification malignant."""
        return 1 + 2 * (self.kind == "calcification") + PATHOLOGIES[self.pathology]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A row or a file that gives no patch. `reason` is one of a few fixed texts, `detail` a sentence."""

    file: str
    row: int | None = None
    abnormality: str = ""
    reason: str
    detail: str

    @classmethod
    def of(cls, one: Abnormality, reason: str, detail: str) -> LeftOut:
        """Make the entry of an abnormality's row."""
        return cls(file=one.file, row=one.row, abnormality=one.subject, reason=reason, detail=detail)


@dataclass(frozen=True)
class Descriptions:
    """All rows, sorted so that the order of files does not matter; the rows left out; warnings, a sentence each."""

    abnormalities: tuple[Abnormality, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]


def read_descriptions(folder: Path) -> Descriptions:
    """Read every case description below `folder`.

    Rows with impossible values, repeated rows and rows that contradict one another are left out.

    Raises:
        UserError: there is no description, or one is not CSV in UTF-8 or lacks a required column; a line for each.
    """
    rows: list[Abnormality] = []
    left_out: list[LeftOut] = []
    warnings: list[str] = []
    faults: list[str] = []
    lacking_columns: list[str] = []
    seen: dict[str, str] = {}
    paths = [path for path, _ in walk(folder) if path.suffix.lower() == ".csv"]
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if (path.parent / PREPARED_FILE).exists():  # the groups files of an ingest
            continue
        try:
            table = _read_table(name, path)
        except UserError as problem:
            if _is_named_description(name):
                faults.append(str(problem))
            elif isinstance(problem, MissingColumn):
                lacking_columns.append(str(problem))
            else:
                warnings.append(f"{problem}; passed over")
            continue
        if table is None:
            continue
        first = seen.setdefault(file_sha256(path), name)
        if first != name:
            warnings.append(f"{name}: the same file as {first}, read once")
            continue
        if table.delimiter != ",":
            warnings.append(f"{name}: {_DELIMITERS[table.delimiter]} between its columns, read as such")
        if lacking := [title for field, title in _NUMBERS.items() if field not in table.fields]:
            warnings.append(f"{name}: no column {', '.join(lacking)}: nothing is known of it in the groups files")
        for number, values in table.rows:
            one = _parse_row(name, number, table, values)
            (rows if isinstance(one, Abnormality) else left_out).append(one)  # type: ignore[arg-type]
    if rows:  # then it is another table, which lies beside the descriptions
        warnings += [f"{said}; passed over" for said in lacking_columns]
    else:
        faults += lacking_columns
    if faults:
        raise Faults(faults)
    if not rows and not left_out:
        wanted = "the collection's case descriptions (mass_case_description_train_set.csv, …)"
        raise expected(str(folder), wanted, f"{len(paths)} other CSVs" if paths else "no CSV")
    kept, repeated, elsewhere = _without_repeated(rows)
    warnings += [f"{name}: {count} of its rows stand in other files too, read once" for name, count in elsewhere]
    return Descriptions(kept, (*left_out, *repeated), tuple(warnings))


def shared_patients(rows: Sequence[Abnormality]) -> set[str]:
    """Find the patients that are in both the training and the test split."""
    sides = [{one.patient for one in rows if one.split == split} for split in SPLITS]
    return sides[0] & sides[1]


class MissingColumn(UserError):  # noqa: N818 - names what was found
    """A case description that lacks a required column."""


@dataclass(frozen=True)
class _Table:
    """A CSV: column titles, the field of each ("" where it is none of ours), and the rows with their numbers."""

    titles: list[str]
    fields: list[str]
    rows: list[tuple[int, list[str]]]
    delimiter: str


_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def _read_table(name: str, path: Path) -> _Table | None:
    """Read a CSV; None where it is no case description. Raises `UserError`, `MissingColumn`."""
    rows, delimiter = read_csv(path, name, "".join(_DELIMITERS))
    titles = rows[0] if rows else []
    header = [_FIELDS.get(re.sub(r"[^a-z0-9]", "", title.lower()), "") for title in titles]
    if len(REQUIRED.keys() & set(header)) < MIN_COLUMNS and not _is_named_description(name):
        return None
    missing = [repr(title) for field, (title, *_) in REQUIRED.items() if field not in header]
    if missing:
        found = ", ".join(titles)[:200] if rows else "an empty file"
        raise MissingColumn(f"{name}: header: expected a column {', a column '.join(missing)}, found {found}")
    return _Table(titles, header, [(number, row) for number, row in enumerate(rows[1:], 1) if any(row)], delimiter)


def _is_named_description(name: str) -> bool:
    """Whether a file is named as the published case descriptions are."""
    return "case_description" in name.lower()


def _parse_row(name: str, number: int, table: _Table, row: Sequence[str]) -> Abnormality | LeftOut:
    """Parse a row; a split or kind that it does not give is taken from its image path or the file's name."""
    try:
        values = _values_by_field(table, row)
        values["patient"] = re.sub(r"[\s_]+", "_", values["patient"]).upper()
        in_path = SUBJECT.search(values.get("source_file", ""))
        kind = values.get("kind", "").lower() or (
            in_path[1].lower() if in_path else _word_in_name(name, "mass", "calc")
        )
        values["kind"] = "calcification" if kind == "calc" else kind
        values["split"] = (
            {"Training": "train", "Test": "test"}[in_path[2]] if in_path else _word_in_name(name, "train", "test")
        )
        wrong = [
            str(expected(title, wish, f"'{values[field]}'"))
            for field, (title, wish, pattern) in (REQUIRED | _FROM_FILE_NAME).items()
            if not re.fullmatch(pattern, values[field], re.IGNORECASE)
        ]
        if wrong:
            raise UserError("; ".join(wrong))
    except UserError as problem:
        return LeftOut(file=name, row=number, reason="bad value", detail=str(problem))
    values |= {field: values[field].upper().replace(" ", "_") for field in ("side", "view", "pathology")}
    of_film = int(float(values.pop("number")))
    return Abnormality(**values, number=of_film, file=name, row=number)


def _word_in_name(name: str, *words: str) -> str:
    """The only one of these words in the name of a file; "" where none is, or several are."""
    found = [word for word in words if word in Path(name).name.lower()]
    return found[0] if len(found) == 1 else ""


def _values_by_field(table: _Table, row: Sequence[str]) -> dict[str, str]:
    """The values of a row by field; of several columns of one field (mass shape, calc type) the one that is filled.

    Raises `UserError` where such columns contradict one another, or the row is too short or too long.
    """
    width = len(table.titles)
    if len(row) < width or any(row[width:]):
        raise UserError(f"expected {width} values, found {len(row)}")
    values: dict[str, str] = {}
    titles: dict[str, str] = {}
    for field, title, cell in zip(table.fields, table.titles, row, strict=False):
        if not field:
            continue
        value = "" if cell.lower() in _MISSING_BY_PANDAS else cell
        if field in _NUMBERS:
            value = re.sub(r"^([0-9]+)\.0+$", r"\1", value)
        before = values.get(field, "")
        if not _compatible(before, value):
            raise expected(f"{titles[field]} and {title}", "one value of the two columns", f"'{before}' and '{value}'")
        if _known_value(value, before) == value:
            values[field], titles[field] = value, title
    return values


def _compatible(one: str, other: str) -> bool:
    """Whether two values do not contradict one another: one is missing, or they are equal but for capitals."""
    return one.lower() in _MISSING_BY_HAND or other.lower() in _MISSING_BY_HAND or one.lower() == other.lower()


def _known_value(*values: str) -> str:
    """The most informative of several compatible values, whatever their order."""
    return min(values, key=lambda value: (value.lower() in _MISSING_BY_HAND, not value, value))


def _without_repeated(
    rows: Sequence[Abnormality],
) -> tuple[tuple[Abnormality, ...], list[LeftOut], list[tuple[str, int]]]:
    """Merge the rows of each abnormality; also the rows left out, and by file the number of rows found elsewhere too.

    A row that is repeated in its own file, or contradicts another, is left out with its number; rows that another file
    repeats (as one with all rows merged) are only counted.
    """
    by_subject = defaultdict[str, list[Abnormality]](list)
    for one in rows:
        by_subject[one.subject].append(one)
    kept, left_out = [], []
    elsewhere: Counter[str] = Counter()
    for same in by_subject.values():
        same.sort(key=lambda one: (not _is_named_description(one.file), one.file, one.row))
        by_field = {field: [getattr(one, field) for one in same] for field in _DESCRIBING}
        differing = [
            field for field in by_field if not all(_compatible(*two) for two in combinations(by_field[field], 2))
        ]
        if differing:
            field = differing[0]
            found = [
                f"{value} in row {one.row} of {one.file}" for one, value in zip(same, by_field[field], strict=True)
            ]
            detail = f"one abnormality, told differently: {field.replace('_', ' ')} {', '.join(found)}"
            left_out += [LeftOut.of(one, "contradictory rows", detail) for one in same]
            continue
        path = min((one.source_file for one in same), key=lambda path: (not SUBJECT.match(path), path))
        known = {field: _known_value(*values) for field, values in by_field.items()}
        kept.append(replace(same[0], source_file=path, **known))  # type: ignore[arg-type]
        for one in same[1:]:
            earlier = next(two for two in same if two.file == one.file)
            if earlier is one:
                elsewhere[one.file] += 1
            else:
                left_out.append(LeftOut.of(one, "duplicate row", f"the same as row {earlier.row} of {earlier.file}"))
    kept.sort(key=lambda one: (one.patient, one.side, one.view, one.kind, one.split, one.number))
    return tuple(kept), left_out, sorted(elsewhere.items())
