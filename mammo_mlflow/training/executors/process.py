"""Every job in a process of its own, so that its memory goes back to the system when it ends.

Children fork from a server that has TensorFlow imported but not started: about a second cheaper each than a fresh
interpreter. A child watches its coordinator and ends itself when that is gone, however it went.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from typing import Any, cast

from mammo_mlflow.errors import FULL_DISK, UserError
from mammo_mlflow.training.executors.target import resolve
from mammo_mlflow.training.jobs import Event, Failure, Job

COORDINATOR = "MAMMO_COORDINATOR_PID"
"""Tells the fork server, while it still imports, whose end is its own."""

PRELOAD = "mammo_mlflow.training.executors.preload"


class JobFailed(Exception):  # noqa: N818 - what happened, as in KeyboardInterrupt
    """A job ended without an answer, for a reason that is not the user's to mend: its traceback, or the signal."""


def start_server() -> ForkServerContext:
    """Start the fork server if it does not run yet: it takes seconds to import TensorFlow, while others can work."""
    os.environ.setdefault(
        "TF_CPP_MIN_LOG_LEVEL", "3"
    )  # the server and its children keep the environment of this moment
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    os.environ[COORDINATOR] = str(os.getpid())
    forkserver.ensure_running()
    del os.environ[COORDINATOR]
    return context


class ProcessExecutor:
    """Runs up to `workers` jobs at once, each in its own forked process."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._context = start_server()
        self._children: dict[Any, tuple[Job, Any]] = {}

    def run(
        self, jobs: Sequence[Job], on_event: Callable[[Job, Event], None], on_idle: Callable[[], None]
    ) -> Iterator[tuple[Job, object]]:
        """See `Executor.run`. When one fails, those still running are ended before the error is raised."""
        waiting = deque(jobs)
        try:
            while waiting or self._children:
                while waiting and len(self._children) < self._workers:
                    self._start(waiting.popleft())
                ready = wait(list(self._children), timeout=0.5)
                for connection in cast(list[Connection], ready):
                    job, process = self._children[connection]
                    kind, content = self._receive(connection, process)
                    if kind == "event":
                        on_event(job, content)
                        continue
                    del self._children[connection]
                    connection.close()
                    process.join()
                    if isinstance(content, Failure):
                        raise UserError(content.reason) if content.user else JobFailed(f"{job.name}: {content.reason}")
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

    def _start(self, job: Job) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_child, args=(job, theirs), name=job.name, daemon=True)
        process.start()
        theirs.close()
        self._children[ours] = (job, process)

    @staticmethod
    def _receive(connection: Connection, process: Any) -> tuple[str, Any]:
        try:
            return connection.recv()
        except (EOFError, OSError):  # OSError: it was killed in the middle of a message
            process.join()
            code = process.exitcode
            killed = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
            hint = "; out of memory? fewer workers need less" if code == -signal.SIGKILL else ""
            return "answer", Failure(f"its process ended without an answer ({killed}{hint})")


def _child(job: Job, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sending = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with sending:
            connection.send((kind, content))

    try:
        answer = resolve(job.target)(job.argument, lambda event: send("event", event))
    except UserError as problem:
        answer = Failure(str(problem), user=True)
    except Exception as problem:
        if isinstance(problem, OSError) and problem.errno in FULL_DISK:
            answer = Failure(f"{job.name}: expected room on the disk, found it full", user=True)
        else:
            answer = Failure(traceback.format_exc())
    send("answer", answer)
    connection.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
