"""Make the fixture of real film under tests/data/cbis_ddsm/fixture: parts of CBIS-DDSM's films around published boxes.

    python scripts/film_fixture.py --films DIR --csv DIR --boxes FILE --out DIR

`--films`: full mammograms as DICOM; `--csv`: the published case descriptions; `--boxes`: a line for each mask, its path
then x, y, width, height, 1 and the pathology. A part of a film keeps its pixels, its PatientID and its series'
description and nothing else of its header; masks are written from the boxes. What comes out is CC BY 3.0, as the
collection is: keep ATTRIBUTION.md beside it.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

PARTS = {
    "Mass-Test_P_00173_LEFT_CC": (560, 2230, 720, 420),
    "Mass-Test_P_00173_RIGHT_MLO": (1640, 2530, 600, 380),
    "Mass-Test_P_00820_LEFT_MLO": (0, 3100, 600, 420),
    "Mass-Test_P_00820_RIGHT_CC": (1940, 1160, 600, 620),
}
"""x, y, width and height of the part of each film that is kept: a box, and room for a baseline."""


def write(path: Path, pixels: np.ndarray, subject: str, description: str) -> None:
    """A small DICOM file, RLE compressed."""
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[subject, description])
    item.StudyInstanceUID = generate_uid(entropy_srcs=[subject])
    item.SeriesInstanceUID = generate_uid(entropy_srcs=[subject, description, "series"])
    item.PatientID, item.SeriesDescription, item.Modality = subject, description, "MG"
    item.SamplesPerPixel, item.PhotometricInterpretation, item.PixelRepresentation = 1, "MONOCHROME2", 0
    item.Rows, item.Columns = pixels.shape
    item.BitsAllocated = item.BitsStored = 8 * pixels.itemsize
    item.HighBit = item.BitsStored - 1
    item.PixelData = np.ascontiguousarray(pixels).tobytes()
    item.compress(RLELossless, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    item.save_as(path, enforce_file_format=True)


def main() -> None:
    """Write the fixture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("films", "csv", "boxes", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    asked = parser.parse_args()
    boxes = {}
    for line in asked.boxes.read_text().splitlines():
        path, *numbers = line.rsplit(None, 6)
        boxes[path.split("/")[1]] = tuple(map(int, numbers[:4]))
    for path in sorted(asked.films.rglob("*.dcm")):
        film = pydicom.dcmread(path)
        subject = str(film.PatientID)
        if subject not in PARTS:
            continue
        x, y, width, height = PARTS[subject]
        part = film.pixel_array[y : y + height, x : x + width]
        write(asked.out / subject / "1-1.dcm", part, subject, "full mammogram images")
        for roi, (left, top, across, down) in boxes.items():
            left, top = left - x, top - y
            if roi.rsplit("_", 1)[0] == subject and left >= 0 and top >= 0 and left + across <= width:
                mask = np.zeros(part.shape, np.uint8)
                mask[top : top + down, left : left + across] = 255
                write(asked.out / roi / "1-1.dcm", mask, roi, "ROI mask images")
                write(asked.out / roi / "1-2.dcm", part[mask > 0].reshape(down, across), roi, "cropped images")
    name = "mass_case_description_test_set.csv"
    with (asked.csv / name).open(newline="") as file, (asked.out / name).open("w", newline="") as target:
        header, *rows = csv.reader(file)
        kept = [row for row in rows if row[11].split("/")[0] in PARTS]
        csv.writer(target).writerows([header, *kept])


if __name__ == "__main__":
    main()
