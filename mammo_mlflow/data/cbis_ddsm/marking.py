"""Locate an abnormality by its image files: tell its mask from its crop by their pixels, then read the mask's box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mammo_mlflow.data.cbis_ddsm.collection import AbnormalityImages
from mammo_mlflow.data.cbis_ddsm.descriptions import UNREADABLE
from mammo_mlflow.data.cbis_ddsm.dicom import DicomHeader, NoMask, as_mask, read_grey
from mammo_mlflow.data.cbis_ddsm.locating import NO_FIT, Located, Unlocated, locate
from mammo_mlflow.errors import UserError


@dataclass(frozen=True)
class Mark:
    """The location of an abnormality on its film, or the reason why none was found.

    `seen`: a mask of the abnormality was found; `whole`: every file that was opened could be read.
    """

    place: Located | Unlocated
    seen: bool
    whole: bool


def find_mark(source: Path, marked: AbnormalityImages, film: np.ndarray, taken: np.ndarray, how: str) -> Mark:
    """Locate an abnormality on its film, uint16 (rows, columns); `how` is `CropSettings.locate`.

    `source` is the folder of the image files. The abnormality's pixels are set in `taken`, bool of the film's shape.
    Images of another size than the film's are opened only where there is none of its size.
    """
    if not marked.fitting and how == "mask":
        return Mark(Unlocated(NO_FIT, _describe_sizes(marked, film)), False, True)
    masks, others, not_masks = _read_masks(source, marked.fitting or marked.others)
    whole = all(isinstance(problem, NoMask) for problem in not_masks)
    crops = [header.shape for header in marked.others] if marked.fitting else [crop.shape for crop in others]
    crop = others[0] if len(others) == 1 and not marked.fitting else None
    places: list[Located | Unlocated] = []
    for mask in masks if marked.fitting else masks[:1]:
        try:
            places.append(locate(mask, film, crops, crop, how, taken))
        except Unlocated as problem:
            places.append(problem)
    seen = bool(masks) if marked.fitting else any(isinstance(place, Located) for place in places)
    return Mark(_resolve_place(masks, places, not_masks, marked, film), seen, whole)


def _resolve_place(
    masks: Sequence[np.ndarray],
    places: Sequence[Located | Unlocated],
    not_masks: Sequence[UserError],
    marked: AbnormalityImages,
    film: np.ndarray,
) -> Located | Unlocated:
    """The place of an abnormality, or the reason there is none, from the places that each of its masks gave."""
    if any(not np.array_equal(masks[0], other) for other in masks[1:]):
        return Unlocated("ambiguous mask", f"{len(masks)} different masks of one abnormality")
    if not masks:
        broken = [problem for problem in not_masks if not isinstance(problem, NoMask)]
        if not marked.fitting and not broken:
            return Unlocated(NO_FIT, _describe_sizes(marked, film))
        detail = "; ".join(str(problem) for problem in not_masks)
        return Unlocated(UNREADABLE if broken else "no mask", detail)
    place = places[0]
    if isinstance(place, Unlocated) and place.reason == NO_FIT:
        return Unlocated(NO_FIT, f"{_describe_sizes(marked, film)}; {place}")
    return place


def _describe_sizes(marked: AbnormalityImages, film: np.ndarray) -> str:
    """The sizes of a film and of the images that do not have its size, in words."""
    sizes = ", ".join(sorted(f"{one.rows}×{one.columns}" for one in marked.others))
    return f"film of {film.shape[0]}×{film.shape[1]} pixels, its crop or mask of {sizes}"


def _read_masks(
    source: Path, headers: Sequence[DicomHeader]
) -> tuple[list[np.ndarray], list[np.ndarray], list[UserError]]:
    """Read images (rows, columns): the masks, bool, the crops, and the error of each file that is no mask."""
    masks, others = [], []
    not_masks: list[UserError] = []
    for header in headers:
        try:
            pixels = read_grey(source / header.file, header.file)
            masks.append(as_mask(pixels, header.file))
        except UserError as problem:
            not_masks.append(problem)
            if isinstance(problem, NoMask) and pixels.min() < pixels.max():
                others.append(pixels)
    return masks, others, not_masks
