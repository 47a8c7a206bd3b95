"""Read a model to compare from the store: its stored predictions, threshold, settings and scores."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mammo_mlflow.disclosure import Disclosure
from mammo_mlflow.errors import expected
from mammo_mlflow.names import Artifact, Metric, Tag
from mammo_mlflow.report.two_models import ComparedModel
from mammo_mlflow.tracking.compared import chosen_among_run
from mammo_mlflow.tracking.registry import find_model, find_run, run_named
from mammo_mlflow.tracking.results import Client, fetch
from mammo_mlflow.tracking.run_queries import Run, find_runs

PREDICTIONS = {"label", "patch", "probability"}


def compared_model(client: Client, which: str, folder: Path) -> ComparedModel:
    """Read the model of a run's id or of a registered version's name; its files are fetched into `folder`.

    Raises `UserError` where there is no such model, or its predictions are gone.
    """
    top = run_named(client, which)
    if top is None:
        raise expected("compare", "a model whose run is in the store", f"'{which}' without it")
    tags = top.data.tags
    judged = find_run(client, tags[Tag.CV_RUN_ID]) if Tag.CV_RUN_ID in tags else top
    of_ensemble = tags.get(Tag.FAMILY) == "ensemble"
    if judged is None or not (of_ensemble or Tag.OOF_PATCHES in judged.data.tags):
        raise expected("compare", "a registered model, or the run of a cross-validation or an ensemble", f"'{which}'")
    final = _final(client, top, judged)
    tested = {} if final is None else final.data.tags
    metrics = {} if final is None else final.data.metrics
    version = None
    if Tag.VERSION in tested:
        version = find_model(client, f"{tested[Tag.REGISTERED_NAME]}/{tested[Tag.VERSION]}")
    reasons = [one[Tag.NO_INTERVAL] for one in (judged.data.tags, tested) if Tag.NO_INTERVAL in one]
    return ComparedModel(
        label=str(version) if version else judged.info.run_name,
        run_ids=(judged.info.run_id, "" if final is None else final.info.run_id),
        oof=_predictions(client, judged, Artifact.OOF, folder, {*PREDICTIONS, "fold"}),
        test=None if final is None else _predictions(client, final, Artifact.TEST, folder, PREDICTIONS),
        trained_on=(judged.data.tags.get(Tag.DATA_SHA256), judged.data.tags.get(Tag.TASK)),
        tested_on=(tested.get(Tag.TEST_SHA256), tested.get(Tag.TASK)),
        chosen_among=chosen_among_run(client, judged, version),
        decided_at=metrics.get(Metric.THRESHOLD, 0.5),
        settings=dict((final or judged).data.params),  # trials of a study have no final model, its best has
        metrics={**judged.data.metrics, **metrics},
        tags={**judged.data.tags, **tested, Tag.NO_INTERVAL: "; ".join(dict.fromkeys(reasons))},
        disclosure=Disclosure.read(judged.data.tags, judged.data.params),
        folds=fetch(client, judged.info.run_id, f"{Artifact.FIGURES}/folds.png", folder),
    )


def _final(client: Client, top: Run, judged: Run) -> Run | None:
    """The run of the final model: the one asked for, an ensemble's own, or the finished one of a cross-validation."""
    if top.data.tags.get(Tag.FIT) == "final" or top.data.tags.get(Tag.FAMILY) == "ensemble":
        return top
    found = find_runs(client, {Tag.CV_RUN_ID: judged.info.run_id, Tag.FIT: "final"})
    return next((run for run in found if run.info.status == "FINISHED"), None)


def _predictions(client: Client, run: Run, name: str, folder: Path, columns: set[str]) -> pd.DataFrame:
    path = fetch(client, run.info.run_id, name, folder)
    try:
        found = pd.DataFrame() if path is None else pd.read_parquet(path)
    except (OSError, ValueError):
        found = pd.DataFrame()
    if not set(found) >= columns or not len(found) or not found["probability"].between(0, 1).all():
        stored = "none" if path is None else "a damaged file"
        raise expected(f"{run.info.run_name}: {name}", "the predictions that its run stored", stored)
    return found
