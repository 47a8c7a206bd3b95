"""Cut patches out of a single film at given boxes or masks, to predict on, exactly as an ingest cuts them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from mammo_mlflow.data.cbis_ddsm.cutting import Box, Pair, cut_pair, find_breast
from mammo_mlflow.data.cbis_ddsm.dicom import as_mask, read_film, read_grey
from mammo_mlflow.data.cbis_ddsm.locating import INVERTED, NO_FIT, Located, Unlocated, locate
from mammo_mlflow.data.cbis_ddsm.settings import CropSettings
from mammo_mlflow.errors import expected


def cut_one_film(film: Path, boxes: Sequence[Box], masks: Sequence[Path], crop: CropSettings) -> list[Pair]:
    """Cut a pair at each of `boxes`, then at each of `masks`; no baseline overlaps any of them.

    `film` and `masks` are DICOM files.

    Raises:
        UserError: a file cannot be read or is no film or mask, a box leaves the film, or a mask gives no box.
    """
    pixels = read_film(film, film.name)
    taken, shape = np.zeros(pixels.shape, bool), f"{pixels.shape[1]}×{pixels.shape[0]}"
    for box in boxes:
        if not box.inside(pixels.shape):
            raise expected("box", f"one in the film of {shape} pixels", box)
        box.pixels(taken)[:] = True
    found = [(box, "") for box in boxes]
    for path in masks:
        mask = as_mask(read_grey(path, path.name), path.name)
        try:
            place = locate(mask, pixels, (), None, crop.locate, taken)
        except Unlocated as problem:
            wanted = f"the film's size, {shape} pixels" + ("" if crop.locate == "mask" else ", or its aspect")
            said = f"{mask.shape[1]}×{mask.shape[0]}"
            if problem.reason != NO_FIT:
                article = "an" if problem.reason == INVERTED else "a"
                wanted, said = "a mask of the abnormality", f"{article} {problem.reason}: {problem}"
            raise expected(path.name, wanted, said) from None
        found.append((place.box, _odd_mask_note(path.name, mask, place)))
    breast = cache(lambda: find_breast(pixels))
    return [replace(cut_pair(pixels, box, breast, taken, crop), note=note) for box, note in found]


def _odd_mask_note(name: str, mask: np.ndarray, place: Located) -> str:
    """Say how an odd mask was read; "" for one that is as it should be."""
    done = []
    if place.how == "rescaled":
        done.append(f"its {mask.shape[1]}×{mask.shape[0]} pixels were scaled to the film's")
    if place.stray:
        done.append(f"{place.stray} marked pixels were taken for specks")
    return f"{name}: {' and '.join(done)}; box {place.box}" if done else ""


def parse_boxes(text: str) -> list[Box]:
    """Parse boxes `x,y,width,height` in pixels, several separated by semicolons. Raises `UserError`."""
    boxes = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        numbers = re.split(r"[,\s]+", part)
        if len(numbers) != 4 or not all(re.fullmatch("[0-9]{1,6}", number) for number in numbers):
            raise expected("box", "x,y,width,height in pixels of the film", f"'{part}'")
        boxes.append(Box(*map(int, numbers)))
    return boxes


def pairs_array(pairs: Sequence[Pair], need_baseline: bool) -> np.ndarray:
    """Stack pairs as uint16 (2n, size, size), even rows baselines; a missing baseline is all 0.

    Raises `UserError` for a missing baseline with `need_baseline`.
    """
    rows = []
    for pair in pairs:
        if pair.baseline is None and need_baseline:
            raise expected(f"box {pair.box}", "room for a baseline beside it", pair.why)
        rows += [np.zeros_like(pair.abnormality) if pair.baseline is None else pair.baseline, pair.abnormality]
    return np.stack(rows)
