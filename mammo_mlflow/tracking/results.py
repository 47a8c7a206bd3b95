"""What has been run: the finished models of a store with their figures, read in few requests and never written."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mammo_mlflow.estimate import Estimate
from mammo_mlflow.tracking.runs import given_run

PAGE = 500
"""Runs asked for at once: a final run has over a hundred metrics."""
IDS_A_CALL = 100
NEEDED = ("registered_name", "version", "data_sha256", "test_sha256", "task", "family", "backbone")
"""The tags without which a model can stand for nothing."""
OVER = ("report", "reproduce")
"""The families of runs that are over others."""
COLUMNS = {"patch", "type", "label", "probability"}


@dataclass(frozen=True)
class Result:
    """A finished, tested and registered model's run. `ended` is in milliseconds; `data` where its arrays lay."""

    run_id: str
    experiment_id: str
    ended: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    data: str

    def tag(self, name: str) -> str:
        """The value of the tag `mammo.<name>`, or nothing."""
        return self.tags.get(f"mammo.{name}", "")

    @property
    def model(self) -> str:
        """Name and version of the registered model."""
        return f"{self.tag('registered_name')} v{self.tag('version')}"

    @property
    def dataset(self) -> tuple[str, str]:
        """The sha256 of its training and its test data."""
        return self.tag("data_sha256"), self.tag("test_sha256")

    def estimate(self, name: str) -> Estimate:
        """A figure of its run, with its interval."""
        return Estimate.read(name, self.metrics, self.tags)

    @property
    def tuned(self) -> bool:
        """Whether convolutions were unfrozen."""
        return self.tag("unfrozen") not in ("", "0")

    @property
    def patches(self) -> int | None:
        """The number of test patches, where it is stored."""
        stored = self.metrics.get("test_patches", math.nan)
        return None if math.isnan(stored) else int(stored)

    @property
    def holdout(self) -> float:
        """The share that was held out; 0 for folds."""
        try:
            return float(self.params.get("holdout") or 0)
        except ValueError:
            return 0.0

    @property
    def cross_validation(self) -> str:
        """The id of the run of its cross-validation; an ensemble's is its own."""
        return self.tag("cv_run_id") or self.run_id


def read_results(client: MlflowClient) -> list[Result]:
    """Every finished final model and ensemble of all active experiments, the newest first; each model's once.

    A model that a later command took over has a run there too: the first one, which tested it, stands for it.
    """
    found: dict[str, Result] = {}
    for query in ("tags.`mammo.fit` = 'final'", "tags.`mammo.family` = 'ensemble'"):
        for run in _search(client, f"{query} and attributes.status = 'FINISHED'"):
            if all(run.data.tags.get(f"mammo.{name}") for name in NEEDED) and "test_accuracy" in run.data.metrics:
                result = _result(run)
                earlier = found.get(result.model)
                if earlier is None or result.ended < earlier.ended:
                    found[result.model] = result
    return sorted(found.values(), key=lambda one: (-one.ended, one.run_id))


def count_runs(client: MlflowClient) -> Counter[tuple[str, bool]]:
    """How many of the newest 1,000 runs of each experiment there are, by status and whether this project made them.

    Reports, and the run that this process was started in, do not count.
    """
    counts: Counter[tuple[str, bool]] = Counter()
    for experiment in client.search_experiments(view_type=ViewType.ACTIVE_ONLY):
        for run in client.search_runs([experiment.experiment_id], max_results=1000):
            if run.info.run_id != given_run() and run.data.tags.get("mammo.family") not in OVER:
                counts[run.info.status, any(name.startswith("mammo.") for name in run.data.tags)] += 1
    return counts


def metrics_of(client: MlflowClient, run_ids: Iterable[str]) -> dict[str, dict[str, float]]:
    """The metrics of runs by their ids; those that are gone are left out."""
    wanted = sorted(set(run_ids))
    found = {}
    for start in range(0, len(wanted), IDS_A_CALL):
        quoted = ", ".join(f"'{one}'" for one in wanted[start : start + IDS_A_CALL])
        for run in _search(client, f"attributes.run_id IN ({quoted})"):
            found[run.info.run_id] = dict(run.data.metrics)
    return found


def fit_metrics(client: MlflowClient, cross_validation: str) -> dict[str, dict[str, float]]:
    """The metrics of a cross-validation's fits, by name (`fold 1` …, `refit`)."""
    query = f"tags.`mlflow.parentRunId` = '{cross_validation}'"
    return {run.data.tags.get("mammo.fit", ""): dict(run.data.metrics) for run in _search(client, query)}


def predictions_of(client: MlflowClient, result: Result, folder: Path) -> pd.DataFrame | None:
    """The stored test predictions of a model (patch, type, label, probability, patient_id where known).

    None where they are gone, damaged, or hold what is no probability.
    """
    path = fetch(client, result.run_id, "test.parquet", folder)
    try:
        found = pd.DataFrame() if path is None else pd.read_parquet(path)
        if not set(found) >= COLUMNS or not found["probability"].between(0, 1).all() or not len(found):
            return None
        return found.sort_values("patch", ignore_index=True)
    except (OSError, ValueError, TypeError):
        return None


def fetch(client: MlflowClient, run_id: str, name: str, folder: Path) -> Path | None:
    """An artifact of a run, copied under `folder`; None where it is not to be had."""
    target = folder / run_id
    target.mkdir(parents=True, exist_ok=True)
    try:
        return Path(client.download_artifacts(run_id, name, str(target)))
    except (MlflowException, OSError):
        return None


def _search(client: MlflowClient, query: str) -> Iterator[Run]:
    experiments = [one.experiment_id for one in client.search_experiments(view_type=ViewType.ACTIVE_ONLY)]
    token: str | None = None
    while True:
        page: Sequence[Run] = client.search_runs(experiments, query, max_results=PAGE, page_token=token)
        yield from page
        token = getattr(page, "token", None)
        if not token:
            return


def _result(run: Run) -> Result:
    return Result(
        run.info.run_id,
        run.info.experiment_id,
        run.info.end_time or run.info.start_time,
        dict(run.data.tags),
        dict(run.data.params),
        dict(run.data.metrics),
        _place(run),
    )


def _place(run: Run) -> str:
    """Where the arrays lay, as the data set of the run says."""
    for entry in run.inputs.dataset_inputs if run.inputs else ():
        try:
            return str(json.loads(entry.dataset.source)["uri"])
        except (ValueError, KeyError, TypeError):
            continue
    return ""
