"""Read DICOM files; the only module that imports pydicom.

Of a header it returns sizes, formats and the collection's own identifiers alone. Messages never repeat a header's text,
nor pydicom's messages, which quote it: a header can name a person.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from mammo_mlflow.data.cbis_ddsm.descriptions import SUBJECT
from mammo_mlflow.errors import FULL_DISK, UserError, expected, how_to_install
from mammo_mlflow.processes import silent_stderr

SYNTHETIC = "mammo_mlflow synthetic"
"""The Manufacturer in films that a program drew; patches cut from them are phantom data."""
RUST_PANIC = "PanicException"
"""The class name of what a decoder in Rust raises on damaged data; it is no `Exception` and cannot be imported."""
_TAGS = ["PatientID", "SeriesDescription", "SOPInstanceUID", "Rows", "Columns", "Manufacturer"]


class NoMask(UserError):  # noqa: N818 - names what was found
    """Raised for an image that can be read, but is not a mask."""


logging.getLogger("pydicom").addHandler(logging.NullHandler())
logging.getLogger("pydicom").propagate = False


@dataclass(frozen=True, kw_only=True)
class DicomHeader:
    """The part of a DICOM header that matching and hashing need.

    `file` is the path below the source folder; `subject` its PatientID if that is one of the collection's, else "";
    `full` is true of films, false of crops and masks; `rows` and `columns` are in pixels, `size` in bytes, `modified`
    in nanoseconds since 1970; `synthetic` is true of films that a program drew.
    """

    file: str
    subject: str
    full: bool
    uid: str
    rows: int
    columns: int
    size: int
    modified: int
    synthetic: bool

    @property
    def shape(self) -> tuple[int, int]:
        """The image's height and width in pixels."""
        return self.rows, self.columns


def read_dicom_header(path: Path, name: str) -> DicomHeader:
    """Read the header of a DICOM file without its pixels. Raises `UserError`, whose message begins with `name`."""
    with _errors_in_one_line(name):
        status = path.stat()
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        subject = str(found.get("PatientID", "")).strip()
        return DicomHeader(
            file=name,
            subject=subject if SUBJECT.fullmatch(subject) else "",
            full=_is_full(str(found.get("SeriesDescription", "")).lower(), subject),
            uid=str(found.get("SOPInstanceUID", "")),
            rows=int(found.get("Rows", 0) or 0),
            columns=int(found.get("Columns", 0) or 0),
            size=status.st_size,
            modified=status.st_mtime_ns,
            synthetic=str(found.get("Manufacturer", "")) == SYNTHETIC,
        )


def _is_full(description: str, subject: str) -> bool:
    """Whether an image is a whole film, by its SeriesDescription, or where that does not tell, by its PatientID."""
    if "full" in description:
        return True
    if any(word in description for word in ("mask", "crop", "roi")):
        return False
    matched = SUBJECT.fullmatch(subject)
    return matched is not None and matched[6] is None


def read_film(path: Path, name: str) -> np.ndarray:
    """Read the pixels of a film: uint16 (rows, columns), bright where tissue is dense.

    Raises `UserError`, whose message begins with `name`, for an unreadable file or another format.
    """
    pixels, found = _read_pixels(path, name)
    stored = int(found.get("BitsStored", 0) or 0)
    if pixels.dtype != np.uint16 or stored != 16:
        raise expected(name, "a film of 16 bits a pixel", f"{stored} bits, {pixels.dtype}")
    if found.get("PhotometricInterpretation") != "MONOCHROME2":
        raise expected(name, "a film in MONOCHROME2, dense tissue bright", "another photometric interpretation")
    return pixels


def read_grey(path: Path, name: str) -> np.ndarray:
    """Read the pixels of any grey image (rows, columns) in their stored dtype. Raises `UserError`."""
    return _read_pixels(path, name)[0]


def as_mask(pixels: np.ndarray, name: str) -> np.ndarray:
    """Convert an image of two grey values to a mask: bool (rows, columns), true at the higher value.

    Raises `NoMask` for an image of more values, such as a crop, and for one of a single value, an empty mask.
    """
    low, high = pixels.min(), pixels.max()
    inside = pixels == high
    if low == high:
        raise NoMask(f"{name}: expected a mask with something marked, found an empty one")
    if not (inside | (pixels == low)).all():
        raise NoMask(f"{name}: expected a mask of two values, found an image of more")
    return inside


def _read_pixels(path: Path, name: str) -> tuple[np.ndarray, pydicom.Dataset]:
    """Read a single grey image: its pixels (rows, columns) and its data set. Raises `UserError`."""
    with _errors_in_one_line(name):
        found = pydicom.dcmread(path)
        if "PixelData" not in found:
            raise expected(name, "an image", "a DICOM file without pixels")
        if int(found.get("NumberOfFrames", 1) or 1) != 1 or int(found.get("SamplesPerPixel", 1) or 1) != 1:
            raise expected(name, "one grey image", "several frames, or colours")
        _check_decoder(found.file_meta.get("TransferSyntaxUID"), name)
        with silent_stderr():  # a decoder in Rust that fails writes many lines there
            pixels = found.pixel_array
    if pixels.ndim != 2:
        raise expected(name, "one grey image", f"pixels of shape {pixels.shape}")
    return pixels, found


def _check_decoder(syntax: UID | None, name: str) -> None:
    """Raise `UserError` where no decoder of a transfer syntax is installed."""
    if syntax is None or not syntax.is_compressed or syntax.is_deflated:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise expected(name, "a transfer syntax of DICOM", "an unknown one") from None
    if not decoder.is_available:
        how = how_to_install("mammo-mlflow[dicom]")
        raise expected(name, f"a decoder of {syntax.name} (pylibjpeg's: {how})", "none installed")


@contextmanager
def _errors_in_one_line(name: str) -> Iterator[None]:
    """Turn whatever pydicom raises for a broken file into a `UserError` of one line that quotes nothing of the file."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except UserError:
        raise
    except MemoryError:
        raise expected(name, "an image that the memory holds", "a larger one; fewer workers need less") from None
    except InvalidDicomError:
        raise expected(name, "a DICOM file", "something else") from None
    except OSError as problem:
        if problem.errno in FULL_DISK:
            raise
        if problem.errno is None:
            raise expected(name, "a whole DICOM file", "a damaged or truncated one") from None
        raise UserError(f"{name}: cannot be read: {problem.strerror}") from None
    except BaseException as problem:  # pydicom's errors for damaged files have no common class
        if not isinstance(problem, Exception) and type(problem).__name__ != RUST_PANIC:
            raise
        found = f"a damaged or truncated one ({type(problem).__name__})"
        raise expected(name, "a whole DICOM file", found) from None
