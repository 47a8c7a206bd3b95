"""The database of studies: opened once, and one coordinator at a time where it matters."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from mammo_mlflow.errors import UserError

DEFAULT = "sqlite:///optuna.db"
SQLITE_PATIENCE_SECONDS = 60
SERVER_LOCK = 0x6D616D6D6F
"""The lock of a database on a server; constant, for machines may reach the same one by different addresses."""


class Storage:
    """An open database of studies. Raises `UserError` where it cannot be reached or is none."""

    def __init__(self, url: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            shown = f"…@{url.rpartition('@')[2]}" if "@" in url else url  # what stands before may be a password
            raise UserError(f"storage: expected a database URL such as {DEFAULT}, found '{shown}'") from None
        self.url = url
        self.shown = parsed.render_as_string(hide_password=True)
        self._server = parsed.get_backend_name() == "postgresql"
        sqlite = parsed.get_backend_name() == "sqlite"
        # relative paths name another database in another directory
        name = str(Path(parsed.database).resolve()) if sqlite and parsed.database else url
        self._lock = (
            Path(tempfile.gettempdir()) / f"mammo-studies-{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"
        )
        settings = {"connect_args": {"timeout": SQLITE_PATIENCE_SECONDS}} if sqlite else {"pool_pre_ping": True}
        try:
            self._engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
            with self.alone():  # its tables are made by one process
                tables = inspect(self._engine).get_table_names()
                if "alembic_version" in tables and "studies" not in tables:  # Optuna would add its own, then refuse
                    raise RuntimeError("the tables of another program, MLflow's perhaps: each needs its own database")
                self.rdb = RDBStorage(url, engine_kwargs=settings)
        except (SQLAlchemyError, ImportError, RuntimeError) as problem:
            first = str(getattr(problem, "orig", None) or problem).strip().splitlines()[0]
            if self._server and isinstance(problem, ImportError):
                first += " (pip install 'mammo-mlflow[postgresql]')"
            raise UserError(f"storage: expected a database of studies at {self.shown}, found: {first}") from None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One coordinator at a time: on every machine with PostgreSQL, on this machine otherwise."""
        if not self._server:
            with FileLock(self._lock, mode=0o666):
                yield
            return
        with self._engine.connect() as connection:  # the server gives the lock back when this is closed
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": SERVER_LOCK})
            yield
