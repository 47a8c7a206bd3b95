"""Run every job in a process of its own, whose memory is freed when it ends.

On Linux worker processes are forked from a server that has imported TensorFlow without starting it, which saves about a
second each. Elsewhere they are new interpreters: on macOS a process must not fork once Apple's libraries, which
TensorFlow loads, have started threads. A worker process watches its coordinator and ends when that has ended.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from mammo_mlflow.errors import expected
from mammo_mlflow.jobs.contracts import Emit, Event, Job, Reply, Suggestion
from mammo_mlflow.jobs.devices import surroundings
from mammo_mlflow.jobs.executors.base import Answered, AnyJob, Executor, OnEvent, OnIdle
from mammo_mlflow.jobs.executors.target import attempt
from mammo_mlflow.jobs.executors.watch import Watch
from mammo_mlflow.jobs.failure import Failure
from mammo_mlflow.processes import serve_parent

COORDINATOR = "MAMMO_COORDINATOR_PID"
"""The environment variable that gives the fork server the coordinator's process id."""

START = "forkserver" if sys.platform == "linux" else "spawn"
"""The start method of worker processes."""

OOM_SCORE = "500"
"""The preference with which Linux ends worker processes when memory runs out."""

PRELOAD = "mammo_mlflow.jobs.executors.preload"


_served: list[tuple[str | None, ...]] = []
"""With what the fork server of this process computes, once it is started."""


def start_server() -> ForkServerContext | SpawnContext:
    """Make the multiprocessing context of worker processes; a fork server starts to import TensorFlow meanwhile.

    A process has one fork server, which keeps its environment: where that computes with something else, as after a
    command on other devices, worker processes are new interpreters.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the server and its workers keep the environment of this moment
    if START == "spawn" or (_served and _served[0] != surroundings()):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    if threading.current_thread() is threading.main_thread():  # which lives as long as the process
        os.environ[COORDINATOR] = str(os.getpid())
    try:
        forkserver.ensure_running()
        _served[:] = [surroundings()]
    except OSError as problem:
        if "too long" not in str(problem):  # the path of a socket, which lies in the folder for temporary files
            raise
        raise expected("TMPDIR", "a folder with a path below 70 characters", tempfile.gettempdir()) from None
    finally:
        os.environ.pop(COORDINATOR, None)
    return context


class ProcessExecutor(Executor):
    """Runs up to `workers` jobs at once, each in a process of its own."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._context = start_server()
        self._running: dict[Connection, tuple[Any, BaseProcess]] = {}
        self._watch = Watch()

    def attempts(
        self, next_job: Callable[[], AnyJob | None], on_event: OnEvent[AnyJob], on_idle: OnIdle
    ) -> Answered[AnyJob]:
        """Yield each job with its answer or `Failure` as it ends; see `Executor.attempts`."""
        if self._running:
            raise RuntimeError("the executor is at work already: jobs beside these need another one")
        more: object = False
        try:
            while True:
                while len(self._running) < self._workers and (job := next_job()) is not None:
                    self._start(job)
                if not self._running:
                    return
                ready = wait(list(self._running), timeout=0 if more else 0.5)
                yield from self._end_hanging(set(ready))
                for connection in cast(list[Connection], ready):
                    job, process = self._running[connection]
                    kind, content = self._receive(connection, process)
                    if kind == "event":
                        self._watch.heard(job)
                        answer = on_event(job, content)
                        if isinstance(content, Suggestion):
                            with suppress(OSError):  # of one that was killed meanwhile, which the next message tells
                                connection.send(answer)
                        continue
                    self._forget(connection, well=not isinstance(content, Failure))
                    yield job, content
                more = on_idle()
        finally:
            self.close()

    def close(self) -> None:
        """Kill the worker processes that still run."""
        for _, process in self._running.values():
            process.kill()
        for connection in list(self._running):
            self._forget(connection, well=False)

    def _forget(self, connection: Connection, well: bool) -> None:
        """Take leave of a process that has ended."""
        job, process = self._running.pop(connection)
        self._watch.ended(job, well)
        process.join()
        connection.close()

    def _end_hanging(self, ready: Collection[object]) -> Iterator[tuple[Any, Failure]]:
        """Kill the processes that hang, and yield their jobs; those of `ready` connections have something to say."""
        if not self._watch.due():
            return
        for connection, (job, process) in list(self._running.items()):
            why = None if connection in ready else self._watch.hangs(job, process.pid)
            if why is not None:
                process.kill()
                self._forget(connection, well=False)
                yield job, Failure(why, lost=True)

    def _start(self, job: Job[object]) -> None:
        """Start a job in a new process."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=run_job, args=(job, theirs), name=job.name, daemon=True)
        start_process(process)
        theirs.close()
        self._running[ours] = (job, process)
        self._watch.started(job)

    def _receive(self, connection: Connection, process: BaseProcess) -> tuple[str, Any]:
        """Receive a message, ("event", event) or ("answer", answer); a `Failure` where the process has ended."""
        try:
            return connection.recv()
        except (EOFError, OSError):  # OSError: the process was killed while it sent a message
            return "answer", end_of(process, self._watch)


def start_process(process: BaseProcess) -> None:
    """Start a worker process without the coordinator's main module, which Python would import there once more.

    That may be a script that calls this package outside of any `if __name__ == "__main__"`.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main


def end_of(process: BaseProcess, watch: Watch) -> Failure:
    """The `Failure` of a job whose process ended without an answer."""
    process.join()
    code = process.exitcode
    killed = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    hint = ""
    if code == -signal.SIGKILL:
        hint = "; the system ran out of memory" if watch.memory_ran_out() else "; out of memory?"
        hint += " fewer workers need less"
    return Failure(f"its process ended without an answer ({killed}{hint})", lost=True)


def serve_coordinator(connection: Connection) -> tuple[Emit, Callable[[object], None]]:
    """Make this process a worker: give the function that emits events of a job, and the one that sends its answer."""
    serve_parent()
    with suppress(OSError):  # where memory runs out, the system ends this process and not its coordinator
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    talking = threading.Lock()

    def emit(event: Event) -> Reply:
        with talking:
            connection.send(("event", event))
            return connection.recv() if isinstance(event, Suggestion) else None

    def send_answer(answer: object) -> None:
        if isinstance(answer, Failure):
            answer = replace(answer, error=None)  # not every exception can be sent
        with talking:
            connection.send(("answer", answer))

    return emit, send_answer


def run_job(job: Job[object], connection: Connection) -> None:
    """Run a job in this worker process; send its events and answer through `connection`."""
    emit, send_answer = serve_coordinator(connection)
    send_answer(attempt(job, emit))
    connection.close()
