"""Read everything that the report shows from the tracking store."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_mlflow.data.patches import TYPES, PatchSet, missing_classes, read_patch_set
from mammo_mlflow.disclosure import PHANTOM, SCORED, Disclosure
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import TASKS
from mammo_mlflow.names import DATA_URI, Metric, Tag, registered_name
from mammo_mlflow.report.comparing import compare_pairs, critical_view, subgroups
from mammo_mlflow.report.fill_rows import FilledRow, ReportedModel, ReportedRuns, candidates_for, fill_table
from mammo_mlflow.report.paper_tables import CONDITIONED, ENCODERS, SCRATCH, PaperTable, tables
from mammo_mlflow.tracking.champions import Reign, history_of
from mammo_mlflow.tracking.results import Client, Result, fit_metrics, predictions_of, read_results, runs_by_id
from mammo_mlflow.whereabouts import find_again
from mammo_mlflow.wording import without_paths

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done and how much there is."""

MOST_OTHERS = 20
"""How many models of a task that stand for no row of the paper's are shown, the newest: each is compared with all."""

GROUPS: tuple[tuple[str, str, bool | None, dict[str, str]], ...] = (
    ("scratch", "Scratch models", None, {}),
    ("pretrained", "Pretrained models, frozen", False, {"mass_calc": "5.18", "benign_malignant": "5.35"}),
    ("pretrained", "Pretrained models, fine tuned", True, {"mass_calc": "5.19", "benign_malignant": "5.36"}),
    ("siamese", "Siamese models", False, {"mass_calc": "6.14", "benign_malignant": "6.26"}),
    ("siamese", "Siamese models, fine tuned", True, {"mass_calc": "6.15", "benign_malignant": "6.27"}),
    ("ensemble", "Ensembles", None, {}),
    ("conditioned", "Given mass/calcification", None, {}),
)
"""Family, title, whether fine tuned, and by task the number of the paper's figure of the ROC curves."""


@dataclass(frozen=True, eq=False)
class ModelGroup:
    """Models of a task and family that are plotted together; `figure` is the number of that figure in the paper."""

    task: str
    title: str
    figure: str
    models: tuple[ReportedModel, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskSection:
    """The report's section on a task: models, table of pairs, sentences on the differences, subgroups, best model."""

    name: str
    models: tuple[ReportedModel, ...]
    groups: tuple[ModelGroup, ...]
    pairs: pd.DataFrame
    critical: tuple[str, ...]
    subgroups: pd.DataFrame
    best: str
    champions: tuple[Reign, ...]
    """Every version that is or was champion of the task, on whatever data, the newest first."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportData:
    """All data that the report shows.

    `dataset`: the sha256 of training and test set, empty where no model has been finished; `tables`: the paper's tables
    with their filled rows; `patches`: the size of the test set.
    """

    dataset: tuple[str, str] | tuple[()]
    runs: ReportedRuns
    tables: tuple[tuple[PaperTable, tuple[FilledRow, ...]], ...]
    tasks: tuple[TaskSection, ...]
    patches: int
    intervals: str
    patch_set: PatchSet | None
    others: tuple[tuple[tuple[str, str], int, bool, str], ...]
    """Other data sets in the store: their sha256, number of models, whether phantom, and the name of their folder."""
    warnings: tuple[str, ...]

    @property
    def disclosure(self) -> Disclosure:
        """The facts to disclose on every plot and table: whether the data are a phantom."""
        return Disclosure.of(phantom=self.runs.phantom)

    @property
    def named(self) -> list[Result]:
        """The models that the page names: of the tables' rows, all others that it shows, champions of this data set."""
        found = {of.run_id: of for _, rows in self.tables for one in rows for of in one.results}
        found |= {one.result.run_id: one.result for task in self.tasks for one in task.models}
        champions = {one.version.run_id for task in self.tasks for one in task.champions}
        return list((found | {one.run_id: one for one in self.runs.results if one.run_id in champions}).values())


def gather_report(client: Client, wanted: PatchSet | None, folder: Path, progress: Progress) -> ReportData:
    """Read the finished runs on one data set: `wanted`, else the newest real one, else the newest phantom.

    Test predictions are downloaded to `folder`. What cannot be read is left out, with a warning in the result.
    """
    by_dataset: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for one in read_results(client):
        by_dataset[one.dataset].append(one)
    chosen: tuple[str, str] | tuple[()]
    if wanted is not None:
        chosen = (wanted.train_sha256, wanted.test_sha256)
    else:
        newest = [(PHANTOM in of[0].disclosure, -of[0].ended, key) for key, of in by_dataset.items()]
        chosen = min(newest)[2] if newest else ()
    mine = by_dataset.get(chosen, []) if chosen else []
    other_sets = tuple(
        (key, len(of), PHANTOM in of[0].disclosure, Path(of[0].data).name)
        for key, of in by_dataset.items()
        if key != chosen
    )
    every = tables()
    stands = {one.run_id: one for table in every for row in table.rows for one in candidates_for(row, mine)[:1]}
    stands |= {one.run_id: one for one in _members(every, mine)}
    tests, warnings = {}, []
    others = {task: _others(task, mine, stands) for task in TASKS}
    for task, more in others.items():
        stands |= {one.run_id: one for one in more[:MOST_OTHERS]}
        if more[MOST_OTHERS:]:
            warnings.append(f"{task}: of {len(more)} models that fill no row the {MOST_OTHERS} newest are shown")
    for done, (run_id, one) in enumerate(stands.items(), 1):
        frame = predictions_of(client, one, folder)
        if frame is None:
            warnings.append(f"{one.model}: its stored test predictions are gone; it is in no plot or comparison")
        else:
            tests[run_id] = frame
        progress("reading predictions", done, len(stands))
    kept = _of_one_test_set(tests, warnings, stands)
    mine = [one for one in mine if one.run_id not in tests or one.run_id in kept]
    held_out = [one.cross_validation for one in stands.values() if one.holdout > 0]
    source = next((one.data for one in mine if one.data), "")
    judged = runs_by_id(client, [one.cross_validation for one in stands.values()])
    runs = ReportedRuns(
        results=mine,
        tests=kept,
        metrics={one: dict(run.data.metrics) for one, run in judged.items()},
        tags={one: dict(run.data.tags) for one, run in judged.items()},
        fits={one: fit_metrics(client, one) for one in held_out},
        phantom=any(PHANTOM in one.disclosure for one in mine[:1]) or (wanted is not None and wanted.phantom),
        data=wanted.directory.name if wanted is not None else Path(source).name,
        types={kind: int((frame["type"] == kind).sum()) for frame in list(kept.values())[:1] for kind in TYPES},
    )
    patch_set = wanted
    if wanted is None and chosen:
        try:
            patch_set = find_patch_set(chosen, source)
        except UserError as problem:
            warnings.append(f"{problem}: no subgroups and no patches are shown (give `data`)")
    if patch_set is not None:
        found = {name: missing_classes(patch_set.train.types, name) for name in TASKS}
        runs = replace(runs, lacking={name: what for name, what in found.items() if what})
    groups = None if patch_set is None else patch_set.test.groups
    filled_tables = tuple((table, tuple(fill_table(table, runs))) for table in every)
    tasks = tuple(_task(name, filled_tables, others[name], runs, groups, history_of(client, name)) for name in TASKS)
    notes = {one.tag(Tag.INTERVALS) for one in mine} - {""}
    return ReportData(
        dataset=chosen,
        runs=runs,
        tables=filled_tables,
        tasks=tasks,
        patches=next((one.patches for one in mine if one.patches), 0) or 0,
        intervals=" or ".join(sorted(notes)),
        patch_set=patch_set,
        others=other_sets,
        warnings=tuple(warnings),
    )


def label_of(result: Result) -> str:
    """The label of a model in plots and comparisons."""
    family, backbone = result.tag(Tag.FAMILY), result.tag(Tag.BACKBONE)
    if family == "scratch":
        return SCRATCH[backbone][0] if backbone in SCRATCH else backbone
    if family == "ensemble":
        return f"ensemble of {backbone}, {result.tag(Tag.METHOD)}"
    if family == "conditioned":
        return f"conditioned {CONDITIONED.get(backbone, backbone)}"
    tuned = ", fine tuned" if result.tuned else ""
    return f"{'Siamese ' if family == 'siamese' else ''}{ENCODERS.get(backbone, backbone)}{tuned}"


def _others(task: str, results: Sequence[Result], stands: Mapping[str, Result]) -> list[Result]:
    """The newest version of each registered model of a task that does not stand for a row, the newest first."""
    newest: dict[str, Result] = {}
    for one in results:
        if one.tag(Tag.TASK) == task:
            newest.setdefault(one.tag(Tag.REGISTERED_NAME), one)
    return [one for one in newest.values() if one.run_id not in stands]


def _members(every: Sequence[PaperTable], results: Sequence[Result]) -> list[Result]:
    """The runs that are members of the weighted ensembles whose weights the report chooses."""
    members = (one for table in every for row in table.rows if row.optimistic for one in row.members)
    return [one for row in members for one in candidates_for(row, results)[:1]]


def _of_one_test_set(
    tests: Mapping[str, pd.DataFrame], warnings: list[str], stands: Mapping[str, Result]
) -> dict[str, pd.DataFrame]:
    """The predictions that are on the test set of most; others, which are damaged, are left out with a warning."""
    shapes = Counter(tuple(frame["type"]) for frame in tests.values())
    if not shapes:
        return {}
    (usual, _), *_ = shapes.most_common(1)
    for run_id, frame in tests.items():
        if tuple(frame["type"]) != usual:
            warnings.append(f"{stands[run_id].model}: its stored predictions are not on the test set of the others")
    return {run_id: frame for run_id, frame in tests.items() if tuple(frame["type"]) == usual}


def find_patch_set(dataset: tuple[str, str], source: str = "") -> PatchSet:
    """Find the data set with these sha256 of training and test data, where it is still in its folder and unchanged.

    The folder is where it was last used on this machine; the `source` of runs of earlier versions is one, too. Raises
    `UserError` that says why it cannot be read.
    """
    places = find_again(*dataset), None if source.startswith(DATA_URI) else Path(source or "-")
    folder = next((place for place in places if place is not None and place.is_dir()), None)
    if folder is None:
        raise UserError("the data set is not where it was")
    try:
        found = read_patch_set(folder)
    except UserError as problem:
        raise UserError(f"the data set cannot be read any more ({without_paths(str(problem))})") from None
    if (found.train_sha256, found.test_sha256) != dataset:
        raise UserError(f"{folder.name} holds other data now")
    return found


def _task(
    name: str,
    tables: Sequence[tuple[PaperTable, Sequence[FilledRow]]],
    others: Sequence[Result],
    runs: ReportedRuns,
    groups: pd.DataFrame | None,
    champions: Sequence[Reign],
) -> TaskSection:
    """The section of the task `name`: models that fill rows of its tables, and `others`, by their registered names."""
    of_rows: dict[str, Result] = {}
    for table, rows in tables:
        for one in rows if table.task == name else ():
            if one.result is not None and one.result.run_id in runs.tests:
                of_rows[one.result.run_id] = one.result
    labelled = [(label_of(one), one) for one in of_rows.values()]
    prefix = f"{registered_name(name)}-"
    labelled += [(one.model.removeprefix(prefix), one) for one in others if one.run_id in runs.tests]
    models = tuple(
        ReportedModel(
            label,
            one,
            runs.tests[one.run_id],
            _seconds(one, runs),
            runs.metrics.get(one.cross_validation, {}),
            runs.tags.get(one.cross_validation, {}),
        )
        for label, one in labelled
    )
    more = models[len(of_rows) :]
    groups_drawn = [ModelGroup(name, "Other models", "", more)] if more else []
    for family, title, tuned, numbers in GROUPS:
        mine = tuple(
            model
            for model in models[: len(of_rows)]
            if model.result.tag(Tag.FAMILY) == family and (tuned is None or model.result.tuned == tuned)
        )
        if mine:
            groups_drawn.append(ModelGroup(name, title, numbers.get(name, ""), mine))
    pairs = compare_pairs(models)
    chosen_by = {model.label: _out_of_fold(model.result, runs) for model in models}
    known = {label: auc for label, auc in chosen_by.items() if not math.isnan(auc)}
    best = max(known, key=lambda label: known[label]) if known else ""
    sentences = tuple(critical_view(models, pairs, chosen_by))
    return TaskSection(
        name=name,
        models=models,
        groups=tuple(groups_drawn),
        pairs=pairs,
        critical=sentences,
        subgroups=subgroups(models, groups),
        best=best,
        champions=tuple(champions),
    )


def _seconds(result: Result, runs: ReportedRuns) -> float:
    """The training time of a model's folds and final fit, NaN where it is not stored."""
    return runs.metrics.get(result.cross_validation, {}).get(Metric.FIT_SECONDS, math.nan)


def _out_of_fold(result: Result, runs: ReportedRuns) -> float:
    """The out-of-fold ROC AUC by which models are compared, nested for an ensemble; NaN where there is none.

    A hold-out's is not of all patients, and one of patches that early stopping watched, or by which a study chose the
    model among others, is optimistic: all are NaN, and that of a control.
    """
    control = result.tag(Tag.CONTROL) not in ("", "none")
    if result.holdout or SCORED in result.disclosure or result.tag(Tag.STUDY) or control:
        return math.nan
    metrics = runs.metrics.get(result.cross_validation, {})
    return float(metrics.get(Metric.OOF_ROC_AUC, np.nan))
