"""Which files belong to which row: every DICOM below a folder, matched by what its own header says it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mammo_mlflow.data.cbis_ddsm.descriptions import SUBJECT, Abnormality, LeftOut
from mammo_mlflow.data.cbis_ddsm.dicom import Header, read_header
from mammo_mlflow.errors import UserError

SUFFIXES = (".dcm", ".dicom", "")
"""What DICOM files are called; files of other names are not looked at."""
_MAGIC = b"DICM"

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


@dataclass(frozen=True)
class Film:
    """A film and all that is cut from it.

    `rois` has, for each of `abnormalities`, the headers of the images of the film's size under its PatientID, one of
    which is its mask; `beside` those of whatever else is marked on that film, which no baseline may touch.
    """

    header: Header
    abnormalities: tuple[Abnormality, ...]
    rois: tuple[tuple[Header, ...], ...]
    beside: tuple[Header, ...]


def find_dicom(folder: Path) -> list[str]:
    """The names, below `folder`, of the files that may be DICOM, in order."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for file in files:
            path = Path(place, file)
            suffix = path.suffix.lower()
            if suffix in SUFFIXES and not file.startswith(".") and path.is_file() and (suffix or _has_magic(path)):
                found.append(path.relative_to(folder).as_posix())
    return sorted(found)


def read_headers(folder: Path, names: Sequence[str], progress: Progress) -> tuple[list[Header], list[LeftOut]]:
    """The headers of files below `folder`, and an entry for each that has none."""
    headers, broken = [], []
    for done, name in enumerate(names, 1):
        try:
            headers.append(read_header(folder / name, name))
        except UserError as problem:
            broken.append(LeftOut(name, None, "", "unreadable file", str(problem).removeprefix(f"{name}: ")))
        progress(done, len(names))
    return headers, broken


def match(
    abnormalities: Iterable[Abnormality], headers: Iterable[Header], wanted: Callable[[Abnormality], bool]
) -> tuple[list[Film], list[LeftOut]]:
    """The films of the `wanted` abnormalities, in the order of rows, and each row or file that lacks the other.

    An abnormality that is not wanted still keeps baselines away from it.
    """
    films: dict[str, list[Header]] = {}
    rois: dict[str, list[Header]] = {}
    left_out = []
    for header in headers:
        matched = SUBJECT.fullmatch(header.subject)
        if matched is None:
            left_out.append(_unused(header, "its PatientID is none of CBIS-DDSM's"))
        elif header.full:
            films.setdefault(header.subject.removesuffix(f"_{matched[6]}"), []).append(header)
        elif matched[6] is None:
            left_out.append(_unused(header, "a crop or a mask whose PatientID names no abnormality"))
        else:
            rois.setdefault(header.subject, []).append(header)
    rows = list(abnormalities)
    left_out += _without_a_row(films, {one.film for one in rows})
    left_out += _without_a_row(rois, {one.subject for one in rows})
    on_film: dict[str, list[Header]] = {}  # the same breast and view may be described as a mass and as a calcification
    for subject, found in rois.items():
        on_film.setdefault(_scene(subject), []).extend(found)
    by_film: dict[str, list[Abnormality]] = {}
    for one in rows:
        if wanted(one):
            by_film.setdefault(one.film, []).append(one)
    matched_films = []
    for subject, ones in by_film.items():
        candidates = _distinct(films.get(subject, []))
        if len(candidates) != 1:
            reason = ("no film", f"no full mammogram with PatientID {subject}")
            if candidates:
                names = ", ".join(header.file for header in candidates)
                reason = ("ambiguous film", f"{len(candidates)} different full mammograms of {subject}: {names}")
            left_out += [LeftOut.of(one, *reason) for one in ones]
            continue
        (film,) = candidates
        kept, of_size = [], []
        for one in ones:
            own = _distinct(rois.get(one.subject, []))
            fitting = tuple(header for header in own if header.shape == film.shape)
            if fitting:
                kept.append(one)
                of_size.append(fitting)
            elif not own:
                left_out.append(LeftOut.of(one, "no mask", f"no crop or mask with PatientID {one.subject}"))
            else:
                sizes = ", ".join(sorted(f"{header.rows}×{header.columns}" for header in own))
                detail = f"film of {film.rows}×{film.columns} pixels, its crop or mask of {sizes}"
                left_out.append(LeftOut.of(one, "no mask of the film's size", detail))
        others = [header for header in _distinct(on_film.get(_scene(subject), [])) if header.shape == film.shape]
        beside = [header for header in others if not any(header in own for own in of_size)]
        if kept:
            matched_films.append(Film(film, tuple(kept), tuple(of_size), tuple(beside)))
    return matched_films, left_out


def _without_a_row(found: dict[str, list[Header]], known: set[str]) -> list[LeftOut]:
    return [
        _unused(header, f"no row of the case descriptions is {subject}")
        for subject, headers in found.items()
        if subject not in known
        for header in headers
    ]


def _unused(header: Header, detail: str) -> LeftOut:
    return LeftOut(header.file, None, "", "file without a row", detail)


def _scene(subject: str) -> str:
    """Patient, breast and view: what is the same on every copy of a film."""
    matched = SUBJECT.fullmatch(subject)
    return "" if matched is None else "_".join(matched.group(3, 4, 5))


def _distinct(headers: Iterable[Header]) -> list[Header]:
    """Each image once: of copies under one SOPInstanceUID the largest file, then the first name."""
    best: dict[str, Header] = {}
    for header in sorted(headers, key=lambda one: (-one.size, one.file)):
        best.setdefault(header.uid or header.file, header)
    return sorted(best.values(), key=lambda one: (one.uid, one.file))


def _has_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == _MAGIC
