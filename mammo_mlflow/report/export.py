"""The report's tables as text: CSV with every value, Markdown and LaTeX with what a reader is shown."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from io import StringIO

from mammo_mlflow.report.fill_rows import Cell, FilledRow
from mammo_mlflow.report.paper_tables import ACCURACY, Column, PaperTable
from mammo_mlflow.wording import no_formula

HEADINGS = {
    ("accuracy", "train"): "training accuracy",
    ("accuracy", "validation"): "validation accuracy",
    ("accuracy", "test"): "test accuracy",
    ("roc_auc", "test"): "test ROC AUC",
}
_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "$": r"\$"} | {
    "{": r"\{",
    "}": r"\}",
    "^": r"\^{}",
    "~": r"\textasciitilde{}",
}


def measured_text(cell: Cell) -> str:
    """Format a cell's measured value with its interval or its deviation over folds; `-` where undefined.

    Empty where nothing was run.
    """
    if math.isnan(cell.value):
        return "-" if cell.reason else ""
    if cell.bounded:
        return str(cell)
    return f"{cell.value:.3f}" + ("" if math.isnan(cell.sd) else f" ± {cell.sd:.3f}")


def paper_text(cell: Cell) -> str:
    """Format the value that the paper printed for a cell, with the same digits; "" where it printed none."""
    if cell.paper is None:
        return ""
    digits = 4 if cell.paper.source.startswith(("table 4", "section 7")) else 3 if cell.paper.metric == "roc_auc" else 2
    return f"{cell.paper.value:.{digits}f}" + ("" if cell.paper.sd is None else f" ± {cell.paper.sd:g}")


def difference_text(cell: Cell) -> str:
    """Format a cell's measured value minus the paper's; "" where they are of different test sets."""
    return "" if math.isnan(cell.difference) else f"{cell.difference:+.3f}"


def layout(table: PaperTable, rows: Sequence[FilledRow]) -> tuple[list[tuple[Column, bool]], bool]:
    """The columns of a table, each with whether the paper printed values for it, and whether differences are shown."""
    shown = [(column, any(one.cells[column].paper for one in rows)) for column in table.columns]
    return shown, any(difference_text(one.cells[ACCURACY]) for one in rows)


def header(table: PaperTable, rows: Sequence[FilledRow]) -> list[str]:
    """The column headings of a table."""
    shown, compared = layout(table, rows)
    names = [name for column, paper in shown for name in (HEADINGS[column], *(["paper"] if paper else []))]
    return ["model", *names, *(["difference"] if compared else []), "patches", "run"]


def footnotes(rows: Sequence[FilledRow]) -> list[str]:
    """The notes of all rows, each once, in order of first appearance."""
    return list(dict.fromkeys(note for one in rows for note in one.notes))


def lines(table: PaperTable, rows: Sequence[FilledRow]) -> list[list[str]]:
    """The cells of a table as text, a list a row: marks in brackets, numbers of footnotes in parentheses."""
    found = []
    shown, compared = layout(table, rows)
    numbers = {note: number for number, note in enumerate(footnotes(rows), 1)}
    for one in rows:
        marks = f" [{', '.join(one.marks)}]" if one.marks else ""
        marks += "".join(f" ({numbers[note]})" for note in one.notes)
        cells = []
        for column, paper in shown:
            cells += [measured_text(one.cells[column]), *([paper_text(one.cells[column])] if paper else [])]
        cells += [difference_text(one.cells[ACCURACY])] if compared else []
        run = one.result.model if one.result else " + ".join(member.model for member in one.members) or "not run"
        found.append([one.row.label + marks, *cells, "" if one.patches is None else str(one.patches), run])
    return found


def as_csv(tables: Sequence[tuple[PaperTable, Sequence[FilledRow]]], intervals: str) -> str:
    """Format all tables as one CSV, a line a cell: value with interval, the paper's value, run, marks and notes.

    The columns study, study_sd and study_source are the paper's. `intervals` names the kind of the intervals.
    """
    names = ["table", "task", "row", "metric", "split", "value", "low", "high", "sd", "patches", "intervals"]
    names += ["study", "study_sd", "study_source", "difference", "model", "run_id", "marks", "notes", "command"]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(
        map(no_formula, [table.number, table.task, one.row.label, *column, *_values(one, column, cell, intervals)])
        for table, rows in tables
        for one in rows
        for column, cell in one.cells.items()
    )
    return text.getvalue()


def _values(one: FilledRow, column: Column, cell: Cell, intervals: str) -> list[object]:
    """The CSV fields of a cell, from `value` on."""
    run = one.result
    told = not math.isnan(cell.value)
    paper = ["", "", ""] if cell.paper is None else [cell.paper.value, _number(cell.paper.sd), cell.paper.source]
    on_test = told and column[1] == "test"
    return [
        *(_number(value) for value in (cell.value, cell.low, cell.high, cell.sd)),
        one.patches if on_test else "",
        intervals if on_test else "",
        *paper,
        _number(cell.difference),
        run.model if run else " + ".join(member.model for member in one.members),
        run.run_id if run else " ".join(member.run_id for member in one.members),
        "; ".join(one.marks),
        "; ".join(one.notes),
        "" if told else one.command,
    ]


def as_markdown(table: PaperTable, rows: Sequence[FilledRow], caption: str) -> str:
    """Format a table as Markdown, in GitHub's dialect, with its footnotes."""
    names, body = header(table, rows), lines(table, rows)
    text = [f"**Table {table.number}: {table.title}.** {caption}", "", _bar(names), _bar(["---"] * len(names))]
    text += [_bar([cell.replace("|", r"\|") for cell in line]) for line in body]
    notes = [f"({number}) {note}" for number, note in enumerate(footnotes(rows), 1)]
    return "\n".join([*text, *(["", "  \n".join(notes)] if notes else [])]) + "\n"


def as_latex(table: PaperTable, rows: Sequence[FilledRow], caption: str) -> str:
    """Format a table as LaTeX, for the package `booktabs`, with its footnotes."""
    names, body = header(table, rows), lines(table, rows)
    text = [r"\begin{table}", r"\centering", rf"\caption{{{_escaped(f'{table.title}. {caption}')}}}"]
    text += [rf"\begin{{tabular}}{{l{'r' * (len(names) - 2)}l}}", r"\toprule", _latex_row(names), r"\midrule"]
    text += [_latex_row(line) for line in body]
    text += [r"\bottomrule", r"\end{tabular}"]
    text += [rf"\\ {{\footnotesize ({n}) {_escaped(note)}}}" for n, note in enumerate(footnotes(rows), 1)]
    return "\n".join([*text, r"\end{table}"]) + "\n"


def _bar(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _latex_row(cells: Sequence[str]) -> str:
    """A row of a LaTeX table."""
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    """A text in which LaTeX's special characters stand for themselves."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _number(value: float | None) -> str:
    """A number with six digits; "" for None and NaN."""
    return "" if value is None or math.isnan(value) else f"{value:.6g}"
