"""Cut a pair out of a film: the abnormality in a box, and its baseline, healthy tissue of the same size beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from mammo_mlflow.data.cbis_ddsm.settings import SIDES, CropSettings
from mammo_mlflow.errors import UserError, expected

BLOCKS = 160
"""The least number of blocks along a film's shorter side when the breast is searched; a block has 16 pixels or less."""
SATURATED = 65_000
"""The mean grey value of a block from which it is a film's white edge, not tissue."""


@dataclass(frozen=True, order=True)
class Box:
    """A rectangle on a film: the left upper corner and the size, in pixels."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.x} {self.y} {self.width} {self.height}"

    @classmethod
    def between(cls, rows: slice, columns: slice) -> Box:
        """The box of a range of rows and one of columns."""
        return cls(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)

    def offset_by(self, window: Box) -> Box:
        """Convert the box from coordinates of a window on a film to those of the film."""
        return replace(self, x=window.x + self.x, y=window.y + self.y)

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """The pixels (height, width) of an image (rows, columns) inside the box, not a copy."""
        return image[self.y : self.y + self.height, self.x : self.x + self.width]

    def inside(self, shape: tuple[int, ...]) -> bool:
        """Whether the box is not empty and lies within an image of that shape (height, width)."""
        return min(self.width, self.height) > 0 and self.widened(0, 0, shape) == self

    def neighbour(self, side: str) -> Box:
        """The box of the same size that touches this one on a side, one of `SIDES`."""
        right, down = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}[side]
        return Box(self.x + right * self.width, self.y + down * self.height, self.width, self.height)

    def widened(self, down: int, across: int, shape: tuple[int, ...]) -> Box:
        """Extend the box by `down` rows and `across` columns on each side, within an image of `shape`."""
        left, top = max(0, self.x - across), max(0, self.y - down)
        right, bottom = min(shape[1], self.x + self.width + across), min(shape[0], self.y + self.height + down)
        return Box(left, top, right - left, bottom - top)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An abnormality and its baseline, uint16 (size, size) each, and the boxes they were cut from.

    Without a baseline, `why` says what was wrong on each side. `note` says how an odd mask was read.
    """

    abnormality: np.ndarray
    box: Box
    baseline: np.ndarray | None = None
    baseline_box: Box | None = None
    side: str = ""
    why: str = ""
    note: str = ""


def box_of(mask: np.ndarray) -> Box:
    """The bounding box of the true pixels of a mask, bool (rows, columns), at least one of which is true."""
    rows = np.flatnonzero(mask.any(axis=1))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return Box(left, top, right - left, bottom - top)


@dataclass(frozen=True)
class Breast:
    """Where the breast is on a film: `mask`, bool, has one value for each block of `block` × `block` pixels."""

    mask: np.ndarray
    block: int

    def tissue_share(self, box: Box) -> float:
        """The fraction (0 to 1) of a box inside the breast; a film's incomplete blocks count as their neighbours."""
        rows, columns = _block_overlaps(box.y, box.height, self.block), _block_overlaps(box.x, box.width, self.block)
        inside = self.mask.take(rows[0], 0, mode="clip").take(columns[0], 1, mode="clip")
        return float(rows[1] @ inside @ columns[1]) / (box.width * box.height)


def _block_overlaps(start: int, length: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The blocks that a side of a box overlaps, and by how many pixels each."""
    blocks = np.arange(start // block, -(-(start + length) // block))
    return blocks, np.minimum(start + length, (blocks + 1) * block) - np.maximum(start, blocks * block)


def find_breast(film: np.ndarray) -> Breast:
    """Find the breast on a film, uint16 (rows, columns).

    It is the largest connected region above a grey value: Otsu's (1979) on square roots, or a fifth of the 95th
    percentile where that is lower (a film may show little else than tissue, or have white edges). Letters on the film
    are regions of their own. Raises `UserError` where no region stands out.
    """
    block = min(16, max(1, min(film.shape) // BLOCKS))
    coarse = block_means(film, block).astype(np.float32, copy=False)
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


def block_means(image: np.ndarray, factor: int) -> np.ndarray:
    """Shrink an image (rows, columns) to the means, float32, of complete `factor` × `factor` blocks; at 1 as it is."""
    rows, columns = (side // factor for side in image.shape)
    blocks = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return blocks.mean((1, 3), np.float32) if factor > 1 else image


def cut_pair(film: np.ndarray, box: Box, breast: Callable[[], Breast], taken: np.ndarray, crop: CropSettings) -> Pair:
    """Cut the abnormality in `box` and its baseline out of a film, uint16 (rows, columns).

    A baseline has to lie within the film, hold enough tissue, and overlap no pixel of `taken`, bool of the film's
    shape. With `baseline_side=any` it is on the side with most tissue, else on the first side that is possible.
    `breast` gives `find_breast` of the film; it is called only where needed. Raises `UserError` where the box leaves
    the film or all its pixels are equal.
    """
    if not box.inside(film.shape):
        raise expected("box", f"one in the film of {film.shape[1]}×{film.shape[0]} pixels", box)
    wide = box.widened(round(crop.margin * box.height), round(crop.margin * box.width), film.shape)
    abnormality = resize(wide.pixels(film), crop.size, crop.interpolation)
    if abnormality.min() == abnormality.max():
        raise expected(f"box {wide}", "something to see", f"a constant patch, every pixel {abnormality.flat[0]}")
    order = SIDES if crop.baseline_side == "any" else crop.baseline_side.split(",")
    refused, good = [], []
    for side in order:
        beside = wide.neighbour(side)
        if not beside.inside(film.shape):
            refused.append(f"{side}: outside the film")
        elif beside.pixels(taken).any():
            refused.append(f"{side}: on an abnormality")
        else:
            try:
                share = breast().tissue_share(beside)
            except UserError as problem:
                refused.append(f"{side}: {problem}")
                continue
            if share < crop.tissue:
                refused.append(f"{side}: {100 * share:.0f} % tissue")
            else:
                good.append((share, side, beside))
    if crop.baseline_side == "any":
        good.sort(key=lambda one: -one[0])  # stable: the first of equals
    for _, side, beside in good:
        baseline = resize(beside.pixels(film), crop.size, crop.interpolation)
        if baseline.min() < baseline.max():
            return Pair(abnormality=abnormality, box=wide, baseline=baseline, baseline_box=beside, side=side)
        refused.append(f"{side}: constant")
    return Pair(abnormality=abnormality, box=wide, why="; ".join(refused))


def resize(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Resize an image, uint16 (rows, columns), to uint16 (size, size); `interpolation` is one of `INTERPOLATIONS`.

    `nearest` takes pixel floor(i · side / size), computed in integers, so that no new grey value appears (OpenCV's
    INTER_NEAREST rounds its factor and differs at 219 of the first 2,000 sides). The others are Pillow's, which average
    where they shrink.
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
