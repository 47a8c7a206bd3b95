"""Make a data directory of REAL FILM TEXTURE WITH SYNTHETIC LESIONS: no medical result can come of it.

    python benchmarks/film_patches.py --films DIR --out DIR [--patches 700] [--test 200] [--views 1] [--seed 0]

DIR holds full mammograms as DICOM (uint16, MONOCHROME2, such as CBIS-DDSM's films). They are read with `pydicom`, which
benchmarks alone need: `pip install "pydicom>=3,<4"`.

Where ImageNet features are compared (int8 against float32, cached views against on-line training), texture made by a
program does not do: it lacks what films have. Yet a few films hold a few abnormalities, not a thousand. So the tissue
is real here and the lesions are the phantom's (`mammo_mlflow.data.phantom_images`), added onto it. A few crops may hold
a real lesion too; nothing is known of it, and labels speak of the synthetic one alone. How visible lesions are was set
by a logistic regression on average-pooled VGG16 features: mass against calcification is to have an AUC of 0.80 to 0.93,
benign against malignant one of 0.60 to 0.75.

Films are cut into regions of `REGION` pixels on a grid. A pair is two crops of the same size from one region, apart
from one another; crops of different pairs overlap. The region is the patient: pairs share one if and only if they are
from the same region, so that no part of a film is in two groups, folds or splits. Widths and heights of crops resemble
the published boxes of CBIS-DDSM's 376 test masses (median about 300 pixels, half of them from 240 to 375).

With `--views 2` each lesion is drawn twice, in a region of a breast's CC film and in one of its MLO film, which count
as one patient together. What decides its looks is the phantom's of two views (`draw_suspicions`): they have to be
compared. Which breast and view a film shows is read from its PatientID (`..._LEFT_CC`), as CBIS-DDSM writes it.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from mammo_mlflow.data import phantom_images as images
from mammo_mlflow.data.patches import IMAGE_SIZE, SPLITS, read_patch_set
from mammo_mlflow.data.phantom import STANDS_OUT, TYPE_WEIGHTS, VIEWS, draw_suspicions

VERSION = 1
NOTE = "Real film texture with synthetic lesions drawn by a program: no figure computed from it is a medical result."
COARSE = 16
"""Film pixels to a pixel of the breast's mask."""
REGION = (65 * COARSE, 32 * COARSE)
"""Height and width of a region in film pixels: two of the largest crops fit, one above the other."""
BOX = (150, 500)
INSIDE = 0.95
"""The least part of a crop that lies in the breast."""
MASS_HEIGHT = 5_000.0
SPECK_HEIGHT = 4_200.0
SEPARATION = 3.2
"""Distance of benign from malignant, in standard deviations of what decides a lesion's look."""
LEAST_REGIONS = 5
"""The fewest regions, or pairs of regions, of a split."""

Place = tuple[tuple[int, tuple[int, int]], ...]
"""Where the views of lesions lie: for each view the film's number and the corner of a region."""


def breast_and_view(path: Path) -> tuple[str, str]:
    """Which breast a film shows, such as `P_00173_LEFT`, and in which view, by the end of its PatientID."""
    import pydicom

    breast, _, view = str(pydicom.dcmread(path, stop_before_pixels=True).PatientID).rpartition("_")
    return breast, view


def read_film(path: Path) -> np.ndarray:
    """The pixels of a DICOM film, uint16 (rows, columns), bright where tissue is dense."""
    import pydicom

    film = pydicom.dcmread(path)
    pixels = film.pixel_array
    if pixels.dtype != np.uint16 or pixels.ndim != 2 or film.PhotometricInterpretation != "MONOCHROME2":
        sys.exit(f"{path}: expected one uint16 MONOCHROME2 film, found {pixels.dtype} {pixels.shape}")
    return pixels


def breast_mask(film: np.ndarray) -> np.ndarray:
    """Where the breast is: bool, one pixel for `COARSE` × `COARSE` of the film; letters and borders are left out."""
    rows, columns = (side // COARSE for side in film.shape)
    coarse = film[: rows * COARSE, : columns * COARSE].reshape(rows, COARSE, columns, COARSE).mean(axis=(1, 3))
    mask = ndimage.binary_opening(coarse > 4_000, iterations=5)
    mask[:4], mask[-4:] = False, False
    parts, count = ndimage.label(mask)
    if not count:
        return mask
    largest = 1 + int(np.argmax(ndimage.sum_labels(mask, parts, range(1, count + 1))))
    return ndimage.binary_erosion(ndimage.binary_fill_holes(parts == largest), iterations=2)


def regions(mask: np.ndarray) -> list[tuple[int, int]]:
    """Top left corners, in film pixels, of the grid's regions with room for crops.

    The grid's offset is the one that keeps most of the breast; regions of which less than half is breast are left out.
    """
    height, width = (side // COARSE for side in REGION)
    total = np.pad(mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    best: tuple[int, list[tuple[int, int]]] = (-1, [])
    for top in range(0, height, 4):
        for left in range(0, width, 4):
            found, kept = [], 0
            for row in range(top, mask.shape[0] - height + 1, height):
                for column in range(left, mask.shape[1] - width + 1, width):
                    area = total[row + height, column + width] - total[row, column + width]
                    area += total[row, column] - total[row + height, column]
                    if area >= 0.5 * height * width:
                        found.append((row * COARSE, column * COARSE))
                        kept += int(area)
            best = max(best, (kept, found), key=lambda one: one[0])
    return best[1]


def draw_boxes(
    rng: np.random.Generator, corner: tuple[int, int], mask: np.ndarray
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """The crops of a baseline and an abnormality in one region, apart and in the breast; None after many attempts."""
    for attempt in range(600):
        if attempt % 30 == 0:  # a size gets many chances, else small crops would be drawn too often
            size = 315 * math.exp(rng.normal(0, 0.36))
            aspect = math.exp(rng.normal(0, 0.09))
            height, width = (int(np.clip(side, *BOX)) for side in (size * aspect, size / aspect))
        first = int(rng.integers(0, REGION[0] - 2 * height + 1))
        second = int(rng.integers(first + height, REGION[0] - height + 1))
        tops = (first, second) if rng.random() < 0.5 else (second, first)
        lefts = rng.integers(0, REGION[1] - width + 1, 2)
        boxes = tuple(
            (slice(corner[0] + top, corner[0] + top + height), slice(corner[1] + left, corner[1] + left + width))
            for top, left in zip(tops, map(int, lefts), strict=True)
        )
        if all(
            mask[rows.start // COARSE : rows.stop // COARSE, columns.start // COARSE : columns.stop // COARSE].mean()
            >= INSIDE
            for rows, columns in boxes
        ):
            return boxes[0], boxes[1]
    return None


def crop(film: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
    """A crop resized to the side of a patch by nearest neighbour, uint16: no grey value is invented."""
    pixels = film[box]
    rows, columns = ((np.arange(IMAGE_SIZE) + 0.5) * side / IMAGE_SIZE for side in pixels.shape)
    return pixels[np.ix_(rows.astype(int), columns.astype(int))]


def implant(rng: np.random.Generator, patch: np.ndarray, kind: int, look: float | None = None) -> np.ndarray:
    """A patch with a lesion of a type (1 to 4) added; film that is nearly white takes less of it.

    `look` is how suspicious one of two views looks; a suspicious one stands out as well, as in the phantom.
    """
    suspicion = rng.normal((SEPARATION if kind in (2, 4) else -SEPARATION) / 2, 1) if look is None else look
    radius = rng.uniform(0.17, 0.40)
    height = math.exp(rng.normal(0, 0.45))
    if look is not None:
        height *= math.exp(math.copysign(0.45 * STANDS_OUT, look))
    if kind <= 2:
        lesion = MASS_HEIGHT * height * images.draw_mass(rng, IMAGE_SIZE, suspicion, radius)
        if rng.random() < 0.3:
            specks = images.draw_calcifications(rng, IMAGE_SIZE, rng.normal(-1.5, 1), radius)
            lesion = lesion + 0.5 * SPECK_HEIGHT * specks
    else:
        lesion = SPECK_HEIGHT * height * images.draw_calcifications(rng, IMAGE_SIZE, suspicion, radius)
        if rng.random() < 0.5:
            dense = images.draw_mass(rng, IMAGE_SIZE, rng.normal(), rng.uniform(0.17, 0.4))
            lesion = lesion + 0.7 * MASS_HEIGHT * dense
    room = np.clip((65_535 - patch.astype(np.float64)) / 12_000, 0, 1)
    return np.clip(np.rint(patch + room * lesion), 0, 65_535).astype(np.uint16)


def find_places(masks: list[np.ndarray], shown: list[tuple[str, str]], views: int, seed: int) -> list[Place]:
    """The regions in which crops can be drawn; with two views, pairs of those of a breast's two films."""
    of_film = [
        [
            (film, corner)
            for corner in regions(mask)
            if draw_boxes(np.random.default_rng(seed), corner, mask) is not None
        ]
        for film, mask in enumerate(masks)
    ]
    if views == 1:
        return [(place,) for found in of_film for place in found]
    by_shown = dict(zip(shown, of_film, strict=True))
    breasts = dict.fromkeys(breast for breast, _ in shown)
    return [
        pair for breast in breasts for pair in zip(*(by_shown.get((breast, view), []) for view in VIEWS), strict=False)
    ]


def make(
    films: list[np.ndarray], shown: list[tuple[str, str]], out: Path, counts: dict[str, int], views: int, seed: int
) -> None:
    """Write the data directory; it appears under its name only when whole. `shown`: each film's breast and view."""
    rng = np.random.default_rng(seed)
    names = [f"FILM{number:02d}" for number in range(1, len(films) + 1)]
    masks = [breast_mask(film) for film in films]
    places = find_places(masks, shown, views, seed)
    places = [places[index] for index in rng.permutation(len(places))]
    share = round(len(places) * counts["test"] / (counts["train"] + counts["test"]))
    if min(share, len(places) - share) < LEAST_REGIONS:
        sys.exit(f"{len(places)} regions or pairs of them in {len(films)} films are too few; give more films")
    of_split = {"test": places[:share], "train": places[share:]}
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, stem in SPLITS.items():
        lesions = counts[name] // views
        kinds = rng.permutation(1 + np.searchsorted(np.cumsum(TYPE_WEIGHTS) / sum(TYPE_WEIGHTS), _evenly(lesions)))
        count = lesions * views
        labels = np.zeros(2 * count, np.int64)
        labels[1::2] = np.repeat(kinds, views)
        tensor = np.empty((2 * count, IMAGE_SIZE, IMAGE_SIZE), np.uint16)
        rows = []
        for lesion, kind in enumerate(kinds):
            turn, number = divmod(lesion, len(of_split[name]))
            place = of_split[name][number]
            looks = [None] if views == 1 else draw_suspicions(rng, int(kind)).tolist()
            region = "_".join(f"{names[film]}_{corner[0]}_{corner[1]}" for film, corner in place)
            for (film, corner), look in zip(place, looks, strict=True):
                boxes = None
                while boxes is None:
                    boxes = draw_boxes(rng, corner, masks[film])
                index = len(rows)
                tensor[2 * index] = crop(films[film], boxes[0])
                tensor[2 * index + 1] = implant(rng, crop(films[film], boxes[1]), int(kind), look)
                row = {"patient_id": region, "film": names[film], "boxes": " ".join(map(_corner, boxes))}
                if views == 2:
                    breast, view = shown[film]
                    row |= {"side": breast.rpartition("_")[2], "view": view, "abnormality_id": turn + 1}
                rows.append(row)
        np.save(partial / f"{stem}_tensor.npy", tensor)
        np.save(partial / f"{stem}_labels.npy", labels)
        pd.DataFrame(rows).to_csv(partial / f"{stem}_groups.csv", index=False, lineterminator="\n")
    content = {"generator": "benchmarks/film_patches.py", "version": VERSION, "size": IMAGE_SIZE, "seed": seed}
    content |= {**counts, "regions": {name: len(found) for name, found in of_split.items()}, "note": NOTE}
    (partial / "phantom.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(out)


def contact_sheet(directory: Path, target: Path) -> None:
    """A PNG of twelve pairs of each type: baseline above, abnormality below."""
    from matplotlib.figure import Figure

    data = read_patch_set(directory)
    figure = Figure(figsize=(24, 16))
    axes = figure.subplots(8, 12)
    for row in range(4):
        chosen = np.flatnonzero(data.train.types == row + 1)[:12]
        for column, index in enumerate(chosen):
            axes[2 * row, column].imshow(data.train.baseline[index], cmap="gray")
            axes[2 * row + 1, column].imshow(data.train.abnormality[index], cmap="gray")
            axes[2 * row + 1, column].set_title(f"type {row + 1}", fontsize=8)
    for axis in axes.flat:
        axis.axis("off")
    figure.suptitle(NOTE)
    figure.tight_layout()
    figure.savefig(target, dpi=60)


def _evenly(count: int) -> np.ndarray:
    return (np.arange(count) + 0.5) / count


def _corner(box: tuple[slice, slice]) -> str:
    rows, columns = box
    return f"{columns.start}:{rows.start}:{columns.stop - columns.start}:{rows.stop - rows.start}"


def main() -> None:
    """Read the films, make the directory, check it as the platform does, and say what it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, required=True, help="directory of DICOM films, searched below too")
    parser.add_argument("--out", type=Path, required=True, help="directory to make; it must not exist")
    parser.add_argument("--patches", type=int, default=700, help="abnormalities to train on (default: 700)")
    parser.add_argument("--test", type=int, default=200, help="abnormalities in the test set (default: 200)")
    parser.add_argument("--views", type=int, default=1, choices=(1, 2), help="views of each lesion (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet, a PNG")
    arguments = parser.parse_args()
    if arguments.out.exists():
        sys.exit(f"--out: expected a directory that does not exist yet, found {arguments.out}")
    paths = sorted(arguments.films.rglob("*.dcm"))
    if not paths:
        sys.exit(f"--films: expected DICOM files (*.dcm) in {arguments.films}, found none")
    counts = {"train": arguments.patches, "test": arguments.test}
    films = [read_film(path) for path in paths]
    shown = [breast_and_view(path) for path in paths]
    make(films, shown, arguments.out, counts, arguments.views, arguments.seed)
    data = read_patch_set(arguments.out)
    described = data.describe()
    for name in SPLITS:
        regions_used = described["patients"][name]
        print(f"{name}: {described['abnormalities'][name]} pairs, {regions_used} regions, {described['classes'][name]}")
    for warning in data.warnings:
        print(f"warning: {warning}")
    if arguments.sheet:
        contact_sheet(arguments.out, arguments.sheet)
    print(NOTE)


if __name__ == "__main__":
    main()
