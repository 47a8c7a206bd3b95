"""`predict`: a registered model asked of patches in a file, its answers written as a table."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_mlflow.data.arrays import check_tensor
from mammo_mlflow.errors import expected
from mammo_mlflow.experiment import ABNORMALITY_TYPE, ROWS
from mammo_mlflow.tracking.registry import Verified, verified_model
from mammo_mlflow.tracking.store import open_store
from mammo_mlflow.training.executors import make_executor
from mammo_mlflow.training.jobs import Job, PredictJob
from mammo_mlflow.workflows.options import available_cores
from mammo_mlflow.workflows.terminal import TerminalProgress, say

TARGETS = {
    "keras": "mammo_mlflow.training.assemble:predict",
    "ensemble": "mammo_mlflow.ensembles.assemble:answer",
}
"""What asks a model of each kind (`Verified.kind`), in a child."""
TENSOR = "public_test_tensor.npy"

_log = logging.getLogger(__name__)


def run(model: str, source: str, output: str, executor: str) -> None:
    """Ask `model` of every pair in `source`, a data directory (its test set) or a tensor file, and write `output`.

    A row for each abnormality: its row in the file, probability, decision at the stored threshold and, of an ensemble,
    each member's probability. Raises `UserError` before anything is written.
    """
    target = Path(output)
    if not output or target.is_dir() or not target.absolute().parent.is_dir():
        raise expected("output", "a file in a directory that exists", f"'{output}'")
    given = Path(source).expanduser()
    tensor = given / TENSOR if given.is_dir() else given
    client, _ = open_store()
    with tempfile.TemporaryDirectory() as folder, TerminalProgress() as progress:
        found = verified_model(client, model, Path(folder))
        sides = {name: ROWS[name] for name in found.inputs if name in ROWS}
        if ABNORMALITY_TYPE in found.inputs:
            raise expected("model", "one that is asked of patches alone", f"{found.version}, which needs the true type")
        check_tensor(tensor, found.image_size)
        threads = available_cores() if executor == "process" else 1  # TensorFlow takes them once in a process
        job = PredictJob(found.path, tensor, threads, sides)
        workers = make_executor(executor, 1)
        try:
            ((_, given_back),) = workers.run(
                [Job("predict", TARGETS[found.kind], job)],
                lambda _, event: progress.update("predict", event["done"], event["total"]),
                lambda: None,
            )
        finally:
            workers.close()
        answers = np.asarray(given_back)
        _write(found, answers, target)
    say(f"{len(answers)} abnormalities by {found.version} (threshold {found.threshold:g}): {target}")
    if found.phantom:
        say("PHANTOM DATA: a model that was trained on synthetic patches, no medical result")


def _write(found: Verified, answers: np.ndarray, target: Path) -> None:
    probability = answers if answers.ndim == 1 else answers[:, 0]
    table = {"row": 2 * np.arange(len(answers)) + ROWS["patch"], "probability": probability}
    table["decision"] = (probability >= found.threshold).astype(int)
    if answers.ndim > 1:
        table |= dict(zip(found.columns[2:], answers[:, 2:].T, strict=True))
    with tempfile.NamedTemporaryFile("w", dir=target.absolute().parent, suffix=".part", delete=False) as file:
        part = Path(file.name)
    try:
        pd.DataFrame(table).to_csv(part, index=False)
        part.chmod(0o644)
        shutil.move(part, target)
    finally:
        part.unlink(missing_ok=True)
