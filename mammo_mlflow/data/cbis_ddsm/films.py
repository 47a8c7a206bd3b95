"""One film at a time, in a process that may die at any moment: its patches in a file that appears whole or not."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from mammo_mlflow.data.cbis_ddsm.collection import Film
from mammo_mlflow.data.cbis_ddsm.cutting import cut_pair, find_breast
from mammo_mlflow.data.cbis_ddsm.descriptions import UNREADABLE
from mammo_mlflow.data.cbis_ddsm.dicom import read_film
from mammo_mlflow.data.cbis_ddsm.locating import Unlocated
from mammo_mlflow.data.cbis_ddsm.marking import find_mark
from mammo_mlflow.data.cbis_ddsm.settings import CropSettings
from mammo_mlflow.errors import UserError
from mammo_mlflow.files import sha256, whole

VERSION = 1
"""Raised when the same films give other patches."""


@dataclass(frozen=True, kw_only=True)
class CutResult:
    """What became of an abnormality: its place among the patches of its film's file, or why it has none.

    `unmarked` is another abnormality of the film that has no mask: the baseline may lie on it. `located`, `score` and
    `stray` are those of `Located`.
    """

    place: int | None = None
    box: str = ""
    side: str = ""
    baseline_box: str = ""
    unmarked: str = ""
    reason: str = ""
    detail: str = ""
    located: str = "mask"
    score: float | None = None
    stray: int = 0

    @property
    def odd(self) -> bool:
        """Whether its box rests on an odd mask."""
        return self.place is not None and (self.located != "mask" or self.stray > 0)


@dataclass(frozen=True)
class FilmToCut:
    """A film to cut, the folder its names are below, and the folder of the files of finished films."""

    film: Film
    source: Path
    target: Path
    cut: CropSettings

    @property
    def file(self) -> Path:
        """Where the patches go; the name tells what they are made of."""
        content = json.dumps([VERSION, asdict(self.cut), asdict(self.film)], sort_keys=True)
        return self.target / f"{sha256(content)[:32]}.npz"


def cut_film(task: FilmToCut) -> tuple[CutResult, ...]:
    """Cut what is marked on a film and say what became of each.

    What an earlier command left is taken, but where a file could not be read then: a decoder may be there now.
    """
    with suppress(FileNotFoundError, ValueError, EOFError, KeyError, BadZipFile):  # not there, or damaged
        with np.load(task.file, allow_pickle=False) as stored:
            kept = json.loads(stored["answers"].tobytes())
        if kept["whole"]:
            return tuple(CutResult(**one) for one in kept["answers"])
    patches, answers, every = _cut(task)
    said = json.dumps({"whole": every, "answers": [asdict(one) for one in answers]})
    with whole(task.file) as part:
        np.savez(part, patches=patches, answers=np.frombuffer(said.encode(), np.uint8))
    return answers


def read_patches(file: Path) -> np.ndarray:
    """The patches of a finished film: uint16 (2k, size, size), even rows baselines."""
    with np.load(file, allow_pickle=False) as stored:
        return stored["patches"]


def _cut(task: FilmToCut) -> tuple[np.ndarray, tuple[CutResult, ...], bool]:
    """The patches, what became of each abnormality, and whether every file could be read."""
    film, how = task.film, task.cut
    empty = np.empty((0, how.size, how.size), np.uint16)
    try:
        pixels = read_film(task.source / film.header.file, film.header.file)
    except UserError as problem:
        return empty, (CutResult(reason=UNREADABLE, detail=str(problem)),) * len(film.abnormalities), False
    taken, everything = np.zeros(pixels.shape, bool), (*film.rois, *film.beside)
    marks = [find_mark(task.source, marked, pixels, taken, how.locate) for marked in everything]
    seen = {marked.subject for marked, mark in zip(everything, marks, strict=True) if mark.seen}
    unlike = [marked.subject for marked in reversed(everything) if marked.fitting and marked.subject not in seen]
    beside = next((subject for subject in (*unlike, *film.unmarked) if subject not in seen), "")
    breast = cache(lambda: find_breast(pixels))
    patches: list[np.ndarray] = []
    answers: list[CutResult] = []
    for mark in marks[: len(film.rois)]:
        place = mark.place
        try:
            if isinstance(place, Unlocated):
                raise place
            pair = cut_pair(pixels, place.box, breast, taken, how)
        except UserError as problem:
            reason = problem.reason if isinstance(problem, Unlocated) else "no patch"
            answers.append(CutResult(reason=reason, detail=str(problem)))
            continue
        if pair.baseline is None:
            answers.append(CutResult(box=str(pair.box), reason="no baseline", detail=pair.why))
            continue
        answers.append(
            CutResult(
                place=len(patches) // 2,
                box=str(pair.box),
                side=pair.side,
                baseline_box=str(pair.baseline_box),
                unmarked=beside,
                located=place.how,
                score=place.score,
                stray=place.stray,
            )
        )
        patches += [pair.baseline, pair.abnormality]
    return np.stack(patches) if patches else empty, tuple(answers), all(mark.whole for mark in marks)
