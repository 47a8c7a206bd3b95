"""Find the DICOM files below a folder and match them with the rows of the case descriptions by their headers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mammo_mlflow.data.cbis_ddsm.descriptions import SUBJECT, UNREADABLE, Abnormality, LeftOut
from mammo_mlflow.data.cbis_ddsm.dicom import DicomHeader, read_dicom_header
from mammo_mlflow.data.cbis_ddsm.walking import walk
from mammo_mlflow.errors import UserError, expected

DICOM_SUFFIXES = (".dcm", ".dicom")
"""Suffixes of DICOM files. A file of another name is one by its first bytes, unless it has one of `OTHER_SUFFIXES`."""
OTHER_SUFFIXES = {".csv", ".gz", ".html", ".jpeg", ".jpg", ".json", ".md", ".npy", ".npz", ".pdf", ".png", ".py"}
OTHER_SUFFIXES |= {".tcia", ".tif", ".tiff", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".zip"}
PICTURE_SUFFIXES = {".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
"""Suffixes of the pictures that mirrors of the collection convert films to, and their formats."""
_MAGIC = b"DICM"  # at byte 128
DOI = "doi 10.7937/K9/TCIA.2016.7O02S9CY"

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done and how much there is."""


@dataclass(frozen=True)
class AbnormalityImages:
    """The files of an abnormality's mask and crop, which share its PatientID, `subject`.

    `fitting` have the size of its film: one is its mask. `others` have not: its crop, or a mask of another size.
    """

    subject: str
    fitting: tuple[DicomHeader, ...]
    others: tuple[DicomHeader, ...]


@dataclass(frozen=True, kw_only=True)
class Film:
    """A film with the abnormalities that are to be cut from it.

    `rois` has the mask and crop files of each of `abnormalities`; `beside` those of other abnormalities on that film,
    which no baseline may touch. `unmarked` are the PatientIDs of abnormalities without an image of the film's size:
    unless their boxes are found otherwise, a baseline may lie on them.
    """

    header: DicomHeader
    abnormalities: tuple[Abnormality, ...]
    rois: tuple[AbnormalityImages, ...]
    beside: tuple[AbnormalityImages, ...]
    unmarked: tuple[str, ...] = ()


def find_dicom(folder: Path) -> tuple[list[str], list[LeftOut]]:
    """List the files below `folder` that may be DICOM, as sorted relative paths, and those that cannot be read.

    Raises `UserError` where there is none.
    """
    found, closed = [], []
    for path, problem in walk(folder):
        name = path.relative_to(folder).as_posix()
        try:
            if problem is not None:
                raise problem
            suffix = path.suffix.lower()
            if suffix in DICOM_SUFFIXES or (suffix not in OTHER_SUFFIXES and _has_magic(path)):
                found.append(name)
        except OSError as error:
            closed.append(LeftOut(file=name, reason=UNREADABLE, detail=f"cannot be read: {error.strerror}"))
    if not found:
        raise _no_dicom_error(folder)
    return sorted(found), closed


def _no_dicom_error(folder: Path) -> UserError:
    """The error for a folder without DICOM; where there are a mirror's pictures, it says why they are not read."""
    wanted = f"DICOM files (*.dcm) below '{folder}'"
    suffixes = (path.suffix.lower() for path, problem in walk(folder) if problem is None)
    pictures = Counter(PICTURE_SUFFIXES[suffix] for suffix in suffixes if suffix in PICTURE_SUFFIXES)
    if not pictures:
        return expected("source", wanted, "none")
    ((kind, count),) = pictures.most_common(1)
    lost = "8 bits a pixel, lossy" if kind == "JPEG" else "films converted"
    found = f"{count} {kind} files ({lost}), as mirrors have them, which are not read"
    return expected("source", f"{wanted}, films of 16 bits as The Cancer Imaging Archive has them ({DOI})", found)


def read_headers(folder: Path, names: Sequence[str], progress: Progress) -> tuple[list[DicomHeader], list[LeftOut]]:
    """Read the DICOM headers of `names` below `folder`; the files whose header cannot be read are left out."""
    headers, broken = [], []
    for done, name in enumerate(names, 1):
        try:
            headers.append(read_dicom_header(folder / name, name))
        except UserError as problem:
            broken.append(LeftOut(file=name, reason=UNREADABLE, detail=str(problem).removeprefix(f"{name}: ")))
        progress("reading headers", done, len(names))
    return headers, broken


def match_films(
    abnormalities: Iterable[Abnormality],
    headers: Iterable[DicomHeader],
    unwanted: Collection[str],
    sha256: Callable[[DicomHeader], str],
) -> tuple[list[Film], list[LeftOut]]:
    """Match rows with films, masks and crops by PatientID: films in the order of rows, and the rows and files left out.

    Abnormalities whose PatientIDs are `unwanted` are not cut, but no baseline may lie on them. `sha256` hashes the file
    of a header; it is called for files that claim to be the same image.
    """
    films, rois = defaultdict[str, list[DicomHeader]](list), defaultdict[str, list[DicomHeader]](list)
    left_out = []
    for header in headers:
        matched = SUBJECT.fullmatch(header.subject)
        if matched is None:
            left_out.append(_unmatched_file(header, "its PatientID is none of CBIS-DDSM's"))
        elif header.full:
            films[header.subject.removesuffix(f"_{matched[6]}")].append(header)
        elif matched[6] is None:
            left_out.append(_unmatched_file(header, "a crop or a mask whose PatientID names no abnormality"))
        else:
            rois[header.subject].append(header)
    by_film, subjects = defaultdict[str, list[Abnormality]](list), set()
    for one in abnormalities:
        by_film[one.film_subject].append(one)
        subjects.add(one.subject)
    for found, known in ((films, by_film.keys()), (rois, subjects)):
        for subject, of_subject in found.items():
            found[subject] = _distinct_images(of_subject, sha256)
            if subject not in known:
                left_out += [_unmatched_file(one, f"no row that counts describes {subject}") for one in found[subject]]
    matched_films = []
    for subject, of_film in by_film.items():
        ones = [one for one in of_film if one.subject not in unwanted]
        match films.get(subject, []):
            case [header]:
                film, missing = _build_film(header, of_film, ones, rois)
                left_out += missing
                matched_films += [film] if film.abnormalities else []
            case []:
                left_out += [LeftOut.of(one, "no film", f"no full mammogram with PatientID {subject}") for one in ones]
            case several:
                names = ", ".join(header.file for header in several)
                said = f"{len(several)} different full mammograms of {subject}: {names}"
                left_out += [LeftOut.of(one, "ambiguous film", said) for one in ones]
    return matched_films, left_out


def _build_film(
    header: DicomHeader,
    of_film: Sequence[Abnormality],
    wanted: Sequence[Abnormality],
    rois: Mapping[str, list[DicomHeader]],
) -> tuple[Film, list[LeftOut]]:
    """Build a film with its wanted abnormalities; those without any mask or crop file are left out."""
    own = [one.subject for one in of_film]
    marked = {}
    for subject, found in rois.items():
        # a breast and view may be described as mass and calcification, of two scans that differ in size
        if _patient_breast_view(subject) == _patient_breast_view(of_film[0].subject):
            fitting = tuple(one for one in found if one.shape == header.shape)
            others = tuple(one for one in found if one.shape != header.shape)
            if fitting or subject in own:
                marked[subject] = AbnormalityImages(subject, fitting, others)
    kept = {one.subject: one for one in wanted if one.subject in marked}
    missing = [
        LeftOut.of(one, "no mask", f"no crop or mask with PatientID {one.subject}")
        for one in wanted
        if one.subject not in marked
    ]
    film = Film(
        header=header,
        abnormalities=tuple(kept.values()),
        rois=tuple(marked[subject] for subject in kept),
        beside=tuple(marked[subject] for subject in sorted(marked) if subject not in kept),
        unmarked=tuple(subject for subject in own if subject not in marked or not marked[subject].fitting),
    )
    return film, missing


def _unmatched_file(header: DicomHeader, detail: str) -> LeftOut:
    """The left-out entry of a file that belongs to no row."""
    return LeftOut(file=header.file, reason="file without a row", detail=detail)


def _patient_breast_view(subject: str) -> str:
    """The part of a PatientID that all scans of one film share: patient, breast and view (CC or MLO)."""
    matched = SUBJECT.fullmatch(subject)
    return "" if matched is None else "_".join(matched.group(3, 4, 5))


def _distinct_images(headers: Sequence[DicomHeader], sha256: Callable[[DicomHeader], str]) -> list[DicomHeader]:
    """Drop copies: of files with one SOPInstanceUID keep the largest, and those of its size that differ from it."""
    best: dict[str, DicomHeader] = {}
    for header in sorted(headers, key=lambda one: (-one.size, one.file)):
        key = header.uid or header.file
        first = best.setdefault(key, header)
        if first is not header and first.size == header.size and sha256(first) != sha256(header):
            best[f"{key} {header.file}"] = header
    return sorted(best.values(), key=lambda one: (one.uid, one.file))


def _has_magic(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    with path.open("rb") as file:
        return file.read(132)[128:] == _MAGIC
