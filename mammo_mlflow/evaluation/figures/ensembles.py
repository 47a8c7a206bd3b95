"""Figures of ensembles: scores of members and methods, and disagreement of members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.figures.style import INK, QUIET, SMALL_SIZE, TEXT_SIZE, colour, new_figure, tidy, wrap


def members_joining(
    names: Sequence[str], alone: Sequence[float], together: Sequence[float], metric: str, title: str, note: str | None
) -> Figure:
    """The figure of each member's score, and of the score of the plain average as members join from left to right.

    `names`, `alone`, `together`: m each; `metric` is the name of the score.
    """
    figure = new_figure(max(4.6, 1.4 + 0.75 * len(names)), 4.2, title, note)
    axes = figure.subplots()
    tidy(axes, "", metric)
    places = np.arange(len(names))
    axes.plot(places, alone, "o", color=colour(0), markersize=6, label="member alone")
    axes.plot(
        places, together, "o-", color=colour(1), markersize=5, linewidth=1.5, label="average of it and those before"
    )
    axes.set_xticks(places, [wrap(name, 0.9, SMALL_SIZE) for name in names], fontsize=SMALL_SIZE)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.legend(frameon=False, fontsize=TEXT_SIZE - 1)
    return figure


def methods_compared(
    rows: Mapping[str, tuple[float, Estimate]], best: tuple[str, float], metric: str, title: str, note: str | None
) -> Figure:
    """The figure of methods: the score on the rows each was chosen on, hollow, and the nested score with interval.

    `rows`: by method these two; `best` is the best member's name and score, drawn as a line.
    """
    figure = new_figure(6.4, 1.6 + 0.36 * len(rows), title, note)
    axes = figure.subplots()
    tidy(axes, metric, "", grid="x")
    for row, (chosen_on, honest) in enumerate(rows.values()):
        ends = [[honest.value - honest.low], [honest.high - honest.value]]
        known = np.isfinite(ends).all()
        axes.errorbar(
            honest.value, row, xerr=ends if known else None, fmt="o", color=colour(0), capsize=3, markersize=5
        )
        axes.plot(chosen_on, row, "o", markerfacecolor="white", markeredgecolor=colour(5), markersize=5)
    axes.axvline(best[1], color=QUIET, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.plot([], [], "o", color=colour(0), label="nested, 95 %")
    axes.plot([], [], "o", markerfacecolor="white", markeredgecolor=colour(5), label="where it was chosen (optimistic)")
    axes.plot([], [], linestyle=":", color=QUIET, label=f"best member: {best[0]}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False, fontsize=SMALL_SIZE)
    return figure


def disagreement_map(names: Sequence[str], different: npt.ArrayLike, title: str, note: str | None) -> Figure:
    """The figure of the share of patches that two members decide differently; `different`: shares, float (m, m)."""
    shares = np.asarray(different, dtype=np.float64)
    size = 1.6 + 0.62 * len(names)
    figure = new_figure(size + 0.9, size + 0.6, title, note)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=max(0.5, float(shares.max())))
    tidy(axes, grid=None)
    labels = [wrap(name, 1.1, SMALL_SIZE) for name in names]
    axes.set_xticks(range(len(names)), labels, fontsize=SMALL_SIZE, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), labels, fontsize=SMALL_SIZE)
    axes.spines[:].set_visible(False)
    for (row, column), share in np.ndenumerate(shares):
        if row != column:
            ink = "white" if share > 0.35 else INK
            axes.text(column, row, f"{100 * share:.0f} %", ha="center", va="center", fontsize=SMALL_SIZE, color=ink)
    return figure
