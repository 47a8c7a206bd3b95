"""Chooses decision thresholds, on out-of-fold predictions and never on a test set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mammo_mlflow.errors import expected, unknown_name
from mammo_mlflow.evaluation import weighted
from mammo_mlflow.evaluation.rate_interval import resampled_share
from mammo_mlflow.evaluation.weighted import Floats

EXAMPLES = ("0.5", "youden", "sensitivity=0.9", "sensitivity=0.9@95%")
RESAMPLES = 1000

MARGIN = 1e-6
"""The least distance of probabilities between which a threshold is put, so that rounding of a float32 moves no patch to
the other side."""


@dataclass(frozen=True)
class ThresholdPolicy:
    """How a decision threshold is chosen: `kind` is `fixed` (`value`), `youden` or `sensitivity` (at least `value`).

    With `confidence` the sensitivity's lower confidence bound, one-sided, has to be that.
    """

    kind: str
    value: float | None = None
    confidence: float | None = None


def parse_policy(policy: str | float) -> ThresholdPolicy:
    """Parse a threshold policy: a number in (0, 1), `youden`, or `sensitivity=` and a number in (0, 1].

    Behind `sensitivity=0.9` may stand the confidence of its lower bound: `@95%`, or `@0.95`, in [50 %, 100 %).

    Raises UserError, one line about the field `threshold`, for anything else.
    """
    text = str(policy).strip().lower()
    kind, separator, argument = (part.strip() for part in text.partition("="))
    bounded = "'sensitivity=S@C%' with S in (0, 1) and C in [50, 100), such as 'sensitivity=0.9@95%'"
    if kind == "youden" and not separator:
        return ThresholdPolicy("youden")
    if kind == "sensitivity":
        least, at, spelled = (part.strip() for part in argument.partition("@"))
        wanted, percent = _number(least), spelled.endswith("%")
        if not at:
            if wanted is None or not 0 < wanted <= 1:
                raise expected("threshold", "'sensitivity=' and a number in (0, 1]", f"'{policy}'")
            return ThresholdPolicy("sensitivity", wanted)
        confidence = _number(spelled.removesuffix("%"))
        confidence = confidence / 100 if confidence is not None and percent else confidence
        if confidence is None or not 0.5 <= confidence < 1 or wanted is None or not 0 < wanted < 1:
            raise expected("threshold", bounded, f"'{policy}'")
        return ThresholdPolicy("sensitivity", wanted, confidence)
    if "@" in text:
        raise expected("threshold", bounded, f"'{policy}'")
    fixed = _number(text)
    if fixed is None:
        raise unknown_name("threshold", policy, EXAMPLES)
    if not 0 < fixed < 1:
        raise expected("threshold", "a number in (0, 1)", f"'{policy}'")
    return ThresholdPolicy("fixed", fixed)


def choose_threshold(
    policy: str | float, labels: npt.ArrayLike, probabilities: npt.ArrayLike, groups: npt.ArrayLike | None = None
) -> float:
    """Choose a decision threshold by a policy (`parse_policy`); probabilities at or above it are positive.

    `youden` maximises sensitivity + specificity - 1 (Youden 1950, Cancer 3:32-35); of equal maxima the lowest
    threshold, which finds the most positives. `sensitivity=s` is the highest threshold whose sensitivity is at least s,
    `sensitivity=s@c%` the highest up to which the lower bound of its sensitivity is at least s, one-sided: Wilson's
    with the variance that the sensitivity has over patients, resampled (`rate_interval.resampled_share`).
    All lie midway between neighbouring observed probabilities that are at least `MARGIN` apart; where every patch has
    to be positive, midway between 0 and the lowest one.

    `labels`: int (n,) of 0 and 1; `probabilities`: float (n,) in [0, 1]; `groups`: (n,), patients. Raises UserError for
    an unknown policy, and for one that cannot be met: no positive patch, too few for a bound, or for `youden` one
    class; ValueError for arrays that do not fit
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
    least = chosen.value or 0.0
    if chosen.confidence is not None:
        patients = weighted.patient_codes(groups, y.size)[y == 1]
        return _bounded(least, chosen.confidence, p[y == 1], patients, candidates)
    enough = found / positives >= least - 1e-12
    return float(candidates[np.flatnonzero(enough)[-1]])


def _bounded(least: float, confidence: float, positives: Floats, patients: weighted.Ints, candidates: Floats) -> float:
    """The highest candidate (ascending) up to which the lower confidence bound of the sensitivity is at least `least`.

    `positives` float64 (k,) are the probabilities of positive patches, `patients` int64 (k,) whose they are.
    """
    _, patient, sizes = np.unique(patients, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise expected("threshold", "positive patches of several patients for a confidence bound", "one patient")
    drawn = np.random.default_rng(0).multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), RESAMPLES)
    order = np.argsort(positives)
    below = np.cumsum(drawn[:, patient[order]], axis=1)
    missed = np.searchsorted(positives[order], candidates)
    for count in np.unique(missed):  # ascending, so that the first one that is too many ends it
        shares = 1 - (below[:, count - 1] if count else np.zeros(RESAMPLES)) / below[:, -1]
        share, variance = 1 - count / len(positives), float(shares.var(ddof=1))
        bound = resampled_share(float(share), variance, sizes, 2 * confidence - 1)[0]
        if bound < least:
            break
        best = float(candidates[missed == count][-1])
    else:
        return best
    if not count:
        said = f"a bound of {bound:.3f} where all {len(positives)}, of {len(sizes)} patients, are found"
        raise expected("threshold", f"more positive patches for a bound of {least:g}", said)
    return best


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
