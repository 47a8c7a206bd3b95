"""Read, check and write the files of a data directory: tensors, labels and groups."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from mammo_mlflow.errors import Faults, UserError, expected

BLOCK_ROWS = 64
"""Rows of a tensor that are read at a time."""
MOST_ROWS, MOST_CSV_BYTES = 2_000_000, 20_000_000
"""The most rows of an array, and bytes of a CSV, that are read; more is taken for a mistake."""
HEADER_BYTES = 16_384  # NumPy reads none that is longer than 10,000


@dataclass(frozen=True)
class ArrayHeader:
    """The header of a `.npy` file: shape, dtype, and the offset in bytes at which the data begins."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


@dataclass(frozen=True, eq=False)
class Scan:
    """Hashes and constant rows of a tensor file.

    `sha256` is of the whole file, `digests` has 16 bytes of the sha256 of each odd (abnormality) row, `constant` lists
    the rows whose pixels are all equal.
    """

    sha256: str
    digests: list[bytes]
    constant: list[int]


def read_array_header(path: Path) -> ArrayHeader:
    """Read the header of a `.npy` file and check by the file's length that all data are there, without reading them.

    Raises:
        UserError: the file is missing, empty, unreadable, no `.npy` file, holds Python objects, is in Fortran order, or
            its length is not what the header promises.
    """
    name = path.name
    try:
        if not path.is_file():
            raise expected(name, "a file", "none" if not path.exists() else "something else")
        found = path.stat().st_size
        if found == 0:
            raise expected(name, "a .npy array", "an empty file (0 bytes)")
        with path.open("rb") as file:
            head = io.BytesIO(file.read(HEADER_BYTES))
        shape, fortran, dtype = _parse_header(head, name)
        offset = head.tell()
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None
    if dtype.hasobject:
        raise expected(name, "an array of numbers", "an array of Python objects, which is never loaded")
    if fortran and len(shape) > 1:
        raise expected(name, "C order", "Fortran order (save np.ascontiguousarray of it)")
    if min(shape, default=0) < 0:
        raise expected(f"{name}: shape", "whole numbers from 0", shape)
    promised = offset + math.prod(shape) * dtype.itemsize
    if found != promised:
        kind = "truncated" if found < promised else "too long"
        raise expected(name, f"{promised} bytes for shape {shape}", f"{found}: the file is {kind}")
    return ArrayHeader(shape, dtype, offset)


def _parse_header(head: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Parse a `.npy` header with NumPy: shape, whether it is in Fortran order, dtype. Raises `UserError`.

    NumPy gives the header's text to Python's parser and then to `dtype`, which raise a dozen kinds of errors for a
    damaged one (TokenError, IndentationError, RecursionError, MemoryError, IndexError, TypeError …); none of its text
    is executed. So every kind is caught, around these two calls alone.
    """
    with warnings.catch_warnings(action="ignore"):  # Python's parser warns of odd literals
        try:
            major, minor = np.lib.format.read_magic(head)
            return getattr(np.lib.format, f"read_array_header_{major}_{minor}")(head)
        except Exception:
            raise expected(name, "a .npy array", "something else or a damaged header") from None


def check_tensor(path: Path, size: int, any_number: bool = False) -> ArrayHeader:
    """Read a tensor file's header and check that it holds little-endian uint16 patches (2n, size, size), n > 0.

    With `any_number` another integer or floating dtype is accepted; the caller has to check the values.

    Raises:
        UserError: as `read_array_header`, or the dtype, shape or number of rows is wrong (`Faults`).
    """
    name, header, problems = path.name, read_array_header(path), []
    if header.dtype != np.dtype("<u2") and not (any_number and header.dtype.kind in "iuf"):
        order = " in big-endian order" if header.dtype == np.dtype(">u2") else ""
        problems.append(expected(f"{name}: dtype", "uint16", f"{header.dtype.name}{order}"))
    if len(header.shape) != 3 or header.shape[1:] != (size, size):
        problems.append(expected(f"{name}: shape", f"(2n, {size}, {size})", header.shape))
    elif fault := _row_count_fault(name, header):
        problems.append(fault)
    if problems:
        raise Faults(map(str, problems))
    return header


def _row_count_fault(name: str, header: ArrayHeader) -> UserError | None:
    """The error for a number of rows that is 0, odd, which cannot be pairs, or too large; else None."""
    rows = header.shape[0]
    if not rows:
        return expected(f"{name}: rows", "at least 2", 0)
    if rows > MOST_ROWS:
        return expected(f"{name}: rows", f"at most {MOST_ROWS:,}", rows)
    return expected(f"{name}: rows", "an even number (baseline, abnormality)", f"{rows}, odd") if rows % 2 else None


def read_types(path: Path) -> np.ndarray:
    """Read a label file (2n,) of 0, type, 0, type …: the types as int8 (n,), each 1 to 4.

    Raises:
        UserError: as `read_array_header`, or a label is not finite, whole and from 0 to 4, or baseline and abnormality
            do not alternate; the first bad row is named.
    """
    name, header = path.name, read_array_header(path)
    if header.dtype.kind not in "iuf":
        raise expected(f"{name}: dtype", "an integer or float type", header.dtype.name)
    if len(header.shape) != 1:
        raise expected(f"{name}: shape", "(2n,)", header.shape)
    if fault := _row_count_fault(name, header):
        raise fault
    labels = np.load(path, allow_pickle=False)
    baseline = np.arange(len(labels)) % 2 == 0
    for wanted, good in (
        ("a finite label", np.isfinite(labels)),
        ("a whole number", labels == np.floor(labels)),
        ("a label from 0 to 4", (labels >= 0) & (labels <= 4)),
        ("0 (a baseline) in every even row", (labels == 0) | ~baseline),
        ("1 to 4 (an abnormality) in every odd row", (labels != 0) | baseline),
    ):
        if not good.all():
            row = int(np.argmin(good))
            raise expected(f"{name}: row {row}", wanted, f"{labels[row]} ({int((~good).sum())} such rows)")
    return labels[1::2].astype(np.int8)


def read_groups(path: Path) -> pd.DataFrame:
    """Read a groups file: UTF-8 CSV with a header and a `patient_id` column; every value stays a string.

    Raises:
        UserError: the file is empty, not UTF-8, not CSV, has a row of another width, a column twice, no `patient_id`
            column or an empty patient_id; the first bad row is named (0 is the row after the header).
    """
    name = path.name
    if not path.is_file():  # a pipe would be waited for
        raise expected(name, "a file", "something else")
    rows = [row for row in read_csv(path, name)[0] if row]
    if not rows:
        raise expected(name, "a header and one row for each abnormality", "an empty file")
    header, body = rows[0], rows[1:]
    if len(set(header)) < len(header):
        raise expected(f"{name}: header", "every column once", ", ".join(header))
    if "patient_id" not in header:
        raise expected(f"{name}: header", "a column patient_id", ", ".join(header)[:200])
    for number, row in enumerate(body):
        if len(row) != len(header):
            raise expected(f"{name}: row {number}", f"{len(header)} values", len(row))
        if not row[header.index("patient_id")]:
            raise expected(f"{name}: row {number}: patient_id", "a patient", "nothing")
    return pd.DataFrame(body, columns=header, dtype=str)


def read_csv(path: Path, name: str, delimiters: str = ",") -> tuple[list[list[str]], str]:
    """Read a CSV in UTF-8: its rows of stripped values, and its delimiter.

    The delimiter is the most frequent of `delimiters` in the first line.

    Raises:
        UserError: the file is no CSV in UTF-8 or cannot be read; the message begins with `name`.
    """
    try:
        if (size := path.stat().st_size) > MOST_CSV_BYTES:
            raise expected(name, f"a file of at most {MOST_CSV_BYTES:,} bytes", f"{size:,}")
        text = path.read_bytes().decode("utf-8-sig")
        delimiter = max(delimiters, key=text.split("\n", 1)[0].count)  # the first of equals
        rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        return [[value.strip() for value in row] for row in rows], delimiter
    except UnicodeDecodeError:
        raise expected(name, "CSV in UTF-8", "bytes that are not UTF-8") from None
    except csv.Error as error:
        raise expected(name, "CSV", f"something else ({error})") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None


def scan_tensor(path: Path, header: ArrayHeader) -> Scan:
    """Hash a checked tensor file and each of its abnormality rows in one pass, a few MB at a time.

    Raises:
        UserError: the file became shorter meanwhile.
    """
    pixels = header.shape[1] * header.shape[2]
    patch = pixels * header.dtype.itemsize
    whole, digests, constant = hashlib.sha256(), list[bytes](), list[int]()
    with path.open("rb") as file:
        whole.update(file.read(header.offset))
        for start in range(0, header.shape[0], BLOCK_ROWS):
            wanted = patch * min(BLOCK_ROWS, header.shape[0] - start)
            raw = file.read(wanted)
            if len(raw) < wanted:
                raise UserError(f"{path.name}: became shorter while it was read")
            whole.update(raw)
            digests += [hashlib.sha256(raw[at : at + patch]).digest()[:16] for at in range(patch, len(raw), 2 * patch)]
            rows = np.frombuffer(raw, np.uint16).reshape(-1, pixels)
            maybe = np.flatnonzero(rows[:, 0] == rows[:, -1])
            constant += [start + int(row) for row in maybe if (rows[row] == rows[row, 0]).all()]
    return Scan(whole.hexdigest(), digests, constant)


def write_split(
    directory: Path, stem: str, size: int, types: Sequence[int], groups: pd.DataFrame, blocks: Iterable[np.ndarray]
) -> None:
    """Write the tensor, labels and groups files of a split of n abnormalities; the same values give the same bytes.

    `types` (n,) are 1 to 4, `groups` has n rows; `blocks` are uint16 (2k, size, size) in the same order, even rows
    baselines, and are written one at a time.
    """
    labels = np.zeros(2 * len(types), np.int64)
    labels[1::2] = types
    np.save(directory / f"{stem}_labels.npy", labels)
    groups.to_csv(directory / f"{stem}_groups.csv", index=False, lineterminator="\n")
    # a write raises on a full disk, where a page mapped from the file would end the process
    with (directory / f"{stem}_tensor.npy").open("wb") as file:
        header = {"descr": "<u2", "fortran_order": False, "shape": (len(labels), size, size)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(block.astype("<u2", copy=False).tobytes())
