"""The values that the paper printed, each with its source, read from the package's files (`paper/`)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

TEST_TYPES = {1: 113, 2: 66, 3: 106, 4: 51}
"""How many abnormalities of each type (`data.patches.TYPES`) the paper's test set has, by which it is recognised."""
METRICS = {"accuracy": "accuracy", "auc": "roc_auc"}


@dataclass(frozen=True, kw_only=True)
class PrintedValue:
    """A value that the paper printed: a `metric`, `roc_auc` or `accuracy`, on the `split` train, validation or test.

    `source`: the table, figure or section; `sd`: the printed standard deviation over folds; `note`: why the value does
    not count, "" where it does.
    """

    source: str
    task: str
    family: str
    set: str
    model: str
    protocol: str
    metric: str
    split: str
    value: float
    sd: float | None
    note: str


@cache
def printed() -> tuple[PrintedValue, ...]:
    """All values that the paper printed, in the order of the file `results.csv`."""
    text = (files(__package__) / "paper" / "results.csv").read_text(encoding="utf-8")
    return tuple(
        PrintedValue(
            source=row["source"],
            task=row["task"],
            family=row["family"],
            set=row["set"],
            model=row["model"],
            protocol=row["protocol"],
            metric=METRICS[row["metric"]],
            split=row["split"],
            value=float(row["value"]),
            sd=float(row["sd"]) if row["sd"] else None,
            note=row["note"],
        )
        for row in csv.DictReader(text.splitlines())
    )


@cache
def printed_matrices() -> dict[tuple[str, str, str], dict[tuple[str, str], int]]:
    """The printed confusion matrices by source, task and model: counts of patches by actual and predicted class."""
    text = (files(__package__) / "paper" / "confusion.csv").read_text(encoding="utf-8")
    found: dict[tuple[str, str, str], dict[tuple[str, str], int]] = {}
    for row in csv.DictReader(text.splitlines()):
        cells = found.setdefault((row["source"], row["task"], row["model"]), {})
        cells[row["actual"], row["predicted"]] = int(row["count"])
    return found


def preferred_value(values: list[PrintedValue]) -> PrintedValue | None:
    """Choose among the values printed for one cell: one without a note, a table's before a figure's or text's."""
    plain = [one for one in values if not one.note]
    return next((one for one in plain if one.source.startswith("table")), plain[0] if plain else None)
