"""Writes that a command could not deliver: kept in a folder of the cache, and delivered by the next command.

A folder has `writes.json` and the files to be logged. It belongs to one store, whose address is kept as a hash, for it
may hold a password. Whatever was delivered before a kill is delivered again: that changes nothing in the store.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mammo_mlflow.files import Taken, locked, sha256, whole
from mammo_mlflow.tracking.requests import is_away
from mammo_mlflow.tracking.writes import LogBatch, LogBytes, LogDataset, LogFile, RunEnd, RunHandle, RunStart, Write

UNDELIVERED = "undelivered"
"""The folder of the cache in which they are kept."""
WRITES = "writes.json"
KINDS: dict[str, type[Write]] = {kind.__name__: kind for kind in (LogBatch, LogDataset, LogFile, RunEnd)}

_log = logging.getLogger(__name__)


class _Keeper:
    """Turns runs and writes to data, with the files to be logged in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers: dict[int, int] = {}
        self.runs: list[object] = []
        self.writes: list[object] = []

    def add(self, run: RunHandle, write: Write) -> None:
        """Add a write to a run."""
        place = self._folder / str(len(self.writes))
        if isinstance(write, LogBytes):
            place.write_bytes(write.content)
            parent, _, name = write.name.rpartition("/")
            write = LogFile(place.name, parent or None, name)
        elif isinstance(write, LogFile):
            with suppress(FileNotFoundError):  # what is gone would not have been delivered either
                shutil.copyfile(write.path, place)
            write = LogFile(place.name, write.folder, write.name or Path(write.path).name)
        self.writes.append([self._number(run), type(write).__name__, vars(write)])

    def _number(self, run: RunHandle) -> int:
        """The place of a run among `runs`, behind those that its tags refer to."""
        if id(run) not in self._numbers:
            described: object = run.known
            if run.new is not None and not run.known:
                tags = {
                    name: {"run": self._number(value)} if isinstance(value, RunHandle) else str(value)
                    for name, value in run.new.tags.items()
                }
                described = {**vars(run.new), "tags": tags}
            self._numbers[id(run)] = len(self.runs)
            self.runs.append(described)
        return self._numbers[id(run)]


def keep_writes(root: Path, store: str, writes: Iterable[tuple[RunHandle, Write]]) -> None:
    """Keep writes to the store of an address in a new folder of `root`."""
    root.mkdir(parents=True, exist_ok=True)
    target = root / f"{int(time.time())}-{uuid.uuid4().hex[:8]}"
    with whole(target) as folder:
        folder.mkdir()
        keeper = _Keeper(folder)
        for run, write in writes:
            keeper.add(run, write)
        content = {"store": sha256(store), "runs": keeper.runs, "writes": keeper.writes}
        (folder / WRITES).write_text(json.dumps(content))
    left = len(keeper.writes)
    _log.warning("%d writes were not delivered: the next command delivers them from %s", left, target)


def kept_writes(root: Path) -> list[Path]:
    """The folders of writes that were not delivered, the oldest first."""
    return sorted(file.parent for file in root.glob(f"*/{WRITES}"))


def deliver_writes(client: MlflowClient, store: str, root: Path) -> None:
    """Deliver the writes to the store of an address that are kept in `root`; they stay where it is away again."""
    for folder in kept_writes(root):
        with suppress(Taken), locked(folder.with_suffix(".lock"), Taken()):
            content = json.loads((folder / WRITES).read_text())
            if content["store"] != sha256(store):
                continue
            try:
                refused = _deliver(client, folder, content)
            except (MlflowException, OSError) as problem:
                if not is_away(problem):
                    raise
                _log.warning("the tracking server is away again: %s is kept", folder)
                return
            shutil.rmtree(folder)
            lost = f", {refused} refused" if refused else ""
            _log.info("delivered %d writes that an earlier command had kept%s", len(content["writes"]), lost)
        folder.with_suffix(".lock").unlink(missing_ok=True)


def _deliver(client: MlflowClient, folder: Path, content: dict) -> int:
    """Make the runs that are missing and send every write; return how many were refused, as of deleted runs."""
    ids: list[str] = []
    for run in content["runs"]:
        if isinstance(run, dict):
            tags = {k: ids[v["run"]] if isinstance(v, dict) else v for k, v in run["tags"].items()}
            new = RunStart(**{**run, "tags": tags})
            run = new.find(client) or new.make(client)
        ids.append(run)
    refused = 0
    for number, kind, values in content["writes"]:
        if kind == LogFile.__name__:
            values = {**values, "path": str(folder / values["path"])}
        if kind == LogBatch.__name__:
            values = {**values, "metrics": tuple(tuple(point) for point in values["metrics"])}
        try:
            KINDS[kind](**values).send(client, ids[number])
        except (MlflowException, OSError) as problem:
            if is_away(problem):
                raise
            refused += 1
    return refused
