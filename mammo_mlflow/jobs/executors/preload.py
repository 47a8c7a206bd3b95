"""Imported by the fork server alone: TensorFlow and Keras, loaded once and shared by every child.

Until the import is over the server cannot notice that its coordinator is gone, so a thread looks on meanwhile.
TensorFlow greets on standard error before its log level can be set, hence the redirection.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading

from mammo_mlflow.jobs.executors.process import COORDINATOR
from mammo_mlflow.processes import silent_stderr

# the one that started us, or it is gone already: our parent is then another process
PARENT, LOADED = int(os.environ.get(COORDINATOR, os.getppid())), threading.Event()


def watch() -> None:
    """End with the coordinator, however it goes, until the import is over."""
    while not LOADED.wait(0.5):
        if os.getppid() != PARENT:
            os._exit(1)


signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; it is the coordinator's to handle
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
try:
    with silent_stderr():
        importlib.import_module("mammo_mlflow.engine.train")
finally:
    LOADED.set()
    watcher.join()  # no thread may be alive when the server forks
