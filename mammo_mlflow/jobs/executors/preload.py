"""Import TensorFlow and Keras in the fork server, once for all worker processes; only that server imports this module.

During the import the server cannot notice that its coordinator has ended, so a thread watches it. Standard error is
discarded, since TensorFlow writes to it before its log level can be set.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading

from mammo_mlflow.jobs.executors.process import COORDINATOR
from mammo_mlflow.processes import end_with_parent, silent_stderr

# the coordinator; if it has ended already, the parent process is another one
PARENT, LOADED = int(os.environ.get(COORDINATOR, os.getppid())), threading.Event()


def end_with_coordinator() -> None:
    """End this process as soon as the coordinator has ended, until the import is done."""
    while not LOADED.wait(0.5):
        if os.getppid() != PARENT:
            os._exit(1)


if COORDINATOR in os.environ:  # else a worker that is stopped would keep the server, to whose pipe it has an end
    end_with_parent()
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the coordinator handles it
watch_thread = threading.Thread(target=end_with_coordinator, daemon=True)
watch_thread.start()
try:
    with silent_stderr():
        importlib.import_module("mammo_mlflow.engine.train")
        importlib.import_module("tensorflow")  # which Keras imports when it saves a model, whatever its backend
finally:
    LOADED.set()
    watch_thread.join()  # no thread may be alive when the server forks
