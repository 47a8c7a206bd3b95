"""One film and boxes or masks, as somebody has them who asks a model: the same patches as an ingest's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from mammo_mlflow.data.cbis_ddsm.cutting import Box, Pair, cut_pair, find_breast
from mammo_mlflow.data.cbis_ddsm.dicom import read_film, read_grey, two_valued
from mammo_mlflow.data.cbis_ddsm.locating import INVERTED, NO_FIT, Located, Unlocated, locate
from mammo_mlflow.data.cbis_ddsm.settings import CropSettings
from mammo_mlflow.errors import expected


def cut_one_film(film: Path, boxes: Sequence[Box], masks: Sequence[Path], how: CropSettings) -> list[Pair]:
    """The pairs of a film, those of `boxes` first, then one for each mask; no baseline lies on any of them.

    Raises:
        UserError: a file cannot be read or is not what it should be, a box leaves the film, or a mask is too odd.
    """
    pixels = read_film(film, film.name)
    taken, shape = np.zeros(pixels.shape, bool), f"{pixels.shape[1]}×{pixels.shape[0]}"
    for box in boxes:
        if not box.inside(pixels.shape):
            raise expected("box", f"one in the film of {shape} pixels", box)
        box.of(taken)[:] = True
    found = [(box, "") for box in boxes]
    for path in masks:
        mask = two_valued(read_grey(path, path.name), path.name)
        try:
            place = locate(mask, pixels, (), None, how.locate, taken)
        except Unlocated as problem:
            wanted = f"the film's size, {shape} pixels" + ("" if how.locate == "mask" else ", or its aspect")
            said = f"{mask.shape[1]}×{mask.shape[0]}"
            if problem.reason != NO_FIT:
                article = "an" if problem.reason == INVERTED else "a"
                wanted, said = "a mask of the abnormality", f"{article} {problem.reason}: {problem}"
            raise expected(path.name, wanted, said) from None
        found.append((place.box, _note(path.name, mask, place)))
    breast = cache(lambda: find_breast(pixels))
    return [replace(cut_pair(pixels, box, breast, taken, how), note=note) for box, note in found]


def _note(name: str, mask: np.ndarray, place: Located) -> str:
    """What was done with an odd mask, or nothing."""
    done = []
    if place.how == "rescaled":
        done.append(f"its {mask.shape[1]}×{mask.shape[0]} pixels were scaled to the film's")
    if place.stray:
        done.append(f"{place.stray} marked pixels were taken for specks")
    return f"{name}: {' and '.join(done)}; box {place.box}" if done else ""


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
