"""Chooses decision thresholds, on out-of-fold predictions and never on a test set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mammo_mlflow.errors import expected, unknown_name
from mammo_mlflow.evaluation import weighted
from mammo_mlflow.evaluation.weighted import Floats

EXAMPLES = ("0.5", "youden", "sensitivity=0.9")

MARGIN = 1e-6
"""The least distance of probabilities between which a threshold is put, so that rounding of a float32 moves no patch to
the other side."""


@dataclass(frozen=True)
class ThresholdPolicy:
    """How a decision threshold is chosen: `kind` is `fixed` (`value`), `youden` or `sensitivity` (at least `value`)."""

    kind: str
    value: float | None = None


def parse_policy(policy: str | float) -> ThresholdPolicy:
    """Parse a threshold policy: a number in (0, 1), `youden`, or `sensitivity=` and a number in (0, 1].

    Raises UserError, one line about the field `threshold`, for anything else.
    """
    text = str(policy).strip().lower()
    kind, separator, argument = (part.strip() for part in text.partition("="))
    if kind == "youden" and not separator:
        return ThresholdPolicy("youden")
    if kind == "sensitivity":
        wanted = _number(argument)
        if wanted is None or not 0 < wanted <= 1:
            raise expected("threshold", "'sensitivity=' and a number in (0, 1]", f"'{policy}'")
        return ThresholdPolicy("sensitivity", wanted)
    fixed = _number(text)
    if fixed is None:
        raise unknown_name("threshold", policy, EXAMPLES)
    if not 0 < fixed < 1:
        raise expected("threshold", "a number in (0, 1)", f"'{policy}'")
    return ThresholdPolicy("fixed", fixed)


def choose_threshold(policy: str | float, labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Choose a decision threshold by a policy (`parse_policy`); probabilities at or above it are positive.

    `youden` maximises sensitivity + specificity - 1 (Youden 1950, Cancer 3:32-35); of equal maxima the lowest
    threshold, which finds the most positives. `sensitivity=s` is the highest threshold whose sensitivity is at least s.
    Both lie midway between neighbouring observed probabilities that are at least `MARGIN` apart; where every patch has
    to be positive, midway between 0 and the lowest one.

    `labels`: int (n,) of 0 and 1; `probabilities`: float (n,) in [0, 1]. Raises UserError for an unknown policy, and
    for one that cannot be met: no positive patch, or for `youden` one class; ValueError for arrays that do not fit
    together.
    """
    chosen = parse_policy(policy)
    if chosen.kind == "fixed" and chosen.value is not None:
        return chosen.value
    y, p = weighted.checked(labels, probabilities)
    positives, negatives = int(y.sum()), int((1 - y).sum())
    if positives == 0 or (chosen.kind == "youden" and negatives == 0):
        wanted = "patches of both classes" if chosen.kind == "youden" else "positive patches"
        found_here = f"{positives} positive, {negatives} negative"
        raise expected("threshold", f"{wanted} to choose '{chosen.kind}' on", found_here)
    candidates = _between(p)
    found = positives - np.searchsorted(np.sort(p[y == 1]), candidates)
    alarms = negatives - np.searchsorted(np.sort(p[y == 0]), candidates)
    if chosen.kind == "youden":
        return float(candidates[np.argmax(found * negatives - alarms * positives)])
    enough = found / positives >= (chosen.value or 0.0) - 1e-12
    return float(candidates[np.flatnonzero(enough)[-1]])


def _between(probabilities: Floats) -> Floats:
    """The candidate thresholds, ascending, float64 (t,); at the first every patch is positive."""
    values = np.unique(probabilities)
    lower, upper = values[:-1], values[1:]
    apart = upper - lower >= MARGIN
    lowest = values[0] / 2 if values[0] >= MARGIN else 0.0
    return np.concatenate([[lowest], (lower[apart] + upper[apart]) / 2])


def _number(text: str) -> float | None:
    """A text as a number; None where it is none."""
    try:
        return float(text)
    except ValueError:
        return None
