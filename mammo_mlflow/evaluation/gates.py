"""What a candidate has to pass to become champion, judged on out-of-fold predictions alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .calibration import calibration_error
from .intervals import bootstrap_difference, resampling_note
from .objectives import Objective
from .weighted import Floats

ALPHA = 0.05
RESAMPLES, MOST_RESAMPLES = 2000, 20_000


@dataclass(frozen=True, eq=False)
class Predictions:
    """Out-of-fold predictions of a model: `patch`, `labels`, `folds`, `probabilities` (n,), patients or None.

    `threshold` is the one that was stored with the model.
    """

    patches: np.ndarray
    labels: np.ndarray
    folds: np.ndarray
    groups: np.ndarray | None
    probabilities: Floats
    threshold: float

    def same_patches(self, other: Predictions) -> bool:
        """Whether both are of the same patches in the same folds."""
        fields = ("patches", "labels", "folds")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in fields)

    @property
    def sensitivity(self) -> float:
        """The share of positives found at the stored threshold."""
        return float((self.probabilities[self.labels == 1] >= self.threshold).mean())


@dataclass(frozen=True)
class Gate:
    """One condition, whether it was passed, and the figures it rests on in words."""

    name: str
    passed: bool
    said: str


def better(candidate: Predictions, champion: Predictions, objective: Objective, compared: int) -> Gate:
    """The lead in the objective has an interval above 0; with several candidates it is Bonferroni's, the wider."""
    first, second = (candidate, champion) if objective.direction == "maximize" else (champion, candidate)
    lead = bootstrap_difference(
        candidate.labels,
        first.probabilities,
        second.probabilities,
        candidate.folds,
        candidate.groups,
        resamples=min(RESAMPLES * compared, MOST_RESAMPLES),
        confidence=1 - ALPHA / compared,
        metric=objective.name,
    )
    width = f"{100 * (1 - ALPHA / compared):.3g} % interval"
    said = f"lead in {objective.name} {lead.value:+.4f}, {width} [{lead.low:+.4f}, {lead.high:+.4f}]"
    return Gate("better", bool(lead.low > 0), f"{said} ({resampling_note(candidate.groups)})")


def calibrated(candidate: Predictions, bound: float) -> Gate:
    """The calibration error is at most `bound`."""
    error = calibration_error(candidate.labels, candidate.probabilities)
    return Gate("calibrated", bool(error <= bound), f"calibration error {error:.3f}, at most {bound:g}")


def sensitive(candidate: Predictions, champion: Predictions) -> Gate:
    """At the stored thresholds the candidate finds no fewer positives."""
    found, before = candidate.sensitivity, champion.sensitivity
    said = (
        f"sensitivity {found:.3f} at {candidate.threshold:.3g}, the champion's {before:.3f} at {champion.threshold:.3g}"
    )
    return Gate("sensitivity", found >= before, said)
