"""The table of differences between this project and the paper, for the report and for docs/explanation/paper.md."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

HEADER = ("subject", "the paper", "here", "why", "the paper's way")


@dataclass(frozen=True, kw_only=True)
class PaperDifference:
    """A row of the table of differences: what the paper does, what this project does, and why.

    `way` is the entry point with the parameters that follow the paper; "" where none do.
    """

    subject: str
    paper: str
    here: str
    why: str
    way: str


@cache
def differences() -> tuple[PaperDifference, ...]:
    """All rows of the table of differences, in the order of the paper's chapters."""
    rows = csv.DictReader(differences_csv().splitlines())
    return tuple(
        PaperDifference(
            subject=row["subject"],
            paper=row["study"],
            here=row["here"],
            why=row["why"],
            way=row["way"].removeprefix("-"),
        )
        for row in rows
    )


def differences_csv() -> str:
    """The table of differences as CSV, with the columns subject, study (the paper), here, why and way."""
    return (files(__package__) / "paper" / "differences.csv").read_text(encoding="utf-8")


def differences_markdown() -> str:
    """The table of differences as Markdown, in GitHub's dialect."""
    rows = [(one.subject, one.paper, one.here, one.why, f"`{one.way}`" if one.way else "-") for one in differences()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADER, ["---"] * len(HEADER), *rows)) + "\n"
