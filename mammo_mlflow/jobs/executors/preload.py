"""Import TensorFlow and Keras in the fork server, once for all worker processes; only that server imports this module.

The server would notice that its coordinator has ended only when all workers have, who hold an end of its pipe: so it is
told by the system, and looks twice a second. Standard error is discarded during the import, since TensorFlow writes to
it before its log level can be set.
"""

from __future__ import annotations

import importlib
import os
import signal

from mammo_mlflow.jobs.executors.process import COORDINATOR
from mammo_mlflow.processes import end_with_parent, silent_stderr

LOOK_SECONDS = 0.5
"""Seconds between two looks at the coordinator."""
# the coordinator; if it has ended already, the parent process is another one
PARENT = int(os.environ.get(COORDINATOR, os.getppid()))


def end_with_coordinator(*_: object) -> None:
    """End this process when the coordinator has ended."""
    if os.getppid() != PARENT:
        os._exit(1)


if COORDINATOR in os.environ:  # else a thread started this server, which may end before the coordinator
    end_with_parent()
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the coordinator handles it
# a timer, which workers do not inherit: no thread may be alive when the server forks
signal.signal(signal.SIGALRM, end_with_coordinator)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)
with silent_stderr():
    importlib.import_module("mammo_mlflow.engine.train")
    importlib.import_module("tensorflow")  # which Keras imports when it saves a model, whatever its backend
