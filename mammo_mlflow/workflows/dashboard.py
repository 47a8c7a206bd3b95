"""The command `dashboard`: start the servers that show runs, studies and the report, and print their links."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from mammo_mlflow.commands.dashboard import DashboardOptions
from mammo_mlflow.databases import file_of, parse_address
from mammo_mlflow.errors import expected
from mammo_mlflow.search.storage import check_address
from mammo_mlflow.terminal import say
from mammo_mlflow.tracking.store import open_store
from mammo_mlflow.workflows.places import report_folder, storage_url
from mammo_mlflow.workflows.serve import end_server

HOST = "127.0.0.1"
START_SECONDS = 120
"""Seconds in which a server has to listen."""
_UNTIL_EOF = '"$@" < /dev/null & cat > /dev/null; kill -9 0'
"""A shell's script: run a command, and kill it with all of its session when the standard input ends."""
_log = logging.getLogger(__name__)


def run(options: DashboardOptions) -> int:
    """Run `dashboard`: show runs, studies and the report until the command is ended. Raises `UserError`."""
    client, experiment = open_store()
    tracking, storage, report = client.tracking_uri, storage_url(options.storage), report_folder(options.report)
    check_address(storage)
    runs = f"#/experiments/{experiment}/runs?workflowType=machine_learning"  # MLflow opens another table by itself
    _log.info("starting the servers, which takes some seconds")
    with ExitStack() as servers, suppress(KeyboardInterrupt):
        if tracking.startswith("http"):
            say(f"runs:    {tracking.rstrip('/')}/{runs}")
        else:
            mlflow = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", HOST, "--port"]
            say(f"runs:    {_start(servers, mlflow, {'MLFLOW_BACKEND_STORE_URI': tracking})}/{runs}")
        file = file_of(parse_address(storage))
        if file is not None and not file.exists():
            say("studies: none yet; search makes the first")
        else:
            say(f"studies: {_start_studies(servers, storage)}")
        if (report / "index.html").exists():
            pages = [sys.executable, "-m", "http.server", "--directory", str(report), "--bind", HOST]
            say(f"report:  {_start(servers, pages)}")
        else:
            say("report:  none yet; report writes it")
        say("Ctrl-C ends them")
        while True:
            time.sleep(3600)
    return 0


def _start_studies(servers: ExitStack, storage: str) -> str:
    """Start optuna-dashboard; return its address once it listens."""
    command = str(Path(sys.executable).with_name("optuna-dashboard"))
    with tempfile.TemporaryDirectory() as folder:  # whoever lists processes sees a command's words, but not this
        config = Path(folder, "optuna_dashboard.toml")
        address = json.dumps(storage, ensure_ascii=False)  # which may have a password
        config.write_text(f"[optuna_dashboard]\nstorage = {address}\n", encoding="utf-8")
        return _start(servers, [command, "--from-config", str(config), "--host", HOST, "--port"])


def _start(servers: ExitStack, line: Sequence[str], more: dict[str, str] | None = None) -> str:
    """Start a server, the command `line` and behind it a free port; return its address once it listens.

    It ends with `servers`, or when this process is gone. Raises `UserError` where it does not begin in time.
    """
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        ["/bin/sh", "-c", _UNTIL_EOF, "sh", *line, str(port)],
        env={**os.environ, **(more or {})},
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    servers.callback(end_server, server)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return f"http://{HOST}:{port}"
        time.sleep(0.2)
    raise expected("dashboard", f"a server that listens within {START_SECONDS} s", "one that does not")
