"""List the files below a folder, each once, also where links form a circle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mammo_mlflow.files import PARTIAL

SYSTEM_FILES = {
    "__macosx",
    "thumbs.db",
    "desktop.ini",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "@eadir",
}
"""Names of files and folders that operating systems add, in lower case; `walk` skips them."""


def walk(folder: Path) -> Iterator[tuple[Path, OSError | None]]:
    """Yield each file below `folder`, in the order of names, with None, or with the error if it cannot be read.

    Links are followed, each folder is visited once. Hidden files and folders, `SYSTEM_FILES` and the folders that an
    ingest is writing are skipped.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            status = place.stat()
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as problem:
            yield place, problem
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        below = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FILES:
                continue
            path = Path(entry.path)
            try:
                if not entry.is_dir():
                    if entry.is_file():
                        yield path, None
                elif not (entry.name.endswith(PARTIAL) and (path / "lock").exists()):
                    below.append(path)
            except OSError as problem:
                yield path, problem
        waiting.extend(reversed(below))
