"""Read the finished models of a store with their metrics and predictions, in few requests."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from mlflow.entities import Run
from mlflow.tracking import MlflowClient as Client

from mammo_mlflow.disclosure import Disclosure
from mammo_mlflow.estimate import Estimate
from mammo_mlflow.files import below
from mammo_mlflow.names import PREFIX, Artifact, Metric, Tag
from mammo_mlflow.tracking.requests import given_run, mlflow_experiments, pages
from mammo_mlflow.tracking.run_queries import fetch_artifacts

PAGE = 500
"""Runs in one request: a final run has over a hundred metrics."""
IDS_A_CALL = 100
NEEDED = (Tag.REGISTERED_NAME, Tag.VERSION, Tag.DATA_SHA256, Tag.TEST_SHA256, Tag.TASK, Tag.FAMILY, Tag.BACKBONE)
"""The tags that a run must have to be a result."""
OVER = ("report", "reproduce")
"""The families of runs that train nothing, which `count_runs` leaves out."""
COLUMNS = {"patch", "type", "label", "probability"}


@dataclass(frozen=True, kw_only=True)
class Result:
    """The run of a finished, tested and registered model.

    `ended` is in milliseconds since 1970; `data` is the directory that its arrays lay in.
    """

    run_id: str
    experiment_id: str
    ended: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    data: str

    def tag(self, name: str) -> str:
        """The value of a tag of the run; "" where the run lacks it."""
        return self.tags.get(name, "")

    @property
    def disclosure(self) -> Disclosure:
        """The facts to disclose wherever a number of the run is shown."""
        return Disclosure.read(self.tags, self.params)

    @property
    def model(self) -> str:
        """The name and version of the registered model, as `name v3`."""
        return f"{self.tag(Tag.REGISTERED_NAME)} v{self.tag(Tag.VERSION)}"

    @property
    def dataset(self) -> tuple[str, str]:
        """The sha256 of the training and of the test data."""
        return self.tag(Tag.DATA_SHA256), self.tag(Tag.TEST_SHA256)

    def estimate(self, name: str) -> Estimate:
        """A metric of the run, with its interval."""
        return Estimate.read(name, self.metrics, self.tags)

    @property
    def tuned(self) -> bool:
        """Whether the model was fine-tuned: convolutions were unfrozen."""
        return self.tag(Tag.UNFROZEN) not in ("", "0")

    @property
    def patches(self) -> int | None:
        """The number of test patches; None where it is not stored."""
        stored = self.metrics.get(Metric.TEST_PATCHES, math.nan)
        return None if math.isnan(stored) else int(stored)

    @property
    def holdout(self) -> float:
        """The share of patients that was held out; 0 for a cross-validation with folds."""
        try:
            return float(self.params.get("holdout") or 0)
        except ValueError:
            return 0.0

    @property
    def cross_validation(self) -> str:
        """The id of the run of the model's cross-validation; for an ensemble that of its own run."""
        return self.tag(Tag.CV_RUN_ID) or self.run_id


def read_results(client: Client) -> list[Result]:
    """Read every finished final model and ensemble of all active MLflow experiments, newest first, each once.

    A model that a later command took over has a run there too: the first one, which tested it, stands for it.
    """
    found: dict[str, Result] = {}
    for query in (f"tags.`{Tag.FIT}` = 'final'", f"tags.`{Tag.FAMILY}` = 'ensemble'"):
        for run in _search(client, f"{query} and attributes.status = 'FINISHED'"):
            if all(run.data.tags.get(name) for name in NEEDED) and Metric.TEST_ACCURACY in run.data.metrics:
                result = _result(run)
                earlier = found.get(result.model)
                if earlier is None or result.ended < earlier.ended:
                    found[result.model] = result
    return sorted(found.values(), key=lambda one: (-one.ended, one.run_id))


def count_runs(client: Client) -> Counter[tuple[str, bool]]:
    """Count the runs of all active MLflow experiments by status and by whether this project made them.

    At most the newest 1,000 of each experiment; reports, and the run that this process was started in, do not count.
    """
    counts: Counter[tuple[str, bool]] = Counter()
    for experiment in mlflow_experiments(client):
        for run in client.search_runs([experiment], max_results=1000):
            if run.info.run_id != given_run() and run.data.tags.get(Tag.FAMILY) not in OVER:
                counts[run.info.status, any(name.startswith(PREFIX) for name in run.data.tags)] += 1
    return counts


def runs_by_id(client: Client, run_ids: Iterable[str]) -> dict[str, Run]:
    """Read runs by their ids; runs that are gone are left out."""
    wanted = sorted(set(run_ids))
    parts = [", ".join(map(repr, wanted[start : start + IDS_A_CALL])) for start in range(0, len(wanted), IDS_A_CALL)]
    found = (run for part in parts for run in _search(client, f"attributes.run_id IN ({part})"))
    return {run.info.run_id: run for run in found}


def fit_metrics(client: Client, cross_validation: str) -> dict[str, dict[str, float]]:
    """Read the metrics of a cross-validation's fits, by the fits' names (`fold 1` …, `refit`)."""
    query = f"tags.`mlflow.parentRunId` = '{cross_validation}'"
    return {run.data.tags.get(Tag.FIT, ""): dict(run.data.metrics) for run in _search(client, query)}


def predictions_of(client: Client, result: Result, folder: Path) -> pd.DataFrame | None:
    """Fetch a model's stored test predictions: a row for each test abnormality, in the order of `patch`.

    Columns: `patch` (its number), `type` (1 to 4), `label` (0 or 1), `probability` (0 to 1), and `patient_id` where
    known. None where they are gone, damaged, or hold values that are no probabilities.
    """
    path = fetch(client, result.run_id, Artifact.TEST, folder)
    try:
        found = pd.DataFrame() if path is None else pd.read_parquet(path)
        if not set(found) >= COLUMNS or not found["probability"].between(0, 1).all() or not len(found):
            return None
        return found.sort_values("patch", ignore_index=True)
    except (OSError, ValueError, TypeError):
        return None


def fetch(client: Client, run_id: str, name: str, folder: Path) -> Path | None:
    """Download an artifact of a run into `folder`; None where the store has it not. Raises where the store is away."""
    return fetch_artifacts(client, run_id, name, below(folder, run_id))


def _search(client: Client, query: str) -> Iterator[Run]:
    experiments = mlflow_experiments(client)
    return pages(lambda token: client.search_runs(experiments, query, max_results=PAGE, page_token=token))


def _result(run: Run) -> Result:
    return Result(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        ended=run.info.end_time or run.info.start_time,
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        data=_source(run),
    )


def _source(run: Run) -> str:
    """The source of the run's data set: the name of its directory, in runs of earlier versions its path."""
    for entry in run.inputs.dataset_inputs if run.inputs else ():
        try:
            return str(json.loads(entry.dataset.source)["uri"])
        except (ValueError, KeyError, TypeError):
            continue
    return ""
