"""The command `compare`: write one page with two models side by side."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import pandas as pd

from mammo_mlflow.commands.compare import CompareOptions
from mammo_mlflow.data.patches import Split
from mammo_mlflow.disclosure import Disclosure
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.files import target_file, whole
from mammo_mlflow.names import Artifact, Metric, Tag
from mammo_mlflow.report.report_data import find_patch_set
from mammo_mlflow.report.two_models import TEST, ComparedModel, TwoModels, compare
from mammo_mlflow.report.two_models_page import render
from mammo_mlflow.terminal import say
from mammo_mlflow.tracking.compared import chosen_among
from mammo_mlflow.tracking.registry import find_model, find_run
from mammo_mlflow.tracking.results import Client, fetch
from mammo_mlflow.tracking.run_queries import Run, find_runs
from mammo_mlflow.tracking.store import open_client

PREDICTIONS = {"label", "patch", "probability"}


def run(options: CompareOptions) -> Path:
    """Run `compare`: write the page and say what it found; return its path. Raises `UserError`."""
    target = target_file("out", options.out)
    client = open_client()
    with tempfile.TemporaryDirectory() as folder:
        first, second = (_model(client, name, Path(folder)) for name in (options.first, options.second))
        if first.run_ids == second.run_ids:
            raise expected("second", f"another model than the first, {first.label}", f"the same, '{options.second}'")
        found = compare(first, second, options.objective)
        split, unseen = _patches(found)
        page = render(found, split, unseen)
    with whole(target) as part:
        part.write_text(page, encoding="utf-8")
    for line in found.sentences:
        say(line)
    decided = f"{found.decided_otherwise} of {found.patches} {found.predictions} patches"
    if unseen:
        say(f"no patches are shown: {unseen}")
    say(f"settings that differ: {len(found.settings)}; decided otherwise: {decided}")
    say(f"comparison: {target}")
    say(found.disclosure.line())
    return target


def _model(client: Client, which: str, folder: Path) -> ComparedModel:
    """The model of a run's id or of a registered version's name, with its stored predictions."""
    top = find_run(client, which) or find_run(client, find_model(client, which).run_id or "-")
    if top is None:
        raise expected("compare", "a model whose run is in the store", f"'{which}' without it")
    tags = top.data.tags
    judged = find_run(client, tags[Tag.CV_RUN_ID]) if Tag.CV_RUN_ID in tags else top
    if judged is None or Tag.OOF_PATCHES not in judged.data.tags:
        raise expected("compare", "a registered model, or the run of a cross-validation or an ensemble", f"'{which}'")
    final = _final(client, top, judged)
    tested = {} if final is None else final.data.tags
    version = None
    if Tag.REGISTERED_NAME in tested:
        with suppress(KeyError):
            version = find_model(client, f"{tested[Tag.REGISTERED_NAME]}/{tested[Tag.VERSION]}")
    metrics = {} if final is None else final.data.metrics
    return ComparedModel(
        label=str(version) if version else judged.info.run_name,
        run_ids=(judged.info.run_id, "" if final is None else final.info.run_id),
        oof=_predictions(client, judged, Artifact.OOF, folder, {*PREDICTIONS, "fold"}),
        test=None if final is None else _predictions(client, final, Artifact.TEST, folder, PREDICTIONS),
        trained_on=(judged.data.tags.get(Tag.DATA_SHA256), judged.data.tags.get(Tag.TASK)),
        tested_on=(tested.get(Tag.TEST_SHA256), tested.get(Tag.TASK)),
        chosen_among=chosen_among(client, [version]) if version else 1,
        decided_at=metrics.get(Metric.THRESHOLD, 0.5),
        settings=dict((final or judged).data.params),  # trials of a study have no final model, its best has
        metrics={**judged.data.metrics, **metrics},
        tags={**judged.data.tags, **tested},
        disclosure=Disclosure.read(judged.data.tags, judged.data.params),
        folds=fetch(client, judged.info.run_id, f"{Artifact.FIGURES}/folds.png", folder),
    )


def _patches(found: TwoModels) -> tuple[Split | None, str]:
    """The patches that the compared predictions are of; None where they cannot be shown, and why."""
    tags = found.first.tags
    try:
        data = find_patch_set((tags.get(Tag.DATA_SHA256, ""), tags.get(Tag.TEST_SHA256, "")))
    except UserError as problem:
        return None, str(problem)
    return data.test if found.predictions == TEST else data.train, ""


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
