"""Check databases before MLflow or Optuna opens them, and make SQLite files that appear whole or not at all.

MLflow and Optuna make their tables one by one in the file itself, so that a kill or a full disk leaves one that neither
can open again, and MLflow tries for minutes to open what is no database. Here all of that is found in milliseconds.
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

from mammo_mlflow.errors import how_to_install
from mammo_mlflow.files import locked, shared_lock, unwritable
from mammo_mlflow.findings import BROKEN, FINE, ODD, Finding
from mammo_mlflow.servers import NoAnswer, in_time
from mammo_mlflow.wording import first_line, scrubbed

PACKAGES = {
    "psycopg": "mammo-mlflow[postgresql]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "mysql": "mysql-connector-python",
}
"""The packages of drivers' modules, where their names differ."""
KINDS = ("sqlite", "postgresql", "mysql", "mariadb", "mssql", "oracle")
CONNECT_SECONDS = 5
STILL_SECONDS = 4.0
"""Seconds without a change after which nobody is making a half-made file that no process has open."""
LOCK_SECONDS = 60.0
MAGIC = b"SQLite format 3\0"


class Unusable(Exception):  # noqa: N818 - what was found instead
    """Raised for a database that cannot be used; the message is one line without secrets."""


class NoAddress(Unusable):
    """Raised for a text that is no address of any known kind of database."""


class Unreadable(Unusable):
    """Raised where a SQLite file cannot be read or written just now, as while another program makes it."""


@dataclass(frozen=True)
class Look:
    """A database's table names, and the revision that alembic stored in it, if any."""

    tables: frozenset[str]
    revision: str | None


def parse_address(url: str) -> URL:
    """Read a database's address, and check that its driver is installed.

    Raises `Unusable`, which says what may be meant or which package is missing.
    """
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
        how = how_to_install(PACKAGES.get(module, module))
        raise Unusable(f"no driver for {parsed.drivername}: {how}") from None
    return parsed


def file_of(parsed: URL) -> Path | None:
    """The absolute path of an address's SQLite file; None for a server, or a database in memory."""
    name = parsed.database or ""
    if parsed.get_backend_name() != "sqlite" or name in ("", ":memory:") or name.startswith("file:"):
        return None
    return Path(name).absolute()


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of a SQLite file, with as little escaped as possible: MLflow makes its folder unescaped."""
    return f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def is_filled(path: Path) -> bool:
    """Whether a path is a SQLite file that is not empty, by its first bytes. Raises `Unusable` for other files."""
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
    """Read table names and revision of a SQLite file; None if missing or empty. Raises `Unusable` for other files."""
    if not is_filled(path):
        return None
    with open_file(path) as connection:
        tables = frozenset(name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'"))
        found = connection.execute("SELECT * FROM alembic_version").fetchone() if "alembic_version" in tables else None
    return Look(tables, found[0] if found else None)


@contextmanager
def open_file(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an existing SQLite file, for this thread. Raises `Unreadable` with what SQLite says where it cannot."""
    try:
        address = f"{path.absolute().as_uri()}?mode=rw"  # to write only what a killed process left half written
        with closing(sqlite3.connect(address, uri=True, timeout=CONNECT_SECONDS)) as connection:
            yield connection
    except sqlite3.Error as problem:
        raise Unreadable(first_line(problem)) from None


def look_at_server(parsed: URL) -> Look:
    """Read table names and revision of a database on a server. Raises `Unusable` if none answers within seconds."""
    url = parsed.render_as_string(hide_password=False)
    timed = parsed.get_driver_name() in ("psycopg", "psycopg2", "pymysql", "mysqldb")
    settings = {"connect_args": {"connect_timeout": CONNECT_SECONDS}} if timed else {}

    def ask() -> Look:
        with create_engine(url, poolclass=NullPool, **settings).connect() as connection:
            tables = frozenset(inspect(connection).get_table_names())
            versions = "SELECT version_num FROM alembic_version"
            found = connection.execute(text(versions)).fetchone() if "alembic_version" in tables else None
        return Look(tables, found[0] if found else None)

    try:
        return in_time(ask)
    except (SQLAlchemyError, ValueError, NoAnswer) as problem:
        raise Unusable(first_line(getattr(problem, "orig", None) or problem, url)) from None


@contextmanager
def alone_with(purpose: str, name: str, patience: float = -1) -> Iterator[None]:
    """Hold this machine's lock on the database `name`. Raises `Unusable` after `patience` seconds (below 0: never)."""
    file = shared_lock(purpose, name)
    taken = Unusable(f"another command that has been opening it for {patience:.0f} s")
    with ExitStack() as held:
        try:
            held.enter_context(locked(file, taken, patience, mode=0o666))
        except OSError as problem:
            raise Unusable(f"no lock on it: {file}: {problem.strerror}") from None
        yield


def make_whole(path: Path, make: Callable[[str], object]) -> None:
    """Make the SQLite file `path`: `make` fills a new one beside it, which gets that name when it is whole.

    Where another program was faster its file stays and ours goes; an empty file is replaced. Raises `Unusable` where
    nothing can be written, and whatever `make` raises. One process at a time may call it.
    """
    with _beside(path) as part:
        make(sqlite_url(part))
        if path.exists() and not path.stat().st_size:
            part.replace(path)
        else:
            _give_name(part, path)


def check_folder_writable(folder: Path) -> None:
    """Check that files can be made in a folder, as SQLite does beside a database. Raises `Unusable`."""
    if why := unwritable(folder):
        raise Unusable(f"{folder}: {why}")


def check_file_writable(path: Path) -> None:
    """Check that an existing SQLite file, and what SQLite puts beside it, can be written. Raises `Unusable`."""
    check_folder_writable(path.parent)
    if not os.access(path, os.W_OK):
        raise Unusable(f"{path}: a file that may not be written")


def clear_parts(path: Path) -> None:
    """Remove what killed commands of this machine left beside `path`. One process at a time may call it."""
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
    """Wait while another program makes a SQLite file, then read what `look` reads; None where there is no file.

    `whole` tells from table names and revision whether the file is complete.

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
    """The ids of other processes on this machine that have a file open, as far as this user may see."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and any(path.samefile(one.path) for one in process.open_files()):
                found.append(process.pid)
    return found


def set_aside(path: Path, why: str) -> Path:
    """Rename a SQLite file beside its own name, as `mlflow.db.half-made-1`, and return the new path."""
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
    """Change a copy of a SQLite file, put it in the file's place, and return the path under which the old one stays.

    Whatever happens meanwhile, `path` is the old file or the changed one. Raises `Unusable` where another program has
    it open, whose writes would go into the old one. One process at a time may call it.
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
    """The database's message in an exception or its causes, in one line; None where no database raised it."""
    seen: BaseException | None = problem
    while seen is not None:
        if isinstance(seen, SQLAlchemyError):
            return first_line(getattr(seen, "orig", None) or seen)
        if isinstance(seen, (sqlite3.Error, Unusable)) or type(seen).__module__.startswith("alembic."):
            return first_line(seen)
        seen = seen.__cause__
    return None


def examine(where: str, url: str, revision: str | None = None) -> Finding:
    """Look at the SQLite file of an address: is it whole, free, and of the `revision` that it should be of, if any?"""
    file = None
    try:
        file = file_of(parse_address(url))
        if file is None or not is_filled(file):
            return Finding(FINE, where, "none yet", "the first command makes it")
        found = look(file)
        with open_file(file) as connection:
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if said != "ok":
                return Finding(BROKEN, where, f"a damaged file ({first_line(said)})", "restore a backup")
            connection.execute("PRAGMA busy_timeout = 2000")
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except Unusable as problem:
        others = [] if file is None or not file.is_file() else holders(file)
        who = f"end process {others[0]}, which has it open" if others else "look at address, rights and disk"
        return Finding(BROKEN, where, first_line(problem, url), who)
    size = f"{file.stat().st_size / 1e6:.1f} MB, whole, not locked"
    if revision is not None and found is not None and found.revision != revision:
        return Finding(ODD, where, f"{size}, of schema {found.revision}", "the next command upgrades it, with a copy")
    return Finding(FINE, where, size)
