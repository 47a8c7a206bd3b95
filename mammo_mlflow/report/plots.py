"""Draw the report's plots as PNG and SVG, each with a caption and an alternative text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mammo_mlflow.data.patches import TASKS, TYPES, PatchSet
from mammo_mlflow.disclosure import RANDOM
from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation import figures
from mammo_mlflow.evaluation.figures.style import joined
from mammo_mlflow.evaluation.metrics import COUNTS, scores
from mammo_mlflow.names import Metric
from mammo_mlflow.report.comparing import one_class
from mammo_mlflow.report.fill_rows import ReportedModel
from mammo_mlflow.report.paper_tables import ACCURACY, AUC, WORDS
from mammo_mlflow.report.report_data import ModelGroup, ReportData, TaskSection

DPI = 100
SHOWN = 6
"""Pairs of patches in each of the sheets of pairs."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot of the report: its section, caption, alternative text, the function that draws it, and its PNG file."""

    name: str
    section: str
    caption: str
    alt: str
    draw: Callable[[], Figure]
    png: Path = Path()


def draw_all(report: ReportData, folder: Path, progress: Callable[[str, int, int], None]) -> list[Plot]:
    """Draw all plots of the report into `folder`; return them with the paths of their files."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = [replace(one, png=folder / f"{one.name}.png") for one in _plots(report)]
    for done, one in enumerate(plots, 1):
        figure = one.draw()
        figure.savefig(one.png, dpi=DPI)
        figure.savefig(one.png.with_suffix(".svg"), metadata={"Date": None})
        figure.clear()
        progress("drawing figures", done, len(plots))
    return plots


def _plots(report: ReportData) -> Iterator[Plot]:
    """All plots of the report, not drawn yet."""
    for task in report.tasks:
        for group in task.groups:
            yield from _of_group(group, report)
        if len(task.models) > 0:
            yield _forest(task, report)
            yield _cost(task, report)
    if report.patch_set is not None:
        yield from _of_data(report.patch_set, report)


def _of_group(group: ModelGroup, report: ReportData) -> Iterator[Plot]:
    """ROC curves, operating curves and confusion matrices of a group of models."""
    words = WORDS[group.task]
    title = f"{group.title}, {words}: test"
    note = _note(report, group.models)
    name = re.sub(r"[^a-z0-9]+", "_", f"{group.task} {group.title}".lower())
    curves = {model.label: (model.labels, model.probabilities, model.patients) for model in group.models}
    judged = {model.label: (model.labels, model.probabilities, model.threshold) for model in group.models}
    told = "; ".join(f"{model.label} {_reached(model)}" for model in group.models)
    of_paper = f" (the paper's figure {group.figure})" if group.figure else ""
    if not one_class(group.models):
        yield Plot(
            name=f"roc_{name}",
            section=group.task,
            caption=f"ROC curves, {group.title.lower()}{of_paper}",
            alt=f"ROC curves on the test set: {told}",
            draw=partial(figures.roc_curves, curves, title, note),
        )
        yield Plot(
            name=f"operating_{name}",
            section=group.task,
            caption=f"Precision and recall, calibration and decision curves, {group.title.lower()}",
            alt=f"Three panels of curves on the test set, for {'; '.join(curves)}",
            draw=partial(figures.operating_curves, judged, title, note),
        )
    yield Plot(
        name=f"confusion_{name}",
        section=group.task,
        caption=f"Confusion matrices at the stored thresholds, {group.title.lower()}",
        alt="Rows actual, columns predicted. " + "; ".join(_matrix_words(model) for model in group.models),
        draw=partial(figures.confusion_matrices, judged, TASKS[group.task], title, note),
    )


def _forest(task: TaskSection, report: ReportData) -> Plot:
    """The test scores of a task's models beside the paper's, in the summary."""
    of_paper = {one.result.run_id: one.cells for _, rows in report.tables for one in rows if one.result is not None}
    panels: dict[str, list[tuple[Estimate, float]]] = {}
    for column, words in ((ACCURACY, "test accuracy"), (AUC, "test ROC AUC")):
        panels[words] = []
        for model in task.models:
            cell = of_paper.get(model.result.run_id, {}).get(column)
            printed = cell.paper.value if cell is not None and cell.paper is not None else math.nan
            panels[words].append((model.result.estimate(f"{Metric.TEST}{column[0]}"), printed))
    told = [f"{model.label} {one}" for model, (one, _) in zip(task.models, panels["test ROC AUC"], strict=True)]
    words = WORDS[task.name]
    return Plot(
        name=f"forest_{task.name}",
        section="summary",
        caption=f"{words.capitalize()}: test scores with 95 % intervals; the paper printed its own of its test set",
        alt=f"Test ROC AUC: {'; '.join(told)}",
        draw=partial(
            figures.forest,
            panels,
            [model.label for model in task.models],
            f"Models of {words}: test scores",
            _note(report, task.models),
        ),
    )


def _cost(task: TaskSection, report: ReportData) -> Plot:
    """The training times of a task's models, in seconds."""
    seconds = {model.label: model.seconds for model in task.models if not math.isnan(model.seconds)}
    words = WORDS[task.name]
    return Plot(
        name=f"cost_{task.name}",
        section=task.name,
        caption="What each model cost: seconds of its folds and its final fit, without cached activations, members and "
        "sources",
        alt="; ".join(f"{label} {value:,.0f} s" for label, value in seconds.items()) or "no costs are stored",
        draw=partial(figures.costs, seconds, f"Cost of the models, {words}", _note(report, task.models)),
    )


def _of_data(patch_set: PatchSet, report: ReportData) -> Iterator[Plot]:
    """The distribution of classes, and the pairs of patches that differ least and most."""
    note = report.disclosure.note
    counts = patch_set.class_counts()
    yield Plot(
        name="classes",
        section="data",
        caption="Abnormalities of each class (the paper's figure 4.1)",
        alt="; ".join(
            f"{split}: " + ", ".join(f"{n} {name}" for name, n in of.items()) for split, of in counts.items()
        ),
        draw=partial(figures.class_distribution, counts, "Abnormalities of each class", note),
    )
    differences = pair_differences(patch_set)
    order = np.argsort(differences, kind="stable")
    for name, rows, number in (("least", order[:SHOWN], "6.2"), ("most", order[::-1][:SHOWN], "6.3")):
        types = patch_set.train.types
        sheet = [
            (
                f"{TYPES[int(types[row])]}, patch {row}: {differences[row]:,.0f}",
                np.asarray(patch_set.train.baseline[row]),
                np.asarray(patch_set.train.abnormality[row]),
            )
            for row in rows
        ]
        title = f"Training pairs that differ {name} (mean absolute difference of pixels)"
        yield Plot(
            name=f"pairs_{name}",
            section="data",
            caption=f"{title} (compare the paper's figure {number})",
            alt=f"{len(sheet)} pairs of a baseline and an abnormality patch: " + "; ".join(text for text, *_ in sheet),
            draw=partial(figures.patch_sheet, sheet, title, note),
        )


def pair_differences(patch_set: PatchSet) -> np.ndarray:
    """The mean absolute difference of the pixels of each training pair, float64 (n,), in grey values of 0 to 65535."""
    train = patch_set.train
    return np.array(
        [
            np.abs(train.baseline[row].astype(np.int32) - train.abnormality[row]).mean(dtype=np.float64)
            for row in range(len(train))
        ]
    )


def _note(report: ReportData, models: tuple[ReportedModel, ...]) -> str | None:
    """The note under a plot: phantom data and models with random weights, None where there is neither."""
    random = [model.label for model in models if RANDOM in model.result.disclosure]
    said = f"{RANDOM.note}: {'; '.join(random)}" if random else None
    return joined(report.disclosure.note, said)


def _reached(model: ReportedModel) -> str:
    """A model's test ROC AUC and accuracy in words."""
    found = scores(model.test["label"], model.test["probability"])
    return f"AUC {found['roc_auc']:.3f}, accuracy {found['accuracy']:.3f}"


def _matrix_words(model: ReportedModel) -> str:
    """A model's confusion matrix in words."""
    found = scores(model.test["label"], model.test["probability"], model.threshold)
    return f"{model.label}: " + ", ".join(f"{found[name]:.0f} {name.replace('_', ' ')}" for name in COUNTS)
