"""Fill the paper's tables from the runs on one data set: find the run for each row, and its measured values."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_mlflow.data.patches import TASKS
from mammo_mlflow.data.phantom import settings_from_name
from mammo_mlflow.disclosure import CHOSEN_ON_TEST, RANDOM, SCORED, Disclosure
from mammo_mlflow.ensembles.blend_weights import grid
from mammo_mlflow.errors import UserError
from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.intervals import score_estimates
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.weighted import Floats, Ints
from mammo_mlflow.experiment import parameters, that_move
from mammo_mlflow.jobs.devices import computed_on
from mammo_mlflow.names import Metric, Tag
from mammo_mlflow.presets import OF_THE_PAPER, OURS, preset_values
from mammo_mlflow.report.paper_tables import ACCURACY, AUC, TRAIN, VALIDATION, Column, PaperRow, PaperTable
from mammo_mlflow.report.printed_values import TEST_TYPES, PrintedValue, preferred_value, printed_matrices
from mammo_mlflow.tracking.results import Result

HOLDOUT = {"holdout": "0.3", "final": "fold_average"}
"""The parameters of the hold-out of the paper's chapter 4, which the preset `quick` does not have."""


@dataclass(frozen=True)
class Cell(Estimate):
    """A table cell: measured value with interval, or with `sd`, the deviation over folds, and the paper's value.

    `comparable`: both are of the paper's test set.
    """

    sd: float = math.nan
    paper: PrintedValue | None = None
    comparable: bool = False

    @property
    def difference(self) -> float:
        """The measured value minus the paper's, where the test set is the paper's; else NaN."""
        return self.value - self.paper.value if self.paper and self.comparable else math.nan


@dataclass(frozen=True, eq=False)
class ReportedModel:
    """A model of the report: its label, final run, test predictions (a row a patch), and training time in seconds.

    `of_folds` are the metrics of its cross-validation, `tags_of_folds` its tags.
    """

    label: str
    result: Result
    test: pd.DataFrame
    seconds: float = math.nan
    of_folds: Mapping[str, float] = field(default_factory=dict)
    tags_of_folds: Mapping[str, str] = field(default_factory=dict)

    def out_of_fold(self, name: str) -> Estimate:
        """A metric of its cross-validation, with its interval."""
        return Estimate.read(name, self.of_folds, self.tags_of_folds)

    @property
    def labels(self) -> Ints:
        """The true classes of the test patches, int64 (n,) of 0 and 1."""
        return self.test["label"].to_numpy()

    @property
    def probabilities(self) -> Floats:
        """The predicted probabilities of class 1, float64 (n,)."""
        return self.test["probability"].to_numpy(float)

    @property
    def patients(self) -> np.ndarray | None:
        """The patient of each test patch, (n,); None where patients are not known."""
        return self.test["patient_id"].to_numpy() if "patient_id" in self.test else None

    @property
    def threshold(self) -> float:
        """The model's stored decision threshold."""
        return self.result.metrics.get(Metric.THRESHOLD, 0.5)


@dataclass(frozen=True, eq=False, kw_only=True)
class FilledRow:
    """A row of a paper's table with its measured cells.

    `result` is the run that stands for it, or None; `command` would fill it. `members` are those of a weighted ensemble
    whose weights the report chooses, `others` the number of further runs that could stand for the row.
    """

    row: PaperRow
    cells: Mapping[Column, Cell]
    command: str
    result: Result | None = None
    marks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    members: tuple[Result, ...] = ()
    others: int = 0

    @property
    def measured(self) -> bool:
        """Whether any cell of the row has a measured value."""
        return any(not math.isnan(cell.value) for cell in self.cells.values())

    @property
    def results(self) -> tuple[Result, ...]:
        """The runs that the row's values are of."""
        return (self.result,) if self.result else self.members

    @property
    def patches(self) -> int | None:
        """The number of test patches behind the row's test values; None where nothing is measured."""
        return next((one.patches for one in self.results), None) if self.measured else None


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportedRuns:
    """The finished runs on one data set, which fill the tables, with their stored metrics and test predictions."""

    results: Sequence[Result]
    tests: Mapping[str, pd.DataFrame]
    """The stored test predictions by run id."""
    metrics: Mapping[str, Mapping[str, float]]
    """The metrics of cross-validations by run id."""
    fits: Mapping[str, Mapping[str, Mapping[str, float]]]
    """The metrics of the fits of hold-outs, by the run id of their cross-validation."""
    phantom: bool
    data: str
    """The name of the data directory."""
    types: Mapping[int, int] = field(default_factory=dict)
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The tags of cross-validations by run id."""
    lacking: Mapping[str, str] = field(default_factory=dict)
    """By task what the training set lacks for it, where the set is known."""

    def lacking_for(self, row: PaperRow) -> str:
        """Why no command can fill a row: what the training set lacks for it, in words; "" where it lacks nothing."""
        tasks = TASKS if row.family == "conditioned" else (row.task,)
        return next((self.lacking[task] for task in tasks if task in self.lacking), "")

    @property
    def is_the_papers(self) -> bool:
        """Whether the test set is the paper's, judged by the number of abnormalities of each type, where known."""
        return not self.phantom and dict(self.types) == TEST_TYPES


def candidates_for(row: PaperRow, results: Sequence[Result]) -> list[Result]:
    """Find the results that can fill a row, best suited first.

    Controls and the models of searches cannot. Those with the protocol of the paper's table (its hold-out, its ten
    folds) come first, then those without random weights, those with one of the paper's presets and all its values, and
    then the newest.
    """
    found = [
        one
        for one in results
        if (one.tag(Tag.TASK), one.tag(Tag.FAMILY), one.tag(Tag.BACKBONE)) == (row.task, row.family, row.backbone)
        and one.tag(Tag.CONTROL) in ("", "none")
        and not one.tag(Tag.STUDY)
        and (row.tuned is None or one.tuned == row.tuned)
        and (not row.method or one.tag(Tag.METHOD) == row.method)
    ]
    return sorted(found, key=lambda one: _rank(row, one))


def other_settings(result: Result) -> list[str]:
    """The parameters, as `name=value`, in which a run of one of the paper's presets departs from the preset."""
    preset, family = result.tag(Tag.PRESET), result.tag(Tag.FAMILY)
    if preset not in OF_THE_PAPER or family == "ensemble":
        return []
    try:
        printed = preset_values(preset, result.tag(Tag.BACKBONE), result.tag(Tag.TASK), family)
    except UserError:
        return []
    # what the paper did not have, beside protocols, which are told by themselves
    later = {item.name: item.default for item in parameters(family) if item.metadata["added"]}
    values = {name: value for name, value in later.items() if name not in that_move("judging")} | printed
    kept = {name: value for name, value in values.items() if name in result.params and name not in that_move("source")}
    return [f"{name}={result.params[name]}" for name, value in kept.items() if result.params[name] != str(value)]


def _rank(row: PaperRow, result: Result) -> tuple[bool, bool, bool, bool, int]:
    """The key by which `candidates_for` sorts; lower is better suited."""
    return (
        not _same_protocol(row, result),
        RANDOM in result.disclosure,
        result.tag(Tag.PRESET) in OURS,
        bool(other_settings(result)),
        -result.ended,
    )


def fill_table(table: PaperTable, runs: ReportedRuns) -> list[FilledRow]:
    """Fill all rows of a table from finished runs."""
    return [_optimistic(row, table, runs) if row.optimistic else _fill(row, table, runs) for row in table.rows]


def command_for(row: PaperRow, runs: ReportedRuns) -> str:
    """The command line that fills a row on the report's data set; "" where none can."""
    if runs.lacking_for(row):
        return ""
    given = dict(row.parameters())
    if row.family == "scratch":
        judged = {"folds": "10"} if row.backbone == "m1_10fold" else HOLDOUT
        given |= judged if runs.phantom else {"preset": "table"}
    settings = settings_from_name(Path(runs.data)) if runs.phantom else None
    if settings is not None:
        given |= settings.options
    else:
        given["data"] = "DIR"  # a page may go where its writer's folders are nobody's business
    words = " ".join(f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in given.items())
    return f"python -m mammo_mlflow {row.family} {words}"  # works outside of a clone, too


def matrices_of(row: PaperRow) -> list[str]:
    """The confusion matrices that the paper printed for a row, as text, actual classes in rows."""
    tuned = " tuned" if row.tuned else ""
    name = {"pretrained": f"{row.backbone}{tuned}", "siamese": f"siamese {row.backbone}{tuned}"}.get(row.family, "")
    if row.family == "conditioned":
        name = f"approach {row.backbone.upper()}"
    cells = [(actual, predicted) for actual in TASKS[row.task] for predicted in TASKS[row.task]]
    return [
        "{}: {} {} | {} {}".format(source, *(counts[cell] for cell in cells))
        for (source, task, model), counts in printed_matrices().items()
        if (task, model) == (row.task, name)
    ]


def _fill(row: PaperRow, table: PaperTable, runs: ReportedRuns) -> FilledRow:
    """A row with the values of the run that stands for it, if there is one, and notes on how its protocol differs."""
    candidates = candidates_for(row, runs.results)
    notes = tuple(f"{one.source}: {one.value:g}, {one.note}" for one in row.printed if one.note)
    notes += tuple(f"the paper's confusion matrix, {one}" for one in matrices_of(row))
    if not candidates:
        if found := runs.lacking_for(row):
            notes = (f"not to be had of these training data: {found}", *notes)
        return FilledRow(row=row, cells=_cells(row, table, runs, {}), command=command_for(row, runs), notes=notes)
    best = candidates[0]
    metrics = {ACCURACY: Metric.TEST_ACCURACY, AUC: Metric.TEST_ROC_AUC}
    measured = {column: Cell.read(name, best.metrics, best.tags) for column, name in metrics.items()}
    folds = runs.metrics.get(best.cross_validation, {})
    mean, sd = (folds.get(f"{Metric.FOLD}accuracy_{name}", math.nan) for name in ("mean", "sd"))
    if not math.isnan(mean):
        measured[VALIDATION] = Cell(mean, sd=sd)
    trained = runs.fits.get(best.cross_validation, {}).get("fold 1", {})
    if TRAIN in table.columns and "accuracy" in trained:
        measured[TRAIN] = Cell(trained["accuracy"])
    device = computed_on(best.tags)
    changed, stopped = other_settings(best), best.params.get("early_stop", "0") not in ("0", "")
    protocol = {
        "on the common 4 folds, not the protocol of the paper's table": not _same_protocol(row, best),
        f"{best.tag(Tag.PRESET)} preset, not the paper's settings": best.tag(Tag.PRESET) in OURS,
        f"not the paper's settings: {', '.join(changed)}": bool(changed),
        f"computed on {device}": bool(device),
        "early stopping watched the patches of its validation scores, as in the paper": SCORED in best.disclosure,
        "given the class, as in the paper, not the probability": best.params.get("condition") == "class",
        "training accuracy of the last epoch, not of the best one, which was kept": TRAIN in measured and stopped,
    }
    return FilledRow(
        row=row,
        cells=_cells(row, table, runs, measured),
        command=command_for(row, runs),
        result=best,
        marks=best.disclosure.marks,
        notes=(*(said for said, holds in protocol.items() if holds), *notes, *_without(measured)),
        others=len(candidates) - 1,
    )


def _optimistic(row: PaperRow, table: PaperTable, runs: ReportedRuns) -> FilledRow:
    """A row of the paper's weighted ensemble: blend weights with the best accuracy on the test set, scored there."""
    said: tuple[str, ...] = ("the weights are chosen on the test set that they are measured on: an optimistic value",)
    members = []
    for wanted in row.members:
        found = candidates_for(wanted, runs.results)
        if not found or found[0].run_id not in runs.tests:
            return FilledRow(row=row, cells=_cells(row, table, runs, {}), command=command_for(wanted, runs), notes=said)
        members.append(found[0])
    frames = [runs.tests[one.run_id] for one in members]
    labels = frames[0]["label"].to_numpy()
    if len(set(labels)) < 2:
        said = ("no weights can be chosen on a test set of one class",)
        return FilledRow(row=row, cells=_cells(row, table, runs, {}), command="", notes=said)
    groups = frames[0]["patient_id"].to_numpy() if "patient_id" in frames[0] else None
    p = np.column_stack([frame["probability"].to_numpy(float) for frame in frames])
    said_of = OutOfFold(labels=labels, probabilities=p, folds=np.zeros(len(labels), int))  # the test set: no folds
    (chosen,) = grid(said_of, parse_objectives("accuracy")[0])
    found_scores = score_estimates(labels, np.clip(p @ chosen.weights, 0, 1), groups=groups)
    measured = {column: Cell(**vars(found_scores[column[0]])) for column in (ACCURACY, AUC)}
    said += _without(measured)
    weights = ", ".join(f"{one.tag(Tag.BACKBONE)} {w:.2f}" for one, w in zip(members, chosen.weights, strict=True))
    marks = Disclosure.together([*(one.disclosure for one in members), [CHOSEN_ON_TEST]]).marks
    cells = _cells(row, table, runs, measured)
    return FilledRow(row=row, cells=cells, command="", marks=marks, notes=(*said, weights), members=tuple(members))


def _cells(
    row: PaperRow,
    table: PaperTable,
    runs: ReportedRuns,
    measured: Mapping[Column, Cell],
) -> dict[Column, Cell]:
    """All cells of a row: the measured values with the paper's beside them."""
    cells = {}
    for column in table.columns:
        paper = preferred_value([one for one in row.printed if (one.metric, one.split) == column])
        comparable = runs.is_the_papers and column[1] == "test"
        cells[column] = replace(measured.get(column, Cell()), paper=paper, comparable=comparable)
    return cells


def _without(cells: Mapping[Column, Cell]) -> tuple[str, ...]:
    """Notes on the test values that do not exist or have no interval, with the reason."""
    return tuple(
        f"no {'' if math.isnan(one.value) else 'interval of '}test {metric}: {one.reason}"
        for (metric, _), one in cells.items()
        if one.reason
    )


def _same_protocol(row: PaperRow, result: Result) -> bool:
    """Whether a run followed the protocol of the paper's table: the hold-out of chapter 4, or its ten folds."""
    if row.family != "scratch":
        return True
    if row.backbone == "m1_10fold":
        return result.params.get("folds") == "10"
    return abs(result.holdout - float(HOLDOUT["holdout"])) < 1e-9
