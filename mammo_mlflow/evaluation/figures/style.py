"""The style of all figures: colours that colour-blind readers can tell apart, axes, title and note."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mammo_mlflow.files import whole

DPI = 150

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D1F", "#555555")
"""Okabe & Ito (2008), their yellow, which is too light for lines, darkened."""

LINES: tuple[str, ...] = ("-", "--", ":", "-.")
"""The dashes of lines, the next for each time that the colours begin again."""

INK, QUIET, RULE = "#222222", "#6B6B6B", "#D9D9D9"

TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 11.0, 9.0, 7.5


def colour(index: int) -> str:
    """The colour of the i-th line of a figure."""
    return COLOURS[index % len(COLOURS)]


def line_style(index: int) -> str:
    """The dash pattern of the i-th line of a figure."""
    return LINES[index // len(COLOURS) % len(LINES)]


def new_figure(width: float, height: float, title: str, note: str | None = None) -> Figure:
    """An empty figure with its title above and its note in small print below, both wrapped to the width.

    `width` and `height` are in inches; the height is for one line of each, and the figure grows with every further
    line.
    """
    heading = wrap(title, width - 0.3, TITLE_SIZE, bold=True)
    footing = "\n".join(wrap(line, width - 0.3, SMALL_SIZE) for line in (note or "").splitlines())
    height += heading.count("\n") * 1.25 * TITLE_SIZE / 72 + footing.count("\n") * 1.25 * SMALL_SIZE / 72
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    figure.suptitle(heading, x=0.015, ha="left", fontsize=TITLE_SIZE, fontweight="bold", color=INK)
    if footing:
        figure.supxlabel(footing, x=0.015, ha="left", fontsize=SMALL_SIZE, color=QUIET)
    return figure


def wrap(text: str, inches: float, size: float, bold: bool = False) -> str:
    """Break a text into lines that fit a width in inches at a font size in points."""
    character = (0.6 if bold else 0.53) * size / 72
    return "\n".join(textwrap.wrap(text, max(8, int(inches / character))))


def joined(*parts: str | None) -> str | None:
    """Join the parts of a note, a line each, leaving out None; None where there is none."""
    return "\n".join(part for part in parts if part) or None


def tidy(axes: Axes, x: str = "", y: str = "", grid: Literal["both", "x", "y"] | None = "both") -> None:
    """Set the labels of axes and the style of their frame, ticks and grid."""
    axes.set_xlabel(x, fontsize=TEXT_SIZE, color=INK)
    axes.set_ylabel(y, fontsize=TEXT_SIZE, color=INK)
    axes.tick_params(labelsize=TEXT_SIZE - 1, color=RULE, labelcolor=INK, length=3)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(RULE)
    if grid is not None:
        axes.grid(True, axis=grid, color=RULE, linewidth=0.5)


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write the figure as a PNG at 150 dpi, moved into place when whole, and empty the figure to free its memory.

    The folder is made where missing. Raises OSError where the path cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole(target) as part:
            figure.savefig(part, format="png", dpi=DPI)
    finally:
        figure.clear()
    return target
