"""Read and check a data directory: its training set, its test set and the sha256 of both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_mlflow.data.arrays import ArrayHeader, Scan, check_tensor, read_groups, read_types, scan_tensor
from mammo_mlflow.errors import Faults, UserError, expected, unknown_name
from mammo_mlflow.files import file_sha256, read_small, sha256

IMAGE_SIZE = 150
"""The side of the course's patches, in pixels."""
SPLITS = {"train": "train", "test": "public_test"}
"""Each split, and the first part of its files' names."""
TYPES = {1: "mass benign", 2: "mass malignant", 3: "calcification benign", 4: "calcification malignant"}
TASKS: dict[str, tuple[str, str]] = {
    "mass_calc": ("mass", "calcification"),
    "benign_malignant": ("benign", "malignant"),
}
"""The classes of each task: what targets 0 and 1 mean."""
LESION_COLUMNS = ("patient_id", "side", "abnormality_id")
"""The columns of a groups file that tell which abnormalities are views of one lesion."""
DUPLICATES = ("warn", "error")
PHANTOM_FILE, PREPARED_FILE = "phantom.json", "prepare.json"
"""The files that a phantom and an ingest of CBIS-DDSM write beside their arrays; both hold the patch size in pixels."""


def targets(types: np.ndarray | Sequence[int], task: str) -> np.ndarray:
    """The target (0 or 1) of each abnormality for a task: int8 (n,), from types (n,) of 1 to 4.

    Raises:
        UserError: the task is not in `TASKS`.
    """
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    kind = np.asarray(types) - 1
    return (kind // 2 if task == "mass_calc" else kind % 2).astype(np.int8)


def missing_classes(types: np.ndarray | Sequence[int], task: str) -> str:
    """Count a task's classes among types (n,), 1 to 4, in words if one is missing; "" where both are there.

    For example `120 mass and no calcification`. Raises `UserError` for an unknown task.
    """
    counts = np.bincount(targets(types, task), minlength=2)
    if counts.all():
        return ""
    return " and ".join(f"{count or 'no'} {name}" for count, name in zip(counts, TASKS[task], strict=True))


def check_classes(types: np.ndarray | Sequence[int], task: str, asked: str = "") -> None:
    """Check that training abnormalities of these types (n,), 1 to 4, have both classes of a task. Raises `UserError`.

    `asked` is the name that the message begins with, by default the task.
    """
    if found := missing_classes(types, task):
        both = " and ".join(TASKS[task])
        raise expected(asked or task, f"{both} abnormalities in train_labels.npy", f"{found} abnormalities")


@dataclass(frozen=True, eq=False)
class Split:
    """The patches of one split, train or test, of n abnormalities.

    `patches` is uint16 (2n, size, size), even rows baselines, odd rows abnormalities; it is mapped from its file and
    read-only: give another process the path, since pickling copies all pixels. `types` is int8 (n,), each 1 to 4 (see
    `TYPES`). `groups` has n rows of strings, or is None.
    """

    name: str
    patches: np.ndarray
    types: np.ndarray
    groups: pd.DataFrame | None

    def __len__(self) -> int:
        """The number of abnormalities, n."""
        return len(self.types)

    @property
    def abnormality(self) -> np.ndarray:
        """The abnormality patches: uint16 (n, size, size), not a copy."""
        return self.patches[1::2]

    @property
    def baseline(self) -> np.ndarray:
        """The baseline of each abnormality: uint16 (n, size, size), not a copy."""
        return self.patches[0::2]

    @property
    def patient_ids(self) -> np.ndarray | None:
        """The patient of each abnormality, str (n,), or None where patients are unknown."""
        return None if self.groups is None else self.groups["patient_id"].to_numpy(dtype=str)

    @property
    def lesions(self) -> np.ndarray | None:
        """The lesion of each abnormality, str (n,): patient, side, abnormality_id, and whether mass or calcification.

        None where one of `LESION_COLUMNS` is not known. An abnormality whose side or number is empty is one of its own.
        """
        if self.groups is None or not set(LESION_COLUMNS) <= set(self.groups):
            return None
        names = self.groups[[*LESION_COLUMNS]].astype(str)
        # masses and calcifications of a breast are numbered apart
        found = names.agg(" ".join, axis=1) + np.where(self.types > 2, " calcification", " mass")
        alone = (names == "").any(axis=1).to_numpy()
        return np.where(alone, [f"{name} row {row}" for row, name in enumerate(found)], found.to_numpy(dtype=str))

    def other_views(self) -> np.ndarray:
        """For each abnormality the place of its lesion in the other view: int64 (n,), its own place if there is none.

        Of several in another view the first is taken. Raises `UserError` where the groups file does not tell.
        """
        file, wanted, lesions = f"{SPLITS[self.name]}_groups.csv", (*LESION_COLUMNS, "view"), self.lesions
        if self.groups is None:
            raise expected(file, f"a file with {', '.join(wanted)}, which tells the views of a lesion", "none")
        if lesions is None or "view" not in self.groups:
            missing = [name for name in wanted if name not in self.groups]
            raise expected(f"{file}: columns", ", ".join(wanted), f"no {', '.join(missing)}")
        views, found = self.groups["view"].to_numpy(dtype=str), np.arange(len(self), dtype=np.int64)
        for rows in pd.Series(lesions).groupby(lesions).indices.values():
            for row in rows:
                found[row] = next((other for other in rows if views[other] != views[row]), row)
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchSet:
    """A data directory that `read_patch_set` has checked and opened.

    `files` maps each data file to its sha256; `train_sha256` and `test_sha256` are over the names and hashes of one
    split's files. `train_duplicates` (n,) int64 holds, for each training abnormality, the index of the first one with
    the same pixels (its own where it is unique), for `make_folds`.
    """

    directory: Path
    train: Split
    test: Split
    train_sha256: str
    test_sha256: str
    files: dict[str, str]
    phantom: bool
    warnings: tuple[str, ...]
    train_duplicates: np.ndarray

    @property
    def image_size(self) -> int:
        """The side of a patch in pixels."""
        return int(self.train.patches.shape[1])

    def class_counts(self) -> dict[str, dict[str, int]]:
        """The number of abnormalities of each type (1 to 4), by split."""
        return {
            split.name: {name: int((split.types == kind).sum()) for kind, name in TYPES.items()}
            for split in (self.train, self.test)
        }

    def describe(self) -> dict[str, object]:
        """Hashes, sizes, counts and warnings as a dictionary for JSON; the directory's path is not in it."""
        patients = {
            split.name: None if split.patient_ids is None else len(np.unique(split.patient_ids))
            for split in (self.train, self.test)
        }
        return {
            "train_sha256": self.train_sha256,
            "test_sha256": self.test_sha256,
            "files": dict(self.files),
            "image_size": self.image_size,
            "abnormalities": {"train": len(self.train), "test": len(self.test)},
            "classes": self.class_counts(),
            "patients": patients,
            "phantom": self.phantom,
            "warnings": list(self.warnings),
        }


def read_patch_set(directory: str | Path, duplicates: str = "warn") -> PatchSet:
    """Check every file of a data directory and open it; patches are mapped from their files, not loaded.

    Constant patches, classes without a patch and patients in both splits give warnings; so do exact duplicates of an
    abnormality, unless `duplicates` is "error".

    Raises:
        UserError: anything else is wrong: a line for each file at fault, what was expected and what was found.
    """
    if duplicates not in DUPLICATES:
        raise unknown_name("duplicates", duplicates, DUPLICATES)
    directory = Path(directory)
    if not directory.is_dir():
        raise expected(f"data: {directory}", "a directory", "a file" if directory.exists() else "nothing there")
    present = [name for name, stem in SPLITS.items() if (directory / f"{stem}_tensor.npy").exists()]
    if len(present) == 1 and (directory / PREPARED_FILE).exists():
        other = next(name for name in SPLITS if name not in present)
        found = f"the {present[0]} set alone; `prepare` with the {other} set's files makes both"
        raise expected(f"data: {directory}", "a training set and a test set", found)
    phantom_size, prepared_size = (_stated_size(directory / name) for name in (PHANTOM_FILE, PREPARED_FILE))
    splits, scans = _read_splits(directory, phantom_size or prepared_size or IMAGE_SIZE)
    first, copies = _find_duplicates(scans["train"].digests, scans["test"].digests)
    if copies and duplicates == "error":
        raise UserError(f"{directory}: {'; '.join(copies)} (duplicates=error)")
    files = {name: _file_sha256s(directory, stem, scans[name]) for name, stem in SPLITS.items()}
    return PatchSet(
        directory=directory,
        train=splits["train"],
        test=splits["test"],
        train_sha256=_split_sha256(files["train"]),
        test_sha256=_split_sha256(files["test"]),
        files={**files["train"], **files["test"]},
        phantom=phantom_size is not None,
        warnings=(*_warnings(splits, scans), *copies),
        train_duplicates=first,
    )


def _stated_size(path: Path) -> int | None:
    """The patch size in pixels that a JSON file states; None where there is no such file. Raises `UserError`."""
    if not path.exists():
        return None
    try:
        content = json.loads(read_small(path)) if path.is_file() else None
    except (ValueError, OSError, RecursionError):
        raise expected(f"{path}", "a JSON object", "something else") from None
    size = content.get("size") if isinstance(content, dict) else None
    if not isinstance(size, int) or isinstance(size, bool) or size < 32:
        raise expected(f"{path}: size", "a whole number of at least 32", size)
    return size


def _read_splits(directory: Path, size: int) -> tuple[dict[str, Split], dict[str, Scan]]:
    """Both splits and the scan of each tensor; no tensor is read before every file is checked. Raises `UserError`."""
    problems: list[str] = []

    @contextmanager
    def collecting() -> Iterator[None]:
        """Append the `UserError` of the block to `problems`."""
        try:
            yield
        except UserError as error:
            problems.extend(error.lines)

    headers: dict[str, ArrayHeader] = {}
    types: dict[str, np.ndarray] = {}
    groups: dict[str, pd.DataFrame] = {}
    for name, stem in SPLITS.items():
        with collecting():
            headers[name] = check_tensor(directory / f"{stem}_tensor.npy", size)
        with collecting():
            types[name] = read_types(directory / f"{stem}_labels.npy")
        path = directory / f"{stem}_groups.csv"
        with collecting():
            if path.exists():
                groups[name] = read_groups(path)
        if name not in headers:
            continue
        rows = headers[name].shape[0]
        if name in types and 2 * len(types[name]) != rows:
            wanted = f"{rows} as in {stem}_tensor.npy"
            problems.append(str(expected(f"{stem}_labels.npy: rows", wanted, 2 * len(types[name]))))
        if name in groups and 2 * len(groups[name]) != rows:
            wanted = f"{rows // 2}, one for each abnormality of {stem}_tensor.npy"
            problems.append(str(expected(f"{stem}_groups.csv: rows", wanted, len(groups[name]))))
    if problems:
        raise Faults(f"{directory}: {problem}" for problem in problems)
    tensors = {name: directory / f"{stem}_tensor.npy" for name, stem in SPLITS.items()}
    return {
        name: Split(name, np.load(path, mmap_mode="r", allow_pickle=False), types[name], groups.get(name))
        for name, path in tensors.items()
    }, {name: scan_tensor(path, headers[name]) for name, path in tensors.items()}


def _find_duplicates(train: list[bytes], test: list[bytes]) -> tuple[np.ndarray, list[str]]:
    """Find exact duplicates by digest: the first training abnormality like each, int64 (n,), and warnings."""
    first, found = _first_occurrences(train), []
    for stem, firsts in (("train", first), ("public_test", _first_occurrences(test))):
        again = np.flatnonzero(firsts != np.arange(len(firsts)))
        if len(again):
            rows = f"row {2 * again[0] + 1} repeats row {2 * firsts[again[0]] + 1}"
            found.append(f"{stem}_tensor.npy: {len(again)} exact duplicates of an earlier abnormality (first: {rows})")
    joint = _first_occurrences([*train, *test])[len(train) :]
    across = np.flatnonzero(joint < len(train))
    if len(across):
        rows = f"row {2 * across[0] + 1} is training row {2 * joint[across[0]] + 1}"
        found.append(f"public_test_tensor.npy: {len(across)} abnormalities are in train_tensor.npy (first: {rows})")
    return first, found


def _first_occurrences(digests: list[bytes]) -> np.ndarray:
    """For each digest the index of the first that is equal: int64 (n,)."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(digest, index) for index, digest in enumerate(digests)], np.int64)


def _warnings(splits: dict[str, Split], scans: dict[str, Scan]) -> list[str]:
    """Warnings about constant patches, missing types and patients in both splits."""
    found = []
    for name, stem in SPLITS.items():
        if constant := scans[name].constant:
            found.append(f"{stem}_tensor.npy: {len(constant)} constant patches (first: row {constant[0]})")
        if absent := [label for kind, label in TYPES.items() if kind not in splits[name].types]:
            found.append(f"{stem}_labels.npy: no {', no '.join(absent)}")
    train, test = splits["train"].patient_ids, splits["test"].patient_ids
    if train is not None and test is not None:
        both = np.intersect1d(train, test)
        if len(both):
            found.append(f"train_groups.csv, public_test_groups.csv: {len(both)} patients in both (first: {both[0]})")
    return found


def _file_sha256s(directory: Path, stem: str, scan: Scan) -> dict[str, str]:
    """The sha256 of each file of a split, by name."""
    others = (directory / f"{stem}_labels.npy", directory / f"{stem}_groups.csv")
    return {f"{stem}_tensor.npy": scan.sha256} | {path.name: file_sha256(path) for path in others if path.exists()}


def _split_sha256(files: dict[str, str]) -> str:
    """One sha256 over the names and hashes of a split's files."""
    return sha256("".join(f"{name} {files[name]}\n" for name in sorted(files)))
