"""Figures of the data: the distribution of classes, patches, and activation maps on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from mammo_mlflow.evaluation.figures.style import QUIET, SMALL_SIZE, TEXT_SIZE, colour, new_figure, tidy, wrap


def class_distribution(counts: dict[str, dict[str, int]], title: str, note: str | None = None) -> Figure:
    """The figure of the share of each class in each split, with counts (the paper's figure 4.1 as bars on one scale).

    `counts`: patches by split and class. Classes keep their order; one that a split lacks counts 0 there.
    Raises ValueError for no split or no class.
    """
    classes = list(dict.fromkeys(name for split in counts.values() for name in split))
    if not classes:
        raise ValueError("counts: expected at least one split and class, found none")
    columns = min(3, len(counts))
    rows = -(-len(counts) // columns)
    figure = new_figure(max(5.5, 3.4 * columns), 1.2 + rows * (0.7 + 0.42 * len(classes)), title, note)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    shares = {split: [100 * of.get(c, 0) / max(1, sum(of.values())) for c in classes] for split, of in counts.items()}
    for axes in panels.flat[len(counts) :]:
        axes.set_visible(False)
    for index, (axes, (split, of)) in enumerate(zip(panels.flat, counts.items(), strict=False)):
        last_row = index + columns >= len(counts)
        tidy(axes, "share of patches (%)" if last_row else "", grid="x")
        axes.tick_params(labelbottom=last_row)
        axes.set_title(f"{split}: {sum(of.values()):,} patches", fontsize=TEXT_SIZE, loc="left")
        axes.barh(range(len(classes)), shares[split], color=[colour(i) for i in range(len(classes))], height=0.68)
        for row, (name, share) in enumerate(zip(classes, shares[split], strict=True)):
            text = f"{of.get(name, 0):,} ({share:.0f} %)"
            axes.text(share, row, f" {text}", va="center", fontsize=SMALL_SIZE, color=QUIET)
    panels[0, 0].set_yticks(range(len(classes)), [wrap(name, 1.5, TEXT_SIZE) for name in classes])
    panels[0, 0].set_ylim(len(classes) - 0.5, -0.5)
    panels[0, 0].set_xticks(range(0, 101, 20))
    panels[0, 0].set_xlim(0, min(125.0, 1.45 * max(max(of) for of in shares.values()) + 5))
    return figure


def patch_sheet(
    rows: Sequence[tuple[str, npt.NDArray[np.generic], npt.NDArray[np.generic]]], title: str, note: str | None = None
) -> Figure:
    """The figure of pairs of patches in grey, the baseline left of the abnormality, both in one grey-value window.

    `rows`: (name, baseline, abnormality), two arrays (height, width) of one shape and any real dtype. The window runs
    from the 0.5th to the 99.5th percentile of the pair, so that the two can be compared but pairs cannot.
    Raises ValueError for no pair or shapes that differ.
    """
    if not rows:
        raise ValueError("rows: expected at least one pair, found none")
    columns = min(len(rows), 3)
    lines = -(-len(rows) // columns)
    figure = new_figure(max(4.5, 3.0 * columns), 0.8 + 1.85 * lines, title, note)
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, (name, baseline, abnormality) in zip(panels.flat, rows, strict=False):
        left, right = np.asarray(baseline, dtype=np.float64), np.asarray(abnormality, dtype=np.float64)
        if left.ndim != 2 or left.shape != right.shape:
            raise ValueError(f"{name}: expected two patches of one shape, found {left.shape} and {right.shape}")
        height, width = left.shape
        gap = np.full((height, max(1, width // 30)), np.nan)
        pair = np.hstack([left, gap, right])
        low, high = _window(pair)
        axes.imshow(pair, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(wrap(name, 2.8, TEXT_SIZE), fontsize=TEXT_SIZE, loc="left")
        for text, centre in (("baseline", width / 2), ("abnormality", 1.5 * width + gap.shape[1])):
            axes.text(centre, 1.03 * height, text, ha="center", va="top", fontsize=SMALL_SIZE, color=QUIET)
    return figure


def activation_overlays(
    patch: npt.NDArray[np.generic],
    members: Mapping[str, tuple[float, npt.NDArray[np.generic]]],
    title: str,
    note: str | None = None,
) -> Figure:
    """The figure of a patch in grey, and of the same patch under each member's class activation map (Grad-CAM).

    `patch`: (size, size) of any real dtype; `members`: by name the probability of class 1 and the map, float
    (size, size) in [0, 1], the stronger the more opaque.
    """
    figure = new_figure(max(4.5, 2.3 * (1 + len(members))), 3.2, title, note)
    panels = figure.subplots(1, 1 + len(members))
    low, high = _window(patch)
    for axes, (name, shown) in zip(panels, {"patch": None, **members}.items(), strict=True):
        axes.set_axis_off()
        axes.imshow(patch, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        if shown is not None:
            axes.imshow(
                shown[1], cmap="inferno", vmin=0, vmax=1, alpha=0.6 * np.asarray(shown[1]), interpolation="bilinear"
            )
        text = name if shown is None else f"{name}: {shown[0]:.3f}"
        axes.set_title(wrap(text, 2.2, TEXT_SIZE), fontsize=TEXT_SIZE, loc="left")
    return figure


def grey(patch: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """A patch (height, width) of any real dtype as an image of its own grey-value window, 0 black and 255 white."""
    low, high = _window(patch)
    share = (np.asarray(patch, dtype=np.float64) - low) / (high - low)
    return (255 * share.clip(0, 1)).round().astype(np.uint8)


def _window(pixels: npt.NDArray[np.generic]) -> tuple[float, float]:
    """The grey-value window of pixels, NaN left out: from the 0.5th to the 99.5th percentile."""
    low, high = np.nanpercentile(np.asarray(pixels, dtype=np.float64), [0.5, 99.5])
    return float(low), float(max(high, low + 1e-9))
