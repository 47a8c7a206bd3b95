"""What benchmarks share: a timed command with the memory of its processes, out-of-fold predictions, costs of epochs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
import psutil
from mlflow.tracking import MlflowClient

from mammo_mlflow.evaluation.intervals import bootstrap_difference


def run_measured(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    errors: TextIO | None = None,
    timeout: float | None = None,
) -> tuple[float, dict[str, int]]:
    """The seconds of a whole command, and the peak private memory of it (`coordinator`) and of its largest child.

    What it logs goes to the file `errors`, where one is given. Raises SystemExit where the command fails, and
    `subprocess.TimeoutExpired` where it was ended after `timeout` seconds.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
    memory = {"coordinator": 0, "fold": 0}
    watcher = threading.Thread(target=_watch, args=(process.pid, memory))
    watcher.start()
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()  # its children end themselves
        process.wait()
        raise
    if code != 0:
        raise SystemExit("the product's command failed")
    seconds = time.perf_counter() - start
    watcher.join()
    return seconds, memory


def out_of_fold(
    folder: Path, name: str, options: Sequence[str], seeds: int, family: str = "pretrained"
) -> list[pd.DataFrame]:
    """The out-of-fold predictions of each seed of a cross-validation by a family's command, in a store `name`.

    Where a store has earlier ones, the last count.
    """
    store = f"sqlite:///{folder}/{name}.db"
    command = [sys.executable, "-m", "mammo_mlflow", family, *options, "--seeds", str(seeds), "--final", "none"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "MLFLOW_EXPERIMENT_NAME": name}
    subprocess.run(command, cwd=folder, env=environment, check=True)
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise SystemExit("the command made no runs")
    oldest_first = ["attributes.start_time ASC"]
    runs = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'", order_by=oldest_first)
    found = {}
    for run in runs:
        files = [item.path for item in client.list_artifacts(run.info.run_id)]
        if "oof.parquet" in files:
            target = folder / run.info.run_id
            target.mkdir(exist_ok=True)
            path = client.download_artifacts(run.info.run_id, "oof.parquet", str(target))
            found[int(run.data.params["seed"])] = pd.read_parquet(path)
    return [found[seed] for seed in sorted(found)]


def of_seeds(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The out-of-fold tables of several seeds as one, with a column seed."""
    return pd.concat(tables, keys=range(len(tables)), names=["seed"]).reset_index("seed")


def how_many(table: pd.DataFrame) -> str:
    """How many patches, patients and seeds a table of `of_seeds` has, in words."""
    seeds, patients = table["seed"].nunique(), table["patient_id" if "patient_id" in table else "patch"].nunique()
    return f"{len(table) // seeds} patches, {patients} patients, {seeds} seeds"


def leads(plain: pd.DataFrame, own: pd.DataFrame) -> list[str]:
    """The differences of ROC AUC and log loss of two tables of `of_seeds`, own less plain, with intervals and verdicts.

    Patients are resampled, each with all of its patches and seeds; ROC AUC is taken within folds.
    """
    if not np.array_equal(own["patch"], plain["patch"]):
        raise SystemExit("the settings have other patches")
    groups = plain["patient_id" if "patient_id" in plain else "patch"].to_numpy()
    folds = plain["seed"].to_numpy() * 1000 + plain["fold"].to_numpy()
    pair, told = (own["probability"].to_numpy(), plain["probability"].to_numpy()), []
    for metric in ("roc_auc", "log_loss"):
        lead = bootstrap_difference(plain["label"].to_numpy(), *pair, folds=folds, groups=groups, metric=metric)
        helps = lead.high < 0 if metric == "log_loss" else lead.low > 0
        word = "helps" if helps else "no difference shown" if lead.low <= 0 <= lead.high else "**worse**"
        told.append(f"{lead.value:+.4f} ({lead.low:+.4f} to {lead.high:+.4f}): {word}")
    return told


def epoch_seconds(patches: int, folds: int, train: float, validate: float) -> float:
    """The seconds of one fold's epoch on line, validation included, from the seconds a patch takes in each."""
    share = (folds - 1) / folds
    return patches * (share * train + (1 - share) * validate)


def _watch(pid: int, memory: dict[str, int]) -> None:
    """Keep the peak anonymous memory of the coordinator and of its largest child until it ends."""
    while psutil.pid_exists(pid):
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return
            memory["coordinator"] = max(memory["coordinator"], _anonymous(pid))
            for child in process.children(recursive=True):
                memory["fold"] = max(memory["fold"], _anonymous(child.pid))
        except (psutil.NoSuchProcess, OSError, StopIteration):
            pass
        time.sleep(0.2)


def _anonymous(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
