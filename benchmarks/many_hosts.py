"""What stores hold when many processes and hosts use them: lock errors, and what is lost or written twice.

`starts`: eight processes at once open fresh SQLite stores, a run and a study each, so many times. `sqlite`: a study of
20 trials of 4 folds through one coordinator with 8 workers. `postgresql`: the same by four coordinators on hosts of
their own (namespaces: network, name, processes, temporary files), of which one dies in the middle; a fifth command
takes up what it left, after the silence from which a host counts as dead. Each piece adds its figures to a file,
`table` prints them. The hosts need root, iproute2 and PostgreSQL.

    python benchmarks/many_hosts.py starts [--rounds 20] | sqlite | postgresql | table [--results many_hosts.json]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import optuna
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from mammo_mlflow.names import Tag
from mammo_mlflow.search.storage import Storage
from mammo_mlflow.tracking.orphans import DEAD_SECONDS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support import PHANTOM, environment
from support_servers import Host, PostgreSQL

AT_ONCE, TRIALS, FOLDS, EPOCHS = 8, 20, 4, 2
START = """
from mammo_mlflow.search.storage import Storage
from mammo_mlflow.tracking.store import open_store
client, experiment = open_store()
client.set_terminated(client.create_run(experiment).info.run_id)
Storage("sqlite:///optuna.db").rdb.create_new_study([])
"""
SPACE = """
family: pretrained
parameters:
  learning_rate: {low: 1e-4, high: 1e-2, log: true}
"""
SETTING = ["--task", "mass_calc", "--backbone", "vgg16", "--weights", "random", *PHANTOM, "--folds", str(FOLDS)]
SETTING += [
    "--epochs",
    str(EPOCHS),
    "--views",
    "1",
    "--precision",
    "float32",
    "--dense",
    "16",
    "--unfrozen-layers",
    "0",
]
SETTING += ["--pruner", "none", "--fresh-seeds", "0", "--final", "none", "--space", "space.yaml", "--study", "shared"]
SETTING += ["--trials", str(TRIALS)]
LOCKED = re.compile(r"database (?:table )?is locked|deadlock|lock timeout|could not obtain lock", re.IGNORECASE)
WAIT_SECONDS = 1500.0

Figures = dict[str, object]


def start(line: Sequence[str], where: Path, log: Path, **more: str) -> subprocess.Popen[bytes]:
    """Start a command whose output goes to `log`."""
    with log.open("wb") as file:
        surroundings = environment(where / "cache", **more)
        return subprocess.Popen(line, cwd=where, env=surroundings, stdout=file, stderr=file, start_new_session=True)


def search(storage: str, workers: int) -> list[str]:
    """The command line of a coordinator of the study."""
    line = [sys.executable, "-m", "mammo_mlflow", "search", *SETTING, "--storage", storage]
    return [*line, "--workers", str(workers)]


def lock_errors(*logs: Path) -> int:
    """How many lines of logs tell of a lock."""
    return sum(bool(LOCKED.search(line)) for log in logs for line in log.read_text().splitlines())


def starts(where: Path) -> Figures:
    """One round of eight processes at once on fresh stores."""
    logs = [where / f"log-{number}" for number in range(AT_ONCE)]
    began = time.monotonic()
    processes = [start([sys.executable, "-c", START], where, log) for log in logs]
    started = sum(process.wait(WAIT_SECONDS) == 0 for process in processes)
    client = MlflowClient(f"sqlite:///{where}/mlflow.db")
    runs = len(client.search_runs([client.get_experiment_by_name("mammo").experiment_id]))
    studies = len(optuna.get_all_study_names(f"sqlite:///{where}/optuna.db"))
    found = {"processes": AT_ONCE, "started": started, "runs": runs, "studies": studies}
    return {**found, "lock errors": lock_errors(*logs), "seconds": round(time.monotonic() - began)}


def check(tracking: str, storage: str) -> Figures:
    """What the stores hold of the study: what of it is missing, and what is there twice."""
    client = MlflowClient(tracking)
    runs = client.search_runs([client.get_experiment_by_name("mammo").experiment_id], max_results=10_000)
    trials = optuna.load_study(study_name="shared", storage=Storage(storage).rdb).trials
    level = {run.info.run_id: run for run in runs if run.data.tags.get(Tag.LEVEL) == "trial"}
    whole = {key: run for key, run in level.items() if run.info.status == "FINISHED"}
    folds = [
        (whole[parent].data.tags[Tag.TRIAL], run.data.tags[Tag.FIT], run)
        for run in runs
        if (parent := run.data.tags.get("mlflow.parentRunId")) in whole and run.info.status == "FINISHED"
    ]
    seen = Counter((trial, fit) for trial, fit, _ in folds)
    points = [
        [point.step for point in client.get_metric_history(run.info.run_id, name)]
        for _, _, run in folds
        for name in run.data.metrics
    ]
    return {
        "trials": f"{sum(trial.state == TrialState.COMPLETE for trial in trials)} of {TRIALS}",
        "trials twice": len(trials) - TRIALS + len(whole) - len({run.data.tags[Tag.TRIAL] for run in whole.values()}),
        "folds": f"{len(seen)} of {TRIALS * FOLDS}",
        "folds twice": sum(count - 1 for count in seen.values()),
        "points": sum(map(len, points)),
        "points twice": sum(len(steps) - len(set(steps)) for steps in points),
        "runs open": sum(run.info.status == "RUNNING" for run in runs),
        "owners": len({trial.user_attrs.get("process") for trial in trials}),
    }


def sqlite(where: Path) -> Figures:
    """One coordinator with eight workers."""
    (where / "space.yaml").write_text(SPACE)
    tracking, storage, began = f"sqlite:///{where}/mlflow.db", f"sqlite:///{where}/optuna.db", time.monotonic()
    process = start(search(storage, 8), where, where / "log")
    failed = int(process.wait(WAIT_SECONDS) != 0)
    figures = {"failed": failed, "lock errors": lock_errors(where / "log"), **check(tracking, storage)}
    return {**figures, "seconds": round(time.monotonic() - began)}


def postgresql(where: Path) -> Figures:
    """Four coordinators on hosts of their own, one of which dies."""
    began = time.monotonic()
    with ExitStack() as stack:
        server = PostgreSQL(Host.NETWORK)
        stack.callback(server.remove)
        stack.callback(Host.clear)
        hosts = [stack.enter_context(Host(number)) for number in range(1, 5)]
        server.start()
        tracking, storage = server.make(Host.GATEWAY), server.make(Host.GATEWAY)

        def command(host: Host, name: str) -> tuple[subprocess.Popen[bytes], Path]:
            (folder := where / name).mkdir()
            (folder / "space.yaml").write_text(SPACE)
            log = where / f"log-{name}"
            more = {**host.surroundings, "MLFLOW_TRACKING_URI": tracking, "MAMMO_CACHE_DIR": str(folder / "cache")}
            process = start(host.line(*search(storage, 2)), folder, log, **artifacts(where), **more)
            stack.callback(_end, process)
            return process, log

        MlflowClient(tracking).create_experiment("mammo", artifact_location=(where / "artifacts").as_uri())
        made = [command(host, host.name) for host in hosts]
        logs = [log for _, log in made]
        _wait(lambda: _ended(logs) >= TRIALS // 4 and _ended(logs[:1]) >= 1)
        os.killpg(made[0][0].pid, signal.SIGKILL)
        died, left = time.monotonic(), _ended(logs)
        print(f"killed {hosts[0].name} when {left} trials had ended", flush=True)
        failed = sum(process.wait(WAIT_SECONDS) != 0 for process, _ in made[1:])
        running = check(tracking, storage)
        print(f"when the others had ended: {running}", flush=True)
        time.sleep(max(0.0, DEAD_SECONDS + 5 - (time.monotonic() - died)))
        last, log = command(hosts[1], "afterwards")
        failed += int(last.wait(WAIT_SECONDS) != 0)
        found = check(tracking, storage)
        figures = {"failed": failed, "lock errors": lock_errors(*logs, log), **found}
        before = {"trials when it died": left, "trials when the others had ended": running["trials"]}
        return {**figures, **before, "seconds": round(time.monotonic() - began)}


def artifacts(where: Path) -> Mapping[str, str]:
    """What the hosts have in common beside the databases: nothing but a folder for artifacts, named by its path."""
    return {"MAMMO_OFFLINE": "1", "HOME": str(where)}


def _ended(logs: Sequence[Path]) -> int:
    return sum(len(re.findall(r" INFO trial \d+: ", log.read_text())) for log in logs)


def _wait(condition: object) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise SystemExit("it did not happen in time")
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def table(results: Sequence[Figures]) -> None:
    """Print all figures: the rounds of `starts` as sums, other pieces one by one."""
    rounds = [one for one in results if one["piece"] == "starts"]
    if rounds:
        names = ("processes", "started", "runs", "studies", "lock errors")
        sums = {name: sum(int(str(one[name])) for one in rounds) for name in names}
        print(f"starts, {len(rounds)} rounds: " + ", ".join(f"{name} {value}" for name, value in sums.items()))
    for one in results:
        if one["piece"] != "starts":
            print(f"{one['piece']}: " + ", ".join(f"{name} {value}" for name, value in one.items() if name != "piece"))


def main() -> None:
    """Run one piece, or print what all pieces found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=("starts", "sqlite", "postgresql", "table"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--results", type=Path, default=Path("many_hosts.json"))
    given = parser.parse_args()
    results: list[Figures] = json.loads(given.results.read_text()) if given.results.exists() else []
    pieces = {"starts": starts, "sqlite": sqlite, "postgresql": postgresql}
    for _ in range(0 if given.piece == "table" else given.rounds if given.piece == "starts" else 1):
        with tempfile.TemporaryDirectory(prefix="many-hosts-") as folder:
            found = pieces[given.piece](Path(folder))
        results.append({"piece": given.piece, **found})
        given.results.write_text(json.dumps(results, indent=1))
        print(found, flush=True)
    table(results)


if __name__ == "__main__":
    main()
