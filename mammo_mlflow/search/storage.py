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
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from mammo_mlflow.errors import UserError

DEFAULT = "sqlite:///optuna.db"
SQLITE_PATIENCE_SECONDS = 60


class Storage:
    """An open database of studies. Raises `UserError` where it cannot be reached or is none."""

    def __init__(self, url: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise UserError(f"storage: expected a database URL such as {DEFAULT}, found '{url}'") from None
        self.url = url
        self.shown = parsed.render_as_string(hide_password=True)
        self._key = hashlib.sha256(parsed.render_as_string(hide_password=False).encode()).digest()
        self._server = parsed.get_backend_name() == "postgresql"
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database:  # relative paths name another database in another directory
            self._key = hashlib.sha256(str(Path(parsed.database).resolve()).encode()).digest()
        engine = {"connect_args": {"timeout": SQLITE_PATIENCE_SECONDS}} if sqlite else {"pool_pre_ping": True}
        try:
            with self._file_lock():  # its tables are made by one process
                self.rdb = RDBStorage(url, engine_kwargs=engine)
        except (SQLAlchemyError, ImportError, RuntimeError) as problem:
            first = str(getattr(problem, "orig", None) or problem).strip().splitlines()[0]
            raise UserError(f"storage: expected a database that answers at {self.shown}, found: {first}") from None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One coordinator at a time: on every machine with PostgreSQL, on this machine otherwise."""
        if not self._server:
            with self._file_lock():
                yield
            return
        key = int.from_bytes(self._key[:8], "big", signed=True)
        with self.rdb.engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})

    def _file_lock(self) -> FileLock:
        return FileLock(Path(tempfile.gettempdir()) / f"mammo-studies-{self._key.hex()[:16]}.lock", mode=0o666)
