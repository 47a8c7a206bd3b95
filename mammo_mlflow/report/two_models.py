"""Two models on the same patches: their paired differences, the settings that differ, where they disagree most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_mlflow.disclosure import Disclosure
from mammo_mlflow.errors import expected
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.out_of_fold import CALIBRATED, OutOfFold
from mammo_mlflow.evaluation.paired import Verdict, verdict

OUT_OF_FOLD, TEST = "out-of-fold", "test"
MOST_PATCHES = 12
"""Patches on which two models disagree most, as they are shown."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparedModel:
    """A model to compare: its predictions, what they are of, and the number of settings that it was chosen among.

    `oof` and `test` are frames with the columns label, probability and patch (`oof` with fold), and patient_id where
    known; `test` is None where no final model was made. Predictions are compared where `trained_on` and `tested_on`,
    the data set's sha256 and the task, agree. `decided_at` is its threshold, `folds` the figure of its folds;
    `run_ids` are its cross-validation's and its final model's.
    """

    label: str
    oof: pd.DataFrame
    test: pd.DataFrame | None
    trained_on: tuple[str | None, str | None]
    tested_on: tuple[str | None, str | None]
    chosen_among: int = 1
    decided_at: float = 0.5
    settings: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    disclosure: Disclosure = field(default_factory=Disclosure)
    folds: Path | None = None
    run_ids: tuple[str, str] = ("", "")


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoModels:
    """Two models compared: verdicts and both models' predictions by what they are of, and what differs.

    `settings`: name and both values of each that is not the same. `disagreements` are the patches of `predictions` with
    the largest differences, of `patches` in all, of which `decided_otherwise` are decided otherwise.
    """

    first: ComparedModel
    second: ComparedModel
    objective: str
    verdicts: Mapping[str, tuple[Verdict, int]]
    frames: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]
    settings: Sequence[tuple[str, str, str]]
    predictions: str
    disagreements: pd.DataFrame
    decided_otherwise: int

    @property
    def patches(self) -> int:
        """The number of patches whose decisions were compared."""
        return self.verdicts[self.predictions][1]

    @property
    def sentences(self) -> list[str]:
        """The verdicts in words."""
        return [f"{name}: {one.sentence}" for name, (one, _) in self.verdicts.items()]

    @property
    def disclosure(self) -> Disclosure:
        """The facts about either model."""
        return Disclosure.together([self.first.disclosure, self.second.disclosure])


def compare(first: ComparedModel, second: ComparedModel, objective: str) -> TwoModels:
    """Compare two models. Raises `UserError` where they have no predictions of the same patches."""
    verdicts = paired_verdicts(first, second, objective)
    frames = {}
    for name in verdicts:
        both = (_judged(first.oof), _judged(second.oof)) if name == OUT_OF_FOLD else (first.test, second.test)
        one, two = (frame.sort_values("patch", ignore_index=True) for frame in both if frame is not None)
        frames[name] = one, two
    predictions = TEST if TEST in verdicts else OUT_OF_FOLD
    table, otherwise = disagreements(first, second, *frames[predictions])
    return TwoModels(
        first=first,
        second=second,
        objective=objective,
        verdicts=verdicts,
        frames=frames,
        settings=settings_that_differ(first, second),
        predictions=predictions,
        disagreements=table,
        decided_otherwise=otherwise,
    )


def _judged(oof: pd.DataFrame) -> pd.DataFrame:
    """Out-of-fold predictions as they are judged: recalibrated where they were."""
    return oof.assign(probability=oof[CALIBRATED]) if CALIBRATED in oof else oof


def paired_verdicts(first: ComparedModel, second: ComparedModel, objective: str) -> dict[str, tuple[Verdict, int]]:
    """Compare two models in a metric, out of fold and on the test set: verdict and number of patches by predictions.

    Out of fold the interval accounts for the settings that either was chosen among. Raises `UserError` where neither
    out-of-fold nor test predictions are of the same patches.
    """
    (asked,) = parse_objectives(objective)
    names, found = (first.label, second.label), dict[str, tuple[Verdict, int]]()
    mine, others = OutOfFold.of_frame(first.oof), OutOfFold.of_frame(second.oof)
    if mine.same_patches(others) and first.trained_on == second.trained_on:
        arrays = mine.labels, mine.probabilities, others.probabilities, mine.folds, mine.groups
        among = first.chosen_among * second.chosen_among
        found[OUT_OF_FOLD] = verdict(asked, *arrays, names=names, compared=among), len(mine.labels)
    if (tests := tests_of_both(first, second)) is not None:
        test, of_other = tests
        probabilities = test["probability"], of_other["probability"]
        groups = test.get("patient_id")
        found[TEST] = verdict(asked, test["label"], *probabilities, groups=groups, names=names), len(test)
    if not found:
        raise expected("compare", "models of the same patches and folds", f"{names[0]}, and {names[1]} of others")
    return found


def tests_of_both(first: ComparedModel, second: ComparedModel) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The test predictions of two models in one order of patches; None where they are not of the same test set."""
    if first.test is None or second.test is None or first.tested_on != second.tested_on:
        return None
    test, of_other = (one.sort_values("patch", ignore_index=True) for one in (first.test, second.test))
    return (test, of_other) if np.array_equal(test["label"], of_other["label"]) else None


def settings_that_differ(first: ComparedModel, second: ComparedModel) -> list[tuple[str, str, str]]:
    """Name and both values of each setting that is not the same in both; "" where a model has no such setting."""
    names = [*first.settings, *(name for name in second.settings if name not in first.settings)]
    pairs = [(name, first.settings.get(name, ""), second.settings.get(name, "")) for name in names]
    return [one for one in pairs if one[1] != one[2]]


def disagreements(
    first: ComparedModel, second: ComparedModel, mine: pd.DataFrame, others: pd.DataFrame
) -> tuple[pd.DataFrame, int]:
    """The patches on which two models disagree most, and the number on which they decide otherwise.

    `mine` and `others` are their predictions of the same patches in one order. Columns patch, label, first, second
    (probabilities), right (which decides as the label says: first, second, both or neither), the largest difference
    first.
    """
    labels, p, q = (column.to_numpy() for column in (mine["label"], mine["probability"], others["probability"]))
    one, two = (p >= first.decided_at) == labels, (q >= second.decided_at) == labels
    right = np.select([one & two, one, two], ["both", "first", "second"], "neither")
    table = pd.DataFrame({"patch": mine["patch"], "label": labels, "first": p, "second": q, "right": right})
    order = np.argsort(-np.abs(p - q), kind="stable")[:MOST_PATCHES]
    return table.iloc[order].reset_index(drop=True), int((one != two).sum())
