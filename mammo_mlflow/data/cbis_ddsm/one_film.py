"""One film and boxes or masks, as somebody has them who asks a model: the same patches as an ingest's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from mammo_mlflow.data.cbis_ddsm.cutting import Box, Pair, box_of, cut_pair, find_breast
from mammo_mlflow.data.cbis_ddsm.dicom import read_film, read_two_valued
from mammo_mlflow.data.cbis_ddsm.settings import Cut
from mammo_mlflow.errors import expected


def cut_one_film(film: Path, boxes: Sequence[Box], masks: Sequence[Path], how: Cut) -> list[Pair]:
    """The pairs of a film, those of `boxes` first, then one for each mask; no baseline lies on any of them.

    Raises:
        UserError: a file cannot be read or is not what it should be, a box leaves the film, or a mask has another size.
    """
    pixels = read_film(film, film.name)
    taken = np.zeros(pixels.shape, bool)
    for box in boxes:
        if not box.inside(pixels.shape):
            raise expected("box", f"one in the film of {pixels.shape[1]}×{pixels.shape[0]} pixels", box)
        box.of(taken)[:] = True
    found = list(boxes)
    for path in masks:
        mask = read_two_valued(path, path.name)
        if mask.shape != pixels.shape:
            wanted = f"the film's size, {pixels.shape[1]}×{pixels.shape[0]} pixels"
            raise expected(f"{path.name}", wanted, f"{mask.shape[1]}×{mask.shape[0]}")
        taken |= mask
        found.append(box_of(mask))
    breast = cache(lambda: find_breast(pixels))
    return [cut_pair(pixels, box, breast, taken, how) for box in found]


def parse_boxes(text: str) -> list[Box]:
    """Boxes as `x,y,width,height`, several with semicolons between. Raises `UserError`."""
    boxes = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        numbers = re.split(r"[,\s]+", part)
        if len(numbers) != 4 or not all(re.fullmatch("[0-9]{1,6}", number) for number in numbers):
            raise expected("box", "x,y,width,height in pixels of the film", f"'{part}'")
        boxes.append(Box(*map(int, numbers)))
    return boxes


def pairs_array(pairs: Sequence[Pair], need_baseline: bool) -> np.ndarray:
    """Pairs as uint16 (2n, size, size), even rows baselines, all 0 where there is none and none is needed.

    Raises `UserError` where one is needed.
    """
    rows = []
    for pair in pairs:
        if pair.baseline is None and need_baseline:
            raise expected(f"box {pair.box}", "room for a baseline beside it", pair.why)
        rows += [np.zeros_like(pair.abnormality) if pair.baseline is None else pair.baseline, pair.abnormality]
    return np.stack(rows)
