"""Run the server of a model in a process of its own, which ends with the command that started it, however that ends."""

from __future__ import annotations

import os
import signal
import sys
import threading

import uvicorn

GRACE = 3
"""Seconds for which requests at work are waited for when the server ends."""


def main(host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM, or until standard input, a pipe from whoever started this, ends."""
    threading.Thread(target=_end_with_pipe, daemon=True).start()
    uvicorn.run(
        "mammo_mlflow.tracking.serving:make_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        http="mammo_mlflow.tracking.server_limits:TimedProtocol",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )


def _end_with_pipe() -> None:
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)  # this process leads a session of its own


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
