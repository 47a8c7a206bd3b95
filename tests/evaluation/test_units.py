from __future__ import annotations

import pytest

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
