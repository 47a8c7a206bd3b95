"""The case-description CSVs: a row for each abnormality, with the quirks of the published files and of mirrors."""

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
"""The word for each split in the collection's PatientIDs."""
KINDS = {"mass": "Mass", "calcification": "Calc"}
"""The word for each type of abnormality there."""
UNREADABLE = "unreadable file"
PATHOLOGIES = {"BENIGN": 0, "BENIGN_WITHOUT_CALLBACK": 0, "MALIGNANT": 1}
SUBJECT = re.compile(r"(Mass|Calc)-(Training|Test)_(P_[0-9]+)_(LEFT|RIGHT)_(CC|MLO)(?:_([0-9]+))?")
"""A PatientID of the collection: that of a film, or with a number at its end that of one of its abnormalities."""

_WRITTEN_BY_PANDAS = {"nan", "none", "null", "<na>"}
"""What a program writes where nothing stands."""
_UNKNOWN = {"", "n/a", "na", "-"}
"""What people write there; it stays as it is, and agrees with whatever another file knows."""
_NAMES = {
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
"""A row's fields, and how the published files and mirrors call them (letters and digits alone, in lower case)."""
_FIELDS = {name: field for field, names in _NAMES.items() for name in names}
REQUIRED = {
    "patient": ("patient_id", "a patient such as P_00001", "P_[0-9]{1,9}"),
    "side": ("left or right breast", "LEFT or RIGHT", "LEFT|RIGHT"),
    "view": ("image view", "CC or MLO", "CC|MLO"),
    "number": ("abnormality id", "a whole number", r"0{0,3}[1-9][0-9]{0,3}(\.0*)?"),
    "pathology": ("pathology", ", ".join(PATHOLOGIES), "|".join(PATHOLOGIES).replace("_", "[ _]")),
}
"""The fields that need a column, how the published files call it, what stands there in words, and as a pattern."""
_TOLD = {
    "kind": ("abnormality type", "mass or calcification, here or in the file's name", "|".join(KINDS)),
    "split": ("split", "train or test in the file's name or in 'image file path'", "|".join(SPLITS)),
}
"""The same of those that the names of files may tell."""
_NUMBERS = {"density": "breast density", "assessment": "assessment", "subtlety": "subtlety"}
"""The fields of a number, whose column a warning misses, and how the published files call it."""
_DESCRIBING = (*_NUMBERS, "shape_or_type", "margins_or_distribution", "pathology")
SIGNS = 3
"""A CSV with so many of the columns that are needed describes cases; others (the NBIA Data Retriever's
`metadata.csv`) do not, unless they are called so."""


@dataclass(frozen=True, kw_only=True)
class Abnormality:
    """A row of a case description: `split` train or test, `kind` mass or calcification, `number` its id on the film."""

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
    def film(self) -> str:
        """The PatientID of its film's DICOM."""
        return f"{KINDS[self.kind]}-{SPLITS[self.split]}_{self.patient}_{self.side}_{self.view}"

    @property
    def subject(self) -> str:
        """The PatientID of its crop's and its mask's DICOM."""
        return f"{self.film}_{self.number}"

    @property
    def type(self) -> int:
        """The label: 1 mass benign, 2 mass malignant, 3 calcification benign, 4 calcification malignant."""
        return 1 + 2 * (self.kind == "calcification") + PATHOLOGIES[self.pathology]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A row, or a file, that gives no patch. `reason` is one of a few, `detail` a sentence."""

    file: str
    row: int | None = None
    abnormality: str = ""
    reason: str
    detail: str

    @classmethod
    def of(cls, one: Abnormality, reason: str, detail: str) -> LeftOut:
        """The entry of a row."""
        return cls(file=one.file, row=one.row, abnormality=one.subject, reason=reason, detail=detail)


@dataclass(frozen=True)
class Descriptions:
    """All rows in one order, whatever the order of files and rows; those left out already; sentences of warning."""

    abnormalities: tuple[Abnormality, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]


def read_descriptions(folder: Path) -> Descriptions:
    """Read every case description below `folder`.

    Rows with values that no abnormality can have, repeated rows and rows that contradict one another are left out.

    Raises:
        UserError: there is none, or one is not CSV in UTF-8 or lacks a column that is needed; a line for each.
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
            if _is_called_so(name):
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
            one = _parse(name, number, table, values)
            (rows if isinstance(one, Abnormality) else left_out).append(one)  # type: ignore[arg-type]
    if rows:  # a table of somebody's that merely lies beside the descriptions
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
    """The patients that stand on both sides of the official split."""
    sides = [{one.patient for one in rows if one.split == split} for split in SPLITS]
    return sides[0] & sides[1]


class MissingColumn(UserError):  # noqa: N818 - said of a table
    """A table that describes cases and lacks a column."""


@dataclass(frozen=True)
class _Table:
    """The titles of a CSV's columns, the field that each means or nothing, and the rows with their numbers."""

    titles: list[str]
    fields: list[str]
    rows: list[tuple[int, list[str]]]
    delimiter: str


_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def _read_table(name: str, path: Path) -> _Table | None:
    """The table of a file, or None where it describes no cases."""
    rows, delimiter = read_csv(path, name, "".join(_DELIMITERS))
    titles = rows[0] if rows else []
    header = [_FIELDS.get(re.sub(r"[^a-z0-9]", "", title.lower()), "") for title in titles]
    if len(REQUIRED.keys() & set(header)) < SIGNS and not _is_called_so(name):
        return None
    missing = [repr(title) for field, (title, *_) in REQUIRED.items() if field not in header]
    if missing:
        found = ", ".join(titles)[:200] if rows else "an empty file"
        raise MissingColumn(f"{name}: header: expected a column {', a column '.join(missing)}, found {found}")
    return _Table(titles, header, [(number, row) for number, row in enumerate(rows[1:], 1) if any(row)], delimiter)


def _is_called_so(name: str) -> bool:
    return "case_description" in name.lower()


def _parse(name: str, number: int, table: _Table, row: Sequence[str]) -> Abnormality | LeftOut:
    """A row's abnormality. What a row does not say itself, its paths or the file's name tell."""
    try:
        values = _values(table, row)
        values["patient"] = re.sub(r"[\s_]+", "_", values["patient"]).upper()
        told = SUBJECT.search(values.get("source_file", ""))
        kind = values.get("kind", "").lower() or (told[1].lower() if told else _named(name, "mass", "calc"))
        values["kind"] = "calcification" if kind == "calc" else kind
        values["split"] = {"Training": "train", "Test": "test"}[told[2]] if told else _named(name, "train", "test")
        wrong = [
            str(expected(title, wish, f"'{values[field]}'"))
            for field, (title, wish, pattern) in (REQUIRED | _TOLD).items()
            if not re.fullmatch(pattern, values[field], re.IGNORECASE)
        ]
        if wrong:
            raise UserError("; ".join(wrong))
    except UserError as problem:
        return LeftOut(file=name, row=number, reason="bad value", detail=str(problem))
    values |= {field: values[field].upper().replace(" ", "_") for field in ("side", "view", "pathology")}
    of_film = int(float(values.pop("number")))
    return Abnormality(**values, number=of_film, file=name, row=number)


def _named(name: str, *words: str) -> str:
    """The one of these words that is in the name of a file; nothing where several are, or none."""
    found = [word for word in words if word in Path(name).name.lower()]
    return found[0] if len(found) == 1 else ""


def _values(table: _Table, row: Sequence[str]) -> dict[str, str]:
    """The values of a row by field. Several columns may mean one (mass shape, calc type): a row has it in one of them.

    Raises `UserError` where a row has different values in them, or is too short or too long.
    """
    width = len(table.titles)
    if len(row) < width or any(row[width:]):
        raise UserError(f"expected {width} values, found {len(row)}")
    values: dict[str, str] = {}
    titles: dict[str, str] = {}
    for field, title, cell in zip(table.fields, table.titles, row, strict=False):
        if not field:
            continue
        value = "" if cell.lower() in _WRITTEN_BY_PANDAS else cell
        if field in _NUMBERS:
            value = re.sub(r"^([0-9]+)\.0+$", r"\1", value)
        before = values.get(field, "")
        if not _agree(before, value):
            raise expected(f"{titles[field]} and {title}", "one value of the two columns", f"'{before}' and '{value}'")
        if _told(value, before) == value:
            values[field], titles[field] = value, title
    return values


def _agree(one: str, other: str) -> bool:
    """Whether two values can be of the same abnormality: one is unknown, or they are equal but for capitals."""
    return one.lower() in _UNKNOWN or other.lower() in _UNKNOWN or one.lower() == other.lower()


def _told(*values: str) -> str:
    """What several values that agree say, whatever their order."""
    return min(values, key=lambda value: (value.lower() in _UNKNOWN, not value, value))


def _without_repeated(
    rows: Sequence[Abnormality],
) -> tuple[tuple[Abnormality, ...], list[LeftOut], list[tuple[str, int]]]:
    """Each abnormality once, what is left out of it, and how many rows of a file other files have too.

    A row repeated in its own file is left out by name; a whole file that repeats others (all rows merged into one) is
    counted.
    """
    by_subject = defaultdict[str, list[Abnormality]](list)
    for one in rows:
        by_subject[one.subject].append(one)
    kept, left_out = [], []
    elsewhere: Counter[str] = Counter()
    for same in by_subject.values():
        same.sort(key=lambda one: (not _is_called_so(one.file), one.file, one.row))
        told = {field: [getattr(one, field) for one in same] for field in _DESCRIBING}
        differing = [field for field in told if not all(_agree(*two) for two in combinations(told[field], 2))]
        if differing:
            field = differing[0]
            found = [f"{value} in row {one.row} of {one.file}" for one, value in zip(same, told[field], strict=True)]
            detail = f"one abnormality, told differently: {field.replace('_', ' ')} {', '.join(found)}"
            left_out += [LeftOut.of(one, "contradictory rows", detail) for one in same]
            continue
        path = min((one.source_file for one in same), key=lambda path: (not SUBJECT.match(path), path))
        known = {field: _told(*values) for field, values in told.items()}
        kept.append(replace(same[0], source_file=path, **known))  # type: ignore[arg-type]
        for one in same[1:]:
            earlier = next(two for two in same if two.file == one.file)
            if earlier is one:
                elsewhere[one.file] += 1
            else:
                left_out.append(LeftOut.of(one, "duplicate row", f"the same as row {earlier.row} of {earlier.file}"))
    kept.sort(key=lambda one: (one.patient, one.side, one.view, one.kind, one.split, one.number))
    return tuple(kept), left_out, sorted(elsewhere.items())
