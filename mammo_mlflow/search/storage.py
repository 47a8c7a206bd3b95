"""Optuna's database of studies: checked and opened, with a lock that processes and machines share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from mammo_mlflow.databases import (
    Look,
    NoAddress,
    Unusable,
    alone_with,
    check_file_writable,
    check_folder_writable,
    clear_parts,
    fault,
    file_of,
    is_filled,
    look_at_server,
    make_whole,
    parse_address,
    wait_until_made,
)
from mammo_mlflow.errors import UserError
from mammo_mlflow.wording import first_line, scrubbed

DEFAULT = "sqlite:///optuna.db"
SQLITE_PATIENCE_SECONDS = 60
SERVER_LOCK = 0x6D616D6D6F
"""The number of PostgreSQL's advisory lock; constant, for machines may reach one server by different addresses."""


def check_address(url: str) -> None:
    """Check, without making a file, that studies can be kept at an address. Raises `UserError`."""
    with _as_user_error(url):
        parsed = parse_address(url)
        file = file_of(parsed)
        if file is not None:
            if not is_filled(file):
                check_folder_writable(file.absolute().parent)
        elif parsed.get_backend_name() != "sqlite":
            _check(look_at_server(parsed))


class Storage:
    """An open database of studies, made where there is none. Raises `UserError` where it cannot be used.

    `rdb` is Optuna's storage; `shown` is the address without its password, `secret` whether it has one.
    """

    def __init__(self, url: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.url, self.shown = url, scrubbed(url)
        self.secret = self.shown != url
        with _as_user_error(url):
            parsed = parse_address(url)
            self._server, self._file = parsed.get_backend_name() == "postgresql", file_of(parsed)
            # relative paths name another database in another directory
            self._name = url if self._file is None else str(self._file.resolve())
            sqlite = parsed.get_backend_name() == "sqlite"
            settings = {"connect_args": {"timeout": SQLITE_PATIENCE_SECONDS}} if sqlite else {"pool_pre_ping": True}
            if not sqlite:
                _check(look_at_server(parsed))
            self._engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
            with self.alone():  # its tables are made by one process
                if self._file is not None:
                    _prepare(self._file)
                self.rdb = RDBStorage(url, engine_kwargs=settings)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of the database, against processes on all machines with PostgreSQL, else on this machine."""
        if not self._server:
            with alone_with("studies", self._name):
                yield
            return
        with self._engine.connect() as connection:  # the server gives the lock back when this is closed
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": SERVER_LOCK})
            yield


@contextmanager
def _as_user_error(url: str) -> Iterator[None]:
    """Turn every error of a database into a `UserError` that does not show its password."""
    try:
        yield
    except NoAddress as problem:
        raise UserError(f"storage: expected a database URL such as {DEFAULT}, found {problem}") from None
    except (Unusable, SQLAlchemyError, StorageInternalError, ImportError, RuntimeError) as problem:
        found = first_line(fault(problem) or problem, url)
        raise UserError(f"storage: expected a database of studies at {scrubbed(url)}, found: {found}") from None


def _prepare(file: Path) -> None:
    """Make a SQLite file with Optuna's tables where there is none, and check it otherwise. Needs the lock."""
    clear_parts(file)
    if wait_until_made(file, lambda seen: seen.revision is not None) is None:
        make_whole(file, lambda address: RDBStorage(address).engine.dispose())
    found = wait_until_made(file, lambda seen: seen.revision is not None)
    if found is not None:
        _check(found)
    check_file_writable(file)


def _check(found: Look) -> None:
    """Raise `Unusable` for another program's database: Optuna would add its tables to it, and then refuse it."""
    if "alembic_version" in found.tables and "studies" not in found.tables:
        raise Unusable("the tables of another program, MLflow's perhaps: each needs its own database")
