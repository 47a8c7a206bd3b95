"""A small study that is disturbed, and what its stores and folders hold then, read from files: for `reliability.py`."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import time
import zipfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from support import PHANTOM, Running

SPACE = """
family: pretrained
parameters:
  learning_rate: {low: 1e-4, high: 1e-2, log: true}
"""
FIT = ["--task", "mass_calc", "--backbone", "vgg16", "--weights", "random", *PHANTOM, "--folds", "2", "--views", "1"]
FIT += ["--precision", "float32", "--dense", "16", "--unfrozen-layers", "0", "--workers", "2"]
STUDY = [*FIT, "--epochs", "4", "--pruner", "none", "--fresh-seeds", "0", "--space", "space.yaml", "--study", "study"]
STUDY += ["--trials", "6"]
EXPERIMENT = [*FIT, "--epochs", "2"]
COMMAND_SECONDS, END_SECONDS = 240.0, 10.0
"""Within how many seconds a command has to end, and one that is told to, and the children of one that was killed."""
DONE = re.compile(r"trial (\d+) (fold \d+): done")
UNFINISHED = ("scratch-", ".partial", ".lock", "log-", "lease-", "-journal", "-wal", "-shm", "server-log", "space.yaml")
"""Parts of the names of files that are no result: being made, locks, logs."""
COSTS = ("fit_seconds", "peak_memory_mb", "tracking_seconds")
"""What a command itself cost: a run that is opened again, as the best trial's for its refit, gets another point."""
RUNS = """
select r.run_uuid, r.status, t.value, f.value, exists(
  select 1 from tags c where c.run_uuid = r.run_uuid and c.key = 'mammo.reused_from')
from runs r left join tags t on t.run_uuid = r.run_uuid and t.key = 'mammo.trial'
left join tags f on f.run_uuid = r.run_uuid and f.key = 'mammo.fit'
"""
FIGURES = {
    "lost": "points that the store held and holds no more",
    "twice": "points, finished folds or versions of which there are two",
    "again": "folds trained again that were finished",
    "missing": "folds that nobody finished",
    "open": "runs and trials still RUNNING",
    "left": "processes that outlived their command by 10 s",
    "other": "studies whose trials, values, best or test set's results are not the undisturbed ones",
    "wrong": "wrong exit codes, late ends, tracebacks, truncated files, more than one line",
}
Figures = dict[str, Any]


@dataclass(frozen=True)
class Held:
    """What an MLflow database holds: metric points (run, name, step, value), finished folds, faults, top runs."""

    points: frozenset[tuple[str, str, int, float]] = field(default=frozenset(), repr=False)
    finished: frozenset[tuple[int, str]] = frozenset()
    points_twice: tuple[tuple[str, str, int], ...] = ()
    folds_twice: int = 0
    versions_twice: int = 0
    open_runs: int = 0
    tops: frozenset[str] = frozenset()

    @property
    def twice(self) -> int:
        """How much is there twice."""
        return len(self.points_twice) + self.folds_twice + self.versions_twice

    def __or__(self, other: Held) -> Held:
        return Held(self.points | other.points, self.finished | other.finished)


def held(database: Path) -> Held:
    """Read an MLflow database; one that is not there holds nothing."""
    if not database.exists():
        return Held()
    with closing(sqlite3.connect(database, timeout=30)) as base:
        points = base.execute("select run_uuid, key, step, value from metrics").fetchall()
        runs = base.execute(RUNS).fetchall()
        versions = base.execute("select count(*) from model_versions where current_stage != 'Deleted_Internal'")
        folds = Counter(
            (int(trial or -1), fit)
            for _, status, trial, fit, reused in runs
            if fit and fit.startswith("fold") and status == "FINISHED" and not reused
        )
        return Held(
            points=frozenset(points),
            finished=frozenset(folds),
            points_twice=tuple(
                point
                for point, count in Counter(row[:3] for row in points).items()
                if count > 1 and point[1] not in COSTS
            ),
            folds_twice=sum(folds.values()) - len(folds),
            versions_twice=max(0, versions.fetchone()[0] - 1),
            open_runs=sum(status == "RUNNING" for _, status, *_ in runs),
            tops=frozenset(status for _, status, trial, fit, _ in runs if not trial and not fit),
        )


def outcome(where: Path, database: Path | None = None) -> list[Any]:
    """How a study ended: its trials with states, parameters and values; and the best and final model's figures."""
    with closing(sqlite3.connect(where / "optuna.db")) as base:
        trials = base.execute(
            "select number, state, param_name, param_value, value from trials t left join trial_params p "
            "on p.trial_id = t.trial_id left join trial_values v on v.trial_id = t.trial_id order by number, param_name"
        ).fetchall()
    with closing(sqlite3.connect(database or where / "mlflow.db")) as base:
        figures = base.execute(
            "select distinct key, value from latest_metrics where key = 'best_objective_roc_auc' "
            "or key in ('test_roc_auc', 'test_accuracy', 'threshold') order by key, value"
        ).fetchall()
    return json.loads(json.dumps([trials, figures]))  # as the state file gives it back


def done_folds(log: str) -> set[tuple[int, str]]:
    """The folds that a command trained."""
    return {(int(trial), fold) for trial, fold in DONE.findall(log)}


def traceback_lines(log: str) -> list[str]:
    """The heads of tracebacks."""
    return [line for line in log.splitlines() if line.startswith("Traceback")]


def broken_files(*roots: Path) -> list[str]:
    """The files below some folders that cannot be read as what their names say."""
    files = [(root, path) for root in roots for path in sorted(root.rglob("*")) if path.is_file()]
    return [
        f"{path} ({path.stat().st_size} bytes)"
        for root, path in files
        if not any(part in str(path.relative_to(root)) for part in UNFINISHED) and not _whole(path)
    ]


def _whole(path: Path) -> bool:
    """Whether a file is whole, as far as its kind tells."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix in (".npy", ".npz"):
            import numpy as np

            np.load(path, mmap_mode="r" if path.suffix == ".npy" else None)
        elif path.suffix == ".h5":
            import h5py

            h5py.File(path).close()
        elif path.suffix == ".keras":
            return zipfile.ZipFile(path).testzip() is None
        elif path.suffix == ".db":
            with closing(sqlite3.connect(path, timeout=30)) as base:
                return base.execute("pragma integrity_check").fetchone()[0] == "ok"
        elif path.suffix in (".png", ".parquet"):
            tail = {".png": b"IEND\xaeB`\x82", ".parquet": b"PAR1"}[path.suffix]
            return path.read_bytes().endswith(tail)
    except Exception:
        return False
    return True


@dataclass
class Bench:
    """What all disturbances share: a full cache, and how an undisturbed command ends, in so many seconds."""

    cache: Path
    deadline: float
    study: list[Any] = field(default_factory=list)
    seconds: float = 0.0

    def issue(self, where: Path, *more: str, lines: list[str] = STUDY, **surroundings: str) -> Running:
        """Start the study, or another command of `lines`, in a folder."""
        where.mkdir(exist_ok=True)
        (where / "space.yaml").write_text(SPACE)
        name = "search" if lines is STUDY else "pretrained"
        surroundings = {"MAMMO_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "-1", **surroundings}
        return Running(where, self.cache, *lines, *more, name=name, **surroundings)

    @property
    def late(self) -> bool:
        """Whether nothing new should be begun."""
        return time.monotonic() > self.deadline


def end(running: Running) -> int:
    """The exit code of a command as a shell has it; one that does not end is killed, 137."""
    try:
        code = running.process.wait(COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        running.process.kill()
        code = running.process.wait()
    return code if code >= 0 else 128 - code


def undisturbed(bench: Bench, where: Path) -> None:
    """Note how the study ends undisturbed and how long it takes."""
    began, running = time.monotonic(), bench.issue(where)
    if end(running):
        raise SystemExit(running.log.read_text())
    bench.seconds = time.monotonic() - began
    bench.study = outcome(where)


class Chain:
    """Commands in one folder, disturbed one after another; what each found there must be there in the end."""

    def __init__(self, bench: Bench, where: Path, database: Path | None = None) -> None:
        self.bench, self.where, self.database = bench, where, database or where / "mlflow.db"
        self.before = Held()
        self.figures: Figures = {**dict.fromkeys(FIGURES, 0), "tried": 0, "seconds": 0.0, "where": []}

    def count(self, figure: str, number: int = 1, why: str = "") -> None:
        """Add to a figure; what is counted here is not as it should be, and is said."""
        self.figures[figure] += number
        if number:
            print(f"  {figure} {number}: {why}", flush=True)

    def gone(self, running: Running, family: list[psutil.Process]) -> None:
        """Look at what a command left that has ended."""
        left = psutil.wait_procs(family, timeout=END_SECONDS)[1]
        self.count("left", len(left), str([one.name() for one in left if one.is_running()]))
        self.read(running)
        self.before |= held(self.database)

    def read(self, running: Running) -> None:
        """Look at what a command said: no traceback, and no fold that was finished before it."""
        log = running.log.read_text()
        again = self.before.finished & done_folds(log)
        self.count("again", len(again), f"{sorted(again)}")
        self.count("wrong", len(traceback_lines(log)), "\n".join(log.splitlines()[-8:]))

    def disturbed(self, running: Running) -> None:
        """Note that a command was disturbed, and what it was doing: the last line of its log."""
        said = running.log.read_text().splitlines() or ["- - starting"]
        self.figures["where"].append(re.sub(r"[\d.]+", "#", said[-1].split(" ", 2)[-1])[:40])
        self.figures["tried"] += 1

    def finish(self, *more: str, **surroundings: str) -> None:
        """Issue the command for the last time, and compare its end."""
        running = self.bench.issue(self.where, *more, **surroundings)
        self.ended(running, end(running))

    def ended(self, running: Running, code: int) -> None:
        """Compare the end of the last command with the undisturbed one's."""
        self.count("wrong", int(code != 0), f"exit {code}\n{running.log.read_text()[-2000:]}")
        self.read(running)
        now = held(self.database)
        lost = self.before.points - now.points
        self.count("lost", len(lost), str(sorted(lost, key=str)[:3]))
        folds = {(trial, fit) for trial in range(6) for fit in ("fold 1", "fold 2")}
        self.count("missing", len(folds - now.finished), str(folds - now.finished))
        self.count("twice", now.twice, str(now))
        self.count("open", now.open_runs + held_trials(self.where), "")
        found = outcome(self.where, self.database)
        self.count("other", int(found != self.bench.study), f"{found}\n{self.bench.study}")


def held_trials(where: Path) -> int:
    """How many trials Optuna takes for running."""
    with closing(sqlite3.connect(where / "optuna.db")) as base:
        return base.execute("select count(*) from trials where state = 'RUNNING'").fetchone()[0]
