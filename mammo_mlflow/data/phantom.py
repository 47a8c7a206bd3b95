"""The phantom: a data directory of synthetic patches, made once and kept, for runs without real data."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammo_mlflow.data import phantom_images as images
from mammo_mlflow.data.arrays import write_split
from mammo_mlflow.data.patches import PHANTOM_FILE, SPLITS
from mammo_mlflow.errors import Faults, UserError, expected
from mammo_mlflow.files import locked, whole

VERSION = 1  # to be raised when the same settings give other pixels, labels or groups
NOTE = (
    "Synthetic patches made by a program. They show no patient, and no figure computed from them is a medical result."
)
TYPE_WEIGHTS = (113, 66, 106, 51)  # types 1 to 4 in the real test set
PREFIXES = {"train": "PHANTOM_TRAIN", "test": "PHANTOM_TEST"}
LARGEST = 20_000_000_000  # bytes of patches; more is taken for a mistake, since it takes days to draw
SEPARATION = 3.2  # distance of benign from malignant, in standard deviations of the latent suspicion
STANDS_OUT = 2.0  # by how much of a standard deviation of conspicuity, of two views, the suspicious look does
VIEWS = ("CC", "MLO")
LOOKS = {  # how often a lesion of two views looks suspicious in neither, in one and in both of them
    "benign": (0.3, 0.7, 0.0),
    "malignant": (0.35, 0.0, 0.65),
}

PhantomRow = Mapping[str, Any]
"""An abnormality to draw: its columns of the groups file, its type (1 to 4), and the numbers that decide its looks."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhantomSettings:
    """The size of a phantom: abnormalities in each split, side of a patch in pixels, seed, and views of a lesion.

    With 1 view a lesion has one view or two, which look alike. With 2 it has both (but for the last one of a type,
    where their number is odd), and what they show has to be compared: see `LOOKS`.

    Raises:
        UserError: fewer than 16 abnormalities in a split, a size outside 32 to 1024, a negative seed, too many bytes,
            or neither 1 view nor 2.
    """

    train: int = 320
    test: int = 128
    size: int = 150
    seed: int = 0
    views: int = 1

    def __post_init__(self) -> None:
        """Check every field."""
        limits = {"train": (16, 100_000), "test": (16, 100_000), "size": (32, 1024), "seed": (0, 2**32 - 1)}
        limits["views"] = (1, 2)
        problems = []
        for field, (low, high) in limits.items():
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                problems.append(str(expected(f"phantom: {field}", f"a whole number from {low} to {high}", repr(value))))
        if not problems and self.bytes > LARGEST:
            problems.append(str(expected("phantom", f"at most {LARGEST / 1e9:.0f} GB", f"{self.bytes / 1e9:.0f} GB")))
        if problems:
            raise Faults(problems)

    @property
    def options(self) -> dict[str, str]:
        """The options of a command that make this phantom, by name, without those that are the default."""
        usual = PhantomSettings()
        return {f"phantom_{one}": str(value) for one, value in asdict(self).items() if value != getattr(usual, one)}

    @property
    def bytes(self) -> int:
        """The size of the phantom's patches in bytes."""
        return 4 * (self.train + self.test) * self.size**2

    @property
    def directory_name(self) -> str:
        """The name of the phantom's data directory, made of every setting and the version of the generator."""
        views = "" if self.views == 1 else f"-{self.views}views"
        return f"phantom-v{VERSION}-{self.train}-{self.test}-{self.size}px-seed{self.seed}{views}"


def settings_from_name(directory: Path) -> PhantomSettings | None:
    """Parse the settings of a phantom from its directory's name; None for a directory of another name."""
    numbers = r"-(\d{1,9})-(\d{1,9})-(\d{1,9})px-seed(\d{1,10})(?:-(2)views)?"
    found = re.fullmatch(rf"phantom-v{VERSION}" + numbers, directory.name)
    return PhantomSettings(*(int(number) for number in found.groups("1"))) if found else None


def make_phantom(
    settings: PhantomSettings, root: str | Path, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Make a phantom's data directory below `root` unless it is there; the same settings give the same bytes.

    Another kind of processor may round some pixels otherwise. Where several processes call this at once, one makes it
    and the others wait. The directory gets its name only when it is complete. `progress` is called with the number of
    abnormalities drawn and their total.

    Raises:
        UserError: `root` cannot be written to, or its disk has no room.
    """
    target = Path(root) / settings.directory_name
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < settings.bytes:
            raise expected("phantom", f"{settings.bytes / 1e6:.1f} MB free in {root}", f"{free / 1e6:.1f} MB")
        with locked(target.with_name(f"{target.name}.lock")):
            if not target.is_dir():
                with whole(target, alone=True) as folder:
                    folder.mkdir()
                    _write_phantom(settings, folder, progress)
                logger.info("made the phantom %s", target)
    except OSError as error:
        raise UserError(f"phantom: {target}: cannot be written: {error.strerror or error}") from None
    return target


def _write_phantom(settings: PhantomSettings, directory: Path, progress: Callable[[int, int], None] | None) -> None:
    """Draw both splits and write their files and `phantom.json` into `directory`."""

    def draw_pairs(number: int, rows: list[PhantomRow]) -> Iterator[np.ndarray]:
        for index, row in enumerate(rows):
            yield _draw_pair(np.random.default_rng([settings.seed, number, index]), settings.size, row)
            if progress is not None:
                progress(number * settings.train + index + 1, settings.train + settings.test)

    for number, (name, stem) in enumerate(SPLITS.items()):
        rng = np.random.default_rng([settings.seed, number])
        rows = _draw_abnormalities(rng, getattr(settings, name), PREFIXES[name], settings.views)
        columns = ["patient_id", "side", "view", "abnormality_id", "density", "subtlety"]
        types, groups = [row["type"] for row in rows], pd.DataFrame(rows, columns=columns)
        write_split(directory, stem, settings.size, types, groups, draw_pairs(number, rows))
    stated = {name: value for name, value in asdict(settings).items() if (name, value) != ("views", 1)}
    content = {"generator": "mammo_mlflow phantom", "version": VERSION, **stated, "note": NOTE}
    (directory / PHANTOM_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _draw_abnormalities(rng: np.random.Generator, count: int, prefix: str, least_views: int) -> list[PhantomRow]:
    """Draw type, patient, projection and looks of `count` abnormality patches, a row for each.

    A patient has one or two abnormalities, each on one or two projections (CC, MLO), so one to four rows. Suspicion,
    size and conspicuity are drawn for the abnormality, film brightness and contrast for the patient; only suspicion
    depends on whether it is benign or malignant. Where every abnormality has two views, each of them has a suspicion of
    its own, and is the more conspicuous for it.
    """
    abnormalities = []
    for kind, number in zip(range(1, 5), _counts_by_type(count), strict=True):
        while number > 0:
            views = min(number, int(rng.integers(least_views, 3)))
            abnormalities.append((kind, views))
            number -= views
    rows: list[PhantomRow] = []
    patient, of_patient = -1, 2
    for place in rng.permutation(len(abnormalities)):
        kind, views = abnormalities[place]
        if of_patient == 2 or rng.random() < 0.75:
            patient, of_patient = patient + 1, 0
            film = {
                "patient_id": f"{prefix}_{patient + 1:05d}",
                "density": int(rng.integers(1, 5)),
                "brightness": rng.uniform(19_000, 46_000),
                "contrast": 2_700 * math.exp(rng.normal(0, 0.35)),
            }
            sides = rng.permutation(["LEFT", "RIGHT"])
        conspicuity = rng.normal()
        look = {
            "type": kind,
            "side": str(sides[of_patient]),
            "abnormality_id": 1,
            "subtlety": min(max(round(3.5 + conspicuity), 1), 5),
            "suspicion": rng.normal((SEPARATION if kind in (2, 4) else -SEPARATION) / 2, 1),
            "conspicuity": conspicuity,
            "radius": rng.uniform(0.17, 0.40),
        }
        of_patient += 1
        drawn = [{**film, **look, "view": view} for view in rng.permutation(VIEWS)[:views]]
        if least_views == 2:
            for row, suspicion in zip(drawn, draw_suspicions(rng, kind), strict=False):
                # what looks suspicious stands out as well, lest networks see too little of what is to be compared
                row |= {"suspicion": suspicion, "conspicuity": conspicuity + math.copysign(STANDS_OUT, suspicion)}
        rows += drawn
    return rows


def draw_suspicions(rng: np.random.Generator, kind: int) -> np.ndarray:
    """Draw how suspicious a lesion of this type looks in each of two views: float64 (2,).

    A malignant one looks alike in both; tissue that lies over a benign one often looks suspicious in one view, and is
    gone in the other. One view tells little, and neither do two that are judged one by one: they have to be compared.
    """
    suspicious = rng.choice(3, p=LOOKS["malignant" if kind in (2, 4) else "benign"])
    looks = rng.permutation(np.arange(2) < suspicious)
    return np.where(looks, SEPARATION, -SEPARATION) / 2 + rng.normal(0, 0.3, 2)


def _counts_by_type(count: int) -> np.ndarray:
    """Split a count over the four types in proportion to `TYPE_WEIGHTS`, by largest remainders: int (4,)."""
    share = count * np.array(TYPE_WEIGHTS) / sum(TYPE_WEIGHTS)
    whole = np.floor(share).astype(int)
    whole[np.argsort(whole - share, kind="stable")[: count - whole.sum()]] += 1
    return whole


def _draw_pair(rng: np.random.Generator, size: int, row: PhantomRow) -> np.ndarray:
    """Draw the baseline and the abnormality patch of one row: uint16 (2, size, size)."""
    film = row["contrast"] * images.draw_texture(rng, size)
    film += (row["brightness"] + rng.normal(0, 2_500, (2, 1, 1))).astype(np.float32)
    for patch, edge_chance in zip(film, (0.12, 0.35), strict=True):
        if rng.random() < edge_chance:
            patch -= rng.uniform(6_000, 16_000) * images.draw_edge(rng, size)
        patch += rng.uniform(6_000, 14_000) * images.draw_dust(rng, size)
    film[1] += _draw_lesion(rng, size, row)
    film += rng.uniform(450, 800) * images.draw_grain(rng, size)
    return np.clip(np.rint(film), 0, 65_535).astype(np.uint16)


def _draw_lesion(rng: np.random.Generator, size: int, row: PhantomRow) -> np.ndarray:
    """Draw the abnormality of one row, in grey values to be added: float32 (size, size).

    Some calcifications lie in dense tissue and some masses hold a few calcifications, as on real films.
    """
    suspicion = row["suspicion"] + rng.normal(0, 0.3)
    radius = min(max(row["radius"] * math.exp(rng.normal(0, 0.1)), 0.15), 0.4)
    if row["type"] <= 2:
        lesion = 8_000 * math.exp(0.45 * row["conspicuity"]) * images.draw_mass(rng, size, suspicion, radius)
        if rng.random() < 0.3:
            lesion += rng.uniform(1_500, 4_500) * images.draw_calcifications(rng, size, rng.normal(-1.5, 1), radius)
        return lesion
    lesion = 4_500 * math.exp(0.5 * row["conspicuity"]) * images.draw_calcifications(rng, size, suspicion, radius)
    if rng.random() < 0.4:
        dense = rng.uniform(0.17, 0.4)
        lesion += 6_000 * math.exp(0.45 * rng.normal()) * images.draw_mass(rng, size, rng.normal(-0.3, 0.5), dense)
    return lesion
