"""A model of NumPy alone behind the server of `serve`, and that server as a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import mlflow
import numpy as np
import psutil
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from support import Server, environment, free_port

SIZE = 32
CODE = """
import os, time
import mlflow.models, numpy as np
from mlflow.pyfunc.model import PythonModel

class Mean(PythonModel):
    def predict(self, context, model_input, params=None):
        time.sleep(float(os.environ.get("MEAN_SECONDS", "0")))
        return np.asarray(model_input, float).mean((1, 2, 3)) / 65535

mlflow.models.set_model(Mean())
"""


def save_mean_model(where, size=SIZE):
    """A model that answers the mean of each patch: its directory."""
    code = where / "mean.py"
    code.write_text(CODE)
    patches = TensorSpec(np.dtype(np.uint16), (-1, size, size, 1))
    signature = ModelSignature(Schema([patches]), Schema([TensorSpec(np.dtype(np.float64), (-1,))]))
    mlflow.pyfunc.save_model(where / "mean", python_model=str(code), signature=signature, pip_requirements=["numpy"])
    return where / "mean"


class LimitedServer(Server):
    """The process that `serve` starts, with limits: until the block ends it answers."""

    def __init__(self, model, *, max_body_mb=1, arrival=30, workers=1, seconds=0):
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.line = [sys.executable, "-m", "mammo_mlflow.tracking.model_server", "127.0.0.1", str(self.port)]
        self.line.append(str(workers))
        self.surroundings = environment(
            model,
            MAMMO_SERVED_MODEL=str(model),
            MAMMO_MAX_BODY_MB=str(max_body_mb),
            MAMMO_ARRIVAL_SECONDS=str(arrival),
            MEAN_SECONDS=str(seconds),
        )

    def __enter__(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(
            self.line, env=self.surroundings, start_new_session=True, stdin=subprocess.PIPE, **quiet
        )
        deadline = time.monotonic() + 60
        while not self.alive():
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return self

    def __exit__(self, *problem):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait(10)

    def open(self, start=b""):
        """A connection on which a client has sent these bytes."""
        made = socket.create_connection(("127.0.0.1", self.port))
        made.settimeout(20)
        made.sendall(start)
        return made

    def connections(self):
        """How many clients are connected."""
        found = psutil.Process(self.process.pid).net_connections("tcp")
        return sum(one.status == psutil.CONN_ESTABLISHED for one in found)

    def memory_of(self, call):
        """What a call gives, and by how many bytes the server's memory grew meanwhile at most."""
        process, done, seen = psutil.Process(self.process.pid), threading.Event(), []
        before = process.memory_info().rss

        def watch():
            while not done.wait(0.01):
                seen.append(process.memory_info().rss)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            answer = call()
        finally:
            done.set()
            thread.join()
        return answer, max(seen, default=before) - before


def patches(count, size=SIZE):
    """The body of a request for so many patches."""
    pixels = np.random.default_rng(0).integers(1000, 65536, (1, size, size, 1)).tolist()
    return json.dumps({"inputs": pixels * count}, separators=(",", ":")).encode()
