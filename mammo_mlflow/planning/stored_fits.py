"""Fetch finished fits from the store: predictions, history and the tail, which is checked for unsafe content first."""

from __future__ import annotations

import json
import logging

import numpy as np
import pandas as pd

from mammo_mlflow.errors import UserError
from mammo_mlflow.files import read_small
from mammo_mlflow.jobs.contracts import FitResult
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import Artifact
from mammo_mlflow.planning.plan import Fit
from mammo_mlflow.tracking.run_queries import fetch_artifacts
from mammo_mlflow.tracking.vetting import vet_keras

OVER_VIEWS = "probability_over_views"
"""The column of a fit's predictions with the means over all cached views, where it was asked for them."""

_log = logging.getLogger(__name__)


def fetch_fit(bench: Workbench, run_id: str, fit: Fit, need_tail: bool = True) -> FitResult | None:
    """Fetch a finished fit from its MLflow run; None where files are missing, damaged, unsafe or of other rows.

    A study keeps the tails of few trials; without `need_tail` a fit without one counts as complete.
    """
    writer, target = bench.writer, bench.scratch / f"reused-{fit.key}"
    folder = writer.ask(lambda: fetch_artifacts(writer.client, run_id, Artifact.FIT, target))
    try:
        if folder is None:
            return None
        facts = json.loads(read_small(folder / Artifact.FACTS, 20_000_000))
        probabilities, over_views = np.zeros(0), None
        if len(fit.validation_rows):
            stored = pd.read_parquet(folder / Artifact.PREDICTIONS)
            if not np.array_equal(stored["patch"], fit.validation_rows):
                return None
            probabilities = stored["probability"].to_numpy()
            over_views = stored[OVER_VIEWS].to_numpy() if OVER_VIEWS in stored else None
        tail = folder / Artifact.TAIL
        if need_tail or tail.exists():
            vet_keras(tail)
        return FitResult(
            probabilities=probabilities,
            over_views=over_views,
            tail=tail if tail.exists() else None,
            **facts,
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # damaged: it is trained again
        return None
    except UserError as problem:
        _log.warning("%s of run %s is not used: %s", fit.name, run_id, problem)
        return None
