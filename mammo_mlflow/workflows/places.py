"""Default places of results, beside MLflow's store, as absolute paths."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from mammo_mlflow.tracking.store import SQLITE, store_folder


def report_folder(given: str) -> Path:
    """Return the folder of a report, absolute; by default `report` beside MLflow's store."""
    return Path(given).expanduser().absolute() if given else store_folder() / "report"


def storage_url(given: str) -> str:
    """Return the address of the database of studies, a file by its absolute path; by default beside MLflow's store.

    What is no address at all is returned as it is, for whoever opens it to refuse.
    """
    if not given:
        return f"{SQLITE}{store_folder() / 'optuna.db'}"
    try:
        parsed = make_url(given)
    except (ArgumentError, ValueError):
        return given
    file = parsed.database
    if parsed.get_backend_name() != "sqlite" or not file or file == ":memory:" or file.startswith("file:"):
        return given
    return parsed.set(database=str(Path(file).absolute())).render_as_string(hide_password=False)
