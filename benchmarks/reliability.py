"""What a study loses where it is killed, told to end, out of room, without its server: counts.

Every piece runs whole commands on a small study (6 trials of 2 folds, a final model; 48 patches of 32x32), disturbs
them at moments drawn evenly over the length of an undisturbed command, issues them again, and compares the end with
the undisturbed study's. A metric point counts as acknowledged where the store holds it when the command is gone.

`kills`: SIGKILL of the coordinator. `folds`: SIGKILL of worker processes, one after another. `signals`: SIGINT, to all
of a terminal's processes, and SIGTERM. `full`: a small file system for cache or store, or a limit on the size of
files. `server`: the tracking server is killed and started again meanwhile; `gone`: only after the command has given
up. `ray`: a node leaves a Ray cluster (needs the executor `ray`). A piece stops before 9 minutes and goes on where it
was when it is run again, until `--count` disturbances are in `--state`; `table` prints them. Small file systems need
root. Files lie in TMPDIR, best a file system in memory.

    python benchmarks/reliability.py kills|folds|signals|full|server|gone|ray|table [--count 50] [--state FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from mammo_mlflow.jobs.executors import EXECUTORS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from reliability_checks import (
    END_SECONDS,
    EXPERIMENT,
    FIGURES,
    Bench,
    Chain,
    Figures,
    Held,
    broken_files,
    end,
    held,
    traceback_lines,
    undisturbed,
)
from support import Running
from support_servers import TrackingServer

PIECE_SECONDS = 480.0
COUNTS = {"kills": 50, "folds": 50, "signals": 40, "full": 20, "server": 10, "gone": 3, "ray": 5}
"""How often each piece disturbs a command."""


def interrupted(
    bench: Bench, where: Path, draw: random.Random, how: Callable[[Chain, Running], None], most: int
) -> Figures:
    """A study interrupted up to `most` times, `how` at moments drawn over an undisturbed command's length."""
    chain = Chain(bench, where)
    for _ in range(most):
        running = bench.issue(where)
        try:
            code = running.process.wait(draw.uniform(0, bench.seconds))
        except subprocess.TimeoutExpired:
            family = running.family()
            chain.disturbed(running)
            began = time.monotonic()
            how(chain, running)
            chain.figures["seconds"] = max(chain.figures["seconds"], time.monotonic() - began)
            chain.gone(running, family)
        else:
            chain.ended(running, code)
            return chain.figures
        if bench.late:
            break
    chain.finish()
    return chain.figures


def kill(chain: Chain, running: Running) -> None:
    """Kill the coordinator, and wait for its children."""
    family = running.family()
    running.process.kill()
    running.process.wait()
    psutil.wait_procs(family, timeout=END_SECONDS)


def tell(draw: random.Random, chain: Chain, running: Running) -> None:
    """Tell the command to end: at the terminal, all of its processes, or it alone."""
    number, began = draw.choice((signal.SIGINT, signal.SIGTERM)), time.monotonic()
    if number == signal.SIGINT:
        os.killpg(running.process.pid, number)
    else:
        running.process.send_signal(number)
    code, seconds = end(running), time.monotonic() - began
    chain.figures[number.name] = chain.figures.get(number.name, 0) + 1
    said = f"exit {code} after {seconds:.1f} s\n{running.log.read_text()[-1000:]}"
    chain.count("wrong", int(code != 128 + number), said)
    chain.count("wrong", int(seconds > END_SECONDS), said)
    chain.count("open", held(chain.database).open_runs, f"right after {number.name}")


def kills(bench: Bench, where: Path, draw: random.Random, most: int) -> Figures:
    """SIGKILL of the coordinator, up to six times a study."""
    return interrupted(bench, where, draw, kill, min(most, 6))


def signals(bench: Bench, where: Path, draw: random.Random, most: int) -> Figures:
    """SIGINT and SIGTERM, up to six times a study."""
    return interrupted(bench, where, draw, partial(tell, draw), min(most, 6))


def workers(running: Running) -> list[psutil.Process]:
    """The worker processes of a command: children of its fork server."""
    with suppress(psutil.NoSuchProcess):
        return [one for one in running.family() if one.ppid() != running.process.pid]
    return []


def folds(bench: Bench, where: Path, draw: random.Random, most: int) -> Figures:
    """One study of which a worker process is killed again and again, up to 10 times."""
    chain = Chain(bench, where)
    running = bench.issue(where, "--retries", "10")
    while running.process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            running.process.wait(draw.uniform(0.2, bench.seconds / 10))
        alive = workers(running) if running.process.poll() is None else []
        if alive and chain.figures["tried"] < min(most, 10):
            with suppress(psutil.NoSuchProcess):
                draw.choice(alive).kill()
                chain.figures["tried"] += 1
    chain.ended(running, end(running))
    again = running.log.read_text().count("is started again")
    chain.count("again", max(0, again - chain.figures["tried"]), "more starts than kills")
    chain.figures["started again"] = again
    return chain.figures


@contextmanager
def small(place: Path, size: int) -> Iterator[Callable[[int], None]]:
    """A small file system at `place`; gives what changes its size."""

    def resize(to: int, how: str = "remount,") -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"{how}size={to}", "tmpfs", str(place)], check=True)

    place.mkdir()
    resize(size, "")
    try:
        yield resize
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def full(bench: Bench, where: Path, draw: random.Random, most: int) -> Figures:
    """An experiment whose writes fail from some offset on: of its cache, of its store, or of any one file."""
    target = draw.choice(("cache", "store", "any file", "any file of the store"))
    return no_room(bench, where, target, int(math.exp(draw.uniform(math.log(20e3), math.log(58e6)))))


def no_room(bench: Bench, where: Path, target: str, size: int) -> Figures:
    """An experiment whose cache or store has `size` bytes, or where files may have no more; and the next command."""
    figures: Figures = {**dict.fromkeys(FIGURES, 0), "tried": 1, "seconds": 0.0, "where": [f"{target} {size}"]}
    where.mkdir(exist_ok=True)
    print(f"  {target}, {size} bytes", flush=True)
    with ExitStack() as stack:
        cold, place = where / "cache", where / "store"
        cache = bench.cache if target in ("store", "any file of the store") else cold
        changes = {"cache": cold, "store": place}.get(target)
        resize = stack.enter_context(small(changes, size)) if changes else None
        place.mkdir(exist_ok=True)
        began, running = time.monotonic(), bench.issue(place, "--cache-dir", str(cache), lines=EXPERIMENT)
        if resize is None:
            resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (size, size))
        code = end(running)
        figures["seconds"], log = time.monotonic() - began, running.log.read_text()
        faults = check_failed(place, cache, code, log)
        if resize:
            resize(2**28)
        running = bench.issue(place, "--cache-dir", str(cache), lines=EXPERIMENT)
        if code := end(running):
            faults.append(f"the next command: exit {code}\n{running.log.read_text()[-2000:]}")
        last = held(place / "mlflow.db")
        figures |= {"twice": last.twice, "open": last.open_runs}
        faults += [f"broken in the end: {one}" for one in broken_files(place, cache)]
        if list((cache / "undelivered").glob("*/*")):
            faults.append("writes are left undelivered")
    for fault in faults:
        print(f"  wrong: {fault}", flush=True)
    figures["wrong"] = len(faults)
    return figures


def check_failed(place: Path, cache: Path, code: int, log: str) -> list[str]:
    """What is not as it should be where a command ended for want of room."""
    said = [line for line in log.splitlines() if not re.match(r"\d\d:\d\d:\d\d (INFO|WARNING) ", line)]
    faults = [] if code in (0, 2) else [f"exit {code}"]
    if code and (len(said) != 1 or not re.search("room|full|space|MB free|too large|disk I/O error", said[0])):
        faults.append(f"what it said:\n{log[-2500:]}")
    states = held(place / "mlflow.db")
    if states.open_runs:
        faults.append(f"{states.open_runs} runs left RUNNING")
    if code and states.tops - {"FAILED"}:
        faults.append(f"the run of a command that failed is {', '.join(states.tops)}")
    return [*faults, *(f"broken: {one}" for one in broken_files(place, cache))]


def server(bench: Bench, where: Path, draw: random.Random, most: int, gone: bool = False) -> Figures:
    """A study whose tracking server is killed up to three times, and started again soon or when all is over."""
    (home := where / "server").mkdir(parents=True)
    chain = Chain(bench, where, home / "mlflow.db")
    tracking = TrackingServer(home)
    more = {"MLFLOW_TRACKING_URI": tracking.uri} | ({"MAMMO_SERVER_PATIENCE": "3"} if gone else {})
    with ExitStack() as stack:
        tracking.start()
        stack.callback(tracking.stop)
        running = bench.issue(where, **more)
        for _ in range(1 if gone else min(most, 3)):
            with suppress(subprocess.TimeoutExpired):
                running.process.wait(draw.uniform(0, bench.seconds))
                break
            tracking.stop()
            chain.disturbed(running)
            chain.before |= Held(held(chain.database).points)  # its folds were trained by this very command
            if gone:
                began, code = time.monotonic(), end(running)
                chain.figures["seconds"] = time.monotonic() - began
                chain.count("wrong", int(code not in (0, 2)), f"exit {code}\n{running.log.read_text()[-2000:]}")
                chain.count("wrong", len(traceback_lines(running.log.read_text())), "a traceback")
            else:
                time.sleep(draw.uniform(0, 8))
            tracking.start()
        code = end(running)
        if code == 2:  # as where the server was away when the command began
            print(f"  ended: {running.log.read_text().splitlines()[-1]}", flush=True)
            chain.read(running)
            chain.before |= held(chain.database)
            chain.finish(**more)
        else:
            chain.ended(running, code)
    return chain.figures


def ray(bench: Bench, where: Path, draw: random.Random, most: int) -> Figures:
    """A study on two nodes of a Ray cluster, of which one leaves."""
    importlib.import_module("mammo_mlflow.jobs.executors.ray_cluster")  # sets Ray up, which has to come first
    size = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args=size | {"include_dashboard": False}
    )
    chain = Chain(bench, where)
    try:
        node = cluster.add_node(**size)
        running = bench.issue(where, "--executor", "ray", RAY_ADDRESS=cluster.address)
        with suppress(subprocess.TimeoutExpired):
            running.process.wait(draw.uniform(0, 2 * bench.seconds))
        chain.disturbed(running)
        cluster.remove_node(node, allow_graceful=False)
        chain.ended(running, end(running))
    finally:
        cluster.shutdown()
    return chain.figures


PIECES: dict[str, Callable[[Bench, Path, random.Random, int], Figures]] = {
    "kills": kills,
    "folds": folds,
    "signals": signals,
    "full": full,
    "server": server,
    "gone": partial(server, gone=True),
    "ray": ray,
}


def table(found: list[Figures]) -> None:
    """Print the sums of all figures, a line for each piece."""
    print(f"{'':8} tried " + " ".join(f"{name:>7}" for name in FIGURES) + "  worst seconds")
    for piece in PIECES:
        some = [one for one in found if one["piece"] == piece]
        sums = Counter[str]()
        for one in some:
            sums.update({name: one[name] for name in ("tried", *FIGURES)})
        worst = max((one["seconds"] for one in some), default=0.0)
        print(f"{piece:8} {sums['tried']:5} " + " ".join(f"{sums[name]:7}" for name in FIGURES) + f"  {worst:.1f}")


def go_on(piece: str, count: int, seed: int, state: Path, seconds: float = PIECE_SECONDS) -> list[Figures]:
    """Run a piece until `count` disturbances are in `state`, or until the time is over; return what `state` has."""
    kept: dict[str, Any] = json.loads(state.read_text()) if state.exists() else {"found": []}
    cache = state.resolve().with_suffix(".cache")
    bench = Bench(cache, time.monotonic() + seconds, kept.get("study", []), kept.get("seconds", 0.0))
    while True:
        tried = sum(one["tried"] for one in kept["found"] if one["piece"] == piece)
        with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
            if not bench.study:
                bench.issue(Path(folder) / "first", lines=EXPERIMENT).process.wait()  # fills the cache
                undisturbed(bench, Path(folder) / "second")
                kept |= {"study": bench.study, "seconds": bench.seconds}
            if tried >= count or bench.late:
                break
            draw = random.Random(f"{seed} {piece} {tried}")
            figures = PIECES[piece](bench, Path(folder) / "store", draw, count - tried)
        kept["found"].append({"piece": piece, "seed": seed, **figures})
        state.write_text(json.dumps(kept, indent=1))
        print(piece, figures, flush=True)
    state.write_text(json.dumps(kept, indent=1))
    return kept["found"]


def main() -> None:
    """Go on with a piece, or print what all pieces found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=(*PIECES, "table"))
    parser.add_argument("--count", type=int, default=0, help="how many disturbances; by default what the docs show")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, default=Path("reliability.json"))
    given = parser.parse_args()
    if given.piece == "ray" and not ("ray" in EXECUTORS and importlib.util.find_spec("ray")):
        raise SystemExit("skipped: needs the executor 'ray' and its package")
    if given.piece != "table":
        go_on(given.piece, given.count or COUNTS[given.piece], given.seed, given.state)
    table(json.loads(given.state.read_text())["found"])


if __name__ == "__main__":
    main()
