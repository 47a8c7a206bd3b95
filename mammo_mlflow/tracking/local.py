"""Make, repair or upgrade the SQLite file of a tracking store before MLflow itself opens it.

MLflow makes and upgrades a store step by step in the file itself; SQLite cannot take such a step back as a whole, and
no command can open what a kill, a full disk or a second client at the same moment leaves.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import suppress
from pathlib import Path

import mlflow
from alembic.script import ScriptDirectory
from mlflow.store.db import utils as mlflow_database
from mlflow.store.db.base_sql_model import Base
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from mammo_mlflow.databases import (
    Look,
    Unusable,
    clear_parts,
    fault,
    holders,
    make_whole,
    open_file,
    replace_by_copy,
    set_aside,
    wait_until_made,
)

TRIES = 4
TABLES = frozenset(Base.metadata.tables)
OPTUNA = "studies"
"""A table that only Optuna's databases have."""
FILLED = ("runs", "registered_models", "logged_models", "trace_info", "evaluation_datasets")
"""The tables whose rows are a user's work. MLflow experiments but the default one are work too."""

_log = logging.getLogger(__name__)


def make_or_upgrade(path: Path) -> None:
    """Make the store `path` where there is none, make a half-made one anew, upgrade an older one.

    A half-made store without a run in it, and the store before an upgrade, are kept beside it under other names. One
    process at a time may call it. Raises `Unusable` where the file is something else, or cannot be written.
    """
    clear_parts(path)
    revisions = _revisions()
    for _ in range(TRIES):  # whatever was done, another program may have been at work meanwhile
        found = wait_until_made(path, lambda seen: not _unfinished(seen, revisions))
        if found is None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as problem:
                raise Unusable(f"{path.parent}: {problem.strerror}") from None
            make_whole(path, lambda url: SqlAlchemyStore(url, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose())
        elif not _unfinished(found, revisions):
            _check(found, revisions)
            return
        elif _holds_nothing(path):
            if others := holders(path):
                raise Unusable(f"a half-made one that process {others[0]} has open: end that, then repeat")
            kept = set_aside(path, "half-made")
            _log.warning("%s was left half made, without a run: it is made anew, the old one is %s", path, kept.name)
        else:
            kept = _upgraded(path, found.revision)
            _log.warning("%s was made by an older MLflow: it is upgraded, the old one is %s", path, kept.name)
    raise Unusable("one that another program keeps changing")


def check_tables(found: Look) -> None:
    """Refuse a database with the tables of another program, to which MLflow would add its own. Raises `Unusable`."""
    if OPTUNA in found.tables:
        raise Unusable("Optuna's studies: MLflow needs a database of its own")
    if found.tables - {"alembic_version"} and not found.tables & TABLES:
        raise Unusable("the tables of another program")


def _unfinished(found: Look, revisions: list[str]) -> bool:
    """Whether MLflow's tables are not those of this version yet: half made, or an older version's."""
    ours = found.tables <= {"alembic_version"} or bool(found.tables & TABLES)
    return ours and OPTUNA not in found.tables and (found.revision is None or found.revision in revisions[1:])


def _check(found: Look, revisions: list[str]) -> None:
    check_tables(found)
    if found.revision != revisions[0]:
        newer = f"a store of revision {found.revision}, which MLflow {mlflow.__version__} does not know"
        raise Unusable(f"{newer}: it was made by a newer one (pip install -U mlflow)")
    if missing := sorted(TABLES - found.tables):
        raise Unusable(f"a store without its table {missing[0]}")


def newest_revision() -> str:
    """The revision of the tables that this MLflow makes."""
    return _revisions()[0]


def _revisions() -> list[str]:
    """All revisions that this MLflow knows, its own first."""
    scripts = ScriptDirectory.from_config(mlflow_database._get_alembic_config(""))
    return [one.revision for one in scripts.walk_revisions()]


def _holds_nothing(path: Path) -> bool:
    questions = [f"SELECT 1 FROM {table} LIMIT 1" for table in FILLED]
    with open_file(path) as connection:
        for question in (*questions, "SELECT 1 FROM experiments WHERE experiment_id != 0 LIMIT 1"):
            with suppress(sqlite3.OperationalError):  # a table that was not made yet
                if connection.execute(question).fetchone():
                    return False
    return True


def _upgraded(path: Path, revision: str | None) -> Path:
    def upgrade(url: str) -> None:
        mlflow_database._upgrade_db(create_engine(url, poolclass=NullPool))

    try:
        return replace_by_copy(path, upgrade, f"revision-{revision}")
    except Exception as problem:
        said = fault(problem)
        if said is None or isinstance(problem, Unusable):
            raise
        raise Unusable(f"a store of revision {revision} that cannot be upgraded: {said}") from None
