"""What is taken out of a publication: patients' names, and pixels."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import shutil
from pathlib import Path

import pandas as pd

from mammo_mlflow.tracking.logged_models import DOWNLOAD_NOTE

EXAMPLES = ("input_example.json", "serving_input_example.json")
"""The files of a model that hold training patches."""
OWN = "fit_probability"
"""The column of a fold's own answers, where the published ones are averaged over views."""
COLUMNS = ("patch", "fold", "type", "label", "probability", OWN, "calibrated", "set")
"""The columns of stored tables that name nobody."""
_NAMES = {"patient_id": "patient", "lesion": "lesion"}
_LETTERS = 16


class Pseudonyms:
    """Gives names of patients and lesions others, the same for the same, by a salt that is drawn here and kept nowhere.

    Without the salt no name is found by trying all patients of a collection.
    """

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(32)

    def __call__(self, kind: str, name: str) -> str:
        """The pseudonym of a `patient` or `lesion`, such as `patient-3f…`."""
        return f"{kind}-{hmac.new(self._salt, name.encode(), hashlib.sha256).hexdigest()[:_LETTERS]}"


def publishable(stored: pd.DataFrame, pseudonyms: Pseudonyms | None) -> pd.DataFrame:
    """The columns of a stored table that may be published; patients and lesions by pseudonyms, if there are any.

    `stored` has a row for each abnormality, as `oof.parquet`, `folds.parquet` and `test.parquet` have.
    """
    made = stored[[name for name in COLUMNS if name in stored]].copy()
    for column, kind in _NAMES.items():
        if column in stored:
            names = stored[column].astype(str)
            made[kind] = names if pseudonyms is None else [pseudonyms(kind, name) for name in names]
    return made


def copy_model(model: Path, target: Path, pixels: bool) -> None:
    """Copy a model's files to the folder `target`; without `pixels` its input examples become zeros of their shape."""
    shutil.copytree(model, target, ignore=shutil.ignore_patterns(DOWNLOAD_NOTE))
    for name in () if pixels else EXAMPLES:
        if (target / name).is_file():
            example = json.loads((target / name).read_text(encoding="utf-8"))
            (target / name).write_text(json.dumps(_zeros(example)), encoding="utf-8")


def _zeros(example: object) -> object:
    if isinstance(example, dict):
        return {name: _zeros(value) for name, value in example.items()}
    if isinstance(example, list):
        return [_zeros(value) for value in example]
    return type(example)(0) if isinstance(example, (int, float)) else example
