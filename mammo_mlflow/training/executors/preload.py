"""Imported by the fork server alone: TensorFlow and Keras, loaded once and shared by every child.

Until the import is over the server cannot notice that its coordinator is gone, so a thread looks on meanwhile.
"""

from __future__ import annotations

import os
import threading


def _watch(loaded: threading.Event, parent: int) -> None:
    while not loaded.wait(0.5):
        if os.getppid() != parent:
            os._exit(1)


_loaded = threading.Event()
_watcher = threading.Thread(target=_watch, args=(_loaded, os.getppid()), daemon=True)
_watcher.start()

import mammo_mlflow.training.fit  # noqa: E402, F401

_loaded.set()
_watcher.join()  # no thread may be alive when the server forks
