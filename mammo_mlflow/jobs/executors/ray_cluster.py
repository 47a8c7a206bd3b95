"""Connect to a Ray cluster: that of `RAY_ADDRESS`, else one on this machine that ends with this process.

Ray is set up here before it is imported; no other module imports it by itself.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mammo_mlflow.ending import end_if_told
from mammo_mlflow.errors import expected
from mammo_mlflow.processes import available_cores

ADDRESS = "RAY_ADDRESS"

# Ray reads these as it is imported
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
_IMPATIENT = {"RAY_py_gcs_connect_timeout_s": "10", "RAY_NUM_REDIS_GET_RETRIES": "1"}  # else it tries for minutes
for _name, _value in (_QUIET | _IMPATIENT).items():
    os.environ.setdefault(_name, _value)
if os.environ.get(ADDRESS, "") in ("", "local") and "RAY_AUTH_MODE" not in os.environ:
    # nobody else uses the cluster of this process; Ray would write a token into the user's home, for all clusters
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

import ray  # noqa: E402
import ray.exceptions  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

STORE_BYTES = 200 * 2**20
"""The size of the object store of a cluster that is started here: events, arrays of jobs, and answers pass through."""
PATIENCE_SECONDS = 5
"""How long a cluster may take to answer."""


def connect() -> None:
    """Connect this process to the cluster of `RAY_ADDRESS`, or start one on this machine. Raises `UserError`."""
    if ray.is_initialized():
        return
    address = os.environ.get(ADDRESS, "").strip()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    with _own_signals():
        if not address or address == "local":
            _start_local(quiet)
            return
        _check_answers(address)
        try:
            ray.init(address=address, **quiet)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as problem:
            why = " ".join(str(problem).split())
            raise expected(ADDRESS, "the head of a Ray cluster", f"{address}: {why}") from None


def nodes() -> list[Mapping[str, float]]:
    """The resources of each living node of the cluster that computes, by Ray's names of them. Raises `UserError`."""
    connect()
    found = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    if not found:
        raise expected(ADDRESS, "a cluster of which a node has a processor", "none")
    return found


def on_every_node() -> list[NodeAffinitySchedulingStrategy]:
    """For each living node the strategy by which a task goes to it."""
    return [NodeAffinitySchedulingStrategy(node["NodeID"], soft=True) for node in ray.nodes() if node["Alive"]]


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """The strategy by which a task goes to the node of this process."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _start_local(quiet: Mapping[str, Any]) -> None:
    """Start a cluster on this machine, which nobody else reaches, and which ends with this process."""
    folder = tempfile.mkdtemp(prefix="ray-")
    atexit.register(_end_local, folder)
    try:
        ray.init(
            address="local",
            num_cpus=available_cores(),
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
            **quiet,
        )
    except (OSError, ValueError) as problem:
        if "AF_UNIX" not in str(problem):  # the path of a socket, which lies in that folder
            raise
        raise expected("TMPDIR", "a folder with a path below 30 characters", tempfile.gettempdir()) from None


def _end_local(folder: str) -> None:
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def _check_answers(address: str) -> None:
    """Check that somebody listens at an address: Ray itself tries for minutes. Raises `UserError`."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if "//" in address or not host or not port.isdigit():
        raise expected(ADDRESS, "HOST:PORT of the head of a Ray cluster, auto or local", f"'{address}'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_SECONDS).close()
    except (OSError, OverflowError) as problem:
        raise expected(ADDRESS, "a Ray cluster that answers", f"{address}: {problem}") from None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Context: keep this process's handler of SIGTERM, which Ray would replace by one with an exit code of its own."""
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as ended:  # by Ray's handler
        raise SystemExit(128 + signal.SIGTERM if ended.code == signal.SIGTERM else ended.code) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, kept)
    end_if_told()  # of which Ray may have made something else
