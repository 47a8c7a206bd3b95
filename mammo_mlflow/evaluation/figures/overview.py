"""Figures of several models on one set of patches: scores, operating curves, confusion matrices, training time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve

from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.figures.classification import draw_matrix, equal_bins
from mammo_mlflow.evaluation.figures.style import (
    INK,
    QUIET,
    SMALL_SIZE,
    TEXT_SIZE,
    colour,
    joined,
    line_style,
    new_figure,
    tidy,
    wrap,
)
from mammo_mlflow.evaluation.metrics import scores
from mammo_mlflow.evaluation.weighted import Floats

Predictions = tuple[npt.ArrayLike, npt.ArrayLike, float]
"""Labels int (n,), probabilities float (n,), decision threshold."""

BINS = 8


def operating_curves(models: Mapping[str, Predictions], title: str, note: str | None = None) -> Figure:
    """The figure of precision-recall, calibration and decision curves, with the stored thresholds marked.

    The decision curve is the net benefit TP/n - FP/n · t/(1 - t) of acting on a probability of t or more (Vickers &
    Elkin 2006, Medical Decision Making 26:565-574), beside acting on every patch and on none. Raises ValueError for no
    model.
    """
    if not models:
        raise ValueError("models: expected at least one, found none")
    dots = "dots: stored thresholds, with sensitivity / specificity there"
    figure = new_figure(12.5, 4.6 + 0.17 * len(models), title, joined(dots, note))
    recall_axes, calibration_axes, decision_axes = figure.subplots(1, 3)
    tidy(recall_axes, "recall (sensitivity)", "precision")
    tidy(calibration_axes, "predicted probability of class 1", "observed frequency")
    tidy(decision_axes, "threshold probability", "net benefit")
    calibration_axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
    thresholds = np.linspace(0.01, 0.99, 99)
    for index, (name, (labels, probabilities, threshold)) in enumerate(models.items()):
        y, p = np.asarray(labels, int), np.asarray(probabilities, float)
        style = {"color": colour(index), "linestyle": line_style(index), "linewidth": 1.5}
        precision, recall, _ = precision_recall_curve(y, p)
        average = f"{average_precision_score(y, p):.3f}" if y.any() else "undefined"
        recall_axes.plot(recall, precision, label=f"{name}: average precision {average}", **style)
        calibration_axes.plot(*_calibration(y, p), marker="o", markersize=3, label=name, **style)
        found = scores(y, p, threshold)
        said = f"{found['sensitivity']:.2f} / {found['specificity']:.2f} at {threshold:.2f}"
        decision_axes.plot(thresholds, net_benefit(y, p, thresholds), label=f"{name}: {said}", **style)
        at = np.array([min(max(threshold, 0.001), 0.99)])
        decision_axes.plot(at, net_benefit(y, p, at), marker="o", markersize=5, color=colour(index))
    y = np.asarray(next(iter(models.values()))[0], int)
    every = y.mean() - (1 - y.mean()) * thresholds / (1 - thresholds)
    decision_axes.plot(thresholds, every, color=QUIET, linewidth=0.8, linestyle="--", label="act on every patch")
    decision_axes.axhline(0, color=INK, linewidth=0.8)
    for axes in (recall_axes, calibration_axes):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    decision_axes.set(xlim=(0, 1), ylim=(-0.05, max(0.1, 1.1 * float(y.mean()))))
    for axes in (recall_axes, decision_axes):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False, fontsize=SMALL_SIZE)
    return figure


def net_benefit(labels: npt.ArrayLike, probabilities: npt.ArrayLike, thresholds: npt.ArrayLike) -> Floats:
    """The net benefit of acting on probabilities at or above each threshold, float64 (t,); see `operating_curves`.

    `labels` int (n,), `probabilities` float (n,), `thresholds` float (t,) in (0, 1).
    """
    y, p, t = np.asarray(labels, bool), np.asarray(probabilities, float), np.asarray(thresholds, float)
    acted = p[None] >= t[:, None]
    return (acted & y).mean(axis=1) - (acted & ~y).mean(axis=1) * t / (1 - t)


def confusion_matrices(
    models: Mapping[str, Predictions], class_names: Sequence[str], title: str, note: str | None = None
) -> Figure:
    """The figure of each model's confusion matrix at its threshold: counts and row shares, actual classes in rows."""
    columns = min(4, max(1, len(models)))
    lines = -(-len(models) // columns)
    figure = new_figure(2.5 * columns + 0.6, 0.7 + 2.75 * lines, title, joined("rows actual, columns predicted", note))
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes in panels.flat[len(models) :]:
        axes.set_visible(False)
    for axes, (name, (labels, probabilities, threshold)) in zip(panels.flat, models.items(), strict=False):
        draw_matrix(axes, scores(labels, probabilities, threshold), class_names, TEXT_SIZE, SMALL_SIZE)
        axes.set_title(wrap(f"{name}, from {threshold:.2f}", 2.3, SMALL_SIZE), fontsize=SMALL_SIZE, loc="left")
    return figure


def costs(seconds: Mapping[str, float], title: str, note: str | None = None) -> Figure:
    """The figure of the seconds that each model's cross-validation and final fit took, on a logarithmic scale."""
    figure = new_figure(7.5, 1.1 + 0.24 * max(1, len(seconds)), title, note)
    axes = figure.subplots()
    tidy(axes, "seconds", grid="x")
    values = list(seconds.values())
    axes.plot(values, range(len(values)), "o", color=colour(0), markersize=6)
    for place, value in enumerate(values):
        axes.text(value, place, f"   {value:,.0f}", va="center", fontsize=SMALL_SIZE, color=INK)
    axes.set_yticks(range(len(values)), list(seconds), fontsize=SMALL_SIZE)
    axes.set_xscale("log")
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.margins(x=0.15)
    return figure


def forest(
    panels: Mapping[str, Sequence[tuple[Estimate, float]]], names: Sequence[str], title: str, note: str | None = None
) -> Figure:
    """The figure of models' scores with their 95 % intervals below one another, beside the paper's.

    `panels`: by the name of a score, the estimate and the paper's value (NaN where it printed none) of each of `names`.
    """
    figure = new_figure(9.5, 1.5 + 0.26 * max(1, len(names)), title, note)
    places = range(len(names))
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (score, values) in zip(row, panels.items(), strict=True):
        tidy(axes, score, grid="x")
        for place, (measured, _) in zip(places, values, strict=True):
            if measured.bounded:
                axes.plot([measured.low, measured.high], [place, place], color=colour(0), linewidth=1.5)
        axes.plot([one.value for one, _ in values], places, "o", color=colour(0), markersize=5, label="measured, 95 %")
        papers = [value for _, value in values]
        axes.plot(papers, places, "D", color=colour(5), markersize=5, fillstyle="none", label="the paper's")
        axes.set_yticks(places, names, fontsize=SMALL_SIZE)
        axes.set_ylim(len(names) - 0.4, -0.6)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=SMALL_SIZE, frameon=False)
    return figure


def _calibration(y: npt.NDArray[np.int_], p: Floats) -> tuple[Floats, Floats]:
    """The mean probability and the observed frequency in bins of equal count, each float64 (bins,)."""
    inside = equal_bins(p, BINS)
    return np.array([p[one].mean() for one in inside]), np.array([y[one].mean() for one in inside])
