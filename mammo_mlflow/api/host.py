"""What a call takes over of the process that it runs in, and gives back: signals, logging, environment; its errors."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mammo_mlflow.cli import failures, shown_lines
from mammo_mlflow.ending import SIGNALS, end_on_signals, go_on, told_to_end
from mammo_mlflow.errors import CommandFailed, Faults, UserError
from mammo_mlflow.terminal import make_handler
from mammo_mlflow.wording import scrubbed

_OWN = "mammo_mlflow"
_LOGGERS = (_OWN, "alembic", "mlflow", "mlflow.store", "mlflow.store.db.utils")
"""The loggers whose levels commands set."""


@contextmanager
def as_before() -> Iterator[None]:
    """Context: environment and logging are afterwards as they were.

    Log records go where the process sends them; where it has no handlers, to standard error. The run that `mlflow run`
    made for the process is not taken over: it is the program's.
    """
    surroundings, own = dict(os.environ), logging.getLogger(_OWN)
    levels = {one: one.level for one in map(logging.getLogger, _LOGGERS)}
    handler = None if own.hasHandlers() else make_handler()
    os.environ.pop("MLFLOW_RUN_ID", None)
    if handler is not None:
        own.addHandler(handler)
    if own.level == logging.NOTSET:
        own.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="IProgress not found")  # of bars that nothing shows
            yield
    finally:
        for one, level in levels.items():
            one.setLevel(level)
        if handler is not None:
            own.removeHandler(handler)
            handler.close()
        for name in os.environ.keys() - surroundings.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in surroundings.items() if os.environ.get(name) != value})


@contextmanager
def errors_for_users() -> Iterator[None]:
    """Context: whatever a command or a store raises is a `UserError` or a `CommandFailed`, without secrets."""
    with cleaned():
        try:
            with failures():
                yield
        except CommandFailed as problem:
            raise CommandFailed(scrubbed(str(problem))) from None


@contextmanager
def cleaned() -> Iterator[None]:
    """Context: a `UserError` is raised as it may be shown: a line for each mistake, without secrets."""
    try:
        yield
    except UserError as problem:
        lines = shown_lines(problem)
        raise (Faults(lines) if len(lines) > 1 else UserError(*lines)) from None


@contextmanager
def ending_as_commands_do() -> Iterator[None]:
    """Context: Ctrl-C and SIGTERM end what runs as they end a command; what the process does on them is as before then.

    Ctrl-C is a `KeyboardInterrupt`; after SIGTERM the process gets the signal again. In other threads than the main
    one, which Python never interrupts, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {one: signal.getsignal(one) for one in SIGNALS}
    ended = 0
    end_on_signals()
    try:
        yield
    except SystemExit:
        ended = told_to_end()
        if not ended:
            raise
    except KeyboardInterrupt:
        logging.getLogger(__name__).warning("interrupted; the same call goes on where it was")
        raise
    finally:
        go_on()
        for one, handler in handlers.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)
    if ended:
        os.kill(os.getpid(), ended)
        raise KeyboardInterrupt  # the process goes on all the same
