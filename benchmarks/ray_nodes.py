"""What a second Ray node gains, beside what a second worker process gains, in one run.

    python benchmarks/ray_nodes.py [--patches 480] [--epochs 5] [--backbone m1]

The product's command cross-validates a network that trains on line (two folds, no final model) on phantom patches of
150 x 150 pixels, four times: with `executor=process` and 1 or 2 workers, and with `executor=ray` on a cluster on this
machine with one node of one core, or two. Seconds are of the training of folds, from the first one that begins to
the last one that ends: TensorFlow's import is among them with Ray, whose nodes start it at their first job. Each
process computes with one thread.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.tracking import MlflowClient
from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


def main() -> None:
    """Measure the four and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=480)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--backbone", default="m1_early_stop")
    options = parser.parse_args()
    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        for executor in ("process", "ray"):
            for count in (1, 2):
                folder = Path(name, f"{executor}{count}")
                folder.mkdir()
                with nodes(count if executor == "ray" else 0) as address:
                    seconds[executor, count] = measured(folder, options, executor, count, address)
    print(f"{options.backbone}, two folds, {options.patches} patches, {options.epochs} epochs, {os.cpu_count()} cores")
    print(f"{'executor':10} {'one, s':>8} {'two, s':>8} {'speed-up':>9}   whole command: {'one, s':>6} {'two, s':>8}")
    gains = {}
    for executor in ("process", "ray"):
        (one, all_one), (two, all_two) = seconds[executor, 1], seconds[executor, 2]
        gains[executor] = one / two
        print(f"{executor:10} {one:8.1f} {two:8.1f} {one / two:9.2f} {all_one:22.1f} {all_two:8.1f}")
    print(f"speed-up of two nodes / speed-up of two processes: {gains['ray'] / gains['process']:.2f}")


@contextmanager
def nodes(count: int) -> Iterator[str]:
    """Context: a cluster of so many nodes of one core each; yields its address."""
    if not count:
        yield ""
        return
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    for _ in range(count - 1):
        cluster.add_node(**NODE)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def measured(
    folder: Path, options: argparse.Namespace, executor: str, workers: int, address: str
) -> tuple[float, float]:
    """The seconds in which the folds were trained, and those of the whole command."""
    line = [sys.executable, "-m", "mammo_mlflow", "scratch", "--task", "mass_calc", "--backbone", options.backbone]
    given = {"phantom-train": options.patches, "phantom-test": 64, "epochs": options.epochs, "folds": 2}
    given |= {"final": "none", "threads": 1, "early-stop": 0, "workers": workers, "executor": executor}
    line += [word for name, value in given.items() for word in (f"--{name}", str(value))]
    around = {**os.environ, "MAMMO_CACHE_DIR": str(folder.parent), "RAY_ADDRESS": address}
    start = time.perf_counter()
    subprocess.run(line, cwd=folder, env=around, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    whole = time.perf_counter() - start
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("mammo")
    fits = [run for run in client.search_runs([experiment.experiment_id]) if "mammo.fit" in run.data.tags]
    begun, ended = [], []
    for run in fits:
        ended.append(run.info.end_time / 1000)
        begun.append(ended[-1] - run.data.metrics["seconds"])
    return max(ended) - min(begun), whole


if __name__ == "__main__":
    main()
