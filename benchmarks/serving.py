"""What a request of many patches costs `serve`, and what it costs `mlflow models serve`, in one run.

    python benchmarks/serving.py [--patches 500] [--size 150] [--output FILE]

A small network of patches alone and a small Siamese one, which takes baselines too, are trained for an epoch on a
phantom and registered. Each is served both ways and asked for one patch, so that it is warm, and then for `--patches`
in one request of JSON. Of that request: its seconds, the processor seconds of the server's processes, and the most
memory that they had together, their imports among it. Both servers compute the same answers, which is checked; `serve`
judges every value besides. MLflow's own takes more than 24 GB for a thousand pairs. Nothing is said about accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil

TINY = ("--task", "mass_calc", "--blocks", "8/2", "--pooling", "average", "--epochs", "1", "--holdout", "0.3")
FAMILIES = {"patches alone": ("scratch", ("patch",)), "with baselines": ("siamese", ("patch", "baseline"))}


def main() -> None:
    """Serve both models both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=500)
    parser.add_argument("--size", type=int, default=150, help="side of the patches in pixels")
    parser.add_argument("--output", help="file for the numbers as JSON")
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/store.db"}
        for what, (family, inputs) in FAMILIES.items():
            model = _train(folder, environment, family, arguments.size)
            small, large = (_request(folder, inputs, count, arguments.size) for count in (1, arguments.patches))
            print(f"{what}: {large.stat().st_size / 1e6:.0f} MB of JSON")
            answers = {}
            for server, command in _servers(model).items():
                answers[server], row = _measure(command, environment, folder, small, large)
                found.append({"request": what, "server": server, **row})
                seconds, used = f"{row['seconds']:.1f} s", f"{row['processor_seconds']:.1f} processor seconds"
                print(f"  {server}: {seconds}, {used}, {row['memory'] / 1e9:.1f} GB")
            if not np.allclose(*answers.values(), atol=1e-6):
                raise SystemExit("the servers answered differently")
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(found, indent=1))


def _train(folder: Path, environment: dict[str, str], family: str, size: int) -> str:
    """Train and register a small model; return its URI."""
    phantom = ("--phantom-train", "32", "--phantom-test", "16", "--phantom-size", str(size))
    backbone = ("--backbone", "scratch") if family == "siamese" else ()
    line = [sys.executable, "-m", "mammo_mlflow", family, *TINY, *phantom, *backbone]
    told = subprocess.run(line, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout
    return told.strip().splitlines()[-1].split()[-1]  # the closing line serves the model


def _servers(model: str) -> dict[str, list[str]]:
    """The command lines of both servers, without their port."""
    own = [sys.executable, "-m", "mammo_mlflow", "serve", "--model", model, "--max-body-mb", "1024", "--arrival", "600"]
    return {
        "mlflow models serve": ["mlflow", "models", "serve", "-m", model, "--env-manager", "local", "--timeout", "600"],
        "serve": own,
    }


def _request(folder: Path, inputs: tuple[str, ...], count: int, size: int) -> Path:
    """Write a request of made-up patches as JSON."""
    patches = np.random.default_rng(0).integers(0, 65536, (count, size, size, 1))
    given = {name: patches.tolist() for name in inputs}
    path = folder / f"{count}.json"
    path.write_text(json.dumps({"inputs": given if len(given) > 1 else given["patch"]}))
    return path


def _measure(
    command: list[str], environment: dict[str, str], folder: Path, small: Path, large: Path
) -> tuple[np.ndarray, dict[str, float]]:
    """The answers to the large request, and what it took."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [*command, "--port", str(port)]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(line, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _ask(port, small, patience=120)
        before, peak, stop = _processor_seconds(server.pid), [0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(server.pid, peak, stop))
        watcher.start()
        start = time.perf_counter()
        answers = _ask(port, large)
        seconds = time.perf_counter() - start
        stop.set()
        watcher.join()
        used = _processor_seconds(server.pid) - before
        return answers, {"seconds": seconds, "processor_seconds": used, "memory": peak[0]}
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _ask(port: int, body: Path, patience: float = 0) -> np.ndarray:
    """The answers of a server, which may still be starting for `patience` seconds."""
    deadline = time.monotonic() + patience
    headers = {"Content-Type": "application/json"}
    question = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body.read_bytes(), headers)
    while True:
        try:
            with urllib.request.urlopen(question, timeout=900) as answer:
                return np.asarray(json.load(answer)["predictions"])
        except OSError:  # no server yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _processes(pid: int) -> list[psutil.Process]:
    server = psutil.Process(pid)
    return [server, *server.children(recursive=True)]


def _processor_seconds(pid: int) -> float:
    return sum(one.cpu_times().user + one.cpu_times().system for one in _processes(pid))


def _watch(pid: int, peak: list[int], stop: threading.Event) -> None:
    while not stop.wait(0.1):
        peak[0] = max(peak[0], sum(one.memory_info().rss for one in _processes(pid)))


if __name__ == "__main__":
    main()
