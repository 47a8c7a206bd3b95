"""What a child process is asked for when an ensemble becomes one model. Free of Keras, as `training/jobs.py` is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..training.jobs import Part

MEMBERS, LEVEL1, FACTS = "members.keras", "level1.npz", "ensemble.json"
"""The files of a served ensemble: one Keras model of all members, level 1 as arrays, and names and threshold."""


@dataclass(frozen=True)
class EnsembleJob:
    """Write the ensemble as an MLflow model directory `target`.

    `parts` are the members in the order of `names`; `level1` is the file of arrays, `examples` patches (m, size, size,
    1) by input. The threshold decides; `metadata` is kept in the model.
    """

    parts: tuple[Part, ...]
    names: tuple[str, ...]
    level1: Path
    threshold: float
    examples: dict[str, np.ndarray]
    metadata: dict[str, Any]
    target: Path
