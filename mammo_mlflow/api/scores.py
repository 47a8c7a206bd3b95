"""The scores of a model as a table: every stored metric of its predictions, with its interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import pandas as pd

from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.calibration import MEASURES
from mammo_mlflow.evaluation.metrics import RATES
from mammo_mlflow.names import Metric

COLUMNS = ("predictions", "unit", "decided_at", "metric", "value", "low", "high", "note")
_CHOSEN = "threshold"
_OF_FOLDS = {Metric.OOF: ("patch", "0.5"), Metric.OOF_BY_LESION: ("lesion", "0.5")}
_OF_TEST = {
    f"{begins}{end}": (unit, at)
    for begins, unit in ((Metric.TEST, "patch"), (Metric.BY_PATIENT, "patient"), (Metric.BY_LESION, "lesion"))
    for end, at in (("", "0.5"), (Metric.AT_THRESHOLD, _CHOSEN))
}
_METRICS = (*RATES, *MEASURES, Metric.COVERAGE_0, Metric.COVERAGE_1, Metric.REFERRED)
SHOWN = ("roc_auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "brier")
"""The metrics that a model shows of itself."""


def scores_table(
    of_folds: tuple[Mapping[str, float], Mapping[str, str]] | None,
    of_test: tuple[Mapping[str, float], Mapping[str, str]] | None,
) -> pd.DataFrame:
    """A row for each score of out-of-fold and test predictions, from metrics and tags of their runs; None without one.

    Columns: predictions (`out-of-fold` or `test`), unit (`patch`, `patient`, `lesion`), decided_at (`0.5`, or the
    chosen `threshold`), metric, value, low and high (the ends of the 95 % interval, NaN without one), note (why so).
    """
    rows = []
    for name, run, prefixes in (("out-of-fold", of_folds, _OF_FOLDS), ("test", of_test, _OF_TEST)):
        rows += [(name, *row) for row in _rows(*run, prefixes)] if run is not None else []
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(
    metrics: Mapping[str, float], tags: Mapping[str, str], prefixes: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[str, str, str, float, float, float, str]]:
    for begins, (unit, at) in prefixes.items():
        for name in _METRICS:
            found = Estimate.read(f"{begins}{name}", metrics, tags)
            if not math.isnan(found.value) or found.reason:
                yield unit, at, name, found.value, found.low, found.high, found.reason


def shown_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The table that a model shows: a row for each of `SHOWN`, a column for each kind of predictions, as text."""
    part = scores[(scores["unit"] == "patch") & (scores["decided_at"] == "0.5") & scores["metric"].isin(SHOWN)]
    told = [str(Estimate(row.value, row.low, row.high, reason=row.note)) for row in part.itertuples()]
    wide = part.assign(told=told).pivot(index="metric", columns="predictions", values="told")
    wide = wide.reindex(index=[name for name in SHOWN if name in wide.index], columns=part["predictions"].unique())
    wide.columns.name = None
    return wide.fillna("-").reset_index()
