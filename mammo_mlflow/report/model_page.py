"""A page for each model that the report names: what it is, its scores, data, decisions about it, limits, figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from mammo_mlflow.disclosure import BANNER, INTENDED_USE, PHANTOM
from mammo_mlflow.errors import UserError
from mammo_mlflow.files import below
from mammo_mlflow.names import Artifact, Metric, Tag
from mammo_mlflow.publication.card import ABOUT, DATA, said, score_table
from mammo_mlflow.publication.stored_values import repeating_command, stored_values
from mammo_mlflow.report.page import champion_cells
from mammo_mlflow.report.paper_tables import WORDS
from mammo_mlflow.report.report_data import ReportData
from mammo_mlflow.report.templates import filled, shrunk
from mammo_mlflow.tracking.lineage import Lineage, lineage_of
from mammo_mlflow.tracking.registry import Version, find_models
from mammo_mlflow.tracking.results import Client, Result, fetch
from mammo_mlflow.tracking.run_queries import find_runs

FOLDER = "models"
"""The folder of the pages, beside the report's."""
FIGURES = {
    "roc": "ROC curve, test set",
    "roc_members": "ROC curves with those of its members, test set",
    "roc_folds": "ROC curves, folds",
    "calibration": "Calibration, test set",
    "calibration_oof": "Calibration, out of fold",
    "recalibration": "Calibration before and after recalibration, out of fold",
    "answer_sets": "Coverage and share referred, out of fold",
    "confusion": "Confusion matrix at 0.5, test set",
    "confusion_threshold": "Confusion matrix at the stored threshold, test set",
    "folds": "Training of the folds",
    "final_fit": "Training of the final model",
    "methods": "Methods of joining compared",
    "members_joining": "Score by the number of members",
    "disagreement": "Disagreement of the members",
}
"""The captions of the figures that are shown as a model's runs logged them, by name."""
_LIMITS = (
    "It was chosen among {compared} settings by the out-of-fold predictions that score it.",
    "Abnormalities without another view: {single_views}.",
    "{verdict}",
    "{test_verdict}",
    "Without an interval, or without a value: {no_interval}.",
    "Checks of the data warned of: {warnings}.",
)
_FOLD_SCORES = ("accuracy", "roc_auc")


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    """A decision that brought models to the gates: when, how it ended, for which candidate, and the gates' table."""

    when: str
    outcome: str
    candidate: str
    gates: pd.DataFrame

    def outcome_for(self, model: str) -> str:
        """How it ended for one of the models that it judged."""
        others = self.outcome == "promoted" and self.candidate != model
        return "another was promoted" if others else self.outcome


def page_name(result: Result) -> str:
    """The name of the file of a model's page, safe whatever the model is called."""
    return f"{below(Path(), f'{result.tag(Tag.REGISTERED_NAME)}-v{result.tag(Tag.VERSION)}')}.html"


def address(result: Result) -> str:
    """The address of a model's page, as the report links it."""
    return f"{FOLDER}/{quote(page_name(result))}"


def read_judgements(client: Client, folder: Path) -> list[Judgement]:
    """Read the decisions about champions with their gates, the newest first; their tables are fetched into `folder`."""
    found = []
    for run in find_runs(client, {Tag.FAMILY: "promotion"}):
        if run.info.status != "FINISHED":  # what it says never came to be
            continue
        path = fetch(client, run.info.run_id, Artifact.GATES, folder)
        if (gates := _table(pd.read_csv, path, "candidate", "gate", "passed", "figures")) is not None:
            when = f"{datetime.fromtimestamp(run.info.start_time / 1000, UTC):%Y-%m-%d %H:%M} UTC"
            outcome, candidate = (run.data.tags.get(tag, "") for tag in (Tag.DECISION, Tag.CANDIDATE))
            found.append(Judgement(when=when, outcome=outcome, candidate=candidate, gates=gates))
    return found


def render(
    client: Client, result: Result, report: ReportData, judgements: Sequence[Judgement], link: str, folder: Path
) -> str:
    """Render the page of a model as HTML, of what the store has of it; files are fetched into `folder`.

    `link` is the address of its run in MLflow. Raises `UserError` where its runs are gone.
    """
    lineage = lineage_of(client, _version(client, result))
    folds = _table(pd.read_parquet, fetch(client, lineage.cross_validation.id, Artifact.FOLDS, folder), "fold")
    values = stored_values(lineage, None, folds)
    limits = {name: one for name, one in values.items() if one.text not in ("1", "none")}  # which are none
    headings, scores = score_table(lineage)
    reigns = [one for task in report.tasks for one in task.champions if one.version.run_id == result.run_id]
    return filled(
        "model.html",
        result=result,
        question=WORDS[result.tag(Tag.TASK)],
        link=link,
        banner=BANNER if PHANTOM in result.disclosure else "",
        about=said(ABOUT, values),
        settings=list(lineage.cross_validation.params.items()),
        headings=headings,
        scores=scores,
        figures=_figures(client, lineage, folder),
        data=said(DATA, values),
        folds=_fold_rows(lineage),
        champions=[champion_cells(one, report.dataset) for one in reigns],
        gates=[
            (one.when, one.outcome_for(result.model), gate.gate, "yes" if gate.passed else "no", gate.figures)
            for one in judgements
            for gate in one.gates[one.gates["candidate"] == result.model].itertuples()
        ],
        intended_use=INTENDED_USE,
        limits=said(_LIMITS, limits),
        command=_command(lineage),
    )


def _version(client: Client, result: Result) -> Version:
    """A model's registered version; where that is gone, as its run tells it."""
    name, number = result.tag(Tag.REGISTERED_NAME), result.tag(Tag.VERSION)
    tags = dict(result.tags)
    for found in find_models(client, f"{name}/{number}", {}):
        tags |= found.tags
    numbered = int(number) if number.isdecimal() else 0
    return Version(name=name, number=numbered, run_id=result.run_id, tags=tags, created=result.ended)


def _figures(client: Client, lineage: Lineage, folder: Path) -> list[tuple[str, str]]:
    """Captions and data URIs of the figures that a model's run and its cross-validation have logged."""
    runs = {one.id: one for one in (lineage.final, lineage.cross_validation)}.values()
    logged = (
        (caption, fetch(client, run.id, path, folder))
        for name, caption in FIGURES.items()
        for run in runs
        if (path := f"{Artifact.FIGURES}/{name}.png") in run.artifacts
    )
    return [(caption, uri) for caption, path in logged if path is not None and (uri := shrunk(path))]


def _fold_rows(lineage: Lineage) -> list[list[str]]:
    """Each fold with its scores as text, and last their means with standard deviations."""
    scored = [f"{Metric.FOLD}{name}" for name in _FOLD_SCORES]
    rows = [[name, *(_number(run.metrics.get(score)) for score in scored)] for name, run in lineage.folds.items()]
    of_all = lineage.cross_validation.metrics
    means = [
        " ± ".join(filter(None, (_number(of_all.get(f"{one}{end}")) for end in ("_mean", "_sd")))) for one in scored
    ]
    return [*rows, ["mean ± standard deviation", *means]] if any(means) else rows


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def _command(lineage: Lineage) -> str:
    """The command line that makes a model again; "" where its settings are no experiment of this version."""
    try:
        return repeating_command(lineage)
    except UserError:
        return ""


def _table(reader: Callable[[Path], pd.DataFrame], path: Path | None, *columns: str) -> pd.DataFrame | None:
    """A table that a run has stored; None where it is gone, damaged, or has no such columns."""
    with suppress(OSError, ValueError):
        if path is not None and set(found := reader(path)) >= set(columns):
            return found
    return None
