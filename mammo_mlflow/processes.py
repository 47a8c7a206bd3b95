"""Helpers of processes: their names, whether they live, how they end, silent standard error, the Keras backend."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path

import psutil

CLOCK_SECONDS = 3.0
"""Seconds by which two readings of a process's start may differ: the boot time moves when the clock is set."""
DEFAULT_BACKEND = "tensorflow"
PR_SET_PDEATHSIG = 1
"""Linux's number of the request for a signal when the parent ends."""


@functools.cache
def this_host() -> str:
    """The host on which process ids mean what they mean here: its name, `#`, and a hash of boot and PID namespace.

    Containers may share a name, and several names may share the processes of one system.
    """
    where = [socket.gethostname()]
    with suppress(OSError):  # where the system has no such files
        where = [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    return f"{socket.gethostname()}#{hashlib.sha256(''.join(where).encode()).hexdigest()[:8]}"


def this_process() -> str:
    """This process as text, `host:pid:start`, the start in seconds since 1970."""
    return f"{this_host()}:{os.getpid()}:{int(psutil.Process().create_time())}"


def is_here(host: str) -> bool:
    """Whether a host, as `this_host` names it, is this one; earlier versions stored the bare name."""
    _, mark, place = host.rpartition("#")
    return place == (this_host().rpartition("#")[2] if mark else socket.gethostname())


def process_alive(pid: int, born: float) -> bool:
    """Whether the process with an id and a start time (seconds since 1970) still runs on this host."""
    try:
        return abs(psutil.Process(pid).create_time() - born) < CLOCK_SECONDS
    except psutil.AccessDenied:  # of another user, where the system tells nothing of those
        return True
    except (psutil.NoSuchProcess, ValueError):
        return False


def serve_parent() -> None:
    """Make this child process ignore Ctrl-C, and end when its parent is gone, however that ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Let Linux kill this process when the thread that started it ends: also while it is stopped, and cannot see it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


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
