"""Where on this machine the tracking store lies."""

from __future__ import annotations

from pathlib import Path

import mlflow

from mammo_mlflow.tracking.store import store_id

SQLITE = "sqlite:///"


def store_folder() -> Path:
    """The folder of the store's SQLite file, absolute; the current one where the store is something else."""
    named = store_id(mlflow.get_tracking_uri())
    return Path(named.removeprefix(SQLITE)).parent if named.startswith(SQLITE) else Path.cwd()
