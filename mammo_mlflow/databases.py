"""Databases before a library opens them: what stands at an address, and SQLite files that appear whole or not at all.

MLflow and Optuna make their tables one by one in the file itself, so that a kill or a full disk leaves one that neither
can open again, and MLflow tries for minutes to open what is no database. Here all of that is known in milliseconds.
"""

from __future__ import annotations

import difflib
import os
import socket
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from mammo_mlflow.files import locked, shared_lock, unwritable
from mammo_mlflow.wording import first_line, scrubbed

PACKAGES = {
    "psycopg": "'mammo-mlflow[postgresql]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "mysql": "mysql-connector-python",
}
"""What brings a driver's module, where that is called otherwise."""
KINDS = ("sqlite", "postgresql", "mysql", "mariadb", "mssql", "oracle")
CONNECT_SECONDS = 5
STILL_SECONDS = 4.0
"""After how long a half-made file that nobody holds open is one that nobody is making any more."""
LOCK_SECONDS = 60.0
MAGIC = b"SQLite format 3\0"


class Unusable(Exception):  # noqa: N818 - what was found instead
    """There is no database that can be used: the text is what was found, in one line without secrets."""


class NoAddress(Unusable):
    """What was given is no address of a database that anybody knows."""


class Unreadable(Unusable):
    """SQLite could not read or write it just now, as while another program makes it."""


@dataclass(frozen=True)
class Look:
    """What a database holds: the names of its tables, and the revision that alembic wrote into it."""

    tables: frozenset[str]
    revision: str | None


def parse(url: str) -> URL:
    """A database's URL, its driver at hand. Raises `Unusable`, saying what was meant or which package is missing."""
    kind, _, rest = url.partition(":")
    if kind.partition("+")[0] == "sqlite" and not rest.startswith("///") and rest.strip("/"):
        file = rest.lstrip("/")
        meant = f"{kind}:///{'/' if rest.startswith('/') and '/' in file else ''}{file}"
        raise NoAddress(f"'{url}', did you mean '{meant}'? (three slashes and a file, four where its path begins at /)")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise NoAddress(f"'{scrubbed(url)}'") from None
    try:
        parsed.get_dialect().import_dbapi()
    except NoSuchModuleError:
        close = difflib.get_close_matches(parsed.get_backend_name(), KINDS, n=1)
        meant = f", did you mean '{close[0]}'?" if close else f" (known are {', '.join(KINDS)})"
        raise NoAddress(f"'{scrubbed(url)}', of the unknown kind '{parsed.drivername}'{meant}") from None
    except ImportError as problem:
        module = (problem.name or parsed.get_driver_name()).partition(".")[0]
        package = PACKAGES.get(module, module)
        raise Unusable(f"no driver for {parsed.drivername}: pip install {package}") from None
    return parsed


def file_of(parsed: URL) -> Path | None:
    """The SQLite file of an address, however it is spelled; None for a server, or a database in memory."""
    name = parsed.database or ""
    if parsed.get_backend_name() != "sqlite" or name in ("", ":memory:") or name.startswith("file:"):
        return None
    return Path(name).absolute()


def sqlite_url(path: Path) -> str:
    """The address of a SQLite file. Only what has to be is escaped: MLflow makes the folder of the address as it is."""
    return f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def is_filled(path: Path) -> bool:
    """Whether there is a SQLite file that is not empty, told by its first bytes. Raises `Unusable` for another file."""
    try:
        kind = path.stat()
        if not stat.S_ISREG(kind.st_mode):
            raise Unusable("a directory" if stat.S_ISDIR(kind.st_mode) else "something that is no file")
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except FileNotFoundError:
        return False
    except OSError as problem:
        raise Unusable(f"{path}: {problem.strerror}") from None
    if start not in (b"", MAGIC):
        raise Unusable("a file that is no SQLite database")
    return bool(start)


def look(path: Path) -> Look | None:
    """What a SQLite file holds; None where there is no file, or an empty one. Raises `Unusable` for anything else."""
    if not is_filled(path):
        return None
    with open_file(path) as connection:
        tables = frozenset(name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'"))
        found = connection.execute("SELECT * FROM alembic_version").fetchone() if "alembic_version" in tables else None
    return Look(tables, found[0] if found else None)


@contextmanager
def open_file(path: Path) -> Iterator[sqlite3.Connection]:
    """A SQLite file that is there, in this thread. Raises `Unusable` for what SQLite says against it."""
    try:
        address = f"{path.absolute().as_uri()}?mode=rw"  # to write only what a killed process left half written
        with closing(sqlite3.connect(address, uri=True, timeout=CONNECT_SECONDS)) as connection:
            yield connection
    except sqlite3.Error as problem:
        raise Unreadable(first_line(problem)) from None


def look_at_server(parsed: URL) -> Look:
    """What a database on a server holds. Raises `Unusable` where it does not answer within seconds."""
    url = parsed.render_as_string(hide_password=False)
    timed = parsed.get_driver_name() in ("psycopg", "psycopg2", "pymysql", "mysqldb")
    settings = {"connect_args": {"connect_timeout": CONNECT_SECONDS}} if timed else {}
    try:
        with create_engine(url, poolclass=NullPool, **settings).connect() as connection:
            tables = frozenset(inspect(connection).get_table_names())
            versions = "SELECT version_num FROM alembic_version"
            found = connection.execute(text(versions)).fetchone() if "alembic_version" in tables else None
    except (SQLAlchemyError, ValueError) as problem:
        raise Unusable(first_line(getattr(problem, "orig", None) or problem, url)) from None
    return Look(tables, found[0] if found else None)


@contextmanager
def alone_with(purpose: str, name: str, patience: float = -1) -> Iterator[None]:
    """One process of this machine at a time; `name` says with what. Raises `Unusable` after `patience` seconds."""
    file = shared_lock(purpose, name)
    taken = Unusable(f"another command that has been opening it for {patience:.0f} s")
    with ExitStack() as held:
        try:
            held.enter_context(locked(file, taken, patience, mode=0o666))
        except OSError as problem:
            raise Unusable(f"no lock on it: {file}: {problem.strerror}") from None
        yield


def make_whole(path: Path, make: Callable[[str], object]) -> None:
    """Let `make` fill a new SQLite file beside `path`, which gets that name when it is whole.

    Where another program was faster its file stays and ours goes; an empty file is replaced. Raises `Unusable` where
    nothing can be written, and whatever `make` raises. Called alone.
    """
    with _beside(path) as part:
        make(sqlite_url(part))
        if path.exists() and not path.stat().st_size:
            part.replace(path)
        else:
            _give_name(part, path)


def check_folder_writable(folder: Path) -> None:
    """Raises `Unusable` where no file can be made in a folder, as beside a SQLite database that is written to."""
    if why := unwritable(folder):
        raise Unusable(f"{folder}: {why}")


def check_file_writable(path: Path) -> None:
    """Raises `Unusable` where a SQLite file that is there cannot be written, nor what SQLite puts beside it."""
    check_folder_writable(path.parent)
    if not os.access(path, os.W_OK):
        raise Unusable(f"{path}: a file that may not be written")


def clear_parts(path: Path) -> None:
    """Remove what commands on this machine that were killed while they made `path` have left. Called alone."""
    for left in path.parent.glob(f".{path.name}.{socket.gethostname()}-*"):
        with suppress(OSError):
            left.unlink()


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """The name of a new file beside `path`, of which nothing stays. Raises `Unusable` where none can be written."""
    check_folder_writable(path.parent)
    clear_parts(path)
    try:
        yield path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}")
    finally:
        clear_parts(path)


def _give_name(part: Path, path: Path) -> None:
    """Give a file its name, unless that is taken."""
    try:
        os.link(part, path)
    except FileExistsError:
        return
    except OSError:  # a disk without hard links
        if not path.exists():
            part.replace(path)


def wait_until_made(path: Path, whole: Callable[[Look], bool], patience: float = 30.0) -> Look | None:
    """Wait while another program makes a file; what it holds then. `whole` says whether nothing more is to come.

    Raises `Unusable` where it is still being made after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        found, problem = None, None
        try:
            found = look(path)
        except Unreadable as one:
            problem = one
        if found is not None and whole(found):
            return found
        still = _still_seconds(path)
        if still > 2 * STILL_SECONDS or (still > STILL_SECONDS and not holders(path)):
            if problem is not None:
                raise problem
            return found
        if time.monotonic() > deadline:
            raise problem or Unusable(f"one that is still being made after {patience:.0f} s")
        time.sleep(0.2)


def _still_seconds(path: Path) -> float:
    """For how long a file has not been changed; for ever where there is none."""
    try:
        return abs(time.time() - path.stat().st_mtime)
    except OSError:
        return float("inf")


def holders(path: Path) -> list[int]:
    """The ids of this machine's other processes that have a file open, as far as this user may see."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and any(path.samefile(one.path) for one in process.open_files()):
                found.append(process.pid)
    return found


def set_aside(path: Path, why: str) -> Path:
    """Give a file another name beside its own, e.g. mlflow.db.broken-1; the name."""
    kept = _free_name(path, why)
    path.replace(kept)
    for end in ("-journal", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + end).replace(kept.with_name(kept.name + end))
    return kept


def _free_name(path: Path, why: str) -> Path:
    """A name beside a file's own that nothing has yet."""
    names = (path.with_name(f"{path.name}.{why}-{number}") for number in count(1))
    return next(kept for kept in names if not kept.exists())


def replace_by_copy(path: Path, change: Callable[[str], object], why: str) -> Path:
    """Let `change` work on a copy of a SQLite file and put that in its place; the name under which the old one stays.

    Whatever happens meanwhile, `path` is the old file or the changed one. Raises `Unusable` where another program has
    it open, whose writes would go into the old one. Called alone.
    """
    if others := holders(path):
        raise Unusable(f"an older one, to be upgraded, that process {others[0]} has open: end that, then repeat")
    try:
        with _beside(path) as part, open_file(path) as source:
            source.execute("PRAGMA journal_mode=DELETE")  # a write-ahead log beside it would be taken for the new one's
            source.isolation_level = None
            source.execute("BEGIN IMMEDIATE")
            with open_file(path) as reader, closing(sqlite3.connect(part)) as copy:
                reader.backup(copy)
            change(sqlite_url(part))
            kept = _free_name(path, why)
            os.link(path, kept)
            part.replace(path)
    except OSError as problem:
        raise Unusable(f"{problem.filename or path}: {problem.strerror}") from None
    return kept


def fault(problem: BaseException) -> str | None:
    """What a database says in an exception or in its causes, in one line; None where there is none among them."""
    seen: BaseException | None = problem
    while seen is not None:
        if isinstance(seen, SQLAlchemyError):
            return first_line(getattr(seen, "orig", None) or seen)
        if isinstance(seen, (sqlite3.Error, Unusable)) or type(seen).__module__.startswith("alembic."):
            return first_line(seen)
        seen = seen.__cause__
    return None
