"""Where this project differs from the study: one table, for the page of the report and for docs/statistics.md."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

HEADER = ("subject", "the study", "here", "why", "the study's way")


@dataclass(frozen=True, kw_only=True)
class PaperDifference:
    """A row: what the study does, what is done here, and why.

    `way` are the entry point and parameters that do it the study's way, or "" where none do.
    """

    subject: str
    study: str
    here: str
    why: str
    way: str


@cache
def differences() -> tuple[PaperDifference, ...]:
    """Every row, in the order of the study's chapters."""
    rows = csv.DictReader(differences_csv().splitlines())
    return tuple(PaperDifference(**row | {"way": row["way"].removeprefix("-")}) for row in rows)


def differences_csv() -> str:
    """The table as it is stored."""
    return (files(__package__) / "paper" / "differences.csv").read_text(encoding="utf-8")


def differences_markdown() -> str:
    """The table in GitHub's Markdown."""
    rows = [(one.subject, one.study, one.here, one.why, f"`{one.way}`" if one.way else "-") for one in differences()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADER, ["---"] * len(HEADER), *rows)) + "\n"
