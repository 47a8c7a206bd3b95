"""The report as one HTML file, which loads nothing else, from its data, plots and tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from mammo_mlflow.answer_sets import read_limits
from mammo_mlflow.data.patches import TASKS, TYPES
from mammo_mlflow.disclosure import BANNER, PHANTOM
from mammo_mlflow.estimate import Estimate
from mammo_mlflow.names import Metric, Tag
from mammo_mlflow.report.comparing import one_class
from mammo_mlflow.report.differences import HEADER, differences
from mammo_mlflow.report.export import difference_text, header, layout, measured_text, paper_text
from mammo_mlflow.report.fill_rows import FilledRow, ReportedModel
from mammo_mlflow.report.paper_tables import ACCURACY, WORDS, Column, PaperTable
from mammo_mlflow.report.plots import Plot
from mammo_mlflow.report.report_data import ReportData, TaskSection
from mammo_mlflow.report.templates import filled, score_words, shrunk
from mammo_mlflow.tracking.champions import Reign

LOGGED = {"folds": "", "recalibration": Tag.RECALIBRATED, "answer_sets": Tag.ANSWER_SETS}
"""The figures that the page shows as cross-validations and ensembles logged them, with the tag that a model must have
for each; "" where none is needed."""
Logged = Mapping[tuple[str, str], Path]
"""PNGs by the name of the figure, one of `LOGGED`, and the id of the run that logged it."""
_DECIDED = f"{Metric.TEST}{Metric.AT_THRESHOLD}"
_TESTED = {"by patch": Metric.TEST, "by patient": Metric.BY_PATIENT, "by lesion": Metric.BY_LESION}
_OUT_OF_FOLD = {"by patch": Metric.OOF, "by lesion": Metric.OOF_BY_LESION}
_SETS = (Metric.COVERAGE_0, Metric.COVERAGE_1, Metric.REFERRED)
_BEFORE_AND_AFTER = (Metric.OOF_UNCALIBRATED, Metric.OOF)
_CALIBRATION = {
    "calibration_error": "calibration error",
    "brier": "Brier",
    "calibration_slope": "slope",
    "calibration_intercept": "intercept",
}
REPORT = "python -m mammo_mlflow report --data DIR"
PAIRS = {
    "first": "first",
    "second": "second",
    "auc_difference": "ROC AUC difference",
    "interval": "95 % interval",
    "delong_p": "DeLong p",
    "delong_p_holm": "DeLong p, Holm",
    "first_only_right": "only first right",
    "second_only_right": "only second right",
    "mcnemar_p": "McNemar p",
    "mcnemar_p_holm": "McNemar p, Holm",
    "marks": "marks",
}


def render(
    report: ReportData,
    plots: Sequence[Plot],
    logged: Logged,
    pages: Mapping[str, str],
    links: Mapping[str, str],
    said: Sequence[str],
) -> str:
    """Render the report as HTML.

    `logged`: figures of cross-validations, as their runs logged them; `pages` and `links`: addresses of the models' own
    pages and of their runs in MLflow by run id; `said`: sentences about the tracking store, shown at the top.
    """
    whole = _of_all(report)
    return filled(
        "page.html",
        report=report,
        banner=BANNER if report.runs.phantom else "",
        said=[*said, *report.warnings],
        whole=whole,
        summary=[_summary(task, report) for task in report.tasks if task.models],
        pictures=[one for one in plots if one.section == "summary"],
        tables=[_table(table, rows) for table, rows in report.tables],
        tasks=[_task(task, plots, logged, report.dataset, whole) for task in report.tasks if task.models],
        pages=pages,
        links=links,
        data=_data(report, plots),
        types=list(TYPES.values()),
        difference_columns=list(HEADER),
        differences=differences(),
    )


def _of_all(report: ReportData) -> list[str]:
    """The marks that every model of the page has: they are said once, at its top."""
    marks = [one.disclosure.marks for one in report.runs.results]
    return [mark for mark in dict.fromkeys(itertools.chain.from_iterable(marks)) if all(mark in of for of in marks)]


def _without(table: pd.DataFrame, whole: Collection[str]) -> pd.DataFrame:
    """A table without those marks, and without a column of marks where no others are left."""
    if "marks" not in table:
        return table
    left = ["; ".join(mark for mark in cell.split("; ") if mark not in whole) for cell in table["marks"]]
    return table.assign(marks=left) if any(left) else table.drop(columns="marks")


def _summary(task: TaskSection, report: ReportData) -> dict[str, object]:
    """The summary card of a task: the model with the best out-of-fold ROC AUC, and its test scores."""
    best = next((model for model in task.models if model.label == task.best), None)
    filled = sum(1 for table, rows in report.tables for one in rows if table.task == task.name and one.measured)
    rows_of = sum(len(rows) for table, rows in report.tables if table.task == task.name)
    return {
        "task": WORDS[task.name],
        "best": best.label if best else "",
        "run_id": best.result.run_id if best else "",
        "marks": best.result.disclosure.marks if best else (),
        "scores": {name: _estimate(best, f"{Metric.TEST}{name}") for name in ("accuracy", "roc_auc")},
        "filled": filled,
        "rows": rows_of,
        "critical": task.critical[-1] if task.critical else "",
    }


def _table(table: PaperTable, rows: Sequence[FilledRow]) -> dict[str, object]:
    """What the template needs of one of the paper's tables."""
    shown, compared = layout(table, rows)
    return {
        "compared": compared,
        "number": table.number,
        "id": table.name,
        "title": table.title,
        "columns": header(table, rows),
        "rows": [
            {
                "label": one.row.label,
                "cells": [
                    cell
                    for column, paper in shown
                    for cell in (
                        (measured_text(one.cells[column]), ""),
                        *([_papers_cell(one, column)] if paper else []),
                    )
                ],
                "difference": difference_text(one.cells[ACCURACY]),
                "patches": "" if one.patches is None else one.patches,
                "runs": one.results,
                "others": one.others,
                "marks": one.marks,
                "notes": one.notes,
                "command": "" if one.measured else one.command,
            }
            for one in rows
        ],
    }


def _papers_cell(one: FilledRow, column: Column) -> tuple[str, str]:
    """The value that the paper printed for a cell, and where it did."""
    cell = one.cells[column]
    return paper_text(cell), cell.paper.source if cell.paper else "not printed"


def _task(
    task: TaskSection,
    plots: Sequence[Plot],
    logged: Logged,
    dataset: Sequence[str],
    whole: Collection[str],
) -> dict[str, object]:
    """What the template needs of a task's section."""
    pairs = task.pairs.copy()
    if len(pairs):
        pairs["interval"] = [
            "" if math.isnan(low) else f"{low:+.3f} to {high:+.3f}"
            for low, high in zip(pairs["low"], pairs["high"], strict=True)
        ]
        pairs = _without(pairs[list(PAIRS)].rename(columns=PAIRS), whole)
    subgroups = _without(task.subgroups, whole)
    return {
        "name": task.name,
        "title": WORDS[task.name],
        "classes": TASKS[task.name],
        "figures": [one for one in plots if one.section == task.name],
        "one_class": one_class(task.models),
        "critical": task.critical,
        "pairs": _cells(pairs),
        "pair_columns": list(pairs),
        "subgroups": _cells(subgroups),
        "subgroup_columns": [score_words(name).replace("class 1", TASKS[task.name][1]) for name in subgroups],
        "models": [
            {
                "label": model.label,
                "run": model.result,
                "marks": model.result.disclosure.marks,
                "threshold": f"{model.threshold:.3f}",
                "scores": [_estimate(model, f"{_DECIDED}{name}") for name in ("sensitivity", "specificity")],
                "units": [
                    _stored(of)
                    for of in (
                        *(model.result.estimate(f"{name}roc_auc") for name in _TESTED.values()),
                        *(model.out_of_fold(f"{name}roc_auc") for name in _OUT_OF_FOLD.values()),
                    )
                ],
                "seconds": "" if math.isnan(model.seconds) else f"{model.seconds:,.0f}",
            }
            for model in task.models
        ],
        "recalibrated": [
            {"label": model.label, "marks": model.result.disclosure.marks, "scores": scores, "said": said}
            for model in task.models
            if (said := model.result.tag(Tag.RECALIBRATED))
            for scores in [
                [_stored(model.out_of_fold(f"{when}{name}")) for name in _CALIBRATION for when in _BEFORE_AND_AFTER]
            ]
        ],
        "calibration_columns": [
            "model",
            *(f"{text}, {w}" for text in _CALIBRATION.values() for w in ("before", "after")),
        ],
        "answer_sets": [
            {
                "label": model.label,
                "marks": model.result.disclosure.marks,
                "asked": f"{limits.coverage:g}",
                "scores": [
                    *(_stored(model.out_of_fold(f"{Metric.OOF}{name}")) for name in _SETS),
                    *(_stored(model.result.estimate(f"{Metric.TEST}{name}")) for name in _SETS),
                ],
            }
            for model in task.models
            if (limits := read_limits(model.result.tags)) is not None
        ],
        "set_columns": [
            "model",
            "asked for",
            *(f"{where}, {of}" for where in ("out of fold", "test") for of in (*TASKS[task.name], "referred")),
        ],
        "unit_columns": ["model", *(f"test, {name}" for name in _TESTED), *(f"out of fold, {n}" for n in _OUT_OF_FOLD)],
        "champions": [champion_cells(one, dataset) for one in task.champions],
        "logged": {
            name: [
                (model.label, small)
                for model in task.models
                if (path := logged.get((name, model.result.cross_validation))) and (small := shrunk(path))
            ]
            for name in LOGGED
        },
    }


def champion_cells(one: Reign, dataset: Sequence[str]) -> dict[str, object]:
    """What the templates need of a present or former champion, on this page's data set or another."""
    here = one.tags.get(Tag.TEST_SHA256) in dataset[1:]
    return {
        "since": f"{datetime.fromtimestamp(one.version.created / 1000, UTC):%Y-%m-%d %H:%M} UTC",
        "version": str(one.version),
        "origin": one.origin,
        "run_id": one.version.run_id,
        "state": "champion" if one.present else "rolled back" if one.rolled_back else "replaced",
        "marks": one.version.disclosure.marks,
        "score": str(Estimate.read(f"{Metric.TEST}roc_auc", one.metrics, one.tags)),
        "data": "this" if here else one.tags.get(Tag.TEST_SHA256, "")[:12],
    }


def _data(report: ReportData, plots: Sequence[Plot]) -> dict[str, object]:
    """What the template needs of the section on the data."""
    types = report.runs.types
    return {
        "figures": [one for one in plots if one.section == "data"],
        "types": [types.get(kind, "") for kind in TYPES],
        "is_papers": report.runs.is_the_papers,
        "warnings": [] if report.patch_set is None else report.patch_set.warnings,
        "known": report.patch_set is not None,
        "others": [
            (test[:12], name, count, PHANTOM.mark if phantom else "")
            for (_, test), count, phantom, name in report.others
        ],
        "command": REPORT,
        "patients": report.patch_set is not None and report.patch_set.test.patient_ids is not None,
    }


def _cells(table: pd.DataFrame) -> list[list[str]]:
    """The cells of a frame as text, a list a row."""
    return [
        [_cell(name, value) for name, value in zip(table, row, strict=True)] for row in table.itertuples(index=False)
    ]


def _cell(name: str, value: object) -> str:
    """A value of the column `name` as text; "" for NaN."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return ""
    if name.endswith("difference"):
        return f"{value:+.3f}"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _estimate(model: ReportedModel | None, name: str) -> str:
    """A stored metric of a model with its interval, as text."""
    return "undefined" if model is None else str(model.result.estimate(name))


def _stored(estimate: Estimate) -> str:
    """An estimate as text; "" where none was logged."""
    return "" if math.isnan(estimate.value) and not estimate.reason else str(estimate)
