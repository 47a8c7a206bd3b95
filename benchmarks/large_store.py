"""Parts of `large.py` on stores of thousands of runs, which are copies of a few that commands have left."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

SIZES = [2_000, 20_000]
PHANTOM = ("--phantom-train", "48", "--phantom-test", "24", "--phantom-size", "32", "--data", "phantom")
TASK = ("--task", "mass_calc")
SHORT = (*TASK, *PHANTOM, "--weights", "random", "--epochs", "3", "--views", "2", "--folds", "5")
TRAINED = {name: ("pretrained", "--backbone", name, *SHORT) for name in ("vgg16", "resnet50")}
STUDY = ("search", "--backbone", "vgg16", *SHORT, "--trials", "6", "--fresh-seeds", "2", "--pruner", "none")
DAY = 86_400_000


def make(folder: Path) -> list[int]:
    """Run the originals once, make the stores that are missing; the two sizes."""
    from large import environment

    origin = folder / "originals"
    origin.mkdir(exist_ok=True)
    for number, words in enumerate((*TRAINED.values(), STUDY)):
        done = origin / f"done-{number}"
        if not done.exists():
            with (origin / f"log-{number}.txt").open("w") as log:
                line = [sys.executable, "-m", "mammo_mlflow", *words]
                subprocess.run(line, cwd=origin, env=environment(folder), stdout=log, stderr=log, check=True)
            done.touch()
    for size in SIZES:
        store = folder / f"store-{size}"
        if not store.exists():
            part = folder / "store-making"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            for name in ("mlflow.db", "optuna.db"):
                shutil.copy(origin / name, part)
            fill(part / "mlflow.db", size)
            part.rename(store)
    return SIZES


def fill(database: Path, size: int) -> None:
    """Copy the database's top runs with all below them, over and over, until it has `size` runs."""
    with sqlite3.connect(database) as store:
        store.execute("PRAGMA synchronous = OFF")
        copier = _Copier(store)
        number = 0
        while copier.count < size:
            copier.copy(copier.tops[number % len(copier.tops)], number)
            number += 1
        copier.write()
    store.close()


class _Copier:
    """The rows of the original runs, and those of the copies until they are written."""

    def __init__(self, store: sqlite3.Connection) -> None:
        self.store = store
        self.rows = {table: store.execute(f"SELECT * FROM {table}").fetchall() for table in _COLUMNS}
        self.columns = {table: [row[1] for row in store.execute(f"PRAGMA table_info({table})")] for table in self.rows}
        self.by_run: dict[str, dict[str, list[tuple]]] = defaultdict(lambda: defaultdict(list))
        for table, column in _COLUMNS.items():
            place = self.columns[table].index(column)
            for row in self.rows[table]:
                self.by_run[row[place]][table].append(row)
        tags = {
            run: {row[0]: row[1] for row in self._named("tags", of["tags"], ("key", "value"))}
            for run, of in self.by_run.items()
            if of["runs"]
        }
        below: dict[str, list[str]] = defaultdict(list)
        for run, own in tags.items():
            below[own.get("mlflow.parentRunId", "")].append(run)
        self.below, self.tops, self.count = below, below[""], len(tags)
        self.made: dict[str, list[tuple]] = defaultdict(list)
        self.model_versions = store.execute("SELECT * FROM model_versions").fetchall()
        self.version_tags = store.execute("SELECT * FROM model_version_tags").fetchall()
        self.logged_models = store.execute("SELECT * FROM logged_models").fetchall()
        self.names = {
            table: [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
            for table in ("model_versions", "model_version_tags", "logged_models")
        }
        self.tags = tags
        self.lower: dict[str, int] = defaultdict(int)

    def _named(self, table: str, rows: list[tuple], wanted: tuple[str, ...]) -> list[tuple]:
        places = [self.columns[table].index(one) for one in wanted]
        return [tuple(row[place] for place in places) for row in rows]

    def _is_pruned(self, run: str) -> bool:
        """Whether copies of a run stand for pruned trials: every other one of a study."""
        own = self.tags[run]
        return own.get("mammo.level") == "trial" and int(own["mammo.part"]) % 2 == 1

    def copy(self, top: str, number: int) -> None:
        """Copy a top run and all below it, `number` + 1 days older than it is."""
        runs = [top]
        for run in runs:
            runs += self.below[run]
        ids = {run: uuid.uuid4().hex for run in runs}
        pruned = {run for run in runs if self._is_pruned(run)} if number % 2 else set()
        keys: dict[str, str] = {}
        study = str(uuid.uuid4())

        def renamed(key: str, value: str) -> str:
            if key == "mammo.study_id":
                return study
            if key in ("mammo.key", "mammo.study"):
                return keys.setdefault(value, hashlib.sha256(f"{value} {number}".encode()).hexdigest())
            return ids.get(value, value)

        for run in runs:
            for table, rows in self.by_run[run].items():
                columns = self.columns[table]
                for row in rows:
                    new = dict(zip(columns, row, strict=True))
                    new[_COLUMNS[table]] = ids[run]
                    if table == "runs":
                        new["status"] = "KILLED" if run in pruned else new["status"]
                        new["start_time"] -= (number + 1) * DAY
                        new["end_time"] -= (number + 1) * DAY
                    if table == "tags":
                        new["value"] = renamed(new["key"], new["value"])
                    if table == "inputs":
                        new["input_uuid"] = uuid.uuid4().hex
                    self.made[table].append(tuple(new.values()))
            for row in self.logged_models:
                model = dict(zip(self.names["logged_models"], row, strict=True))
                if model["source_run_id"] == run:
                    ids[model["model_id"]] = f"m-{uuid.uuid4().hex}"
                    new = {**model, "model_id": ids[model["model_id"]], "source_run_id": ids[run]}
                    self.made["logged_models"].append(tuple(new.values()))
            for row in self.model_versions:
                version = dict(zip(self.names["model_versions"], row, strict=True))
                if version["run_id"] == run:
                    self._version(version, ids[run], renamed)
        self.count += len(runs)

    def _version(self, version: dict, run: str, renamed: Callable[[str, str], str]) -> None:
        """Copy a registered version under an older number: originals are put above all copies as these are written."""
        name, original = version["name"], version["version"]
        self.lower[name] += 1
        source = f"models:/{renamed('', version['source'].removeprefix('models:/'))}"
        own = {**version, "version": -self.lower[name], "run_id": run, "source": source}
        self.made["model_versions"].append(tuple(own.values()))
        for row in self.version_tags:
            tag = dict(zip(self.names["model_version_tags"], row, strict=True))
            if (tag["name"], tag["version"]) == (name, original):
                changed = {**tag, "version": own["version"], "value": renamed(tag["key"], tag["value"])}
                self.made["model_version_tags"].append(tuple(changed.values()))

    def write(self) -> None:
        """Write all copies in one transaction."""
        self.store.execute("PRAGMA foreign_keys = OFF")
        for table, rows in self.made.items():
            marks = ", ".join("?" * len(rows[0]))
            self.store.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        for name, count in self.lower.items():
            for table in ("model_versions", "model_version_tags", "registered_model_aliases"):
                change = f"UPDATE {table} SET version = version + {count + 1} WHERE name = ? AND version"
                self.store.execute(f"{change} > 0", (name,))
                self.store.execute(f"{change} < 0", (name,))
            tag = "UPDATE tags SET value = ? WHERE key = 'mammo.version' AND run_uuid IN"
            chosen = "(SELECT run_id FROM model_versions WHERE name = ? AND version = ?)"
            for version, *_ in self.store.execute(
                "SELECT version FROM model_versions WHERE name = ?", (name,)
            ).fetchall():
                self.store.execute(f"{tag} {chosen}", (str(version), name, version))
        self.store.commit()


_COLUMNS = {
    "runs": "run_uuid",
    "tags": "run_uuid",
    "params": "run_uuid",
    "metrics": "run_uuid",
    "latest_metrics": "run_uuid",
    "inputs": "destination_id",
}
"""The tables with rows of runs, and the column of the run's id."""


def _command(*words: str, expect: tuple[int, ...] = (0,)) -> Callable[[Path, int], Callable[[], object]]:
    def prepare(folder: Path, size: int) -> Callable[[], object]:
        from large import command

        return command(folder / f"store-{size}", *words, expect=expect)

    return prepare


def _asking(name: str) -> Callable[[Path, int], Callable[[], dict[str, object]]]:
    """A step of commands by itself, on an open store."""

    def prepare(folder: Path, size: int) -> Callable[[], dict[str, object]]:
        from large import counted
        from mlflow.tracking import MlflowClient

        from mammo_mlflow.tracking.orphans import close_orphaned_runs
        from mammo_mlflow.tracking.registry import find_model
        from mammo_mlflow.tracking.results import count_runs, read_results
        from mammo_mlflow.tracking.run_queries import finished_runs

        client = MlflowClient(f"sqlite:///{folder}/store-{size}/mlflow.db")
        experiment = client.get_experiment_by_name("mammo").experiment_id
        runs = client.search_runs([experiment], "tags.`mammo.fit` = 'fold 1'", max_results=500)
        keys = [run.data.tags["mammo.key"] for run in runs][:200]
        del runs
        work: dict[str, Callable[[], object]] = {
            "finished_runs of 200 keys": lambda: finished_runs(client, keys),
            "close_orphaned_runs": lambda: close_orphaned_runs(client, experiment, "-", keys[:1]),
            "close_orphaned_runs of 200 keys": lambda: close_orphaned_runs(client, experiment, "-", keys),
            "a model's version by name": lambda: find_model(client, "mammo-mass_calc-pretrained-vgg16@candidate"),
            "results of a report": lambda: read_results(client),
            "count_runs": lambda: count_runs(client),
        }
        count = counted()

        def run() -> dict[str, object]:
            work[name]()
            return {"requests": count[0]}

        return run

    return prepare


ASKED = (
    "finished_runs of 200 keys",
    "close_orphaned_runs",
    "close_orphaned_runs of 200 keys",
    "a model's version by name",
    "results of a report",
    "count_runs",
)

PARTS: dict[str, Callable[[Path, int], Callable[[], object]]] = {
    **{name: _asking(name) for name in ASKED},
    "doctor": _command("doctor", expect=(0, 1, 2)),
    "report": _command("report", "--out", "report"),
    "promote": _command("promote", *TASK, expect=(0, 1, 2)),
    "pretrained, finished before": _command(*TRAINED["vgg16"]),
    "search, finished before": _command(*STUDY),
    "ensemble": _command("ensemble", *TASK, *PHANTOM, "--members", "pretrained", "--folds", "5", "--method", "average"),
    "reproduce, refused": _command("reproduce", "--scale", "full", "--data", "nowhere", expect=(2,)),
}
"""The parts by name: each prepares its inputs, and returns what is timed."""
