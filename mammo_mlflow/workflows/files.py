"""Files that a user asks for by name: the place checked before the work, the file whole or not there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mammo_mlflow.errors import expected


def target_file(field: str, name: str) -> Path:
    """The absolute path of a file to write. Raises `UserError` where there can be none."""
    target = Path(name).expanduser().absolute()
    if not name or target.is_dir() or not target.parent.is_dir():
        raise expected(field, "a file in a directory that exists", f"'{name}'")
    check_writable(field, target.parent)
    return target


def check_writable(field: str, folder: Path) -> None:
    """Raises `UserError` where nothing can be written in a folder."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise expected(field, "a place that can be written to", f"'{folder}': {problem.strerror}") from None


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A file beside `target` to write to; it takes that name when the block ends well."""
    with tempfile.NamedTemporaryFile("w", dir=target.parent, suffix=".part", delete=False) as file:
        part = Path(file.name)
    try:
        yield part
        part.chmod(0o644)
        shutil.move(part, target)
    finally:
        part.unlink(missing_ok=True)
