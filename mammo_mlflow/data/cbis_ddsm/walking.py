"""The files below a folder, each once, whatever links lead around in circles."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mammo_mlflow.files import PARTIAL

LITTER = {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found", "@eadir"}
"""What systems leave on disks and in archives, in lower case; so is all whose name begins with a dot."""


def walk(folder: Path) -> Iterator[tuple[Path, OSError | None]]:
    """Every file below `folder` in the order of names; a folder that cannot be read comes with its error.

    Links are followed, each folder is visited once. Hidden files and folders, those of `LITTER` and the folders in
    which an ingest is at work are passed over.
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
            if entry.name.startswith(".") or entry.name.lower() in LITTER:
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
