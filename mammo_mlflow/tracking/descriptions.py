"""Write the descriptions, in Markdown, that MLflow shows on the pages of runs and of versions of registered models."""

from __future__ import annotations

import logging

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from mammo_mlflow.tracking.run_queries import figures_of
from mammo_mlflow.wording import first_line, scrubbed

_log = logging.getLogger(__name__)


def figures_told(run_id: str) -> list[str]:
    """The paths of a run's figures, in order; none where the store does not say."""
    try:
        return list(figures_of(MlflowClient(), run_id).values())
    except (MlflowException, OSError):
        return []


def describe_run(run_id: str, text: str) -> None:
    """Write a run's description. What the run holds does not depend on it: a store that refuses it is a warning."""
    try:
        MlflowClient().set_tag(run_id, MLFLOW_RUN_NOTE, scrubbed(text))
    except (MlflowException, OSError) as problem:
        _log.warning("the run's description was not written: %s", first_line(problem))


def describe_version(client: MlflowClient, name: str, number: int, text: str) -> None:
    """Write the description of a version of a registered model."""
    client.update_model_version(name, str(number), description=scrubbed(text))
