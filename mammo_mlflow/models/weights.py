"""Find and check the weights of a backbone, without Keras: plans are made before any process imports it.

`imagenet` is searched for in `$MAMMO_WEIGHTS_DIR`, in Keras's cache, in Keras's download, and last in the compact int8
copy that this package ships for computers without internet.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from mammo_mlflow.backbones import BACKBONES, LICENCES
from mammo_mlflow.checks import JOIN
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.files import file_sha256, json_sha256, whole
from mammo_mlflow.whereabouts import BY_SHA256, find_again

COMPACT_DIR = Path(__file__).parent / "compact"
"""The folder of the compact copies."""
DOWNLOAD_TIMEOUT_S = 4.0
RANDOM_WEIGHTS_VERSION = 3
"""The version of random weights, to be raised when they are drawn or calibrated differently.

Fits on random weights, and no others, are then trained again.
"""

_log = logging.getLogger(__name__)


class _WrongChecksum(Exception):  # noqa: N818 - caught in this module
    """A download has another checksum than Keras's."""


@dataclass(frozen=True, kw_only=True)
class NetworkWeights:
    """The weights of a backbone: their file, and how they are named in tags (`label`) and hashed in keys (`identity`).

    `source` says in words where they were found, `sha256` is their file's. `kind` is `file` (HDF5), `int8` (compact
    copy), `random`, which has no file until it is calibrated, `none` where nothing is loaded, or `joined`: those of
    several backbones.
    """

    kind: str
    label: str
    identity: str
    source: str
    path: Path | None = None
    sha256: str = ""
    joined: tuple[NetworkWeights, ...] = ()

    @classmethod
    def join(cls, each: Sequence[NetworkWeights]) -> NetworkWeights:
        """The weights of several backbones, which name and identify them all; of a single one its own.

        They count as random where some are.
        """
        if len(each) == 1:
            return each[0]
        labels = [one.label for one in each]
        return cls(
            kind="joined",
            label=RANDOM_WEIGHTS.label if RANDOM_WEIGHTS.label in labels else ", ".join(dict.fromkeys(labels)),
            identity=json_sha256([one.identity for one in each]),
            source=", ".join(dict.fromkeys(one.source for one in each)),
            sha256=JOIN.join(one.sha256 for one in each),
            joined=tuple(each),
        )

    @property
    def file(self) -> Path:
        """The path of the weights' file. Raises ValueError for random weights that were not calibrated yet."""
        if self.path is None:
            raise ValueError("random weights have no file before they are calibrated")
        return self.path


NO_WEIGHTS = NetworkWeights(kind="none", label="none", identity="none", source="trained from scratch in each fold")
"""The weights of a network without a backbone: none are loaded."""
RANDOM_WEIGHTS = NetworkWeights(
    kind="random",
    label="random",
    identity=f"random-v{RANDOM_WEIGHTS_VERSION}",
    source="drawn, calibrated on synthetic patches",
)


WORDS = ("imagenet", "random")
"""Weights that have a name."""


def find_weights(backbone: str, wanted: str, *, phantom: bool, accepted: str = "") -> NetworkWeights:
    """Find the weights of a backbone: `imagenet`, `random`, a directory or file of the user's own, or such by sha256.

    On a phantom, random weights replace ImageNet's where none are found. Random weights do not depend on the data.
    `accepted` is the one of `LICENCES` that the user accepts. Raises `UserError` where no weights are found, where
    their licence is to be accepted first, or a file is damaged or of another network.
    """
    found = _find_weights(backbone, wanted, phantom)
    name = "" if found.path is None else found.path.name
    for licence, said in LICENCES.items():
        if licence in name.lower() and accepted != licence:
            raise expected("accept_licence", f"{licence} for {name}, whose licence is {said}", f"'{accepted}'")
    return found


def _find_weights(backbone: str, wanted: str, phantom: bool) -> NetworkWeights:
    if wanted == "random":
        return RANDOM_WEIGHTS
    if wanted.startswith(BY_SHA256):
        return _known_weights(backbone, wanted.removeprefix(BY_SHA256))
    if wanted not in WORDS:
        return _user_weights(backbone, Path(wanted).expanduser())
    for source, directory in _local_directories().items():
        if found := _find_in_directory(backbone, directory):
            return _checked_file(backbone, found, source)
    if downloaded := _download(backbone):
        return _checked_file(backbone, downloaded, "Keras's download")
    if (compact := _compact(backbone)).is_file():
        _check_archive(compact)
        return _file_weights("int8", "imagenet-int8", "the copy shipped with this package", compact)
    if phantom:
        _log.warning("%s: no ImageNet weights at hand; going on with RANDOM weights on phantom data", backbone)
        return RANDOM_WEIGHTS
    row = BACKBONES[backbone]
    reached = ", or a network that reaches Keras's download" if row.keras_hash else ""
    raise UserError(
        f"weights: no ImageNet weights for {backbone}: expected {row.keras_file} in "
        f"$MAMMO_WEIGHTS_DIR or in {keras_cache()}{reached}, found none "
        "(or choose another backbone, or weights=random)"
    )


def keras_cache() -> Path:
    """The directory that Keras downloads models to."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"


def _local_directories() -> dict[str, Path]:
    """The directories to search, by their names for messages, the first first. Raises `UserError`."""
    own = os.environ.get("MAMMO_WEIGHTS_DIR")
    if own and not Path(own).is_dir():
        raise UserError(f"MAMMO_WEIGHTS_DIR: expected a directory, found {own}")
    return ({"MAMMO_WEIGHTS_DIR": Path(own)} if own else {}) | {"Keras's cache": keras_cache()}


def _find_in_directory(backbone: str, directory: Path) -> Path | None:
    """A backbone's weights file in a directory, Keras's name before others."""
    exact = directory / BACKBONES[backbone].keras_file
    return exact if exact.is_file() else min(directory.glob(f"{backbone}*notop*.h5"), default=None)


def _user_weights(backbone: str, path: Path) -> NetworkWeights:
    """The weights in a user's directory or file. Raises `UserError`."""
    if not path.exists():
        raise UserError(f"weights: expected imagenet, random or an existing directory, found '{path}'")
    found = _find_in_directory(backbone, path) if path.is_dir() else path
    if found is None:
        names = f"{BACKBONES[backbone].keras_file} or {backbone}*notop*.h5"
        raise UserError(f"weights: expected a file {names} in {path}, found none")
    return _checked_file(backbone, found, "the user's path")


def _known_weights(backbone: str, sha256: str) -> NetworkWeights:
    """The weights of this sha256 where they were when they were last used. Raises `UserError`."""
    path = find_again(sha256)
    found = _checked_file(backbone, path, "the user's path") if path is not None and path.is_file() else None
    if found is None or found.sha256 != sha256:
        there = "none on this machine" if path is None else "another or none where they were"
        raise expected("weights", f"those of sha256 {sha256[:12]}… (give weights=DIR once)", there)
    return found


def _checked_file(backbone: str, path: Path, source: str) -> NetworkWeights:
    """Check an HDF5 file: its number of parameters, and that all are finite. Raises `UserError`.

    The weights are labelled `imagenet` only if the file's name says so.
    """
    row = BACKBONES[backbone]
    arrays: list[h5py.Dataset] = []
    try:
        with h5py.File(path, "r") as file:
            file.visititems(lambda _, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
            count = sum(item.size or 0 for item in arrays)
            if count != row.parameters:
                whose = f"{row.application} without its top"
                raise expected(str(path), f"the {row.parameters:,} parameters of {whose}", f"{count:,}")
            odd = next((item.name for item in arrays if not np.isfinite(item[()]).all()), None)
    except UserError:
        raise
    except Exception as problem:  # HDF5 raises many kinds of errors for a damaged file
        raise expected(str(path), "an HDF5 weights file", f"one that cannot be read ({problem})") from None
    if odd is not None:
        raise expected(str(path), "finite weights", f"others in {odd}")
    words = path.name.lower().replace("radimagenet", "")  # whose images are no photographs
    named = (path.name == row.keras_file and not row.hub) or "imagenet" in words  # DINOv2 saw other photographs
    return _file_weights("file", "imagenet" if named else path.name, source, path)


def _file_weights(kind: str, label: str, source: str, path: Path) -> NetworkWeights:
    """The weights of a file, identified by its sha256."""
    sha256 = file_sha256(path)
    return NetworkWeights(kind=kind, label=label, identity=sha256, source=source, path=path, sha256=sha256)


def _compact(backbone: str) -> Path:
    return COMPACT_DIR / f"{backbone}.npz"


def _check_archive(path: Path) -> None:
    """Raise `UserError` where a shipped compact copy is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as problem:  # damaged archives raise many kinds of errors
        damaged = str(problem)
    if damaged:
        raise expected(str(path), "the copy that this package ships", f"a damaged one ({damaged}): install it again")


def _download(backbone: str) -> Path | None:
    """Download Keras's file into Keras's cache; None without a connection, after `DOWNLOAD_TIMEOUT_S`."""
    row = BACKBONES[backbone]
    if os.environ.get("MAMMO_OFFLINE") or not row.keras_hash:
        return None
    target = keras_cache() / row.keras_file
    kind = "md5" if len(row.keras_hash) == 32 else "sha256"
    try:
        with urllib.request.urlopen(row.keras_url, timeout=DOWNLOAD_TIMEOUT_S) as answer:
            _log.info("downloading %s", row.keras_url)
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole(target) as part, part.open("w+b") as file:
                shutil.copyfileobj(answer, file)
                file.seek(0)
                if (
                    hashlib.file_digest(file, partial(hashlib.new, kind, usedforsecurity=False)).hexdigest()
                    != row.keras_hash
                ):
                    raise _WrongChecksum
        return target
    except _WrongChecksum:
        _log.warning("%s: the download does not have Keras's checksum and is not used", row.keras_url)
    except OSError as problem:
        shipped = "; the copy shipped with this package is used" if _compact(backbone).is_file() else ""
        why = getattr(problem, "reason", problem)  # of a URLError
        _log.info("%s: its weights cannot be downloaded (%s)%s", backbone, why, shipped)
    return None
