"""What the images of an abnormality say of where it is: its mask is told from its crop by content, then followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mammo_mlflow.data.cbis_ddsm.collection import Marked
from mammo_mlflow.data.cbis_ddsm.descriptions import UNREADABLE
from mammo_mlflow.data.cbis_ddsm.dicom import DicomHeader, NoMask, read_grey, two_valued
from mammo_mlflow.data.cbis_ddsm.locating import NO_FIT, Located, Unlocated, locate
from mammo_mlflow.errors import UserError


@dataclass(frozen=True)
class Mark:
    """The place of an abnormality, or why it is not known.

    `seen`: something of it is marked on the film; `whole`: every file that was opened could be read.
    """

    place: Located | Unlocated
    seen: bool
    whole: bool


def find_mark(source: Path, marked: Marked, film: np.ndarray, taken: np.ndarray, how: str) -> Mark:
    """Where an abnormality is on its film, uint16 (rows, columns), `how` being `Cut.locate`.

    What is marked of it is added to `taken`, bool of the film's shape. Images of other sizes than the film's are opened
    where there is no other.
    """
    if not marked.fitting and how == "mask":
        return Mark(Unlocated(NO_FIT, _sizes(marked, film)), False, True)
    masks, others, unlike = _read(source, marked.fitting or marked.others)
    whole = all(isinstance(problem, NoMask) for problem in unlike)
    crops = [header.shape for header in marked.others] if marked.fitting else [crop.shape for crop in others]
    crop = others[0] if len(others) == 1 and not marked.fitting else None
    places: list[Located | Unlocated] = []
    for mask in masks if marked.fitting else masks[:1]:
        try:
            places.append(locate(mask, film, crops, crop, how, taken))
        except Unlocated as problem:
            places.append(problem)
    seen = bool(masks) if marked.fitting else any(isinstance(place, Located) for place in places)
    return Mark(_only(masks, places, unlike, marked, film), seen, whole)


def _only(
    masks: Sequence[np.ndarray],
    places: Sequence[Located | Unlocated],
    unlike: Sequence[UserError],
    marked: Marked,
    film: np.ndarray,
) -> Located | Unlocated:
    """The one place of an abnormality, or why there is none."""
    if any(not np.array_equal(masks[0], other) for other in masks[1:]):
        return Unlocated("ambiguous mask", f"{len(masks)} different masks of one abnormality")
    if not masks:
        broken = [problem for problem in unlike if not isinstance(problem, NoMask)]
        if not marked.fitting and not broken:
            return Unlocated(NO_FIT, _sizes(marked, film))
        detail = "; ".join(str(problem) for problem in unlike)
        return Unlocated(UNREADABLE if broken else "no mask", detail)
    place = places[0]
    if isinstance(place, Unlocated) and place.reason == NO_FIT:
        return Unlocated(NO_FIT, f"{_sizes(marked, film)}; {place}")
    return place


def _sizes(marked: Marked, film: np.ndarray) -> str:
    sizes = ", ".join(sorted(f"{one.rows}×{one.columns}" for one in marked.others))
    return f"film of {film.shape[0]}×{film.shape[1]} pixels, its crop or mask of {sizes}"


def _read(source: Path, headers: Sequence[DicomHeader]) -> tuple[list[np.ndarray], list[np.ndarray], list[UserError]]:
    """The masks among images, told by their content, the others that show something, and why each is no mask."""
    masks, others = [], []
    unlike: list[UserError] = []
    for header in headers:
        try:
            pixels = read_grey(source / header.file, header.file)
            masks.append(two_valued(pixels, header.file))
        except UserError as problem:
            unlike.append(problem)
            if isinstance(problem, NoMask) and pixels.min() < pixels.max():
                others.append(pixels)
    return masks, others, unlike
