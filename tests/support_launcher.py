"""Starts commands as processes of their own without importing everything anew: a launcher forks them.

The launcher has imported what a command and its worker processes import, which takes 20 seconds of a processor for each
command otherwise, and started nothing of it. What it forks is a process as `python -m mammo_mlflow` makes one, with its
own directory, environment, session and fork server.
"""

import atexit
import importlib
import multiprocessing.util
import os
import pickle
import runpy
import select
import signal
import sqlite3
import subprocess
import sys
import time
from array import array
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from socket import CMSG_LEN, SCM_RIGHTS, SOL_SOCKET, socketpair

from mlflow.store.db import utils
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine

from mammo_mlflow.processes import silent_stderr

IMPORTED = (
    "mammo_mlflow.engine.train",
    "tensorflow",
    "mammo_mlflow.cli",
    "mammo_mlflow.workflows.families",
    "mammo_mlflow.workflows.ensemble",
    "mammo_mlflow.workflows.search",
    "mammo_mlflow.workflows.promote",
    "mammo_mlflow.workflows.predict",
    "mammo_mlflow.workflows.report",
    "mammo_mlflow.workflows.prepare",
)
READ_BY_IMPORTS = ("PYTHON", "KERAS_", "TF_", "XLA_", "JAX_", "LD_", "OMP_", "MKL_", "OPENBLAS_", "CUDA_")
"""How the names of those variables begin that what is imported reads."""
FORK_SERVER = "from multiprocessing.forkserver import main"


class Launched:
    """A command that a launcher started, as `subprocess.Popen` has it."""

    def __init__(self, pid, ended):
        self.pid, self._ended, self.returncode = pid, ended, None

    def poll(self):
        if self.returncode is None and self._ended.exists():
            self.returncode = int(self._ended.read_text())
        return self.returncode

    def wait(self, timeout=None):
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("mammo_mlflow", timeout)
            time.sleep(0.02)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class Launcher:
    """A process that starts commands whose imports read the same environment."""

    def __init__(self, environment, folder):
        self.environment, self.folder, self.number = environment, folder, 0
        line = [sys.executable, __file__, str(folder)]
        self._process = subprocess.Popen(line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        atexit.register(self._process.stdin.close)  # upon which it ends

    def suits(self, environment):
        return _read(self.environment) == _read(environment)

    def launch(self, arguments, where, environment, out, err):
        """Start `python -m mammo_mlflow` with arguments in a directory; its output goes to the files `out`, `err`."""
        self.number += 1
        asked = self.number, arguments, str(where), environment, str(out), str(err)
        pickle.dump(asked, self._process.stdin)
        self._process.stdin.flush()
        return Launched(int(self._process.stdout.readline()), self.folder / f"{self.number}")


def _read(environment):
    return {name: value for name, value in environment.items() if name.startswith(READ_BY_IMPORTS)}


def serve(folder):
    """Fork commands as they are asked for, and note how they end; return what to run in each of them."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with silent_stderr():
        for name in IMPORTED:
            importlib.import_module(name)
    event.listen(Engine, "connect", do_not_wait_for_the_disk)
    utils._initialize_tables = partial(copy_tables, utils._initialize_tables, folder / "empty.db")
    running, requests = {}, os.fdopen(0, "rb", buffering=0, closefd=False)
    while True:
        if select.select([0], [], [], 0.02)[0]:
            try:
                number, *asked = pickle.load(requests)
            except EOFError:
                os._exit(0)
            pid = os.fork()
            if not pid:
                return asked
            running[pid] = number
            os.write(1, b"%d\n" % pid)
        for pid in list(running):
            if (status := os.waitpid(pid, os.WNOHANG))[0]:
                part = folder / f"{running[pid]}.part"
                part.write_text(str(os.waitstatus_to_exitcode(status[1])))
                part.rename(folder / f"{running.pop(pid)}")


def do_not_wait_for_the_disk(connection, _):
    """Let SQLite not wait for the disk after every step, 5 to 20 ms; no test is about a power cut."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


def copy_tables(make, empty, engine):
    """Let MLflow `make` its tables in an `empty` database once, which takes seconds, and copy them from then on."""
    if engine.dialect.name != "sqlite":
        return make(engine)
    if not empty.exists():
        made = empty.with_name(f"{os.getpid()}.db")
        make(create_engine(f"sqlite:///{made}"))
        made.rename(empty)
    with closing(sqlite3.connect(empty)) as source, closing(engine.raw_connection()) as target:
        source.backup(target.driver_connection)
    return None


def become_command(arguments, where, environment, out, err):
    """Make this process what `python -m mammo_mlflow` in a directory is, up to its first line."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(where)
    for number, path, how in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        os.dup2(opened := os.open(path, how | os.O_APPEND), number)
        os.close(opened)
    sys.argv[1:], sys.path[0] = arguments, where
    fork_server_beside()


def fork_server_beside():
    """Let multiprocessing's fork server be a process that is forked now, while nothing else runs in this one."""
    ours, theirs = socketpair()
    pid = os.fork()
    if not pid:
        ours.close()
        _await_fork_server(theirs)
    theirs.close()
    os.set_inheritable(ours.fileno(), False)
    start, unused = multiprocessing.util.spawnv_passfds, [True]

    def start_server(path, line, handles):
        if not (line[-1].startswith(FORK_SERVER) and unused):
            return start(path, line, handles)
        unused.clear()
        message = pickle.dumps((line[-1], list(handles), dict(os.environ)))
        ours.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, array("i", handles))])
        ours.close()
        return pid

    multiprocessing.util.spawnv_passfds = start_server


def _await_fork_server(theirs):
    """Wait for the code of the fork server with its handles, and run it; end where the command does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    message, passed, *_ = theirs.recvmsg(1 << 20, CMSG_LEN(4 * 16))
    if not message:
        os._exit(0)
    code, handles, environment = pickle.loads(message)
    received = array("i", passed[0][2][: len(passed[0][2]) // 4 * 4])
    moved = [os.dup2(os.dup(one), 200 + place, inheritable=False) for place, one in enumerate(received)]
    os.closerange(3, 200)
    for one, number in zip(moved, handles, strict=True):
        os.dup2(one, number)
    os.closerange(200, 200 + len(moved))
    os.environ.clear()
    os.environ.update(environment)
    status = 0
    try:
        exec(code, {"__name__": "__main__"})
    except SystemExit:
        pass
    except BaseException:
        status = 1
    os._exit(status)


if __name__ == "__main__":
    become_command(*serve(Path(sys.argv[1])))
    runpy.run_module("mammo_mlflow", run_name="__main__", alter_sys=True)
