"""How many rows with an odd mask `prepare` rescues, by the kind of mask, and with how many wrong boxes.

    python benchmarks/odd_masks.py --folder DIR [--films 200] [--share 0.05] [--height N --width N] [--output FILE]

A synthetic collection is made in `--folder` (38 MB a film of 4,500 × 2,850 pixels) and kept for the next call. Of each
kind of odd mask (tests/support_collection.py) `--share` of the films have one: of 1.1 and 0.9 times the film's size, of
another aspect, cut to the abnormality, with a stray pixel, inverted, framed. A box is wrong where it is not the drawn
one to the pixel. The same is done with crops of other films (`foreign`), where every match would be wrong.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support_collection import CROP, ODD, draw_film, plan, write_collection, write_dicom  # noqa: E402

from mammo_mlflow.data.cbis_ddsm.ingest import IngestResult, ingest  # noqa: E402
from mammo_mlflow.data.cbis_ddsm.settings import IngestSettings  # noqa: E402


def main() -> None:
    """Make the collection, ingest it, print the counts of each kind, write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--height", type=int, default=4500)
    parser.add_argument("--width", type=int, default=2850)
    parser.add_argument("--output", help="file for the numbers as JSON")
    asked = parser.parse_args()
    shape = (asked.height, asked.width)
    rows = plan(asked.films, shape=shape)
    first = list({row.film: row for row in reversed(rows)}.values())[::-1]
    each = round(asked.share * asked.films)
    chosen = np.random.default_rng(0).permutation(len(first))[: each * (len(ODD) + 1)]
    kinds = [kind for kind in (*ODD, "foreign") for _ in range(each)]
    odd = {first[index].subject: kind for index, kind in zip(chosen, kinds, strict=True)}
    source = asked.folder / f"odd-{asked.films}-{asked.height}"
    if not source.is_dir():
        part = source.with_name(f"{source.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        drawn = {subject: "stretched" if kind == "foreign" else kind for subject, kind in odd.items()}
        write_collection(part, rows, layout="flat", shape=shape, odd=drawn)
        exchange_crops(part, [row for row in rows if odd.get(row.subject) == "foreign"], shape)
        part.rename(source)
    shutil.rmtree(asked.folder / "out", ignore_errors=True)
    start = time.perf_counter()
    made = ingest(source, asked.folder / "out", source, IngestSettings(shared_patients="keep"), 2, lambda *_: None)
    numbers = {"films": asked.films, "abnormalities": len(rows), "seconds": time.perf_counter() - start}
    numbers |= {"kinds": count(made, rows, odd)}
    for kind, found in numbers["kinds"].items():
        print(f"{kind:>10}: {', '.join(f'{number} {what}' for what, number in sorted(found.items()))}")
    print(
        f"{numbers['seconds']:.0f} s with two workers; {sum(c['wrong box'] for c in numbers['kinds'].values())} wrong"
    )
    if asked.output:
        Path(asked.output).write_text(json.dumps(numbers, indent=1))


def exchange_crops(root: Path, rows: list, shape: tuple[int, int]) -> None:
    """Give each of the rows a crop of the same box on another film, in a file of its own; its own crop goes."""
    import pydicom

    subjects = {row.subject: row for row in rows}
    for path in sorted(root.glob("*.dcm")):
        item = pydicom.dcmread(path, stop_before_pixels=True)
        row = subjects.get(item.PatientID)
        if row is not None and item.BitsAllocated == 16:
            x, y, width, height = row.box
            other = draw_film(f"not {row.film}", shape)[y : y + height, x : x + width]
            write_dicom(path, np.ascontiguousarray(other), row.subject, CROP)


def count(made: IngestResult, rows: list, odd: dict[str, str]) -> dict[str, Counter[str]]:
    """By kind of mask, `whole` for those that are as they should be: how rows were located, and wrong boxes."""
    tables = [pd.read_csv(path, keep_default_na=False) for path in sorted(made.directory.glob("*_groups.csv"))]
    told = pd.concat(tables)
    by_subject = {
        f"{path.split('/')[0]}_{number}": (box, located)
        for path, number, box, located in zip(
            told["source_file"], told["abnormality_id"], told["box"], told["located"], strict=True
        )
    }
    reasons = {entry.abnormality: entry.reason for entry in made.left_out}
    counts: dict[str, Counter[str]] = {kind: Counter({"wrong box": 0}) for kind in ("whole", *ODD, "foreign")}
    for row in rows:
        mine = counts[odd.get(row.subject, "whole")]
        if row.subject not in by_subject:
            mine[f"left out as {reasons[row.subject]}"] += 1
            continue
        box, located = by_subject[row.subject]
        mine[located] += 1
        mine["wrong box"] += box != " ".join(map(str, row.box))
    return counts


if __name__ == "__main__":
    main()
