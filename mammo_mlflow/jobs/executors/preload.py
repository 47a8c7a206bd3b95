"""Imported by the fork server alone: TensorFlow and Keras, loaded once and shared by every child.

Until the import is over the server cannot notice that its coordinator is gone, so a thread looks on meanwhile.
TensorFlow greets on standard error before its log level can be set, hence the redirection.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mammo_mlflow.jobs.executors.process import COORDINATOR
from mammo_mlflow.processes import silent_stderr


@contextmanager
def _watching_parent() -> Iterator[None]:
    # the one that started us, or it is gone already: our parent is then another process
    parent, loaded = int(os.environ.get(COORDINATOR, os.getppid())), threading.Event()

    def watch() -> None:
        while not loaded.wait(0.5):
            if os.getppid() != parent:
                os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        loaded.set()
        watcher.join()  # no thread may be alive when the server forks


signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; it is the coordinator's to handle
with _watching_parent(), silent_stderr():
    importlib.import_module("mammo_mlflow.engine.train")
