"""Every job in a process of its own, so that its memory goes back to the system when it ends.

On Linux children fork from a server that has TensorFlow imported but not started: about a second cheaper each than a
fresh interpreter. Elsewhere they are fresh interpreters: on macOS a process may not fork once Apple's libraries, which
TensorFlow loads, have started threads. A child watches its coordinator and ends itself when that is gone, however it
went.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

from mammo_mlflow.errors import expected
from mammo_mlflow.jobs.contracts import Event, Failure, Job, Reply, Suggestion
from mammo_mlflow.jobs.executors.base import Answered, AnyJob, Executor, OnEvent
from mammo_mlflow.jobs.executors.target import attempt
from mammo_mlflow.processes import serve_parent

COORDINATOR = "MAMMO_COORDINATOR_PID"
"""Tells the fork server, while it still imports, whose end is its own."""

START = "forkserver" if sys.platform == "linux" else "spawn"
"""How a child is started."""

OOM_SCORE = "500"

PRELOAD = "mammo_mlflow.jobs.executors.preload"


def start_server() -> ForkServerContext | SpawnContext:
    """What children are started by; a fork server is started, for it takes seconds to import TensorFlow, meanwhile."""
    os.environ.setdefault(
        "TF_CPP_MIN_LOG_LEVEL", "3"
    )  # the server and its children keep the environment of this moment
    if START == "spawn":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    os.environ[COORDINATOR] = str(os.getpid())
    try:
        forkserver.ensure_running()
    except OSError as problem:
        if "too long" not in str(problem):  # of a socket's name, which lies in the folder for temporary files
            raise
        raise expected("TMPDIR", "a folder with a path below 70 characters", tempfile.gettempdir()) from None
    finally:
        del os.environ[COORDINATOR]
    return context


class ProcessExecutor(Executor):
    """Runs up to `workers` jobs at once, each in its own forked process."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._context = start_server()
        self._children: dict[Connection, tuple[Any, BaseProcess]] = {}

    def stream(
        self, next_job: Callable[[], AnyJob | None], on_event: OnEvent[AnyJob], on_idle: Callable[[], None]
    ) -> Answered[AnyJob]:
        """See `Executor.stream`."""
        if self._children:
            raise RuntimeError("the executor is at work already: jobs beside these need another one")
        try:
            while True:
                while len(self._children) < self._workers and (asked := next_job()) is not None:
                    self._start(asked)
                if not self._children:
                    return
                ready = wait(list(self._children), timeout=0.5)
                for connection in cast(list[Connection], ready):
                    job, process = self._children[connection]
                    kind, content = self._receive(connection, process)
                    if kind == "event":
                        answer = on_event(job, content)
                        if isinstance(content, Suggestion):
                            connection.send(answer)
                        continue
                    del self._children[connection]
                    connection.close()
                    process.join()
                    yield job, content
                on_idle()
        finally:
            self.close()

    def close(self) -> None:
        """Kill the children that still run."""
        for connection, (_, process) in self._children.items():
            process.kill()
            process.join()
            connection.close()
        self._children.clear()

    def _start(self, job: Job[object]) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_child, args=(job, theirs), name=job.name, daemon=True)
        process.start()
        theirs.close()
        self._children[ours] = (job, process)

    @staticmethod
    def _receive(connection: Connection, process: BaseProcess) -> tuple[str, Any]:
        try:
            return connection.recv()
        except (EOFError, OSError):  # OSError: it was killed in the middle of a message
            process.join()
            code = process.exitcode
            killed = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
            hint = "; out of memory? fewer workers need less" if code == -signal.SIGKILL else ""
            return "answer", Failure(f"its process ended without an answer ({killed}{hint})")


def _child(job: Job[object], connection: Connection) -> None:
    serve_parent()
    with suppress(OSError):  # where memory runs out, the system ends this process and not its coordinator
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    talking = threading.Lock()

    def emit(event: Event) -> Reply:
        with talking:
            connection.send(("event", event))
            return connection.recv() if isinstance(event, Suggestion) else None

    answer = attempt(job, emit)
    if isinstance(answer, Failure):
        answer = replace(answer, error=None)  # not every exception can be sent
    with talking:
        connection.send(("answer", answer))
    connection.close()
