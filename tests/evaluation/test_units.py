from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_mlflow.data.patches import Split
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.units import per_patient


def test_views_are_averaged_and_both_classes_of_a_patient_count():
    patients = ["P_2", "P_1", "P_1", "P_2", "P_1"]
    found = per_patient([1, 0, 0, 1, 1], [0.8, 0.1, 0.3, 0.6, 0.9], patients)
    assert list(found.columns) == ["patient_id", "label", "probability", "patches"]
    assert found[["patient_id", "label", "patches"]].to_numpy().tolist() == [
        ["P_2", 1, 2],
        ["P_1", 0, 2],
        ["P_1", 1, 1],
    ]
    assert found["probability"].to_numpy() == pytest.approx([0.7, 0.2, 0.9])


def test_a_missing_patient_is_refused_rather_than_dropped():
    with pytest.raises(ValueError, match="patient_ids"):
        per_patient([0, 1], [0.1, 0.9], ["P_1", None])
    with pytest.raises(ValueError, match="patient_ids"):
        per_patient([0, 1], [0.1, 0.9], ["P_1"])


LESIONS = pd.DataFrame(
    {
        "lesion": ["a", "b", "a", "b", "c"],
        "fold": [0, 1, 0, 1, 1],
        "label": [1, 0, 1, 1, 0],
        "probability": [0.5, 0.2, 0.7, 0.6, 0.4],
        "patient_id": ["P_1", "P_2", "P_1", "P_2", "P_2"],
        "patch": [0, 1, 2, 3, 4],
    }
)


def test_the_views_of_a_lesion_are_averaged_and_patients_stay_clusters():
    found = OutOfFold.of_frame(LESIONS).by_lesion
    assert found.labels.tolist() == [1, 0, 1, 0]  # b is labelled in two ways, and counts for each
    assert found.probabilities == pytest.approx([0.6, 0.2, 0.6, 0.4])
    assert found.folds.tolist() == [0, 1, 1, 1]
    assert found.patches.tolist() == [0, 1, 3, 4]
    assert found.groups.tolist() == [0, 1, 1, 1]
    assert OutOfFold.of_frame(LESIONS.drop(columns="lesion")).by_lesion is None


def test_masses_and_calcifications_of_one_number_and_unnumbered_ones_are_lesions_apart():
    groups = pd.DataFrame(
        {
            "patient_id": ["P"] * 6,
            "side": ["LEFT"] * 6,
            "abnormality_id": ["1", "1", "1", "2", "", ""],
            "view": [""] * 6,
        }
    )
    types = np.array([1, 2, 3, 1, 1, 1])
    found = Split("train", np.zeros((12, 4, 4), np.uint16), types, groups).lesions
    assert found[0] == found[1]
    assert len(set(found)) == 5
    assert Split("train", np.zeros((12, 4, 4), np.uint16), types, groups.drop(columns="side")).lesions is None
