"""Write files and folders whole or not at all, hash them, and lock what processes share."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from mammo_mlflow.errors import expected

PARTIAL = ".partial"
"""The ending of the names of folders in which something is being made."""

_log = logging.getLogger(__name__)


class Taken(Exception):  # noqa: N818 - no error
    """Raised where another process holds a lock."""


@contextmanager
def whole(target: Path, alone: bool = False) -> Iterator[Path]:
    """Write a file or folder whole: make it at the path that is yielded, and it becomes `target` as the block ends.

    Where the block raises, nothing stays of it. A file or folder `target` that exists is replaced. `alone`: no other
    process makes `target` at the same time, so that what a killed one left can be removed.
    """
    beside = target.with_name(f"{target.name}{PARTIAL}" if alone else f".{uuid.uuid4().hex}{PARTIAL}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    part, old = beside / target.name, target.with_name(f".{target.name}.old")
    try:
        yield part
        if target.is_dir():  # a folder with files cannot be replaced in one step
            shutil.rmtree(old, ignore_errors=True)
            target.replace(old)
        part.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def default_cache() -> Path:
    """The default cache directory: `$MAMMO_CACHE_DIR`, else one in the user's cache directory."""
    return Path(os.environ.get("MAMMO_CACHE_DIR") or platformdirs.user_cache_dir("mammo_mlflow")).expanduser()


def target_file(field: str, name: str) -> Path:
    """The absolute path of a file that a user wants written. Raises `UserError` where there can be none."""
    target = Path(name).expanduser().absolute()
    if not name or target.is_dir() or not target.parent.is_dir():
        raise expected(field, "a file in a directory that exists", f"'{name}'")
    check_writable(field, target.parent)
    return target


def read_small(path: Path, most: int = 1_000_000) -> str:
    """Read a text file in UTF-8 of at most so many bytes. Raises ValueError for a larger one."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most:,} bytes")
    return content.decode("utf-8")


def below(folder: Path, name: str) -> Path:
    """A path in `folder` for a name that a store gave: one that is no plain name is hashed, so that none leads out."""
    plain = re.fullmatch(r"[A-Za-z0-9_@][\w.@ -]{0,150}", name, re.ASCII)
    return folder / (name if plain else sha256(name))


def check_writable(field: str, folder: Path) -> None:
    """Check that files can be written in a folder. Raises `UserError` about `field` where none can."""
    if why := unwritable(folder):
        raise expected(field, "a place that can be written to", f"'{folder}': {why}")


def unwritable(folder: Path) -> str:
    """The system's reason why no file can be written in a folder; "" where one can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as problem:
        return problem.strerror or str(problem)


@contextmanager
def locked(file: Path, taken: str | Exception = "", patience: float = 0, mode: int = -1) -> Iterator[None]:
    """Hold the lock file `file`, which one process has at a time, during the block.

    If another process has the lock after `patience` seconds (below 0: wait for ever), `taken` is raised where it is
    an exception; where it is a text, that is logged and this process waits on.
    """
    lock = FileLock(file, mode=mode)
    try:
        held = lock.acquire(timeout=patience)
    except Timeout:
        if isinstance(taken, Exception):
            raise taken from None
        if taken:
            _log.info("%s", taken)
        held = lock.acquire()
    with held:
        yield


def shared_lock(purpose: str, name: str) -> Path:
    """The path of a lock file for `name`, shared by all users of this machine."""
    return Path(tempfile.gettempdir()) / f"mammo-{purpose}-{sha256(name)[:16]}.lock"


def sha256(content: str | bytes) -> str:
    """The sha256 of a text or of bytes, in hexadecimal."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content).hexdigest()


def json_sha256(content: object) -> str:
    """The sha256 of data as canonical JSON, in hexadecimal."""
    return sha256(canonical_json(content))


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_sha256(folder: Path, *left_out: str) -> str:
    """One sha256 of the relative names and contents of all files below a folder, without those `left_out`."""
    files = {path: str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()}
    return sha256("".join(f"{name}\0{file_sha256(path)}\0" for path, name in files.items() if name not in left_out))


def canonical_json(value: object) -> str:
    """Convert a value to JSON with sorted keys and no spaces: the same text for the same content."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"cannot be written as JSON: {type(value).__name__}")
