"""Predictions per patient or per lesion instead of per patch."""

from __future__ import annotations

import numpy.typing as npt
import pandas as pd

from mammo_mlflow.evaluation import weighted


def per_lesion(frame: pd.DataFrame) -> pd.DataFrame:
    """Average the views of each lesion: a row for each lesion, fold and class, in order of first appearance.

    `frame` has columns lesion, label and probability, and where there are several folds fold; a lesion whose views are
    labelled differently counts once for each class. Other columns are those of the lesion's first row.
    """
    by = [name for name in ("lesion", "fold", "label") if name in frame]
    grouped = frame.groupby(by, sort=False)
    return grouped.first().assign(probability=grouped["probability"].mean()).reset_index()


def per_patient(labels: npt.ArrayLike, probabilities: npt.ArrayLike, patient_ids: npt.ArrayLike) -> pd.DataFrame:
    """Average per patient and class: columns patient_id, label (int64), probability (float64), patches (int64).

    The probability is the mean over that patient's patches of that class: the views of an abnormality, and several
    abnormalities of one class, are averaged. A patient with abnormalities of both classes counts once for each, since
    a label is of an abnormality and both are true of that patient; the two rows share a `patient_id`, which is to be
    passed on as `groups`. Rows are in order of first appearance.

    `labels`: int (n,) of 0 and 1; `probabilities`: float (n,) in [0, 1]; `patient_ids`: (n,).
    Raises ValueError for arrays that do not fit together or a missing patient, UserError for probabilities outside
    [0, 1].
    """
    y, p = weighted.checked(labels, probabilities)
    weighted.codes("patient_ids", patient_ids, y.size)
    frame = pd.DataFrame({"patient_id": patient_ids, "label": y, "probability": p})
    grouped = frame.groupby(["patient_id", "label"], sort=False)["probability"]
    return grouped.agg(probability="mean", patches="size").reset_index()
