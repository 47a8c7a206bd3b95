"""Collections drawn by a program and laid out as CBIS-DDSM is, in the three ways in which people have it.

Every film's Manufacturer says that it is synthetic, so that whatever is made of it is phantom data.
"""

import csv
import functools
import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from mammo_mlflow.data.cbis_ddsm.dicom import SYNTHETIC

LAYOUTS = ("published", "nbia", "flat")
FILM, CROP, MASK = "full mammogram images", "cropped images", "ROI mask images"
SHAPE = (330, 220)
PATHS = ("image file path", "cropped image file path", "ROI mask file path")
MASS = ("mass shape", "mass margins")
CALC = ("calc type", "calc distribution")


@dataclass(frozen=True)
class Row:
    """An abnormality of a synthetic collection; `box` is x, y, width, height on its film."""

    split: str
    kind: str
    patient: str
    side: str
    view: str
    number: int
    pathology: str
    box: tuple

    @property
    def film(self):
        word = {"mass": "Mass", "calcification": "Calc"}[self.kind]
        return f"{word}-{self.split}_{self.patient}_{self.side}_{self.view}"

    @property
    def subject(self):
        return f"{self.film}_{self.number}"


def uid(*parts):
    """A DICOM UID that is the same for the same words."""
    return f"2.25.{int(hashlib.sha256('|'.join(map(str, parts)).encode()).hexdigest()[:28], 16)}"


def draw_film(name, shape=SHAPE):
    """A breast at the left edge on dark ground: uint16 with a coarse texture and fine grain, the same for a name."""
    rng = np.random.default_rng(int(uid(name)[-9:]))
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside = ((rows - shape[0] / 2) / (0.46 * shape[0])) ** 2 + (columns / (0.8 * shape[1])) ** 2 < 1
    step = max(4, shape[0] // 40)
    coarse = rng.normal(0, 4_000, (-(-shape[0] // step), -(-shape[1] // step)))
    texture = np.repeat(np.repeat(coarse, step, 0), step, 1)[: shape[0], : shape[1]]
    grain = np.resize(rng.integers(0, 1_500, 65_521), shape)
    return np.where(inside, np.clip(26_000 + texture + grain, 9_000, 64_000), grain // 8).astype(np.uint16)


def draw_mask(shape, box):
    """An ellipse that fills its box, 0 and 255."""
    x, y, width, height = box
    rows, columns = np.ogrid[:height, :width]
    radius = ((rows - (height - 1) / 2) / (height / 2)) ** 2 + ((columns - (width - 1) / 2) / (width / 2)) ** 2
    mask = np.zeros(shape, np.uint8)
    mask[y : y + height, x : x + width] = 255 * (radius <= 1)
    return mask


ODD = {
    "larger": "rescaled",
    "smaller": "rescaled",
    "stretched": "matched",
    "cut": "matched",
    "speck": "mask",
    "inverted": "inverted mask",
    "framed": "framed mask",
}
"""The kinds of odd masks: how `located` calls what is rescued of them, or the reason why it is not."""


def odd_mask(mask, box, kind):
    """A mask, uint8, made odd."""
    x, y, width, height = box
    if kind == "inverted":
        return 255 - mask
    if kind == "cut":  # to the abnormality, as its crop is
        return mask[y : y + height, x : x + width]
    mask = mask.copy()
    if kind == "speck":
        mask[min(mask.shape[0] - 1, y + height + 15), x + width // 2] = 255
    elif kind == "framed":
        mask[:3] = mask[-3:] = 255
        mask[:, :3] = mask[:, -3:] = 255
    else:
        sides = {"larger": (1.1, 1.1), "smaller": (0.9, 0.9), "stretched": (1.1, 1.3)}[kind]
        steps = [
            np.arange(round(side * times)) * side // round(side * times)
            for side, times in zip(mask.shape, sides, strict=True)
        ]
        return mask[np.ix_(*steps)]
    return mask


def plan(films, seed=0, shape=SHAPE):
    """Rows of `films` films: both kinds and splits, one abnormality or two on a film, a patient in both splits."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(films):
        split = "Test" if index // 2 % 4 == 3 or index == 9 else "Training"
        kind = "mass" if index % 2 == index // 4 % 2 else "calcification"
        patient = f"P_{index // 2 + 1 if index != 9 else 1:05d}"
        side, view = ("LEFT", "RIGHT")[index // 2 % 2], ("CC", "MLO")[index % 2]
        for number in range(1, 2 + (index % 5 == 2)):
            size = [int(rng.integers(shape[1] // 14, shape[1] // 8)) for _ in range(2)]
            x = int(rng.integers(shape[1] // 4, shape[1] // 2 - size[0]))
            y = shape[0] * (3 + 2 * number) // 10 - int(rng.integers(0, shape[0] // 20))
            pathology = ("MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK")[int(rng.integers(0, 3))]
            rows.append(Row(split, kind, patient, side, view, number, pathology, (x, y, *size)))
    return rows


def write_dicom(path, pixels, subject, description, changes=None):
    """A DICOM file as the collection's are; `changes` are attributes set last, None to leave one out."""
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = uid(subject, description)
    item.StudyInstanceUID, item.SeriesInstanceUID = uid(subject, "study"), uid(subject, description, "series")
    item.Manufacturer = SYNTHETIC
    item.PatientID, item.PatientName, item.SeriesDescription = subject, "Doe^Jane", description
    item.Modality, item.SamplesPerPixel, item.PhotometricInterpretation = "MG", 1, "MONOCHROME2"
    item.Rows, item.Columns = pixels.shape
    item.BitsAllocated = item.BitsStored = 8 * pixels.itemsize
    item.HighBit, item.PixelRepresentation = item.BitsStored - 1, 0
    item.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for name, value in (changes or {}).items():
        if value is None:
            delattr(item, name)
        else:
            setattr(item, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    item.save_as(path, enforce_file_format=True)


def published_path(subject, description, number):
    """Where a file lies as the case descriptions give it."""
    return f"{subject}/{uid(subject, 'study')}/{uid(subject, description, 'series')}/{number:06d}.dcm"


def write_descriptions(folder, rows):
    """The four CSVs (those that have rows), with the quirks of the published ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, word, columns, density in (
        ("mass", "mass", MASS, "breast_density"),
        ("calcification", "calc", CALC, "breast density"),
    ):
        for split, name in (("Training", "train"), ("Test", "test")):
            mine = [row for row in rows if (row.kind, row.split) == (kind, split)]
            if not mine:
                continue
            header = ["patient_id", density, "left or right breast", "image view", "abnormality id"]
            header += ["abnormality type", *columns, "assessment", "pathology", "subtlety", *PATHS]
            with (folder / f"{word}_case_description_{name}_set.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(header)
                for row in mine:
                    paths = [published_path(row.film, FILM, 0), published_path(row.subject, CROP, 0)]
                    values = [row.patient, 1 + int(row.patient[2:]) % 4, row.side, row.view, row.number, kind, "ROUND"]
                    values += ["CIRCUMSCRIBED", 4, row.pathology, 3, *paths]
                    writer.writerow([*values, published_path(row.subject, MASK, 1) + "\n"])


def write_collection(root, rows, layout="published", seed=0, shape=SHAPE, odd=None):
    """Films, crops and masks of `rows` below `root`, and the CSVs; `seed` shuffles in which order files are made.

    `odd` gives the kind of the mask (of `ODD`) for subjects whose mask is to be odd. Of every third abnormality the
    descriptions of crop and mask are swapped, as in the collection.
    """
    root = Path(root)
    write_descriptions(root, rows)
    wanted = [(film, FILM, None) for film in dict.fromkeys(row.film for row in rows)]
    for index, row in enumerate(rows):
        names = (MASK, CROP) if index % 3 == 2 else (CROP, MASK)
        wanted += [(row.subject, names[0], (row, "crop")), (row.subject, names[1], (row, "mask"))]
    if seed:
        random.Random(seed).shuffle(wanted)
    draw = functools.lru_cache(2)(draw_film)
    metadata = []
    for place, (subject, description, what) in enumerate(wanted):
        if what is None:
            pixels = draw(subject, shape)
        elif what[1] == "mask":
            pixels = draw_mask(shape, what[0].box)
            if odd and what[0].subject in odd:
                pixels = odd_mask(pixels, what[0].box, odd[what[0].subject])
        else:
            x, y, width, height = what[0].box
            pixels = draw(what[0].film, shape)[y : y + height, x : x + width]
        path = _place(layout, subject, description, place)
        metadata.append([uid(subject, description, "series"), "CBIS-DDSM", subject, description, f"./{path}"])
        write_dicom(root / path, np.ascontiguousarray(pixels), subject, description)
    if layout == "nbia":
        with (root / "metadata.csv").open("w", newline="") as file:
            header = ["Series UID", "Collection", "Subject ID", "Series Description", "File Location"]
            csv.writer(file).writerows([header, *metadata])


def _place(layout, subject, description, place):
    if layout == "published":
        return published_path(subject, description, int(description == MASK))
    if layout == "nbia":
        series = f"1.000000-{description}-{uid(subject, description)[-5:]}"
        return f"CBIS-DDSM/{subject}/08-29-2017-DDSM-{uid(subject)[-5:]}/{series}/1-1.dcm"
    return f"{place:05d}.dcm"
