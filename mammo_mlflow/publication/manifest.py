"""The sha256 of every file of a publication, as its `ro-crate-metadata.json` lists them, and how they are checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from mammo_mlflow.errors import expected
from mammo_mlflow.files import file_sha256, read_small

METADATA_FILE = "ro-crate-metadata.json"
LARGEST = 20_000_000
"""The bytes that the list may have."""
SHORT = 12
"""How many letters of a sha256 a line shows."""


def files_below(folder: Path) -> list[str]:
    """The relative names of all files and links below a folder but the list itself, sorted."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return sorted(name for name in found if name != METADATA_FILE)


def read_manifest(folder: Path) -> dict[str, str]:
    """Read the sha256 of every file that a publication lists, by relative name. Raises `UserError`."""
    path = folder / METADATA_FILE
    if not path.is_file():
        found = "a folder without " + METADATA_FILE if folder.is_dir() else "no folder"
        raise expected("publication", "a folder that `publish` wrote", f"'{folder}': {found}")
    try:
        graph = json.loads(read_small(path, LARGEST))["@graph"]
        listed = {str(one["@id"]): str(one["sha256"]) for one in graph if "sha256" in one}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise expected(
            f"publication: {METADATA_FILE}", "an RO-Crate as `publish` writes it", "something else"
        ) from None
    for name in listed:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or not name:
            raise expected(f"publication: {METADATA_FILE}", "files within the folder", f"'{name}'")
    if not listed:
        raise expected(f"publication: {METADATA_FILE}", "the sha256 of files", "none")
    return listed


def differences(folder: Path, listed: Mapping[str, str]) -> list[str]:
    """What of a publication's files is not as it is listed: a line each, with the file, what was expected and found."""
    lines = []
    for name, wanted in listed.items():
        path = folder / name
        if any(one.is_symlink() for one in (path, *path.parents) if one.is_relative_to(folder)):
            lines.append(str(expected(name, "a plain file", "a link")))
        elif not path.is_file():
            lines.append(str(expected(name, f"a file of sha256 {wanted[:SHORT]}…", "none")))
        elif (found := file_sha256(path)) != wanted:
            lines.append(str(expected(name, f"sha256 {wanted[:SHORT]}…", f"{found[:SHORT]}…")))
    return lines + [
        str(expected(name, f"no file that {METADATA_FILE} does not list", "one"))
        for name in files_below(folder)
        if name not in listed
    ]
