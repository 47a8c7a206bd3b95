"""The case-description CSVs: a row for each abnormality, with the quirks of the published files and of mirrors."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mammo_mlflow.data.cbis_ddsm.walking import walk
from mammo_mlflow.data.patches import PREPARED_FILE
from mammo_mlflow.errors import Faults, UserError, expected

SPLITS = {"train": "Training", "test": "Test"}
"""The word for each split in the collection's PatientIDs."""
KINDS = {"mass": "Mass", "calcification": "Calc"}
"""The word for each type of abnormality there."""
UNREADABLE = "unreadable file"
PATHOLOGIES = {"BENIGN": 0, "BENIGN_WITHOUT_CALLBACK": 0, "MALIGNANT": 1}
SUBJECT = re.compile(r"(Mass|Calc)-(Training|Test)_(P_[0-9]+)_(LEFT|RIGHT)_(CC|MLO)(?:_([0-9]+))?")
"""A PatientID of the collection: that of a film, or with a number at its end that of one of its abnormalities."""

_PATIENT, _NUMBER = re.compile("P_[0-9]{1,9}"), re.compile(r"0{0,3}[1-9][0-9]{0,3}(\.0*)?")
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
REQUIRED = {
    "patient": "patient_id",
    "side": "left or right breast",
    "view": "image view",
    "number": "abnormality id",
    "pathology": "pathology",
}
_WORTH_A_WARNING = {"density": "breast density", "assessment": "assessment", "subtlety": "subtlety"}
SIGNS = 3
"""A CSV with so many of the columns that are needed describes cases; others (the NBIA Data Retriever's
`metadata.csv`) do not, unless they are called so."""


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class LeftOut:
    """A row, or a file, that gives no patch. `reason` is one of a few, `detail` a sentence."""

    file: str
    row: int | None
    abnormality: str
    reason: str
    detail: str

    @classmethod
    def of(cls, one: Abnormality, reason: str, detail: str) -> LeftOut:
        """The entry of a row."""
        return cls(one.file, one.row, one.subject, reason, detail)


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
    seen: dict[bytes, str] = {}
    paths = [path for path, _ in walk(folder) if path.suffix.lower() == ".csv"]
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if (path.parent / PREPARED_FILE).exists():  # the groups files of an ingest
            continue
        try:
            content = path.read_bytes()
            table = _read_table(name, content)
        except (OSError, UserError) as problem:
            said = f"{name}: cannot be read: {problem.strerror}" if isinstance(problem, OSError) else str(problem)
            if _is_called_so(name) or isinstance(problem, MissingColumn):
                faults.append(said)
            else:
                warnings.append(f"{said}; passed over")
            continue
        if table is None:
            continue
        digest = hashlib.sha256(content).digest()
        if digest in seen:
            warnings.append(f"{name}: the same file as {seen[digest]}, read once")
            continue
        seen[digest] = name
        lacking = [title for field, title in _WORTH_A_WARNING.items() if field not in table[0]]
        if lacking:
            warnings.append(f"{name}: no column {', '.join(lacking)}: nothing is known of it in the groups files")
        for number, values in table[1]:
            one = _parse(name, number, table[0], values)
            (rows if isinstance(one, Abnormality) else left_out).append(one)  # type: ignore[arg-type]
    if faults:
        raise Faults(faults)
    if not rows and not left_out:
        found = f"{len(paths)} other CSVs" if paths else "no CSV"
        raise expected(
            f"{folder}", "the collection's case descriptions (mass_case_description_train_set.csv, …)", found
        )
    kept, repeated = _without_repeated(rows)
    return Descriptions(kept, (*left_out, *repeated), tuple(warnings))


def shared_patients(rows: Iterable[Abnormality]) -> set[str]:
    """The patients that stand on both sides of the official split."""
    rows = list(rows)
    sides = [{one.patient for one in rows if one.split == split} for split in SPLITS]
    return sides[0] & sides[1]


class MissingColumn(UserError):  # noqa: N818 - said of a table
    """A table that describes cases and lacks a column."""


def _read_table(name: str, content: bytes) -> tuple[list[str], list[tuple[int, list[str]]]] | None:
    """The fields that the columns hold and the rows with their numbers; None where the file describes no cases."""
    try:
        text = content.decode("utf-8-sig")
        head = text.split("\n", 1)[0]
        delimiter = ";" if head.count(";") > head.count(",") else ","
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        rows = [[value.strip() for value in row] for row in reader]
    except UnicodeDecodeError:
        raise expected(name, "CSV in UTF-8", "bytes that are not UTF-8") from None
    except csv.Error as problem:
        raise expected(name, "CSV", f"something else ({problem})") from None
    header = [_field(title) for title in rows[0]] if rows else []
    if len(set(REQUIRED) & set(header)) < SIGNS and not _is_called_so(name):
        return None
    missing = [title for field, title in REQUIRED.items() if field not in header]
    if missing:
        found = ", ".join(rows[0])[:200] if rows else "an empty file"
        columns = ", a column ".join(repr(title) for title in missing)
        raise MissingColumn(f"{name}: header: expected a column {columns}, found {found}")
    twice = [rows[0][i] for i, field in enumerate(header) if field and field in header[:i]]
    if twice:
        raise MissingColumn(f"{name}: header: expected every column once, found '{twice[0]}' again")
    return header, [(number, row) for number, row in enumerate(rows[1:], 1) if any(row)]


def _is_called_so(name: str) -> bool:
    return "case_description" in name.lower()


def _field(title: str) -> str:
    """The field that a column's title means, or nothing."""
    plain = re.sub(r"[^a-z0-9]", "", title.lower())
    return next((field for field, names in _NAMES.items() if plain in names), "")


def _parse(name: str, number: int, header: Sequence[str], row: Sequence[str]) -> Abnormality | LeftOut:
    """A row's abnormality. What a row does not say itself, its paths or the file's name tell."""
    if len(row) < len(header) or any(row[len(header) :]):
        return LeftOut(name, number, "", "bad value", f"expected {len(header)} values, found {len(row)}")
    values = dict(zip(header, row, strict=False))
    told = SUBJECT.match(values.get("source_file", ""))
    lower = Path(name).name.lower()
    guessed = {word: word in lower for word in ("mass", "calc", "train", "test")}
    kind = values.get("kind", "").lower() or (told[1].lower() if told else "")
    if not kind and guessed["mass"] != guessed["calc"]:
        kind = "mass" if guessed["mass"] else "calc"
    kind = {"calc": "calcification"}.get(kind, kind)
    split = {"Training": "train", "Test": "test"}[told[2]] if told else ""
    if not split and guessed["train"] != guessed["test"]:
        split = "train" if guessed["train"] else "test"
    wanted = {
        "patient_id": (
            "a patient such as P_00001",
            values["patient"],
            re.fullmatch(r"P_[0-9]{1,9}", values["patient"]),
        ),
        "left or right breast": ("LEFT or RIGHT", values["side"], values["side"].upper() in ("LEFT", "RIGHT")),
        "image view": ("CC or MLO", values["view"], values["view"].upper() in ("CC", "MLO")),
        "abnormality id": (
            "a whole number",
            values["number"],
            _NUMBER.fullmatch(values["number"]),
        ),
        "pathology": (
            f"{', '.join(PATHOLOGIES)}",
            values["pathology"],
            values["pathology"].upper().replace(" ", "_") in PATHOLOGIES,
        ),
        "abnormality type": ("mass or calcification, here or in the file's name", kind, kind in KINDS),
        "split": ("train or test in the file's name or in 'image file path'", split, split in SPLITS),
    }
    wrong = [str(expected(field, wish, f"'{found}'")) for field, (wish, found, good) in wanted.items() if not good]
    if wrong:
        return LeftOut(name, number, "", "bad value", "; ".join(wrong))
    taken = {field: values.get(field, "") for field in list(_NAMES)[6:]}
    return Abnormality(
        split=split,
        kind=kind,
        patient=values["patient"],
        side=values["side"].upper(),
        view=values["view"].upper(),
        number=int(float(values["number"])),
        pathology=values["pathology"].upper().replace(" ", "_"),
        file=name,
        row=number,
        **taken,
    )


def _without_repeated(rows: Sequence[Abnormality]) -> tuple[tuple[Abnormality, ...], list[LeftOut]]:
    by_subject: dict[str, list[Abnormality]] = {}
    for one in rows:
        by_subject.setdefault(one.subject, []).append(one)
    kept, left_out = [], []
    for same in by_subject.values():
        first = same[0]
        if len({replace(one, file="", row=0) for one in same}) == 1:
            kept.append(first)
            detail = f"the same as row {first.row} of {first.file}"
            left_out += [LeftOut.of(one, "duplicate row", detail) for one in same[1:]]
            continue
        places = ", ".join(f"row {one.row} of {one.file}" for one in same)
        left_out += [
            LeftOut.of(one, "contradictory rows", f"one abnormality, told differently: {places}") for one in same
        ]
    kept.sort(key=lambda one: (one.patient, one.side, one.view, one.kind, one.split, one.number))
    return tuple(kept), left_out
