"""From a film and a box to two patches: the abnormality and its baseline, healthy tissue of the same size beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from mammo_mlflow.data.cbis_ddsm.settings import SIDES, CropSettings
from mammo_mlflow.errors import UserError, expected

BLOCKS = 160
"""Blocks across a film's shorter side, at least, in which tissue is looked for; none is larger than 16 pixels."""
SATURATED = 65_000
"""What is brighter, averaged over a block, is a film's white edge and no tissue."""


@dataclass(frozen=True, order=True)
class Box:
    """A rectangle on a film, in its pixels: the left upper corner and the size."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.x} {self.y} {self.width} {self.height}"

    @classmethod
    def between(cls, rows: slice, columns: slice) -> Box:
        """The box of these rows and columns."""
        return cls(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)

    def within(self, outer: Box) -> Box:
        """The same box on a film, where it is one on the film's part in `outer`."""
        return replace(self, x=outer.x + self.x, y=outer.y + self.y)

    def of(self, image: np.ndarray) -> np.ndarray:
        """The image's part in the box, a view."""
        return image[self.y : self.y + self.height, self.x : self.x + self.width]

    def inside(self, shape: tuple[int, ...]) -> bool:
        """Whether the whole box lies in an image of that shape (height, width)."""
        return min(self.width, self.height) > 0 and self.widened(0, 0, shape) == self

    def beside(self, side: str) -> Box:
        """The box of the same size that touches this one on a side."""
        right, down = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}[side]
        return Box(self.x + right * self.width, self.y + down * self.height, self.width, self.height)

    def widened(self, down: int, across: int, shape: tuple[int, ...]) -> Box:
        """The box with so many rows and columns more on each side, as far as an image of that shape goes."""
        left, top = max(0, self.x - across), max(0, self.y - down)
        right, bottom = min(shape[1], self.x + self.width + across), min(shape[0], self.y + self.height + down)
        return Box(left, top, right - left, bottom - top)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two patches (size, size) uint16 and where they were cut; without a baseline why there is none.

    `note` tells what was done where the box is of an odd mask.
    """

    abnormality: np.ndarray
    box: Box
    baseline: np.ndarray | None = None
    baseline_box: Box | None = None
    side: str = ""
    why: str = ""
    note: str = ""


def box_of(mask: np.ndarray) -> Box:
    """The bounding box of what is marked in a mask, bool (rows, columns), which must not be empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return Box(left, top, right - left, bottom - top)


@dataclass(frozen=True)
class Breast:
    """Where the breast is on a film: `mask`, bool, has a pixel for each `block` × `block` of the film's."""

    mask: np.ndarray
    block: int

    def share(self, box: Box) -> float:
        """The part of a box that lies in the breast; a film's last, incomplete blocks are as their neighbours."""
        rows, columns = _cover(box.y, box.height, self.block), _cover(box.x, box.width, self.block)
        inside = self.mask.take(rows[0], 0, mode="clip").take(columns[0], 1, mode="clip")
        return float(rows[1] @ inside @ columns[1]) / (box.width * box.height)


def _cover(start: int, length: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The blocks that a side of a box touches, and how many of its pixels lie in each."""
    blocks = np.arange(start // block, -(-(start + length) // block))
    return blocks, np.minimum(start + length, (blocks + 1) * block) - np.maximum(start, blocks * block)


def find_breast(film: np.ndarray) -> Breast:
    """The breast on a film, uint16 (rows, columns).

    It is the largest connected part above a threshold, which is Otsu's (1979) on square roots, or a fifth of the 95th
    percentile where that is lower (a film may hold little else than tissue, or have white edges). Letters on the
    film are apart from it. Raises `UserError` where nothing stands out.
    """
    block = min(16, max(1, min(film.shape) // BLOCKS))
    coarse = smaller(film, block).astype(np.float32, copy=False)
    exposed = coarse < SATURATED
    if not exposed.any() or np.ptp(coarse[exposed]) == 0:
        raise expected("film", "a breast on it", "nothing that stands out")
    threshold = min(_otsu(np.sqrt(coarse[exposed])) ** 2, 0.2 * float(np.percentile(coarse[exposed], 95)))
    bright = exposed & (coarse > threshold)
    opened = ndimage.binary_opening(np.pad(bright, 3, mode="edge"), iterations=3)[3:-3, 3:-3]
    parts, count = ndimage.label(opened)
    if not count:
        raise expected("film", "a breast on it", "nothing that stands out")
    largest = 1 + int(np.argmax(ndimage.sum_labels(opened, parts, range(1, count + 1))))
    return Breast(ndimage.binary_fill_holes(parts == largest), block)


def smaller(image: np.ndarray, factor: int) -> np.ndarray:
    """The averages, float32, of an image's `factor` × `factor` blocks but for incomplete ones; at 1 the image."""
    rows, columns = (side // factor for side in image.shape)
    blocks = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return blocks.mean((1, 3), np.float32) if factor > 1 else image


def cut_pair(film: np.ndarray, box: Box, breast: Callable[[], Breast], taken: np.ndarray, how: CropSettings) -> Pair:
    """The abnormality in `box` and its baseline.

    Of the sides asked for, the baseline is on the one with most tissue, or on the first that will do where an order was
    given; it lies in the film, holds enough tissue, and nothing of `taken`, bool of the film's shape. `breast` is asked
    for `find_breast`'s answer. Raises `UserError` where the box leaves the film or holds a single grey value.
    """
    if not box.inside(film.shape):
        raise expected("box", f"one in the film of {film.shape[1]}×{film.shape[0]} pixels", box)
    wide = box.widened(round(how.margin * box.height), round(how.margin * box.width), film.shape)
    abnormality = resize(wide.of(film), how.size, how.interpolation)
    if abnormality.min() == abnormality.max():
        raise expected(f"box {wide}", "something to see", f"a constant patch, every pixel {abnormality.flat[0]}")
    order = SIDES if how.baseline_side == "any" else how.baseline_side.split(",")
    refused, good = [], []
    for side in order:
        beside = wide.beside(side)
        if not beside.inside(film.shape):
            refused.append(f"{side}: outside the film")
        elif beside.of(taken).any():
            refused.append(f"{side}: on an abnormality")
        else:
            try:
                share = breast().share(beside)
            except UserError as problem:
                refused.append(f"{side}: {problem}")
                continue
            if share < how.tissue:
                refused.append(f"{side}: {100 * share:.0f} % tissue")
            else:
                good.append((share, side, beside))
    if how.baseline_side == "any":
        good.sort(key=lambda one: -one[0])  # stable: the first of equals
    for _, side, beside in good:
        baseline = resize(beside.of(film), how.size, how.interpolation)
        if baseline.min() < baseline.max():
            return Pair(abnormality=abnormality, box=wide, baseline=baseline, baseline_box=beside, side=side)
        refused.append(f"{side}: constant")
    return Pair(abnormality=abnormality, box=wide, why="; ".join(refused))


def resize(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """An image resized to (size, size) uint16.

    `nearest` takes pixel floor(i · side / size) in whole numbers (OpenCV's INTER_NEAREST, but for the rounding of its
    floating-point factor, which misses that at 219 of the first 2,000 sides) and invents no grey value. The others are
    Pillow's, which average where they make smaller.
    """
    if interpolation == "nearest":
        rows, columns = (np.arange(size) * side // size for side in image.shape)
        return image[np.ix_(rows, columns)]
    from PIL import Image

    kind = Image.Resampling["BOX" if interpolation == "area" else interpolation.upper()]
    smooth = Image.fromarray(image.astype(np.float32)).resize((size, size), kind)
    return np.clip(np.rint(np.asarray(smooth)), 0, 65_535).astype(np.uint16)


def _otsu(values: np.ndarray) -> float:
    """The threshold that separates two classes best (Otsu 1979, IEEE Trans. Systems, Man, and Cybernetics 9, 62-66)."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    below, moment = counts.cumsum()[:-1], (counts * centres).cumsum()[:-1]
    above = counts.sum() - below
    whole = (counts * centres).sum()
    between = below * above * (moment / below - (whole - moment) / np.maximum(above, 1)) ** 2
    return float(edges[1:-1][np.argmax(np.where(above > 0, between, 0))])
