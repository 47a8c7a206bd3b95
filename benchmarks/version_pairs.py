"""Whether this code is slower than an earlier commit: the same commands in turn, before and after, in pairs.

    git worktree add ../earlier COMMIT
    python benchmarks/version_pairs.py --before ../earlier --folder DIR [--repeats 2] [--output FILE]

Each command is a process of its own, start included, in a fresh store and, but for the report, with a fresh cache. The
main job is the README's; the study has 12 trials on a small phantom; the report reads a store of so many runs
(`report_cost.py`) that the earlier code wrote. Which code goes first changes from pair to pair. What counts is the
ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import run_measured

HERE = Path(__file__).parents[1]
SMALL = ["--phantom-train", "120", "--phantom-test", "64", "--phantom-size", "80"]
COMMANDS = {
    "main job": ["pretrained", "--task", "mass_calc"],
    "12-trial study": ["search", "--task", "mass_calc", "--backbone", "vgg16", "--trials", "12", *SMALL],
    "report": ["report"],
}


def main() -> None:
    """Run the pairs, print a table, write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the earlier commit")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--runs", type=int, default=2000, help="of the store that the report reads")
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--output", help="file for the numbers as JSON")
    options = parser.parse_args()
    before, folder = options.before.resolve(), options.folder.resolve()
    store = folder / f"store-{options.runs}"
    if "report" in options.only and not store.is_dir():
        line = [sys.executable, before / "benchmarks" / "report_cost.py", "--folder", folder, "--runs", options.runs]
        subprocess.run(list(map(str, line)), check=True, env={**os.environ, "PYTHONPATH": str(before)})
    found: dict[str, dict[str, list[float]]] = {}
    for name in options.only:
        measured = found[name] = {"before": [], "after": []}
        for number in range(options.repeats):
            sides = [("before", before), ("after", HERE)]
            for side, code in sides[:: 1 if number % 2 == 0 else -1]:
                measured[side].append(seconds(COMMANDS[name], code, folder, store if name == "report" else None))
        first, second = (statistics.median(measured[side]) for side in ("before", "after"))
        each = ", ".join(f"{a:.1f}/{b:.1f}" for a, b in zip(measured["before"], measured["after"], strict=True))
        print(
            f"{name:>15}: before {first:6.1f} s, after {second:6.1f} s, ratio {second / first:.2f} ({each})", flush=True
        )
    if options.output:
        Path(options.output).write_text(json.dumps(found, indent=1))


def seconds(command: list[str], code: Path, folder: Path, store: Path | None) -> float:
    """The seconds of a command with this code, in an empty place or, for the report, on this store."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        where = store or Path(place)
        surroundings = {
            **os.environ,
            "PYTHONPATH": str(code),
            "MLFLOW_TRACKING_URI": f"sqlite:///{where}/mlflow.db",
            "MAMMO_CACHE_DIR": str(Path(place) / "cache"),
            "MAMMO_OFFLINE": "1",
        }
        more = ["--out", str(Path(place) / "report")] if store else []
        return run_measured([sys.executable, "-m", "mammo_mlflow", *command, *more], Path(place), surroundings)[0]


if __name__ == "__main__":
    main()
