"""Bring the files of a job to a machine that does not share the coordinator's folders, and its output back.

Whether a machine shares them shows at each path: what it sees there has to be the very same file or folder. Those that
it does not see come in pieces, once for all jobs of a command on that machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from mammo_mlflow.files import locked, sha256, whole
from mammo_mlflow.jobs.contracts import UNSET, FitsJob

PIECE_BYTES = 32 * 2**20
"""The most bytes of a file that travel as one."""


@dataclass(frozen=True)
class Sight:
    """What a process sees at a path; `fact` is equal where another one sees the same: of a file also size and time."""

    path: Path
    folder: bool
    fact: tuple[int, ...]

    @classmethod
    def of(cls, path: Path) -> Sight | None:
        """What this process sees; None where nothing is there."""
        try:
            found, folder = path.stat(), path.is_dir()
        except OSError:
            return None
        return cls(path, folder, (found.st_ino,) if folder else (found.st_ino, found.st_size, found.st_mtime_ns))

    @property
    def here(self) -> bool:
        """Whether this process sees the same."""
        return Sight.of(self.path) == self

    @property
    def key(self) -> str:
        """A name for a copy."""
        return sha256(f"{self.path} {self.fact}")[:24]


@dataclass(frozen=True)
class Output:
    """Where a job writes: a file or folder, and what the coordinator sees there or, where nothing is yet, around it."""

    path: Path
    into: Sight | None

    @classmethod
    def of(cls, path: Path) -> Output:
        """An output of a job of this process."""
        return cls(path, Sight.of(path if path.is_dir() else path.parent))

    @property
    def shared(self) -> bool:
        """Whether what this process writes appears where the coordinator looks for it."""
        return self.into is None or self.into.here

    def elsewhere(self, folder: Path) -> Path:
        """The place of this output in another folder, made where it is a folder."""
        place = folder / self.path.name
        if self.into is not None and self.into.path == self.path:
            place.mkdir()
        return place


@dataclass(frozen=True)
class Manifest:
    """What a job reads and writes: its input files and folders, and its outputs, those of a `FitsJob` by place."""

    inputs: tuple[Sight, ...]
    outputs: Mapping[int, Output]

    @classmethod
    def of(cls, job: object) -> Manifest:
        """The manifest of a job of this process."""
        written = [getattr(one, "output", UNSET) for one in (job.fits if isinstance(job, FitsJob) else (job,))]
        outputs = {place: Output.of(path) for place, path in enumerate(written) if path != UNSET}
        found: dict[Path, Sight | None] = {}

        def note(path: Path) -> Path:
            if path != UNSET and path not in written:
                found[path] = Sight.of(path)
            return path

        over_paths(job, note)
        return cls(tuple(sight for sight in found.values() if sight is not None), outputs)

    @property
    def unseen(self) -> tuple[Sight, ...]:
        """The inputs that this process does not see."""
        return tuple(sight for sight in self.inputs if not sight.here)


def over_paths(value: Any, change: Callable[[Path], Path]) -> Any:
    """Copy dataclasses, mappings and sequences with every path in them changed."""
    if isinstance(value, Path):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        before = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        after = {name: over_paths(one, change) for name, one in before.items()}
        changed = {name: one for name, one in after.items() if one is not before[name]}
        return replace(value, **changed) if changed else value
    if isinstance(value, dict):
        found = {name: over_paths(one, change) for name, one in value.items()}
        return found if any(found[name] is not one for name, one in value.items()) else value
    if isinstance(value, tuple | list):
        items = [over_paths(one, change) for one in value]
        return type(value)(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return value


def moved(old: Path, new: Path, path: Path) -> Path:
    """The path in `new` of one in `old`; any other stays."""
    return new / path.relative_to(old) if path.is_relative_to(old) else path


def files_of(path: Path) -> dict[str, Path]:
    """The files of a folder by their relative names, or a file by the name ""."""
    if path.is_dir():
        return {str(one.relative_to(path)): one for one in sorted(path.rglob("*")) if one.is_file()}
    return {"": path} if path.exists() else {}


def pieces(file: Path) -> Iterator[bytes]:
    """The content of a file, in pieces; an empty file is one empty piece."""
    with file.open("rb") as opened:
        piece = opened.read(PIECE_BYTES)
        yield piece
        while piece := opened.read(PIECE_BYTES):
            yield piece


def append(folder: Path, name: str, piece: bytes, first: bool) -> None:
    """Write a piece to the file of that name in a folder, or to `folder` itself by the name ""."""
    target = folder / name if name else folder
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb" if first else "ab") as file:
        file.write(piece)


def copied(sight: Sight, content: Mapping[str, Sequence[Any]], fetch: Callable[[Any], bytes], store: Path) -> Path:
    """Make the copy of an input below `store`, unless it is there; `content` are the pieces of its files."""
    (place := store / sight.key).mkdir(parents=True, exist_ok=True)
    target = place / sight.path.name
    with locked(place / "lock"):
        if not target.exists():
            with whole(target, alone=True) as part:
                if sight.folder:
                    part.mkdir()
                for name, sent in content.items():
                    for number, piece in enumerate(sent):
                        append(part, name, fetch(piece), first=not number)
    return target
