"""Paired tests of a task's models on the same test patches, corrected for the number of pairs, and subgroup tables."""

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
"""Patients of each class that a subgroup needs to be scored; patches where patients are not known."""
SUBGROUPS = {"density": "breast density", "view": "view", "subtlety": "subtlety", "size": "lesion size"}
THIRDS = ("small", "medium", "large")
WORSE, BETTER, SAME, UNKNOWN = VERDICTS = (
    "it is distinguishable from, and better than, {};",
    "it is distinguishable from, and worse than, {};",
    "its difference from {} is within noise.",
    "Its difference from {} cannot be told.",
)
"""Sentence ends on the models that are worse than the best one, better, not distinguishable from it, or undecided."""


def compare_pairs(models: Sequence[ReportedModel]) -> pd.DataFrame:
    """The table of all pairs of models: difference of ROC AUCs with its 95 % interval, DeLong's p and McNemar's p.

    A row a pair: first, second (labels of the models), auc_difference, low, high, delong_p, first_only_right,
    second_only_right (patches), mcnemar_p (of decisions at each model's stored threshold), marks, and both p after
    Holm's correction for all pairs, delong_p_holm and mcnemar_p_holm. Where patients are known, patients are clusters
    in both tests. Raises ValueError for predictions of different numbers of patches.
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
    """Write sentences that say which models are distinguishable from the best one on the test set.

    The best is the model with the highest out-of-fold ROC AUC (`chosen_by`, by label), so that the test set has no part
    in choosing it. `pairs` is the table of `compare_pairs`. Empty for fewer than two models with such an AUC.
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
    are = "is" if within == 1 else "are"
    sentences.append(f"Of all {len(pairs)} differences of ROC AUCs, {within} {are} within noise.")
    return sentences


def one_class(models: Sequence[ReportedModel]) -> bool:
    """Whether the test set has patches of one class only, so that ROC AUCs and curves are undefined."""
    return any(model.test["label"].nunique() < 2 for model in models)


def subgroups(models: Sequence[ReportedModel], groups: pd.DataFrame | None) -> pd.DataFrame:
    """The table of ROC AUC, sensitivity and specificity of each model in parts of the test set, with 95 % intervals.

    `groups`: the test set's groups file, a row a patch in the order of the patches, or None where it is not known; its
    columns density, view, subtlety and box make the parts. A row a part and model, scores as text. Parts with fewer
    than `FEWEST` patients of a class are left out.
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
    """Each part of the test set: the name of the subgroup, its value, and which patches are in it, bool (n,)."""
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
    """The marks of models (phantom data, random weights, …), each once, with semicolons between them."""
    return "; ".join(Disclosure.together(model.result.disclosure for model in models).marks)


def _said(fact: Fact, model: ReportedModel) -> str:
    """The mark of a fact in brackets, to be put behind a label; "" where it does not hold of the model."""
    return f" [{fact.mark}]" if fact in model.result.disclosure else ""
