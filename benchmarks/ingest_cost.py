"""What a film costs `prepare`, and what it costs the loop that people write with pydicom and OpenCV.

    python benchmarks/ingest_cost.py --folder DIR [--films 200] [--rle] [--output FILE]

A synthetic collection of `--films` films of 4,500 × 2,850 pixels (16 bit, uncompressed as published, or RLE; 38 MB each
with its mask) is made in `--folder`, which needs that room, and kept for the next call. Then, in one run:

- the product's ingest (headers, matching, patches, baselines, writing) with one worker and with two, each into a new
  directory, with the peak private memory of its processes;
- the loop, in one process: for each row of the case descriptions read the film and the mask where the row's path says,
  `cv2.boundingRect`, crop, `cv2.resize`, and the first of four neighbours that is bright enough and not marked as
  baseline. It is told which file is the mask (the product finds out), looks at no other mask of the film, and keeps
  everything in memory.

Needs `pip install opencv-python-headless`. Before each measurement the files are read once, so that none waits for the
disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
from common import run_measured

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support_collection import FILM, MASK, Row, plan, published_path, write_collection  # noqa: E402

SHAPE = (4500, 2850)
INGEST = """
import sys
from pathlib import Path
from mammo_mlflow.data.cbis_ddsm.ingest import ingest
from mammo_mlflow.data.cbis_ddsm.settings import IngestSettings
if __name__ == "__main__":
    source, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    ingest(source, out, source, IngestSettings(shared_patients="keep"), workers, lambda *_: None)
"""


def main() -> None:
    """Measure all three, print a table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--rle", action="store_true", help="RLE compressed films and masks")
    parser.add_argument("--output", help="file for the numbers as JSON")
    options = parser.parse_args()
    rows = plan(options.films, shape=SHAPE)
    source = options.folder / f"collection-{options.films}{'-rle' if options.rle else ''}"
    if not source.is_dir():
        part = source.with_name(f"{source.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        write_collection(part, rows, shape=SHAPE)
        for path in part.rglob("*.dcm") if options.rle else ():
            item = pydicom.dcmread(path)
            item.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
            item.save_as(path)
        part.rename(source)
    numbers = {"films": options.films, "abnormalities": len(rows), "rle": options.rle}
    for workers in (1, 2):
        numbers[f"prepare_{workers}"] = product(source, options.folder, workers, options.films)
    warm(source)
    start = time.perf_counter()
    kept = loop(source, rows)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    numbers["loop"] = {"seconds": seconds, "film": seconds / options.films, "peak_mb": peak, "kept": kept}
    for name, one in numbers.items():
        if isinstance(one, dict):
            print(f"{name:>10}: {one['seconds']:6.1f} s, {one['film']:.3f} s a film, peak {one['peak_mb']:.0f} MB")
    print(f"loop / prepare with one worker: {numbers['loop']['seconds'] / numbers['prepare_1']['seconds']:.2f}x")
    if options.output:
        Path(options.output).write_text(json.dumps(numbers, indent=1))


def product(source: Path, folder: Path, workers: int, films: int) -> dict[str, float]:
    """An ingest as a process of its own: seconds with its start, and the peak memory of its largest process in MB."""
    out, script = folder / "out", folder / "ingest.py"
    script.write_text(INGEST)
    shutil.rmtree(out, ignore_errors=True)
    warm(source)
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    seconds, memory = run_measured(
        [sys.executable, str(script), str(source), str(out), str(workers)], folder, surroundings
    )
    return {"seconds": seconds, "film": seconds / films, "peak_mb": max(memory.values()) / 1e6}


def loop(source: Path, rows: list[Row]) -> int:
    """The loop that people write; the number of pairs it keeps."""
    import cv2

    pairs = []
    for index, row in enumerate(rows):
        film = pydicom.dcmread(source / published_path(row.film, FILM, 0)).pixel_array
        name = ("cropped images", 0) if index % 3 == 2 else (MASK, 1)
        mask = pydicom.dcmread(source / published_path(row.subject, *name)).pixel_array
        x, y, width, height = cv2.boundingRect(mask)
        for left, top in ((x - width, y), (x + width, y), (x, y - height), (x, y + height)):
            beside = film[top : top + height, left : left + width] if min(left, top) >= 0 else film[:0]
            if beside.shape == (height, width) and (beside > 8_000).mean() > 0.9:
                sides = [film[y : y + height, x : x + width], beside]
                pairs.append([cv2.resize(one, (150, 150), interpolation=cv2.INTER_NEAREST) for one in sides])
                break
    return len(np.array(pairs))


def warm(source: Path) -> None:
    """Read every file once."""
    for path in source.rglob("*.dcm"):
        path.read_bytes()


if __name__ == "__main__":
    main()
