"""Open the tracking store: check its address and file, make or upgrade it under a lock, return a client."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

import mlflow
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from mammo_mlflow.databases import (
    LOCK_SECONDS,
    Unusable,
    alone_with,
    check_file_writable,
    check_folder_writable,
    fault,
    file_of,
    is_filled,
    look_at_server,
    parse_address,
)
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.files import default_cache
from mammo_mlflow.names import EXPERIMENT
from mammo_mlflow.tracking.artifacts import StoreClient, check_artifacts
from mammo_mlflow.tracking.local import check_tables, make_or_upgrade
from mammo_mlflow.tracking.requests import given_run
from mammo_mlflow.tracking.runs import Writer
from mammo_mlflow.tracking.server import look_at_mlflow
from mammo_mlflow.tracking.undelivered import UNDELIVERED, deliver_writes
from mammo_mlflow.wording import NO_SECRETS, first_line, scrubbed

SQLITE = "sqlite:///"
DATABASES = ("sqlite", "postgresql", "postgres", "mysql", "mssql")
"""The schemes of addresses that mean a database; MLflow knows all but `postgres`, which is said to be `postgresql`."""
TRIES, PAUSE_SECONDS = 5, 1.0
RESERVED_BYTES = 256 * 1024

TrackingError = MlflowException
"""What MLflow raises for a request that it refuses."""
UNAVAILABLE = "TEMPORARILY_UNAVAILABLE"
"""Its `error_code` where a database could not do what it was asked, as on a full disk."""

T = TypeVar("T")


def check_store() -> None:
    """Check the store's address, file and folder without opening it, and that a server answers. Raises `UserError`.

    For commands that need the store only after long work.
    """
    for uri in dict.fromkeys((mlflow.get_tracking_uri(), mlflow.get_registry_uri())):
        with _telling(uri):
            file = _checked(uri)
            if file is not None and not is_filled(file):
                check_folder_writable(next(folder for folder in file.absolute().parents if folder.is_dir()))


def settle_requests() -> None:
    """Set how MLflow asks, where the environment does not say, and which of its log lines and addresses are shown."""
    # the writer keeps and tries again itself: here a request that was done, though no answer came, would be done twice
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # or a server that hangs keeps the command from training
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # the command shows its own progress
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with the password that is in it
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of what is said in a line here
    for handler in logging.getLogger("mlflow").handlers:
        handler.addFilter(NO_SECRETS)


def open_client() -> MlflowClient:
    """Open the tracking store, `MLFLOW_TRACKING_URI` or `sqlite:///mlflow.db`, for reading; return MLflow's client.

    Raises `UserError`, in seconds, where there is no store to be had, and where a SQLite file is not there or empty.
    """
    check_there(mlflow.get_tracking_uri())
    return _opened()


def _opened() -> MlflowClient:
    """MLflow's client of the tracking store, whose tables are made where there are none."""
    settle_requests()
    files = {}
    for one in dict.fromkeys((uri := mlflow.get_tracking_uri(), mlflow.get_registry_uri())):
        with _telling(one):
            files[one] = _checked(one)
    for one, file in files.items():
        if file is not None:
            with _telling(one), alone_with("store", store_id(one), LOCK_SECONDS):
                make_or_upgrade(file)
    with _telling(uri), alone_with("store", store_id(uri), LOCK_SECONDS):
        return _patiently(lambda: StoreClient(uri))  # which makes the tables of a fresh database on a server


def open_store() -> tuple[MlflowClient, str]:
    """Open the tracking store for writing; return MLflow's client and the id of the MLflow experiment of new runs.

    The experiment is that of the run that `mlflow run` made, if any, else `MLFLOW_EXPERIMENT_ID`, else
    `MLFLOW_EXPERIMENT_NAME`, else `mammo`, made where there is none, and so is a SQLite store. Raises `UserError`, in
    seconds, where there is no store to be had, and where store or artifacts cannot be written.
    """
    client = _opened()
    uri = client.tracking_uri
    with _telling(uri), alone_with("store", store_id(uri), LOCK_SECONDS):
        if (file := _file(uri)) is not None:
            check_file_writable(file)
        experiment = _patiently(lambda: _experiment(client))
    check_artifacts(experiment, uri)
    return client, experiment.experiment_id


def open_writer(tags: Mapping[str, str], cache: Path | None = None) -> Writer:
    """Open the store for writing, deliver what earlier commands could not, and return a writer.

    `tags` go on every run. What cannot be delivered is kept in the cache directory, by default the user's. Raises as
    `open_store`.
    """
    client, experiment_id = open_store()
    folders = dict.fromkeys(root / UNDELIVERED for root in (cache or default_cache(), default_cache()))
    for folder in folders:
        deliver_writes(client, client.tracking_uri, folder)
    return Writer(client, experiment_id, tags, next(iter(folders)), _reserve(client.tracking_uri))


def _reserve(uri: str) -> IO[bytes] | None:
    """A nameless file beside a SQLite store, whose room it takes to end runs on a full disk; it ends with its owner."""
    file = _file(uri)
    if file is None:
        return None
    try:
        reserve = tempfile.TemporaryFile(dir=file.absolute().parent)  # noqa: SIM115 - kept open
        reserve.write(bytes(RESERVED_BYTES))
        reserve.flush()
    except OSError:  # it is full already, as the first write will say
        return None
    return reserve


def store_id(uri: str) -> str:
    """Normalise the address of a store, so that all spellings of a SQLite file's path give one."""
    file = _file(uri)
    return uri if file is None else f"{SQLITE}{file.resolve()}"


def present_store() -> str:
    """The address of MLflow's tracking store, of a SQLite file by its absolute path."""
    return store_id(mlflow.get_tracking_uri())


@contextmanager
def at_store(uri: str) -> Iterator[None]:
    """Context: `uri` is MLflow's tracking store."""
    before, named = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    set_by_call = mlflow.is_tracking_uri_set() and before != named
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before if set_by_call else None)  # type: ignore[arg-type] # as it is at first
        if named is not None:  # which MLflow sets and unsets beside it
            os.environ["MLFLOW_TRACKING_URI"] = named


def check_there(uri: str) -> None:
    """Check that the SQLite file of a store is there, where it is one. Raises `UserError`."""
    file = _file(uri)
    if file is not None and not is_filled(file):
        raise expected("store", "one that a command has made (MLFLOW_TRACKING_URI says where)", f"nothing at {file}")


def store_folder() -> Path:
    """The absolute folder of the store's SQLite file; the current folder where the store is something else."""
    file = _file(mlflow.get_tracking_uri())
    return Path.cwd() if file is None else file.resolve().parent


def _file(uri: str) -> Path | None:
    try:
        return file_of(parse_address(uri)) if uri.startswith("sqlite") else None
    except Unusable:
        return None


def _is_database(uri: str) -> bool:
    return uri.partition(":")[0].partition("+")[0] in DATABASES


def _checked(uri: str) -> Path | None:
    """The path of a store's SQLite file, which may be missing; None for a server, which then has answered.

    Raises `Unusable` where there can be no store: also where a server's database is another program's.
    """
    if uri.startswith(("http://", "https://")):
        look_at_mlflow(uri)
    if not _is_database(uri):
        return None
    parsed = parse_address(uri)
    file = file_of(parsed)
    if parsed.get_backend_name() != "sqlite":
        check_tables(look_at_server(parsed))
    elif file is None and not (parsed.database or "").startswith("file:"):
        raise Unusable("one in memory, which ends with the command: sqlite:///mlflow.db is a file")
    return file


def _patiently(request: Callable[[], T]) -> T:
    """The answer to the first request; another client may be making the tables of a fresh database on a server."""
    for _ in range(TRIES - 1):
        try:
            return request()
        except SQLAlchemyError:
            time.sleep(PAUSE_SECONDS)
    return request()


def _experiment(client: MlflowClient) -> Experiment:
    run = given_run()
    if run is not None:
        found = client.get_run(run)
        if found.info.lifecycle_stage != LifecycleStage.ACTIVE:
            raise expected("MLFLOW_RUN_ID", "an active run", f"'{run}', which is deleted")
        return client.get_experiment(found.info.experiment_id)
    key, name = (os.environ.get(f"MLFLOW_EXPERIMENT_{end}", "").strip() for end in ("ID", "NAME"))
    if key:
        by_key = _active("MLFLOW_EXPERIMENT_ID", client.get_experiment(key))
        if name and by_key.name != name:
            raise expected("MLFLOW_EXPERIMENT_NAME", f"'{by_key.name}', as MLFLOW_EXPERIMENT_ID says", f"'{name}'")
        return by_key
    wanted = name or EXPERIMENT
    by_name = client.get_experiment_by_name(wanted)
    if by_name is None:
        try:
            by_name = client.get_experiment(client.create_experiment(wanted))
        except MlflowException as problem:  # another client made it at the same moment
            by_name = client.get_experiment_by_name(wanted)
            if by_name is None or problem.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    return _active("MLFLOW_EXPERIMENT_NAME", by_name)


def _active(field: str, experiment: Experiment) -> Experiment:
    if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        raise UserError(f"{field}: expected an active experiment, found '{experiment.name}' deleted (restore it)")
    return experiment


@contextmanager
def _telling(uri: str) -> Iterator[None]:
    """Whatever a store raises, or the libraries below it, as a `UserError` in one line without a secret."""
    field = f"{'tracking store' if uri == mlflow.get_tracking_uri() else 'model registry'} {scrubbed(uri)}"
    wanted = "an MLflow server" if uri.startswith("http") else "a database of runs"
    try:
        yield
    except UserError:
        raise
    except Unusable as problem:
        raise expected(field, wanted, first_line(problem, uri)) from None
    except Exception as problem:
        known = isinstance(problem, (MlflowException, OSError, ImportError))
        said = first_line(problem, uri) if known else fault(problem)
        if said is None:
            raise
        raise UserError(f"{field}: expected an answer, found: {scrubbed(said, uri)}") from None
