"""Helpers of worker processes: end with the parent, silence standard error, find the Keras backend."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path

DEFAULT_BACKEND = "tensorflow"


def serve_parent() -> None:
    """Make this child process ignore Ctrl-C, and end when its parent is gone, however that ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard everything written to standard error during the block, also by C libraries."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def keras_backend() -> str:
    """The name of the Keras backend that worker processes will use, found as Keras does, without importing it."""
    return chosen_backend() or DEFAULT_BACKEND


def chosen_backend() -> str | None:
    """The Keras backend that the user has chosen; None where there is no sign of a choice.

    That is KERAS_BACKEND, or another than the default in `keras.json`: Keras itself writes that with the default.
    """
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"]
    config = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "keras.json"
    try:
        found = str(json.loads(config.read_text()).get("backend", DEFAULT_BACKEND))
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return None if found == DEFAULT_BACKEND else found


def available_cores() -> int:
    """The number of processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
