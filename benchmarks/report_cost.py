"""What a report of a large store costs.

    python benchmarks/report_cost.py --folder DIR [--runs 2000] [--output FILE]

A store of so many runs, written without training (models with the tags, metrics and predictions that commands leave,
336 test patches, every row of the paper's tables many times over), is made in `--folder` and kept for the next call.
Then the whole command `report`, start included: seconds and the peak private memory of its process. Beside it what a
user would do instead: `mlflow.search_runs` over the whole store into one table, without any figure, comparison or page.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from common import run_measured

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support_store import Models  # noqa: E402

from mammo_mlflow.report.paper_tables import tables  # noqa: E402


def main() -> None:
    """Make the store, measure, print, write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--output", help="file for the numbers as JSON")
    options = parser.parse_args()
    store = options.folder / f"store-{options.runs}"
    if not store.is_dir():
        fill(store, options.runs)
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
    line = [sys.executable, "-m", "mammo_mlflow", "report", "--out", str(options.folder / "report")]
    seconds, memory = run_measured(line, options.folder, surroundings)
    peak = memory["coordinator"] / 1e6
    print(f"report of {options.runs} runs: {seconds:.1f} s, peak {peak:.0f} MB")
    import mlflow

    mlflow.set_tracking_uri(surroundings["MLFLOW_TRACKING_URI"])
    start = time.perf_counter()
    frame = mlflow.search_runs(search_all_experiments=True, max_results=50_000)
    table = time.perf_counter() - start
    print(f"mlflow.search_runs alone, {len(frame)} runs: {table:.1f} s; report / that: {seconds / table:.1f}x")
    if options.output:
        numbers = {"runs": len(frame), "seconds": seconds, "peak_mb": peak, "search_runs_seconds": table}
        Path(options.output).write_text(json.dumps(numbers, indent=1))


def fill(store: Path, runs: int) -> None:
    """Models for every row of the tables, again and again."""
    models = Models(store)
    rows = [row for table in tables() for row in table.rows if not row.optimistic]
    count = number = 0
    while count < runs:
        row = rows[number % len(rows)]
        method = {"method": row.method} if row.method else {}
        models.model(row.task, row.family, row.backbone, unfrozen=int(bool(row.tuned)), seed=number, **method)
        count += 1 if row.family == "ensemble" else 3
        number += 1


if __name__ == "__main__":
    main()
