"""Locate an abnormality on its film, also where its mask is odd: of another size, or with specks from scanning.

A box that does not come from a mask of the film's size is marked so, with a score; an uncertain place is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage, signal

from mammo_mlflow.data.cbis_ddsm.cutting import Box, block_means, box_of
from mammo_mlflow.errors import UserError

ASPECT = 0.01
"""How much the aspect ratio of a mask may differ from its film's, as a fraction, for the mask to be scaled."""
SCALES = (0.25, 4.0)
"""The range of a mask's side to its film's; a smaller image is not of the whole film, but a crop."""
SPECKS = 0.01
"""The largest area of specks together, as a fraction of the area of a mask's largest region."""
SURE = 0.98
"""The least correlation with the film at which a crop is found; an exact copy has 1."""
DISTINCT = 4.0
"""The least ratio of 1 - correlation at the second best place to that at the best, for the best to be certain."""
CLEAR = 1e-4
"""The least 1 - correlation at the second best place; with less, the film shows the same twice."""
LIKE = 0.5
"""The least correlation of a crop with the film inside the box of a scaled mask."""
SMALLEST = 8
"""The shorter side, in pixels, of the smallest crop that is searched for."""
_COARSE = 24
"""The least shorter side, in pixels, of a crop that is shrunk for the coarse search."""
_PLACES = 24
"""The largest number of places of the coarse search that are searched in full resolution."""
_WORSE = 0.25
"""By how much less than the best of them they may correlate in the coarse search."""
_STRIP = 512
"""Rows of a film that are correlated at a time."""

NO_FIT, INVERTED, FRAMED = "no mask of the film's size", "inverted mask", "framed mask"
"""Reasons for which an abnormality is not located."""
_FAULTS = {
    INVERTED: "more than half of it is marked, its edges too: black and white are exchanged",
    FRAMED: "what is marked runs along the film's edges: a frame, or a scan's border",
}


@dataclass(frozen=True)
class Located:
    """A box on a film, and how it was found: by a `mask`, `rescaled` (a mask of another size) or `matched` (the crop).

    `score` is the crop's normalised cross-correlation with the film inside the box, -1 to 1, None where it was not
    computed; `stray` the number of marked pixels that were ignored as specks.
    """

    box: Box
    how: str = "mask"
    score: float | None = None
    stray: int = 0


class Unlocated(UserError):  # noqa: N818 - names what was found
    """Raised where an abnormality cannot be located: `reason` is one of a few fixed texts, the message a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


def locate(
    mask: np.ndarray,
    film: np.ndarray,
    sizes: Sequence[tuple[int, ...]],
    crop: np.ndarray | None,
    how: str,
    taken: np.ndarray,
) -> Located:
    """Locate the abnormality of a mask on a film, uint16 (rows, columns), and mark its pixels in `taken`.

    `mask` is bool (rows, columns), also of another size than the film; `sizes` are the shapes of the published crops,
    (height, width); `crop` is the only crop, (rows, columns), or None, and is not needed for a mask of the film's size;
    `how` is `CropSettings.locate`; `taken` is bool of the film's shape, changed in place. Raises `Unlocated`.
    """
    wrong = mask_fault(mask)
    if wrong:
        if mask.shape == film.shape:
            taken |= mask if wrong == FRAMED else ~mask
        raise Unlocated(wrong, _FAULTS[wrong])
    if mask.shape == film.shape:
        found = Located(box_of(mask)) if how == "mask" else without_specks(mask, sizes)
        found.box.pixels(taken)[:] |= found.box.pixels(mask)
        return found
    if how == "mask":
        raise Unlocated(NO_FIT, f"a mask of {mask.shape[0]}×{mask.shape[1]} pixels")
    problem = "its aspect is another"
    larger = None if mask.shape in sizes else scale_mask(mask, film.shape)
    if larger is not None and larger.any():
        try:
            found = refine_by_crop(film, without_specks(larger, sizes), crop if how == "match" else None)
            found.box.pixels(taken)[:] |= found.box.pixels(larger)
            return found
        except UserError as said:
            problem = str(said)
    if how != "match":
        raise Unlocated(NO_FIT, problem)
    if crop is None:
        raise Unlocated(NO_FIT, f"{problem}, and there is not one crop to look for")
    try:
        found = find_crop(film, crop)
    except UserError as said:
        raise Unlocated(NO_FIT if larger is None else "mask and crop disagree", f"{problem}; {said}") from None
    found.box.pixels(taken)[:] = True
    return found


def mask_fault(mask: np.ndarray) -> str:
    """Check whether a mask, bool (rows, columns), not empty, is inverted or framed: `INVERTED`, `FRAMED` or ""."""
    box = box_of(mask)
    if box.width < 0.9 * mask.shape[1] and box.height < 0.9 * mask.shape[0]:
        return ""
    edges = [mask[0], mask[-1], mask[:, 0], mask[:, -1]]
    if np.concatenate(edges).mean() > 0.5 and mask.mean() > 0.5:
        return INVERTED
    if any(edge.mean() > 0.9 for edge in edges):
        return FRAMED
    for part, area in _connected_parts(mask, box):
        around = part.width > 0.9 * mask.shape[1] and part.height > 0.9 * mask.shape[0]
        if around and area < 0.2 * part.width * part.height:
            return FRAMED
    return ""


def without_specks(mask: np.ndarray, crops: Sequence[tuple[int, ...]]) -> Located:
    """The bounding box of a mask, bool (rows, columns), without specks.

    The whole mask is taken where it is one connected region, or its box has the size (height, width) of one of `crops`;
    else the largest regions whose common box has such a size, or the only region that has it; else the largest region
    if the others are specks (`SPECKS`); else the whole mask.
    """
    whole = box_of(mask)
    parts = sorted(_connected_parts(mask, whole), key=lambda one: (-one[1], one[0]))
    if len(parts) == 1:
        return Located(whole)
    marked = sum(area for _, area in parts)
    joined = [parts[0]]
    for box, area in parts[1:-1]:
        joined.append((_union(joined[-1][0], box), joined[-1][1] + area))
    for exact in (True, False):
        alone = [one for one in parts[1:] if _has_crop_size(one[0], crops, exact)]
        for box, area in ((whole, marked), *joined, *(alone if len(alone) == 1 else [])):
            if _has_crop_size(box, crops, exact):
                return Located(box, stray=marked - area)
    stray = marked - parts[0][1]
    return Located(parts[0][0], stray=stray) if stray <= SPECKS * parts[0][1] else Located(whole)


def scale_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Scale a mask, bool (rows, columns), to its film's shape; None if aspects differ or it is far too small."""
    down, across = (ours / films for ours, films in zip(mask.shape, shape, strict=True))
    if abs(down / across - 1) > ASPECT or not SCALES[0] <= down <= SCALES[1]:
        return None
    rows, columns = (
        (2 * np.arange(films) + 1) * ours // (2 * films) for ours, films in zip(mask.shape, shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def refine_by_crop(film: np.ndarray, found: Located, crop: np.ndarray | None) -> Located:
    """Correct the box of a scaled mask by searching for the crop near it; without a crop, leave it as it is.

    `film` is uint16 (rows, columns); `crop` is (rows, columns) or None, and its score is in the result. Raises
    `UserError` where the crop does not resemble the film there.
    """
    box = found.box
    if crop is None or min(crop.shape) < 2 or crop.std() == 0:
        return replace(found, how="rescaled")
    shape = (box.height, box.width)
    if all(abs(a - b) <= max(4, round(0.03 * b)) for a, b in zip(crop.shape, shape, strict=True)):
        down, across = (round(ASPECT * side) + 4 for side in film.shape)
        window = box.widened(down, across, film.shape)
        with suppress(UserError):
            exact = find_crop(window.pixels(film), crop)
            return Located(exact.box.offset_by(window), "rescaled", exact.score, found.stray)
    score = _coarse_correlation(box.pixels(film), crop)
    if score < LIKE:
        raise UserError(f"its crop shows something else than the film does there (correlation {score:.2f})")
    return Located(box, "rescaled", score, found.stray)


def find_crop(film: np.ndarray, crop: np.ndarray) -> Located:
    """Find a crop in a film, both grey images (rows, columns), by normalised cross-correlation.

    A coarse search on shrunk images, then one in full resolution at its best places. Raises `UserError` where no place
    is certain: the crop is too small or constant, no place is similar enough, or several are.
    """
    size = f"its crop of {crop.shape[0]}×{crop.shape[1]} pixels"
    if min(crop.shape) < SMALLEST:
        raise UserError(f"{size} is too small to be looked for")
    if any(ours > films for ours, films in zip(crop.shape, film.shape, strict=True)):
        raise UserError(f"{size} is larger than the film")
    if crop.min() == crop.max():
        raise UserError(f"{size} is flat")
    factor = int(np.clip(min(crop.shape) // _COARSE, 1, 8))
    found: dict[tuple[int, int], float] = {}
    reach = 2 * factor + 2 if factor > 1 else 2
    height, width = crop.shape
    for top, left in _best_places(block_means(film, factor), block_means(crop, factor), _PLACES):
        window = Box(left * factor, top * factor, width, height).widened(reach, reach, film.shape)
        scores = np.concatenate([rows for _, rows in _correlate(window.pixels(film), crop)])
        inner = np.zeros(scores.shape, bool)  # a score at the window's edge may belong to a peak beyond it
        bottom = scores.shape[0] - (window.y + window.height < film.shape[0])
        right = scores.shape[1] - (window.x + window.width < film.shape[1])
        inner[int(window.y > 0) : bottom, int(window.x > 0) : right] = True
        for row, column in zip(*np.nonzero(inner & _is_peak(scores, 3)), strict=True):
            found[window.y + int(row), window.x + int(column)] = float(scores[row, column])
    ranked = sorted(found.items(), key=lambda one: (-one[1], one[0]))
    if not ranked or ranked[0][1] < SURE:
        best = f"{ranked[0][1]:.2f}" if ranked else "none"
        raise UserError(f"{size} is nowhere on the film (best correlation {best})")
    (top, left), score = ranked[0]
    second = ranked[1][1] if len(ranked) > 1 else -1.0
    if 1 - second < max(CLEAR, DISTINCT * (1 - score)):
        raise UserError(f"{size} fits several places of the film (correlations {score:.3f} and {second:.3f})")
    return Located(Box(left, top, width, height), "matched", score)


def _connected_parts(mask: np.ndarray, box: Box) -> list[tuple[Box, int]]:
    """The connected regions of a mask inside `box`, diagonals included: their boxes, and their areas in pixels."""
    labels, count = ndimage.label(box.pixels(mask), np.ones((3, 3)))
    areas = np.bincount(labels[labels > 0], minlength=count + 1)[1:].tolist()
    places = [Box.between(*at) for at in ndimage.find_objects(labels)]
    return [(place.offset_by(box), area) for place, area in zip(places, areas, strict=True)]


def _has_crop_size(box: Box, crops: Sequence[tuple[int, ...]], exact: bool) -> bool:
    """Whether a box has the size (height, width) of a crop; if not `exact`, within 2 % of it or 2 pixels."""
    room, shape = int(not exact), (box.height, box.width)
    return any(all(abs(a - b) <= room * max(2, 0.02 * b) for a, b in zip(shape, crop, strict=True)) for crop in crops)


def _union(one: Box, other: Box) -> Box:
    """The smallest box that holds both."""
    left, top = min(one.x, other.x), min(one.y, other.y)
    right, bottom = max(one.x + one.width, other.x + other.width), max(one.y + one.height, other.y + other.height)
    return Box.between(slice(top, bottom), slice(left, right))


def _coarse_correlation(image: np.ndarray, crop: np.ndarray) -> float:
    """The correlation (-1 to 1) of an image with a crop of about its size, both resized to 32 pixels or less."""
    side = min(32, *image.shape, *crop.shape)
    ours, theirs = (_resize_by_means(one, side) for one in (image, crop))
    if ours.std() == 0 or theirs.std() == 0:
        return 0.0
    return float(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1])


def _resize_by_means(image: np.ndarray, side: int) -> np.ndarray:
    """Resize an image to (side, side) means, float64."""
    rows, columns = (np.arange(side) * length // side for length in image.shape)
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), rows, 0), columns, 1)
    counts = [np.diff(starts, append=length) for starts, length in zip((rows, columns), image.shape, strict=True)]
    return sums / np.outer(*counts)


def _is_peak(scores: np.ndarray, size: int) -> np.ndarray:
    """Which scores (rows, columns) are the highest in a square of `size` pixels around them: bool."""
    return scores == ndimage.maximum_filter(scores, size, mode="nearest")


def _best_places(film: np.ndarray, crop: np.ndarray, count: int) -> list[tuple[int, int]]:
    """The `count` places (row, column) where a crop correlates best with a film, each a local maximum."""
    best: list[tuple[float, int, int]] = []
    for top, scores in _correlate(film, crop):
        rows, columns = np.nonzero(_is_peak(scores, 3) & (scores > 0))
        order = np.argsort(-scores[rows, columns], kind="stable")[:count]
        best += [(-float(scores[rows[i], columns[i]]), top + int(rows[i]), int(columns[i])) for i in order]
    best = sorted(best)[:count]
    return [(row, column) for score, row, column in best if score <= best[0][0] + _WORSE]


def _correlate(film: np.ndarray, crop: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The normalised cross-correlation of a crop with every place of a film, a strip of rows at a time.

    Yields the strip's first row and the scores, float64 (rows, columns); 0 where the film is constant.
    """
    height, width = crop.shape
    middle = float(film.mean())
    template = crop.astype(np.float64)
    template -= template.mean()
    length = float(np.sqrt((template**2).sum()))
    flipped, pixels = template[::-1, ::-1], height * width
    for top in range(0, film.shape[0] - height + 1, _STRIP):
        strip = film[top : top + _STRIP + height - 1].astype(np.float64) - middle
        sums, squares = (_box_sums(one, height, width) for one in (strip, strip**2))
        spread = squares - sums**2 / pixels
        product = signal.fftconvolve(strip, flipped, mode="valid")
        defined = spread > 0.05 * pixels  # in grey values squared; with less the film is constant but for rounding
        yield top, np.where(defined, np.clip(product / (np.sqrt(np.maximum(spread, 1e-3)) * length), -1, 1), 0)


def _box_sums(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The sum of an image over every rectangle of that size: float64 (rows - height + 1, columns - width + 1)."""
    sums = np.pad(image, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    return sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
