"""Figures of a classifier's predictions: confusion matrix, ROC curves, calibration, answer sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm
from sklearn.metrics import roc_curve

from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation import weighted
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
from mammo_mlflow.evaluation.intervals import cluster_note, metric_estimate, roc_band
from mammo_mlflow.evaluation.metrics import COUNTS, scores
from mammo_mlflow.evaluation.rate_interval import wilson
from mammo_mlflow.evaluation.weighted import Floats, Ints
from mammo_mlflow.names import Metric

Curve = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike | None]
"""Labels int (n,), probabilities float (n,), patients (n,) or None."""

_BINS = "bins of equal count, 95 % Wilson intervals, patches assumed independent"
BANDS = 3
"""The most curves that are drawn with confidence bands; more bands would cover one another."""


def confusion_matrix(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    threshold: float,
    class_names: Sequence[str],
    title: str,
    note: str | None = None,
) -> Figure:
    """The figure of a confusion matrix: counts and row percentages, actual classes in rows.

    `labels` int (n,), `probabilities` float (n,), `class_names` of 0 and 1; a probability ≥ `threshold` is class 1.
    """
    found = scores(labels, probabilities, threshold)
    counts = [found[name] for name in COUNTS]
    summary = f"n = {int(sum(counts)):,}, threshold {threshold:.3g}, accuracy {found['accuracy']:.3f}"
    figure = new_figure(4.6, 4.6, title, joined(summary, note))
    axes = figure.subplots()
    draw_matrix(axes, found, [wrap(name, 1.4, TEXT_SIZE) for name in class_names], 17, TEXT_SIZE)
    axes.set_xlabel("predicted", fontsize=TEXT_SIZE, color=INK)
    axes.set_ylabel("actual", fontsize=TEXT_SIZE, color=INK)
    return figure


def draw_matrix(
    axes: Axes, found: Mapping[str, float], class_names: Sequence[str], count_size: float, text_size: float
) -> None:
    """Draw the confusion matrix of `metrics.scores` on axes: actual classes in rows, counts above shares of the row."""
    counts = np.array([found[name] for name in COUNTS]).reshape(2, 2)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    tidy(axes, grid=None)
    axes.set_xticks([0, 1], class_names, fontsize=text_size)
    axes.set_yticks([0, 1], class_names, fontsize=text_size, rotation=90, va="center")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), count in np.ndenumerate(counts):
        ink = "white" if share[row, column] > 0.55 else INK
        percent = f"{100 * share[row, column]:.1f} %" if counts[row].sum() else "no such patch"
        axes.text(column, row - 0.06, f"{int(count):,}", ha="center", va="center", fontsize=count_size, color=ink)
        axes.text(column, row + 0.2, percent, ha="center", va="center", fontsize=text_size, color=ink)


def roc_curves(curves: Mapping[str, Curve], title: str, note: str | None = None) -> Figure:
    """The figure of ROC curves on one another, each with its AUC and 95 % interval; bands for up to three curves.

    `curves`: (labels int (n,), probabilities float (n,), patient of each patch (n,) or None) by name. The figure says
    what the intervals assume. A curve of one class only is named and not drawn. Raises ValueError for no curve.
    """
    if not curves:
        raise ValueError("curves: expected at least one, found none")
    assumed = {cluster_note(groups) for _, _, groups in curves.values()}
    labelled = {}
    for name, (labels, probabilities, groups) in curves.items():
        auc = metric_estimate("roc_auc", labels, probabilities, None, groups)
        own = f" ({cluster_note(groups).split()[0]})" if len(assumed) > 1 else ""
        labelled[name] = wrap(f"{name}: AUC {auc}{own}", 4.5, TEXT_SIZE)
    shared = ", " + " or ".join(sorted(assumed, reverse=True))
    band = "; band: pointwise 95 %, resampled" if len(curves) <= BANDS else ""
    lines = sum(label.count("\n") + 1 for label in labelled.values())
    figure = new_figure(
        5.6, 6.33 + 0.16 * lines + 0.01 * len(curves), title, joined(f"95 % intervals{shared}{band}", note)
    )
    axes = figure.subplots()
    tidy(axes, "false positive rate (1 - specificity)", "true positive rate (sensitivity)")
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
    for index, (name, (labels, probabilities, groups)) in enumerate(curves.items()):
        if len(np.unique(np.asarray(labels))) < 2:
            axes.plot([], [], color=colour(index), linestyle=line_style(index), label=labelled[name])
            continue
        false, true, _ = roc_curve(labels, probabilities)
        axes.plot(false, true, color=colour(index), linestyle=line_style(index), linewidth=1.6, label=labelled[name])
        if len(curves) <= BANDS:
            grid, low, high = roc_band(labels, probabilities, groups)
            axes.fill_between(grid, low, high, color=colour(index), alpha=0.22 / len(curves) ** 0.5, linewidth=0)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", anchor="N")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), frameon=False, fontsize=TEXT_SIZE - 1)
    return figure


def calibration(labels: npt.ArrayLike, probabilities: npt.ArrayLike, title: str, note: str | None = None) -> Figure:
    """The figure of calibration: observed over predicted frequency in bins of equal count, above a histogram.

    `labels` int (n,), `probabilities` float (n,). Ten bins, fewer below 200 patches; equal probabilities share a bin.
    The 95 % intervals are Wilson's and take patches as independent; the Brier score stands in the corner.
    """
    y, p = weighted.checked(labels, probabilities)
    figure = new_figure(5.0, 6.0, title, joined(_BINS, note))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    tidy(above, "", "observed frequency of class 1")
    tidy(below, "predicted probability of class 1", "patches", grid="y")
    above.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
    _draw_reliability(above, y, p, 0)
    corner = f"Brier {scores(y, p)['brier']:.3f}\nn = {y.size:,}"
    above.text(0.03, 0.97, corner, transform=above.transAxes, va="top", fontsize=TEXT_SIZE, color=INK)
    above.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    edges = np.linspace(0, 1, 21)
    below.hist([p[y == 0], p[y == 1]], bins=edges.tolist(), stacked=True, color=[colour(4), colour(5)])
    below.legend(
        ["actual class 0", "actual class 1"],
        frameon=False,
        fontsize=SMALL_SIZE,
        ncols=2,
        loc="lower right",
        bbox_to_anchor=(1.0, 0.98),
        borderaxespad=0.0,
    )
    return figure


def recalibration(
    labels: npt.ArrayLike, before: npt.ArrayLike, after: npt.ArrayLike, title: str, note: str | None = None
) -> Figure:
    """The figure of calibration before and after recalibration: observed over predicted frequency, as `calibration`.

    `labels` int (n,); `before` and `after` float (n,), probabilities of the same patches. Brier scores are named.
    """
    figure = new_figure(5.0, 5.4, title, joined(_BINS, note))
    axes = figure.subplots()
    tidy(axes, "predicted probability of class 1", "observed frequency of class 1")
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
    for index, (name, probabilities) in enumerate((("before", before), ("after", after))):
        y, p = weighted.checked(labels, probabilities)
        _draw_reliability(axes, y, p, index, f"{name}: Brier {scores(y, p)['brier']:.3f}")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.legend(loc="upper left", frameon=False, fontsize=TEXT_SIZE)
    return figure


def _draw_reliability(axes: Axes, y: Ints, p: Floats, index: int, label: str = "") -> None:
    """Draw observed over predicted frequency in bins of equal count, with Wilson's intervals, in the colour `index`."""
    filled = equal_bins(p, 10)
    predicted = np.array([p[inside].mean() for inside in filled])
    rate = np.array([y[inside].mean() for inside in filled])
    quantile = float(norm.ppf(0.975))
    ends = [wilson(share, inside.sum(), quantile) for share, inside in zip(rate, filled, strict=True)]
    low, high = np.transpose(ends)
    axes.errorbar(
        predicted,
        rate,
        yerr=[rate - low, high - rate],
        fmt=f"{'os'[index]}-",
        color=colour(index),
        markersize=4,
        linewidth=1.2,
        capsize=2,
        label=label,
    )


def equal_bins(p: Floats, most: int) -> list[npt.NDArray[np.bool_]]:
    """Up to `most` bins of equal count, of 20 or more: which of the probabilities `p` (n,) are in each, bool (n,)."""
    bins = int(np.clip(p.size // 20, 2, most))
    bin_of = np.searchsorted(np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1])), p)
    return [bin_of == b for b in np.unique(bin_of)]


def answer_sets(
    curve: Mapping[float, Mapping[str, Estimate]], class_names: Sequence[str], title: str, note: str | None = None
) -> Figure:
    """The figure of how often each class is covered by answer sets, against the share that is referred.

    `curve` has by wanted coverage the estimates of `conformal.set_estimates`; bars are their intervals.
    """
    said = joined("answer sets: each fold by limits of the others; dotted: the coverage that was asked for", note)
    figure = new_figure(6.4, 4.6, title, said)
    axes = figure.subplots()
    tidy(axes, "share of patches answered with both classes (refer)", "share of its patches that a class covers")
    referred = np.array([found[Metric.REFERRED].value for found in curve.values()])
    for number, (name, coverage) in enumerate(zip(class_names, (Metric.COVERAGE_0, Metric.COVERAGE_1), strict=True)):
        each = [found[coverage] for found in curve.values()]
        ends = np.array([[one.value - one.low, one.high - one.value] for one in each]).clip(0).T
        at = referred + 0.004 * (2 * number - 1)  # so that bars stand beside one another
        value = [one.value for one in each]
        axes.errorbar(at, value, yerr=np.nan_to_num(ends), color=colour(number), marker="o", markersize=4, label=name)
    for wanted, place in zip(curve, referred, strict=True):
        axes.plot([place - 0.02, place + 0.02], [wanted, wanted], color=INK, linewidth=1, linestyle=":")
        label = axes.annotate(f"{wanted:g}", (place + 0.024, wanted), fontsize=SMALL_SIZE, color=INK, va="center")
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})  # lines lie below
    axes.set(xlim=(-0.03, 1.06), ylim=(None, 1.01))
    axes.legend(loc="lower right", frameon=False, fontsize=SMALL_SIZE)
    return figure
