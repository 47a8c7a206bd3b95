"""The gates that a candidate has to pass to become champion, judged on out-of-fold predictions alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import norm

from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.calibration import SMALLEST_BIN, calibration_error, calibration_estimates
from mammo_mlflow.evaluation.conformal import cross_fitted_sets, set_estimates
from mammo_mlflow.evaluation.intervals import cluster_note, resampling_note
from mammo_mlflow.evaluation.objectives import Objective
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.paired import delong
from mammo_mlflow.names import Metric

RATES_CONFIDENCE = 0.9
"""The confidence of the intervals of sensitivity and specificity: a loss is found with a one-sided error of 5 %."""


@dataclass(frozen=True)
class Gate:
    """A gate's result: the gate's name, whether the candidate passed, and in words the values that decided."""

    name: str
    passed: bool
    said: str


def better(
    candidate: OutOfFold, champion: OutOfFold, objective: Objective, error: float = 0.025, compared: int = 1
) -> Gate:
    """Judge the gate `better`: the interval of the candidate's lead in the objective has to lie above 0.

    `error`: the one-sided error over all settings `compared`, of which each has an equal share (Bonferroni). The
    interval is normal: quantiles this far out are beyond what resampling can tell. Its standard error is DeLong's for
    ROC AUC, patients being clusters, and the bootstrap's for other objectives.
    """
    first, second = (candidate, champion) if objective.direction == "maximize" else (champion, candidate)
    arrays = candidate.labels, first.probabilities, second.probabilities, candidate.folds, candidate.groups
    lead = delong(*arrays) if objective.name == "roc_auc" else first.less(second, objective.name)
    note = cluster_note if objective.name == "roc_auc" else resampling_note
    reach = float(norm.isf(error / compared)) * lead.error
    width = f"{100 * (1 - 2 * error / compared):.6g} % interval"
    interval = f"{width} [{lead.value - reach:+.4f}, {lead.value + reach:+.4f}]"
    said = f"lead in {objective.name} {lead.value:+.4f}, {interval} ({note(candidate.groups)})"
    return Gate("better", bool(lead.value - reach > 0), said)


def calibrated(candidate: OutOfFold, bound: float, recalibrated: bool = False) -> Gate:
    """Judge the gate `calibrated`: the candidate's calibration error has to be at most `bound`.

    Of a candidate that is `recalibrated` it is the error in bins within folds, as it is published: in bins over all
    folds, what makes one fold's map too high and another's too low cancels.
    """
    y, p = candidate.labels, candidate.probabilities
    if recalibrated:
        found = calibration_estimates(y, p, candidate.groups, candidate.folds)["calibration_error"]
    else:
        found = Estimate(calibration_error(y, p), reason=f"fewer than {SMALLEST_BIN} patches")
    if math.isnan(found.value):
        return Gate(
            "calibrated", False, f"expected a calibration error of at most {bound:g}, found none: {found.reason}"
        )
    where = " in bins within folds" if recalibrated else ""
    said = f"calibration error{where} {found.value:.3f}, at most {bound:g}"
    return Gate("calibrated", bool(found.value <= bound), said)


def covered(candidate: OutOfFold, coverage: float) -> Gate:
    """Judge the gate `coverage` of answer sets: no class may be part of them less often than their coverage says.

    Each fold is answered by limits of the others. The gate fails where all of a class's 90 % interval, patients as
    clusters, lies below `coverage`.
    """
    sets = cross_fitted_sets(candidate, coverage)
    found = set_estimates(candidate.labels, sets, candidate.groups, RATES_CONFIDENCE)
    classes = [found[name] for name in (Metric.COVERAGE_0, Metric.COVERAGE_1)]
    passed = not any(one.high < coverage for one in classes)  # without an interval nothing is known against it
    told = f"classes covered {' and '.join(map(str, classes))}, {100 * RATES_CONFIDENCE:g} % intervals"
    if not all(one.bounded for one in classes):
        told += " where there are any, without which nothing is known against it"
    return Gate("coverage", passed, f"{told}, of {coverage:g}; {found[Metric.REFERRED].value:.0%} referred")


def no_loss(rate: str, candidate: OutOfFold, champion: OutOfFold, bound: float = 0.0) -> Gate:
    """Judge the gate of a rate (`sensitivity`, `specificity`): at the stored thresholds at most `bound` is lost.

    The paired difference has a 90 % interval, patients resampled: the gate fails where all of it lies below `-bound`,
    which happens to an equal model in at most 5 % of decisions.
    """
    decided = candidate.saying(candidate.decided)
    gain = decided.less(champion.saying(champion.decided), rate, RATES_CONFIDENCE)
    value = {"sensitivity": 1, "specificity": 0}[rate]
    rows = candidate.labels == value
    after, before = (float((one.decided[rows] == value).mean()) for one in (candidate, champion))
    thresholds = f"at {candidate.threshold:.3g}, the champion's {before:.3f} at {champion.threshold:.3g}"
    interval = f"{100 * RATES_CONFIDENCE:g} % interval of the difference {gain.interval('+.3f')}"
    said = f"{rate} {after:.3f} {thresholds}; {interval} ({resampling_note(candidate.groups)})"
    said += f", which must not lie below {-bound if bound else 0:g}"
    return Gate(rate, bool(gain.high >= -bound), said)
