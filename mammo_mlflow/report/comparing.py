"""Models of a task against one another on the same test patches, all pairs corrected for their number; subgroups."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mammo_mlflow.disclosure import PHANTOM, RANDOM, Disclosure, Fact
from mammo_mlflow.evaluation.decisions import holm, mcnemar
from mammo_mlflow.evaluation.intervals import score_estimates
from mammo_mlflow.evaluation.paired import SIGNIFICANT, delong
from mammo_mlflow.report.fill_rows import ReportedModel

FEWEST = 10
"""Patients of each class that a subgroup needs for a figure; patches where patients are not known."""
SUBGROUPS = {"density": "breast density", "view": "view", "subtlety": "subtlety", "size": "lesion size"}
THIRDS = ("small", "medium", "large")
WORSE, BETTER, SAME, UNKNOWN = VERDICTS = (
    "it is distinguishable from, and better than, {};",
    "it is distinguishable from, and worse than, {};",
    "its difference from {} is within noise.",
    "Its difference from {} cannot be told.",
)
"""What is said of others that are worse than the best one, or better, or not to be told from it."""


def compare_pairs(models: Sequence[ReportedModel]) -> pd.DataFrame:
    """Every pair: the difference of ROC AUCs with its interval and DeLong's p, McNemar's p at the stored thresholds.

    Both p values also after Holm's correction for all pairs of the table. Where patients are known, both tests take
    their patches together.
    """
    rows = []
    for first, second in itertools.combinations(models, 2):
        labels, groups, a, b = first.labels, first.patients, first.probabilities, second.probabilities
        auc = delong(labels, a, b, groups=groups)
        decided = mcnemar((a >= first.threshold) == labels, (b >= second.threshold) == labels, groups)
        rows.append(
            {
                "first": first.label,
                "second": second.label,
                "auc_difference": auc.value,
                "low": auc.low,
                "high": auc.high,
                "delong_p": auc.p,
                "first_only_right": decided.first_only,
                "second_only_right": decided.second_only,
                "mcnemar_p": decided.p,
                "marks": _marks(first, second),
            }
        )
    table = pd.DataFrame(rows)
    if len(table):
        for p in ("delong_p", "mcnemar_p"):
            table[f"{p}_holm"] = holm(table[p])
    return table


def critical_view(models: Sequence[ReportedModel], pairs: pd.DataFrame, chosen_by: dict[str, float]) -> list[str]:
    """What the differences are worth, in sentences.

    The model that all are held against is the one with the best out-of-fold ROC AUC (`chosen_by`, by label), which the
    test set had no part in.
    """
    known = [model for model in models if not math.isnan(chosen_by.get(model.label, math.nan))]
    if len(known) < 2:
        return []
    best = max(known, key=lambda model: chosen_by[model.label]).label
    named = {m.label: m.label + _said(RANDOM, m) for m in models}
    phantom = _said(PHANTOM, models[0])
    if one_class(models):
        said = "The test set has patches of one class: no ROC AUC of it, and no difference of two, exists."
        return [f"Best out-of-fold ROC AUC: {named[best]}{phantom}.", said]
    told: dict[str, list[str]] = defaultdict(list)
    for _, pair in pairs.iterrows():
        if best not in (pair["first"], pair["second"]):
            continue
        other = pair["second"] if pair["first"] == best else pair["first"]
        lead = pair["auc_difference"] if pair["first"] == best else -pair["auc_difference"]
        p, apart = pair["delong_p_holm"], WORSE if lead > 0 else BETTER
        told[UNKNOWN if math.isnan(p) else SAME if p >= SIGNIFICANT else apart].append(named[other])
    corrected = f"On the test set, after Holm's correction for {len(pairs)} pairs:"
    sentences = [f"Best out-of-fold ROC AUC: {named[best]}{phantom}. {corrected}"]
    sentences += [said.format("; ".join(told[said])) for said in VERDICTS if told[said]]
    within = int((pairs["delong_p_holm"] >= SIGNIFICANT).sum())
    sentences.append(f"Of all {len(pairs)} differences of ROC AUCs, {within} are within noise.")
    return sentences


def one_class(models: Sequence[ReportedModel]) -> bool:
    """Whether the test set has patches of one class only, so that what compares the two classes does not exist."""
    return any(model.test["label"].nunique() < 2 for model in models)


def subgroups(models: Sequence[ReportedModel], groups: pd.DataFrame | None) -> pd.DataFrame:
    """ROC AUC, sensitivity and specificity of each model in parts of the test set, with intervals.

    `groups`: the rows of the test set's groups file, or None where they are not known. Parts with fewer than `FEWEST`
    patients of a class are left out, whatever their patches.
    """
    rows = []
    for name, part, inside in [] if groups is None else _parts(groups):
        for model in models:
            labels, patients = model.labels[inside], None if model.patients is None else model.patients[inside]
            units = np.arange(len(labels)) if patients is None else patients
            if min(len(set(units[labels == value])) for value in (0, 1)) < FEWEST:
                continue
            found = score_estimates(labels, model.probabilities[inside], model.threshold, patients)
            rows.append(
                {
                    "subgroup": name,
                    "value": part,
                    "model": model.label,
                    "marks": _marks(model),
                    "patches": len(labels),
                    "patients": "" if patients is None else len(set(patients)),
                    "class_1": int(labels.sum()),
                    **{metric: str(found[metric]) for metric in ("roc_auc", "sensitivity", "specificity")},
                }
            )
    return pd.DataFrame(rows)


def _parts(groups: pd.DataFrame) -> list[tuple[str, str, np.ndarray]]:
    """The parts by name: the subgroup, its value, and which rows are in it, bool (n,)."""
    table = groups.copy()
    if "box" in table:
        sides = table["box"].str.split(expand=True).iloc[:, 2:4].astype(float)
        diameter = np.sqrt(sides.prod(axis=1))
        ends = np.quantile(diameter, [1 / 3, 2 / 3])
        table["size"] = [THIRDS[int(np.searchsorted(ends, one))] for one in diameter]
    found = []
    for column, name in SUBGROUPS.items():
        if column in table:
            values = table[column].astype(str).to_numpy()
            order = THIRDS if column == "size" else sorted(set(values) - {""})
            found += [(name, value, values == value) for value in order]
    return found


def _marks(*models: ReportedModel) -> str:
    """What has to be said of the figures of models."""
    return "; ".join(Disclosure.together(model.result.said for model in models).marks)


def _said(fact: Fact, model: ReportedModel) -> str:
    return f" [{fact.mark}]" if fact in model.result.said else ""
