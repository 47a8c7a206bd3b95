"""Malformed inputs of every kind, and how they are refused.

    python benchmarks/malformed.py --count 500

Arrays, groups, search spaces, DICOM, case descriptions, requests and parameters are spoilt by a seeded generator
(tests/support_malformed.py) and asked for in this process: `--count` in all, or of the kinds that are named. The table
tells how many were tried, how many were refused in lines of at most 400 characters with exit code 2 or a status of 4xx
and left nothing behind, the worst seconds, and the memory of the process at its peak. What was not is listed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from mlflow.tracking import MlflowClient  # noqa: E402
from support_malformed import KINDS, Room, ask, peak_memory  # noqa: E402
from support_server import save_mean_model  # noqa: E402

from mammo_mlflow.data.phantom import PhantomSettings, make_phantom  # noqa: E402
from mammo_mlflow.terminal import show_table  # noqa: E402


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows, faults = [], []
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        os.environ["MAMMO_CACHE_DIR"] = str(where / "cache")
        for name in ("empty", "model", "room"):
            (where / name).mkdir()
        MlflowClient(f"sqlite:///{where}/empty/mlflow.db").search_experiments()
        phantom = make_phantom(PhantomSettings(48, 24, 32), where / "cache")
        room = Room(where / "room", phantom, where / "empty", save_mean_model(where / "model"))
        for place, kind in enumerate(options.kinds):
            tried = options.count // len(options.kinds) + (place < options.count % len(options.kinds))
            answers = [ask(room, kind, options.seed, number) for number in range(tried)]
            faults += [f"{kind} {number}: {wrong}" for number, (_, wrong) in enumerate(answers) if wrong]
            refused = sum(not wrong for _, wrong in answers)
            worst = max(found.seconds for found, _ in answers)
            rows.append([kind, str(tried), str(refused), f"{worst:.2f}", f"{peak_memory() / 1e6:.0f}"])
    show_table("malformed inputs", ["kind", "tried", "refused in lines", "worst seconds", "peak MB so far"], rows)
    for fault in faults:
        print(fault)


if __name__ == "__main__":
    main()
