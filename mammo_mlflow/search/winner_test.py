"""Test whether a search's best setting is better than the paper's, corrected for being the best of many."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from scipy.stats import norm

from mammo_mlflow.estimate import Difference
from mammo_mlflow.evaluation.intervals import bootstrap_difference
from mammo_mlflow.evaluation.objectives import Objective

CONFIDENCE = 0.95


@dataclass(frozen=True)
class WinnerTest:
    """The result of `judge`: whether the lead may be chance, the 95 % bound of chance, and a sentence."""

    within_noise: bool
    bound: float
    sentence: str


def paired_lead(objective: Objective, best: pd.DataFrame, paper: pd.DataFrame, resamples: int = 2000) -> Difference:
    """The paired difference in an objective of two settings' out-of-fold predictions, positive where `best` is better.

    Both frames: columns patch, fold, label, probability, in any order of rows; patients are resampled where both have
    patient_id, else patches. A patch with rows in several folds, as under several seeds, is drawn with all of them:
    another seed makes no other patch. The objective is a metric, not `seconds`.
    Raises ValueError for frames of different patches, folds or labels.
    """
    on = ["patch", "fold", "label", *(["patient_id"] if "patient_id" in best and "patient_id" in paper else [])]
    both = best.merge(paper[[*on, "probability"]], on=on, suffixes=("", "_paper"), validate="one_to_one")
    if not len(best) == len(paper) == len(both):
        raise ValueError(
            f"paired_lead: expected the same patches and folds, found {len(both)} of {len(best)}, {len(paper)}"
        )
    pair = both["probability"], both["probability_paper"]
    return bootstrap_difference(
        both["label"],
        *(pair if objective.direction == "maximize" else pair[::-1]),
        folds=both["fold"],
        groups=both["patient_id" if "patient_id" in on else "patch"],
        resamples=resamples,
        metric=objective.name,
    )


def simultaneous(lead: Difference, trials: int) -> Difference:
    """Widen the interval of the best setting's lead so that it holds at 95 % for all `trials` settings at once.

    Fresh seeds are not fresh patients: what chance in these patients lifted the best setting in the search lifts it
    under any seed. So the interval is the one that covers all k - 1 leads over the paper's setting together, whichever
    of them was picked: value ± error × Φ⁻¹((1 + 0.95^(1 / (k - 1))) / 2) (Šidák 1967, as in `judge`).
    """
    reach = lead.error * float(norm.ppf((1 + CONFIDENCE ** (1 / max(trials - 1, 1))) / 2))
    return Difference(lead.value, lead.value - reach, lead.value + reach, lead.error)


def judge(lead: float, error: float, trials: int) -> WinnerTest:
    """Test whether the best trial's lead over the paper's setting is more than choosing the best gives by chance.

    `lead`: the best trial's value minus the paper setting's on the same folds, positive where better; `error`: the
    bootstrap standard error of that paired difference; `trials`: finished trials that competed, the paper's among them.

    The bound is the 95 % quantile of the largest of k - 1 independent normal differences whose true value is 0, which
    is error × Φ⁻¹(0.95^(1 / (k - 1))) (Šidák 1967, JASA 62:626-633). It is conservative: trials resemble one another,
    they are judged on the same patches, and all are compared with one and the same setting, and the largest of normal
    differences that are positively correlated is stochastically smaller (Slepian 1962). The error knows the chance in
    which patients were seen, not that of a training's random start.

    A lead without an error, as where there is one patient, cannot be told from noise.
    """
    others = max(trials - 1, 1)
    bound = error * float(norm.ppf(CONFIDENCE ** (1 / others)))
    within = not (lead > 0 and lead > bound)  # what cannot be judged, a NaN, is not proven
    sentence = _sentence(lead, error, bound, within, others)
    return WinnerTest(within, bound, sentence[0].upper() + sentence[1:])


def _sentence(lead: float, error: float, bound: float, within: bool, others: int) -> str:
    """The result of the test in words, beginning with a small letter."""
    who = f"the best of the {others} other settings" if others > 1 else "the one other setting"
    if math.isnan(lead):
        return f"whether {who} is better than the paper's cannot be told: the objective is undefined."
    if lead <= 0:
        return f"{who} did no better than the paper's on the same folds."
    leads = f"{who} leads the paper's by {lead:.3g} on the same folds"
    if math.isnan(bound):
        return f"{leads}; whether that is more than chance cannot be told, since the lead has no standard error."
    return (
        f"{leads}, {'within' if within else 'more than'} the noise of choosing: were none truly better, luck alone"
        f" would lead by up to {bound:.3g} in {100 * CONFIDENCE:.0f} % of such searches (standard error of the lead"
        f" {error:.2g})."
    )
