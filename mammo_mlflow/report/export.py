"""The tables as files: CSV with everything, Markdown and LaTeX as they are read."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from io import StringIO

from mammo_mlflow.report.fill_rows import Cell, FilledRow
from mammo_mlflow.report.paper_tables import ACCURACY, Column, PaperTable

HEADINGS = {
    ("accuracy", "train"): "training accuracy",
    ("accuracy", "validation"): "validation accuracy",
    ("accuracy", "test"): "test accuracy",
    ("roc_auc", "test"): "test ROC AUC",
}
_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "$": r"\$"}


def ours(cell: Cell) -> str:
    """This store's figure: with its interval, or over folds with its deviation; `-` where what was run has none."""
    if math.isnan(cell.value):
        return "-" if cell.reason else ""
    if cell.bounded:
        return str(cell)
    return f"{cell.value:.3f}" + ("" if math.isnan(cell.sd) else f" ± {cell.sd:.3f}")


def papers(cell: Cell) -> str:
    """The study's figure."""
    if cell.paper is None:
        return ""
    digits = 4 if cell.paper.source.startswith(("table 4", "section 7")) else 3 if cell.paper.metric == "roc_auc" else 2
    return f"{cell.paper.value:.{digits}f}" + ("" if cell.paper.sd is None else f" ± {cell.paper.sd:g}")


def difference(cell: Cell) -> str:
    """This store's figure minus the study's, where they are of one test set."""
    return "" if math.isnan(cell.difference) else f"{cell.difference:+.3f}"


def layout(table: PaperTable, rows: Sequence[FilledRow]) -> tuple[list[tuple[Column, bool]], bool]:
    """What a table as it is read shows: its columns, which of them have figures of the study, whether differences."""
    shown = [(column, any(one.cells[column].paper for one in rows)) for column in table.columns]
    return shown, any(difference(one.cells[ACCURACY]) for one in rows)


def header(table: PaperTable, rows: Sequence[FilledRow]) -> list[str]:
    """The headings of a table as it is read."""
    shown, compared = layout(table, rows)
    names = [name for column, study in shown for name in (HEADINGS[column], *(["study"] if study else []))]
    return ["model", *names, *(["difference"] if compared else []), "patches", "run"]


def footnotes(rows: Sequence[FilledRow]) -> list[str]:
    """What has to be said of rows, each once, in the order in which it is first said."""
    return list(dict.fromkeys(note for one in rows for note in one.notes))


def lines(table: PaperTable, rows: Sequence[FilledRow]) -> list[list[str]]:
    """The cells of a table as it is read: marks in brackets, the numbers of footnotes in parentheses."""
    found = []
    shown, compared = layout(table, rows)
    numbers = {note: number for number, note in enumerate(footnotes(rows), 1)}
    for one in rows:
        marks = f" [{', '.join(one.marks)}]" if one.marks else ""
        marks += "".join(f" ({numbers[note]})" for note in one.notes)
        cells = []
        for column, study in shown:
            cells += [ours(one.cells[column]), *([papers(one.cells[column])] if study else [])]
        cells += [difference(one.cells[ACCURACY])] if compared else []
        run = one.result.model if one.result else " + ".join(member.model for member in one.members) or "not run"
        found.append([one.row.label + marks, *cells, "" if one.patches is None else str(one.patches), run])
    return found


def as_csv(tables: Sequence[tuple[PaperTable, Sequence[FilledRow]]], intervals: str) -> str:
    """A line for each figure: everything that the page tells of it."""
    names = ["table", "task", "row", "metric", "split", "value", "low", "high", "sd", "patches", "intervals"]
    names += ["study", "study_sd", "study_source", "difference", "model", "run_id", "marks", "notes", "command"]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(
        [table.number, table.task, one.row.label, *column, *_values(one, column, cell, intervals)]
        for table, rows in tables
        for one in rows
        for column, cell in one.cells.items()
    )
    return text.getvalue()


def _values(one: FilledRow, column: Column, cell: Cell, intervals: str) -> list[object]:
    run = one.result
    told = not math.isnan(cell.value)
    study = ["", "", ""] if cell.paper is None else [cell.paper.value, _number(cell.paper.sd), cell.paper.source]
    on_test = told and column[1] == "test"
    return [
        *(_number(value) for value in (cell.value, cell.low, cell.high, cell.sd)),
        one.patches if on_test else "",
        intervals if on_test else "",
        *study,
        _number(cell.difference),
        run.model if run else " + ".join(member.model for member in one.members),
        run.run_id if run else " ".join(member.run_id for member in one.members),
        "; ".join(one.marks),
        "; ".join(one.notes),
        "" if told else one.command,
    ]


def as_markdown(table: PaperTable, rows: Sequence[FilledRow], caption: str) -> str:
    """A table in GitHub's Markdown."""
    names, body = header(table, rows), lines(table, rows)
    text = [f"**Table {table.number}: {table.title}.** {caption}", "", _bar(names), _bar(["---"] * len(names))]
    text += [_bar([cell.replace("|", r"\|") for cell in line]) for line in body]
    notes = [f"({number}) {note}" for number, note in enumerate(footnotes(rows), 1)]
    return "\n".join([*text, *(["", "  \n".join(notes)] if notes else [])]) + "\n"


def as_latex(table: PaperTable, rows: Sequence[FilledRow], caption: str) -> str:
    """A table for LaTeX's `booktabs`."""
    names, body = header(table, rows), lines(table, rows)
    text = [r"\begin{table}", r"\centering", rf"\caption{{{_escaped(f'{table.title}. {caption}')}}}"]
    text += [rf"\begin{{tabular}}{{l{'r' * (len(names) - 2)}l}}", r"\toprule", _row(names), r"\midrule"]
    text += [_row(line) for line in body]
    text += [r"\bottomrule", r"\end{tabular}"]
    text += [rf"\\ {{\footnotesize ({n}) {_escaped(note)}}}" for n, note in enumerate(footnotes(rows), 1)]
    return "\n".join([*text, r"\end{table}"]) + "\n"


def _bar(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"
