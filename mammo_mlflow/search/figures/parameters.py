"""Figures of a study's parameters: the objective over each, parallel coordinates, and importances."""

from __future__ import annotations

import warnings

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from mammo_mlflow.evaluation.figures.style import (
    INK,
    QUIET,
    RULE,
    SMALL_SIZE,
    TEXT_SIZE,
    joined,
    new_figure,
    tidy,
    wrap,
)
from mammo_mlflow.evaluation.weighted import Floats
from mammo_mlflow.search.figures.finished import (
    BEST_COLOUR,
    PAPER_COLOUR,
    TRIAL_COLOUR,
    Finished,
    Varied,
    axis_label,
    mark,
)

SHADES = LinearSegmentedColormap.from_list("shades", ["#D3E5F2", "#0072B2", "#00243A"])
ABSENT = -0.12
"""The height at which parallel coordinates show that a trial lacks a parameter, below the axis from 0 to 1."""

STABLE = 5
"""The least number of trials among the best for PED-ANOVA, as Optuna advises."""


def slices(finished: Finished, note: str | None) -> Figure:
    """The figure of the first objective over each parameter, of the trials that have it; later trials are darker."""
    count = len(finished.parameters)
    columns = min(3, count)
    rows = -(-count // columns)
    figure = new_figure(2.5 + 2.9 * columns, 1.0 + 2.5 * rows, f"{finished.objective} over each parameter", note)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    shades = ScalarMappable(Normalize(finished.numbers[0], finished.numbers[-1]), SHADES)
    axis = wrap(axis_label(finished.objective, finished.maximize), 2.3, TEXT_SIZE)
    for axes in panels.flat[count:]:
        axes.set_visible(False)
    for index, (axes, parameter) in enumerate(zip(panels.flat, finished.parameters, strict=False)):
        having = np.isfinite(parameter.positions)
        tidy(axes, parameter.name, axis if index % columns == 0 else "")
        if not having.all():
            text = f"in {having.sum()} of {len(having)} trials"
            axes.set_title(text, fontsize=SMALL_SIZE, loc="right", color=QUIET)
        axes.scatter(
            parameter.positions,
            finished.values,
            c=shades.to_rgba(finished.numbers),
            s=24,
            edgecolors=QUIET,
            linewidths=0.3,
            zorder=3,
        )
        _scale(axes, parameter)
        mark(finished, axes, parameter.positions, finished.values)
    bar = figure.colorbar(shades, ax=panels, aspect=30, pad=0.01, ticks=MaxNLocator(5, integer=True))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=SMALL_SIZE, color=RULE, labelcolor=INK)
    bar.set_label("trial", fontsize=TEXT_SIZE, color=INK)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=SMALL_SIZE)
    return figure


def parallel_coordinates(finished: Finished, note: str | None) -> Figure:
    """The figure of parallel coordinates: a line a trial through its parameters and objective, darker where better.

    The lines of the best trial and of the paper's setting are marked.
    """
    values = Varied(name=finished.objective, choices=(), log=False, whole=False, positions=finished.values)
    everything = [*finished.parameters, values]
    absent = any(np.isnan(parameter.positions).any() for parameter in everything)
    figure = new_figure(2.5 + 1.15 * len(everything), 4.6, f"Parameters and {finished.objective} of every trial", note)
    axes = figure.subplots()
    height = np.column_stack([_height(parameter, parameter.positions) for parameter in everything])
    height[np.isnan(height)] = ABSENT
    ends = (finished.values.min(), finished.values.max())
    shades = ScalarMappable(Normalize(*ends), SHADES if finished.maximize else SHADES.reversed())
    for index in np.argsort(finished.values if finished.maximize else -finished.values, kind="stable"):
        axes.plot(height[index], color=shades.to_rgba(finished.values[index]), linewidth=1.0, alpha=0.7)
    best = finished.best
    label = f"best: trial {finished.trials[best].number}"
    axes.plot(height[best], color=BEST_COLOUR, linewidth=2.2, label=label)
    if finished.paper is not None:
        axes.plot(
            height[finished.paper], color=PAPER_COLOUR, linewidth=1.6, linestyle="--", label="the paper's setting"
        )
    for column, parameter in enumerate(everything):
        axes.axvline(column, color=RULE, linewidth=0.8, zorder=0)
        ticks = _ticks(parameter)
        if np.isnan(parameter.positions).any():
            ticks.append((ABSENT, "absent"))
        for at, text in ticks:
            axes.text(
                column + 0.04,
                at,
                wrap(text, 1.1, SMALL_SIZE),
                fontsize=SMALL_SIZE,
                color=INK,
                va="center",
                zorder=5,
                bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
            )
    tidy(axes, grid=None)
    axes.set_xticks(
        range(len(everything)), [wrap(parameter.name.replace("_", " "), 1.05, TEXT_SIZE) for parameter in everything]
    )
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-0.1, len(everything) - 0.35), ylim=(ABSENT - 0.05 if absent else -0.05, 1.05))
    figure.legend(loc="outside right upper", frameon=False, fontsize=SMALL_SIZE)
    return figure


def importance_shares(finished: Finished) -> dict[str, float]:
    """The importance of each parameter for the first objective (PED-ANOVA), as shares of 1, highest first.

    Empty where all are 0. Importance for being among the best trials (Watanabe et al. 2023, IJCAI), in Optuna's
    version, which knows conditional parameters.
    """
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_best_share(finished))
    sign = -1.0 if finished.maximize else 1.0  # PED-ANOVA asks what makes its target low
    with warnings.catch_warnings(action="ignore"):  # of few trials, of the sign, and that normalize is experimental
        found = optuna.importance.get_param_importances(
            finished.study,
            evaluator=evaluator,
            params=[parameter.name for parameter in finished.parameters],
            target=lambda trial: sign * trial.values[0],
            normalize=False,  # which would give equal shares to what cannot be told apart
        )
    total = sum(found.values())
    return {name: value / total for name, value in found.items()} if total > 0 else {}


def importances(finished: Finished, shares: dict[str, float], note: str | None) -> Figure:
    """The figure of the shares of `importance_shares`, as bars."""
    method = f"the best {100 * _best_share(finished):.0f} % of {len(finished.trials)} finished trials"
    few = "; too few to be sure of" if len(finished.trials) < 2 * STABLE else ""
    note = joined(f"PED-ANOVA: what sets {method} apart; shares of 1{few}", note)
    figure = new_figure(6.4, 1.3 + 0.32 * len(shares), f"What mattered for {finished.objective}", note)
    axes = figure.subplots()
    tidy(axes, "importance", grid="x")
    axes.barh(range(len(shares)), list(shares.values()), color=TRIAL_COLOUR, height=0.62)
    for row, share in enumerate(shares.values()):
        axes.text(share, row, f" {share:.2f}", va="center", fontsize=SMALL_SIZE, color=QUIET)
    axes.set_yticks(range(len(shares)), list(shares))
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.set_xlim(0, 1.12 * max(shares.values()))
    return figure


def _best_share(finished: Finished) -> float:
    """The share of trials that count as the best: a tenth, as in Optuna, or `STABLE` trials, but at most half."""
    return min(max(0.1, STABLE / len(finished.trials)), 0.5)


def _scale(axes: Axes, parameter: Varied) -> None:
    """Set the scale and the ticks of the x axis of a parameter."""
    if parameter.choices:
        upright = len(parameter.choices) * max(map(len, parameter.choices)) <= 30
        axes.set_xticks(range(len(parameter.choices)), parameter.choices, rotation=0 if upright else 90)
        axes.set_xlim(-0.5, len(parameter.choices) - 0.5)
    elif parameter.log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        if np.nanmax(parameter.positions) < 100 * np.nanmin(parameter.positions):  # too few powers of ten to read from
            axes.set_xticks(_ends(parameter), [label for _, label in _ticks(parameter)])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=parameter.whole))


def _height(parameter: Varied, positions: Floats) -> Floats:
    """The heights (k,) of a parameter's positions (k,), from 0 to 1 for the least and the greatest of the trials."""
    scaled, own = (np.log(x) if parameter.log else x for x in (positions, parameter.positions))
    low, high = (0.0, len(parameter.choices) - 1.0) if parameter.choices else (np.nanmin(own), np.nanmax(own))
    return (scaled - low) / (high - low) if high > low else np.where(np.isnan(scaled), np.nan, 0.5)


def _ticks(parameter: Varied) -> list[tuple[float, str]]:
    """The heights of an axis's ticks and their labels: each choice, or the lowest, a middle and the highest value."""
    at = np.arange(len(parameter.choices), dtype=np.float64) if parameter.choices else _ends(parameter)
    form = ".0f" if parameter.whole else ".3g"
    labels = parameter.choices or [f"{value:{form}}" for value in at]
    return list(zip(_height(parameter, at).tolist(), labels, strict=True))


def _ends(parameter: Varied) -> Floats:
    """The lowest, a middle and the highest value of a numeric parameter, without repetitions."""
    low, high = np.nanmin(parameter.positions), np.nanmax(parameter.positions)
    middle = np.sqrt(low * high) if parameter.log else (low + high) / 2
    return np.unique([low, np.round(middle) if parameter.whole else middle, high])
