"""Augmentation policies, and the affine transform of each (seed, pair, view), drawn from a hash of the three."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mammo_mlflow.errors import unknown_name
from mammo_mlflow.experiment import FLIPS

_DRAWS = 8  # angle, two shifts, shear, two zooms, two flips
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class AugmentationPolicy:
    """The ranges that random transforms are drawn from, as Keras's `ImageDataGenerator` defines them.

    `rotation` and `shear`: the largest angle in degrees, either way (a rotation of 180 is every angle). `shift`: the
    largest shift along each axis, as a fraction of the side. `zoom`: each axis by a factor of 1 - zoom to 1 + zoom.
    Flips: with probability 1/2.
    """

    rotation: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    horizontal_flip: bool = False
    vertical_flip: bool = False


ALL_FLIPS = "flips"
"""The name of the policy whose views 0 to 7 are `FLIPS`, the plain patch first; nothing is drawn."""

POLICIES: dict[str, AugmentationPolicy] = {
    "paper": AugmentationPolicy(rotation=180.0, horizontal_flip=True, vertical_flip=True),
    "scratch": AugmentationPolicy(
        rotation=180.0,
        shift=0.1,
        shear=0.01,
        zoom=0.1,
        horizontal_flip=True,
        vertical_flip=True,
    ),
    "rotation5": AugmentationPolicy(rotation=5.0),
    "shift": AugmentationPolicy(shift=0.1),
    "none": AugmentationPolicy(),
}


def draw_transforms(policy: str, pairs: np.ndarray, view: int, size: int, seed: int = 0) -> np.ndarray:
    """Draw the transform of view `view` of each pair: float32 (n, 8), for `keras.ops.image.affine_transform`.

    `pairs` (n,) are whole numbers, `size` is the side of a patch in pixels. Row (a0, a1, a2, b0, b1, b2, 0, 0) takes
    the output pixel in column x and row y from the input at (a0 x + a1 y + a2, b0 x + b1 y + b2); rotation, shear and
    zoom are about the centre, (size - 1) / 2. A transform depends on seed, pair and view alone: baseline and
    abnormality of a pair share it, and no order or selection of pairs changes it.

    Raises:
        UserError: the policy is not in `POLICIES`.
    """
    if policy == ALL_FLIPS:
        return np.repeat(_flip(view, size)[None], len(pairs), axis=0)
    if policy not in POLICIES:
        raise unknown_name("augmentation", policy, POLICIES)
    ranges = POLICIES[policy]
    uniform = _uniforms(np.asarray(pairs), view, seed)
    centred = 2 * uniform - 1
    angle = np.deg2rad(ranges.rotation * centred[0])
    shift = ranges.shift * size * centred[1:3]
    shear = np.deg2rad(ranges.shear * centred[3])
    zoom = 1 + ranges.zoom * centred[4:6]
    flip_x = np.where(ranges.horizontal_flip & (uniform[6] < 0.5), -1.0, 1.0)
    flip_y = np.where(ranges.vertical_flip & (uniform[7] < 0.5), -1.0, 1.0)

    # rotation · shift · shear · zoom · flip in (row, column), as ImageDataGenerator composes them.
    cosine, sine = np.cos(angle), np.sin(angle)
    row_row = cosine * zoom[0] * flip_y
    row_column = (-cosine * np.sin(shear) - sine * np.cos(shear)) * zoom[1] * flip_x
    column_row = sine * zoom[0] * flip_y
    column_column = (-sine * np.sin(shear) + cosine * np.cos(shear)) * zoom[1] * flip_x
    row_shift = cosine * shift[0] - sine * shift[1]
    column_shift = sine * shift[0] + cosine * shift[1]

    centre = (size - 1) / 2
    zero = np.zeros_like(angle)
    rows = (
        column_column,
        column_row,
        centre + column_shift - (column_column + column_row) * centre,
        row_column,
        row_row,
        centre + row_shift - (row_column + row_row) * centre,
        zero,
        zero,
    )
    return np.stack(rows, axis=1).astype(np.float32)


def _flip(view: int, size: int) -> np.ndarray:
    """The transform of one of `FLIPS`: float32 (8,)."""
    transposed, rows, columns = FLIPS[view]
    along, across = np.array([1, 0]), np.array([0, 1])  # the column and the row that a pixel comes from
    if transposed:
        along, across = across, along
    # rows are reversed after the transposition: what was a column of the input is a row by then
    by_column, by_row = (-1 if columns else 1), (-1 if rows else 1)
    scale = np.array([by_column, by_row])
    first, second = along * scale, across * scale
    shift = [(size - 1) * int(one.sum() < 0) for one in (first, second)]
    return np.array([*first, shift[0], *second, shift[1], 0, 0], np.float32)


def _uniforms(pairs: np.ndarray, view: int, seed: int) -> np.ndarray:
    """Uniform float64 in [0, 1), shape (8, n): the top 53 bits of a hash chain over seed, pair, view and draw."""
    key = _split_mix(np.array([seed], np.int64).astype(np.uint64))
    key = _split_mix(key ^ pairs.astype(np.int64).astype(np.uint64))
    key = _split_mix(key ^ np.uint64(view))
    draws = _split_mix(key[None, :] + np.arange(_DRAWS, dtype=np.uint64)[:, None] * _GOLDEN)
    return (draws >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _split_mix(state: np.ndarray) -> np.ndarray:
    """One step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014; constants of Vigna's splitmix64.c), modulo 2^64."""
    mixed = state + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
