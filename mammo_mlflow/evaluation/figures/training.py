"""Figures of training: curves over epochs, and the scores of folds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from mammo_mlflow.evaluation.figures.style import QUIET, SMALL_SIZE, TEXT_SIZE, colour, joined, new_figure, tidy, wrap
from mammo_mlflow.evaluation.metrics import mean_sd
from mammo_mlflow.evaluation.weighted import Floats

OWN_COLOUR = 4
"""The most histories that have a colour each; more are thin lines around their mean."""


def training_curves(histories: dict[str, pd.DataFrame], title: str, note: str | None = None) -> Figure:
    """The figure of accuracy and loss over epochs, training dashed, validation solid (the paper's figures 5.3, 5.4).

    `histories`: by name (a fold), columns epoch, loss, accuracy and where known val_loss, val_accuracy, of which any
    value may be NaN. With more than four, each is a thin line and the thick one is their mean over the epochs that
    all of them have. A column `stage` marks with a vertical line where 'head' turns 'tuned'. Epochs that do not
    ascend are counted from 1. Raises ValueError for no history.
    """
    if not histories:
        raise ValueError("histories: expected at least one, found none")
    few = len(histories) <= OWN_COLOUR
    if not few:
        note = joined("thin: each fold; thick: mean over the epochs that all folds have", note)
    figure = new_figure(9.6, 4.2, title, note)
    panels = figure.subplots(1, 2)
    for axes, metric in zip(panels, ("accuracy", "loss"), strict=True):
        tidy(axes, "epoch", metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for series, dashes, fixed in ((metric, "--", colour(0)), (f"val_{metric}", "-", colour(5))):
            lines = {name: _series(history, series) for name, history in histories.items()}
            for index, (epochs, values) in enumerate(lines.values()):
                one = "o" if np.isfinite(values).sum() == 1 else ""
                if few:
                    look = {"color": colour(index), "linewidth": 1.4, "alpha": 0.6 if dashes == "--" else 1.0}
                else:
                    look = {"color": fixed, "linewidth": 0.7, "alpha": 0.4}
                axes.plot(
                    epochs,
                    values,
                    linestyle=dashes,
                    marker=one,
                    markersize=5,
                    markerfacecolor="none" if dashes == "--" else None,
                    **look,
                )
            if not few:
                axes.plot(*_mean(list(lines.values())), color=fixed, linewidth=2.2, linestyle=dashes)
        _mark_stages(axes, histories)
    validated = any(
        np.isfinite(_series(h, f"val_{m}")[1]).any() for h in histories.values() for m in ("accuracy", "loss")
    )
    handles = _legend(list(histories), few, validated)
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=SMALL_SIZE)
    return figure


def fold_overview(
    results: pd.DataFrame, title: str = "Cross-validation by backbone", note: str | None = None
) -> Figure:
    """The figure of the folds' accuracy and ROC AUC, a dot a fold, with mean ± sample standard deviation per backbone.

    `results`: columns backbone (any name of a model), fold, accuracy, roc_auc; backbones are shown in their order of
    appearance, NaN values left out. The deviation of folds is their spread, not a confidence interval.
    Raises ValueError for an empty frame.
    """
    names = list(dict.fromkeys(results["backbone"].astype(str)))
    if not names:
        raise ValueError("results: expected at least one row, found none")
    note = joined("dot: one fold; square: mean; bar: ± 1 sd of the folds, which is no confidence interval", note)
    figure = new_figure(9.0, 1.7 + 0.5 * len(names), title, note)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, metric, label in zip(panels, ("accuracy", "roc_auc"), ("accuracy", "ROC AUC"), strict=True):
        tidy(axes, label, grid="x")
        beside = blended_transform_factory(axes.transAxes, axes.transData)
        for row, name in enumerate(names):
            values = results.loc[results["backbone"].astype(str) == name, metric].dropna().to_numpy(dtype=np.float64)
            spread = np.linspace(0.08, 0.26, len(values)) if len(values) > 1 else np.full(len(values), 0.17)
            axes.plot(values, row + spread, "o", color=colour(row), markersize=4, alpha=0.75, markeredgewidth=0)
            mean, sd = mean_sd(values)
            bar = None if math.isnan(sd) else sd
            axes.errorbar(
                mean, row - 0.12, xerr=bar, fmt="s", color=colour(row), markersize=5, capsize=3, linewidth=1.5
            )
            text = "no value" if math.isnan(mean) else f"{mean:.3f}" if bar is None else f"{mean:.3f} ± {sd:.3f}"
            axes.text(1.02, row, text, transform=beside, va="center", fontsize=SMALL_SIZE, color=QUIET)
        if results[metric].isna().all():
            axes.set_xlim(0, 1)
    panels[0].set_yticks(range(len(names)), [wrap(name, 1.8, TEXT_SIZE) for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def _series(history: pd.DataFrame, column: str) -> tuple[Floats, Floats]:
    """The epochs and values of a column where it has a finite value, each float64 (e,)."""
    epochs = _epochs(history)
    if column not in history:
        return np.empty(0), np.empty(0)
    values = history[column].to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.isfinite(values)
    return epochs[known], values[known]


def _epochs(history: pd.DataFrame) -> Floats:
    """The epochs of a history; numbers from 1 where they do not ascend."""
    epochs = history["epoch"].to_numpy(dtype=np.float64)
    return epochs if (np.diff(epochs) > 0).all() else np.arange(1.0, len(epochs) + 1)


def _mean(lines: list[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """The mean line over the epochs that all lines have."""
    frame = pd.concat([pd.Series(values, index=epochs) for epochs, values in lines], axis=1).dropna().sort_index()
    return frame.index.to_numpy(dtype=np.float64), frame.mean(axis=1).to_numpy(dtype=np.float64)


def _mark_stages(axes: Axes, histories: dict[str, pd.DataFrame]) -> None:
    """Draw a vertical line where fine-tuning begins."""
    starts = []
    for history in histories.values():
        tuned = np.flatnonzero(history["stage"].to_numpy() == "tuned") if "stage" in history else np.empty(0, int)
        if tuned.size and tuned[0] > 0:
            epochs = _epochs(history)
            starts.append((epochs[tuned[0] - 1] + epochs[tuned[0]]) / 2)
    for start in set(starts):
        axes.axvline(start, color=QUIET, linewidth=0.8, linestyle=":")
    if starts:
        above = blended_transform_factory(axes.transData, axes.transAxes)
        axes.text(
            min(starts), 1.01, "fine-tuning begins", transform=above, fontsize=SMALL_SIZE, color=QUIET, va="bottom"
        )


def _legend(names: list[str], few: bool, validated: bool) -> list[Line2D]:
    """The lines of the legend: training, validation, and each fold where there are few."""
    ink = (QUIET, QUIET) if few else (colour(0), colour(5))
    kinds = [Line2D([], [], color=ink[0], linestyle="--", label="training")]
    if validated:
        kinds.append(Line2D([], [], color=ink[1], label="validation"))
    if not few or len(names) == 1:
        return kinds
    folds = [Line2D([], [], color=colour(index), label=wrap(name, 1.5, SMALL_SIZE)) for index, name in enumerate(names)]
    return folds + kinds
