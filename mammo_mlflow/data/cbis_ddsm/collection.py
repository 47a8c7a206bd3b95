"""Which files belong to which row: every DICOM below a folder, matched by what its own header says it is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mammo_mlflow.data.cbis_ddsm.descriptions import SUBJECT, UNREADABLE, Abnormality, LeftOut
from mammo_mlflow.data.cbis_ddsm.dicom import DicomHeader, read_header
from mammo_mlflow.data.cbis_ddsm.walking import walk
from mammo_mlflow.errors import UserError, expected

SUFFIXES = (".dcm", ".dicom")
"""What DICOM files are called. Files of other names are looked into, but for those of `OTHERS`."""
OTHERS = {".csv", ".gz", ".html", ".jpeg", ".jpg", ".json", ".md", ".npy", ".npz", ".pdf", ".png", ".py", ".tcia"}
OTHERS |= {".tif", ".tiff", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".zip"}
PICTURES = {".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
"""What mirrors make of the films."""
_MAGIC = b"DICM"
DOI = "doi 10.7937/K9/TCIA.2016.7O02S9CY"

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


@dataclass(frozen=True)
class Marked:
    """The images under an abnormality's PatientID: those of its film's size, one of which is its mask, and others.

    The others are its crop, or a mask of another size.
    """

    subject: str
    fitting: tuple[DicomHeader, ...]
    others: tuple[DicomHeader, ...]


@dataclass(frozen=True, kw_only=True)
class Film:
    """A film and all that is cut from it.

    `rois` has the images of each of `abnormalities`. `beside` has the same for whatever else is marked on that film,
    which no baseline may touch; `unmarked` names the abnormalities of it that have no image of its size: unless they
    are found by others, a baseline may lie on them.
    """

    header: DicomHeader
    abnormalities: tuple[Abnormality, ...]
    rois: tuple[Marked, ...]
    beside: tuple[Marked, ...]
    unmarked: tuple[str, ...] = ()


def find_dicom(folder: Path) -> tuple[list[str], list[LeftOut]]:
    """The names, below `folder`, of the files that may be DICOM, in order, and what could not be looked into.

    Raises `UserError` where there is none.
    """
    found, closed = [], []
    for path, problem in walk(folder):
        name = path.relative_to(folder).as_posix()
        try:
            if problem is not None:
                raise problem
            suffix = path.suffix.lower()
            if suffix in SUFFIXES or (suffix not in OTHERS and _has_magic(path)):
                found.append(name)
        except OSError as error:
            closed.append(LeftOut(file=name, reason=UNREADABLE, detail=f"cannot be read: {error.strerror}"))
    if not found:
        raise _no_dicom(folder)
    return sorted(found), closed


def _no_dicom(folder: Path) -> UserError:
    """The error for a folder that holds no DICOM; where it is a mirror of pictures it says what they lack."""
    wanted = f"DICOM files (*.dcm) below '{folder}'"
    suffixes = (path.suffix.lower() for path, problem in walk(folder) if problem is None)
    pictures = Counter(PICTURES[suffix] for suffix in suffixes if suffix in PICTURES)
    if not pictures:
        return expected("source", wanted, "none")
    ((kind, count),) = pictures.most_common(1)
    lost = "8 bits a pixel, lossy" if kind == "JPEG" else "films converted"
    found = f"{count} {kind} files ({lost}), as mirrors have them, which are not read"
    return expected("source", f"{wanted}, films of 16 bits as The Cancer Imaging Archive has them ({DOI})", found)


def read_headers(folder: Path, names: Sequence[str], progress: Progress) -> tuple[list[DicomHeader], list[LeftOut]]:
    """The headers of files below `folder`, and an entry for each that has none."""
    headers, broken = [], []
    for done, name in enumerate(names, 1):
        try:
            headers.append(read_header(folder / name, name))
        except UserError as problem:
            broken.append(LeftOut(file=name, reason=UNREADABLE, detail=str(problem).removeprefix(f"{name}: ")))
        progress(done, len(names))
    return headers, broken


def match(
    abnormalities: Iterable[Abnormality],
    headers: Iterable[DicomHeader],
    unwanted: Collection[str],
    sha256: Callable[[DicomHeader], str],
) -> tuple[list[Film], list[LeftOut]]:
    """The films of all abnormalities but the `unwanted`, in the order of rows; each row or file that lacks the other.

    An abnormality whose subject is `unwanted` still keeps baselines away from it. `sha256` is asked of files that say
    they are one image.
    """
    films, rois = defaultdict[str, list[DicomHeader]](list), defaultdict[str, list[DicomHeader]](list)
    left_out = []
    for header in headers:
        matched = SUBJECT.fullmatch(header.subject)
        if matched is None:
            left_out.append(_unused(header, "its PatientID is none of CBIS-DDSM's"))
        elif header.full:
            films[header.subject.removesuffix(f"_{matched[6]}")].append(header)
        elif matched[6] is None:
            left_out.append(_unused(header, "a crop or a mask whose PatientID names no abnormality"))
        else:
            rois[header.subject].append(header)
    by_film, subjects = defaultdict[str, list[Abnormality]](list), set()
    for one in abnormalities:
        by_film[one.film].append(one)
        subjects.add(one.subject)
    for found, known in ((films, by_film.keys()), (rois, subjects)):
        for subject, of_subject in found.items():
            found[subject] = _distinct(of_subject, sha256)
            if subject not in known:
                left_out += [_unused(one, f"no row that counts describes {subject}") for one in found[subject]]
    matched_films = []
    for subject, of_film in by_film.items():
        ones = [one for one in of_film if one.subject not in unwanted]
        match films.get(subject, []):
            case [header]:
                film, missing = _film(header, of_film, ones, rois)
                left_out += missing
                matched_films += [film] if film.abnormalities else []
            case []:
                left_out += [LeftOut.of(one, "no film", f"no full mammogram with PatientID {subject}") for one in ones]
            case several:
                names = ", ".join(header.file for header in several)
                said = f"{len(several)} different full mammograms of {subject}: {names}"
                left_out += [LeftOut.of(one, "ambiguous film", said) for one in ones]
    return matched_films, left_out


def _film(
    header: DicomHeader,
    of_film: Sequence[Abnormality],
    wanted: Sequence[Abnormality],
    rois: Mapping[str, list[DicomHeader]],
) -> tuple[Film, list[LeftOut]]:
    """A film with its wanted rows, and those of them that have no image at all."""
    own = [one.subject for one in of_film]
    marked = {}
    for subject, found in rois.items():
        # a breast and view may be described as mass and calcification, of two scans that differ in size
        if _scene(subject) == _scene(of_film[0].subject):
            fitting = tuple(one for one in found if one.shape == header.shape)
            others = tuple(one for one in found if one.shape != header.shape)
            if fitting or subject in own:
                marked[subject] = Marked(subject, fitting, others)
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


def _unused(header: DicomHeader, detail: str) -> LeftOut:
    return LeftOut(file=header.file, reason="file without a row", detail=detail)


def _scene(subject: str) -> str:
    """Patient, breast and view: what is the same on every copy of a film."""
    matched = SUBJECT.fullmatch(subject)
    return "" if matched is None else "_".join(matched.group(3, 4, 5))


def _distinct(headers: Sequence[DicomHeader], sha256: Callable[[DicomHeader], str]) -> list[DicomHeader]:
    """Each image once: of copies under one SOPInstanceUID the largest file; of one size only where they are equal."""
    best: dict[str, DicomHeader] = {}
    for header in sorted(headers, key=lambda one: (-one.size, one.file)):
        key = header.uid or header.file
        first = best.setdefault(key, header)
        if first is not header and first.size == header.size and sha256(first) != sha256(header):
            best[f"{key} {header.file}"] = header
    return sorted(best.values(), key=lambda one: (one.uid, one.file))


def _has_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == _MAGIC
