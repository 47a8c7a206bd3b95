"""Cut the patches of one film, in a worker process, into a file that is complete or not there."""

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
"""The version of an ingest, to be raised when the same films give other patches."""


@dataclass(frozen=True, kw_only=True)
class CutResult:
    """The result for one abnormality: its index among the film's pairs, `place`, and its boxes, or why it was not cut.

    Without a `place`, `reason` and `detail` are those of `LeftOut`. `unmarked` is another abnormality of the film,
    whose mask is missing: the baseline may lie on it. `located`, `score` and `stray` are `how`, `score` and `stray` of
    `Located`.
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
        """Whether the box came from the crop, or from a mask of another size than the film or with specks."""
        return self.place is not None and (self.located != "mask" or self.stray > 0)


@dataclass(frozen=True)
class FilmToCut:
    """A film to cut, the folder `source` of the DICOM files, and the folder `target` of finished films' patches."""

    film: Film
    source: Path
    target: Path
    crop: CropSettings

    @property
    def file(self) -> Path:
        """The path of the file with the film's patches, named by the hash of film and settings."""
        content = json.dumps([VERSION, asdict(self.crop), asdict(self.film)], sort_keys=True)
        return self.target / f"{sha256(content)[:32]}.npz"


def cut_film(to_cut: FilmToCut) -> tuple[CutResult, ...]:
    """Cut every abnormality of a film; the patches go to `to_cut.file`, the results are returned.

    The file of an earlier command is taken as it is, unless a DICOM file could not be read then: its decoder may have
    been installed since.
    """
    with suppress(FileNotFoundError, ValueError, EOFError, KeyError, BadZipFile):  # not there, or damaged
        with np.load(to_cut.file, allow_pickle=False) as stored:
            kept = json.loads(stored["answers"].tobytes())
        if kept["whole"]:
            return tuple(CutResult(**one) for one in kept["answers"])
    patches, results, every = _cut_patches(to_cut)
    said = json.dumps({"whole": every, "answers": [asdict(one) for one in results]})
    with whole(to_cut.file) as part:
        np.savez(part, patches=patches, answers=np.frombuffer(said.encode(), np.uint8))
    return results


def read_patches(file: Path) -> np.ndarray:
    """Read the patches of a finished film: uint16 (2k, size, size), even rows baselines."""
    with np.load(file, allow_pickle=False) as stored:
        return stored["patches"]


def _cut_patches(to_cut: FilmToCut) -> tuple[np.ndarray, tuple[CutResult, ...], bool]:
    """Cut a film: uint16 (2k, size, size), the result of each abnormality, and whether every file could be read."""
    film, crop = to_cut.film, to_cut.crop
    empty = np.empty((0, crop.size, crop.size), np.uint16)
    try:
        pixels = read_film(to_cut.source / film.header.file, film.header.file)
    except UserError as problem:
        return empty, (CutResult(reason=UNREADABLE, detail=str(problem)),) * len(film.abnormalities), False
    taken, everything = np.zeros(pixels.shape, bool), (*film.rois, *film.beside)
    marks = [find_mark(to_cut.source, marked, pixels, taken, crop.locate) for marked in everything]
    seen = {marked.subject for marked, mark in zip(everything, marks, strict=True) if mark.seen}
    unlike = [marked.subject for marked in reversed(everything) if marked.fitting and marked.subject not in seen]
    beside = next((subject for subject in (*unlike, *film.unmarked) if subject not in seen), "")
    breast = cache(lambda: find_breast(pixels))
    patches: list[np.ndarray] = []
    results: list[CutResult] = []
    for mark in marks[: len(film.rois)]:
        place = mark.place
        try:
            if isinstance(place, Unlocated):
                raise place
            pair = cut_pair(pixels, place.box, breast, taken, crop)
        except UserError as problem:
            reason = problem.reason if isinstance(problem, Unlocated) else "no patch"
            results.append(CutResult(reason=reason, detail=str(problem)))
            continue
        if pair.baseline is None:
            results.append(CutResult(box=str(pair.box), reason="no baseline", detail=pair.why))
            continue
        results.append(
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
    return np.stack(patches) if patches else empty, tuple(results), all(mark.whole for mark in marks)
