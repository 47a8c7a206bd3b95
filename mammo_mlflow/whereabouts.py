"""Where data and weights lie on this machine, by their sha256: kept in the user's cache, never in a store.

A store tells which data and weights a run used by their sha256; its readers need not know the paths of whoever ran it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mammo_mlflow.files import default_cache, sha256, whole

BY_SHA256 = "sha256:"
"""What a parameter that names a file by its sha256 begins with."""
LONGEST_PATH = 4096


def remember(path: Path, *sha256s: str) -> None:
    """Note where something lies; without a cache that can be written, nothing is noted."""
    note = _note(sha256s)
    with suppress(OSError):
        if note.is_file() and note.read_text(encoding="utf-8") == str(path):
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        with whole(note) as part:
            part.write_text(str(path), encoding="utf-8")


def find_again(*sha256s: str) -> Path | None:
    """The path where something was when it was last used on this machine; None where that is not known."""
    note = _note(sha256s)
    try:
        if not note.is_file() or note.stat().st_size > LONGEST_PATH:
            return None
        return Path(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _note(sha256s: Sequence[str]) -> Path:
    return default_cache() / "whereabouts" / sha256(" ".join(sha256s))
