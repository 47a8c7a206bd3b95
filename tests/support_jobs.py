"""Functions that executors are given in tests; children import this module by name."""

import os
import signal
import time
from pathlib import Path

from mammo_mlflow.errors import UserError


def double(argument, emit):
    for step in range(3):
        emit({"kind": "progress", "done": step + 1, "total": 3})
    return 2 * argument


def process_id(argument, emit):
    time.sleep(0.2)
    return os.getpid()


def mistake(argument, emit):
    raise UserError("folds: expected better")


def crash(argument, emit):
    raise RuntimeError("something broke")


def die(argument, emit):
    os.kill(os.getpid(), signal.SIGKILL)


def full(argument, emit):
    raise OSError(28, "No space left on device")


def note_and_sleep(argument, emit):
    """Write the process id into the file `argument`, then sleep."""
    path = Path(argument)
    part = path.with_suffix(".part")
    part.write_text(str(os.getpid()))
    part.replace(path)
    time.sleep(60)


def meet(argument, emit):
    """Ends only once another job with the same directory is there at the same time."""
    directory, name = argument
    (Path(directory) / name).touch()
    deadline = time.monotonic() + 20
    while len(list(Path(directory).iterdir())) < 2:
        if time.monotonic() > deadline:
            raise RuntimeError("nobody came")
        time.sleep(0.02)
    return name
