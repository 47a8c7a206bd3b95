"""The command `serve`: serve a registered model by HTTP; its files are checked before MLflow's server loads them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from mammo_mlflow.commands.serve import ServeOptions
from mammo_mlflow.disclosure import ASKED
from mammo_mlflow.errors import expected
from mammo_mlflow.terminal import say
from mammo_mlflow.tracking.registry import verified_model
from mammo_mlflow.tracking.store import open_client

HERE = Path(__file__).parents[2]
PATIENCE = 5
"""Seconds after which a server that was asked to end is killed."""


def run(options: ServeOptions) -> int:
    """Run `serve`: serve a model until the command is ended; return the server's exit code. Raises `UserError`."""
    with socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except (OSError, UnicodeError) as problem:  # a host's name may have no encoding
            found = f"{options.host}:{options.port}: {getattr(problem, 'strerror', None) or problem}"
            raise expected("port", "a host and port to listen at", found) from None
    client = open_client()
    with tempfile.TemporaryDirectory() as folder:
        found_model = verified_model(client, options.model, Path(folder))
        line = [sys.executable, "-m", "mammo_mlflow.tracking.model_server"]
        line += [options.host, str(options.port), str(options.workers)]
        surroundings = {**os.environ, "MAMMO_SERVED_MODEL": str(found_model.path), "TF_CPP_MIN_LOG_LEVEL": "3"}
        surroundings["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"] = str(options.timeout)
        surroundings["MAMMO_MAX_BODY_MB"] = str(options.max_body_mb)
        surroundings["MAMMO_ARRIVAL_SECONDS"] = str(options.arrival)
        surroundings["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        surroundings.pop("MLFLOW_RUN_ID", None)
        inputs = ", ".join(found_model.made_of.inputs)
        host = f"[{options.host}]" if ":" in options.host else options.host
        say(f"serving {found_model.version} ({inputs}) at http://{host}:{options.port}/invocations, Ctrl-C ends it")
        say(found_model.version.disclosure.line(ASKED))
        # a session of its own, so that the server's workers can be ended with it; it ends when the pipe does
        server = subprocess.Popen(line, env=surroundings, start_new_session=True, stdin=subprocess.PIPE)
        try:
            code = server.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:  # how a server is ended
            return 0
        finally:
            end_server(server)


def end_server(server: subprocess.Popen) -> None:
    """End a server and its workers, within seconds whatever they are at."""
    with suppress(subprocess.TimeoutExpired, ProcessLookupError):
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
