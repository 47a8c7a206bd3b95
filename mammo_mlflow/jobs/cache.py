"""The cache directory, limited in size: phantom data, random weights and prefix activations.

An entry is a directory below `activations/`, which gets its name when it is complete. Its `entry.json` is touched at
each use, and the least recently used entries are evicted first. A lease file names the process that uses an entry;
entries leased by living processes are never evicted. One of another host, which shares the directory, lives as long as
it renews its leases.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from mammo_mlflow.errors import FULL_DISK, UserError, expected
from mammo_mlflow.files import PARTIAL, Taken, default_cache, locked, whole
from mammo_mlflow.jobs.devices import PROGRAMS
from mammo_mlflow.processes import is_here, process_alive, this_process

ACTIVATIONS = "activations.npy"
"""The file of an entry's activations."""
RENEWAL_SECONDS, DEAD_SECONDS = 60.0, 600.0
"""How often leases are renewed, and for how long one of another host that is not counts."""

_log = logging.getLogger(__name__)


class Cache:
    """A cache directory for activations, of at most `limit_gb` gigabytes. Raises `UserError` if not writable.

    `root` is by default `default_cache()`; `limit` is the limit in bytes.
    """

    def __init__(self, root: Path | None = None, limit_gb: float = 20.0) -> None:
        if limit_gb <= 0:
            raise expected("cache_limit_gb", "a number above 0", limit_gb)
        self.root = (root or default_cache()).resolve()
        self.limit = int(limit_gb * 1e9)
        self._next_renewal = 0.0
        try:
            self._entries.mkdir(parents=True, exist_ok=True)
            self.locks.mkdir(exist_ok=True)
        except OSError as problem:
            found = f"{self.root}: {problem}"
            raise expected("cache_dir", "a directory that can be written", found) from None

    @property
    def locks(self) -> Path:
        """The directory of the cache's lock files."""
        return self.root / "locks"

    @property
    def programs(self) -> Path:
        """The directory of JAX's compiled programs, which JAX makes and keeps small."""
        return self.root / PROGRAMS

    @property
    def _entries(self) -> Path:
        return self.root / "activations"

    def find(self, key: str) -> Path | None:
        """Find the activations file of an entry and lease it to this process; None without such an entry."""
        entry = self._entries / key
        with self.lock("evict"):  # no entry may be leased while `make_room` looks for leases and removes entries
            if not self.has(key):
                return None
            _lease(entry)
            (entry / "entry.json").touch()
        return entry / ACTIVATIONS

    def release(self) -> None:
        """Remove this process's leases, so that its entries can be evicted."""
        for lease in self._own_leases():
            lease.unlink(missing_ok=True)

    def renew(self) -> None:
        """Say that this process still uses its entries; meant to be called often."""
        if time.monotonic() > self._next_renewal:
            self._next_renewal = time.monotonic() + RENEWAL_SECONDS
            for lease in self._own_leases():
                with suppress(FileNotFoundError):
                    os.utime(lease)

    def _own_leases(self) -> Iterator[Path]:
        return self._entries.glob(f"*/{_lease_name()}")

    def has(self, key: str) -> bool:
        """Whether the cache has an entry with a key."""
        return (self._entries / key / "entry.json").exists()

    @contextmanager
    def creating(self, key: str, facts: Mapping[str, object]) -> Iterator[Path | None]:
        """Make an entry: a temporary path to write its activations to; None where another process made it meanwhile.

        The entry gets its name, complete, when the block ends without an error; `facts` go into its `entry.json`.
        Raises `UserError` on a full disk.
        """
        with self.lock(key):
            if self.has(key):
                yield None
                return
            try:
                with whole(self._entries / key, alone=True) as entry:
                    entry.mkdir()
                    yield entry / ACTIVATIONS
                    (entry / "entry.json").write_text(json.dumps(facts, indent=1, default=str))
                    _lease(entry)  # before the entry has its name, or another process could evict it before it is used
            except OSError as problem:
                if problem.errno in FULL_DISK:
                    full = f"cache_dir: the disk of {self.root} is full"
                    raise UserError(f"{full}: expected room for the activations, found none left") from None
                raise

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold the cache's lock of a name during the block; waiting for another process is logged."""
        return locked(self.locks / f"{name}.lock", "waiting for another process that makes the same cache entry", 1)

    def make_room(self, needed: int, beside: int = 0) -> None:
        """Evict the least recently used entries until `needed` more bytes fit the limit and the disk.

        The disk must also have `beside` bytes for files that are no entries. Raises `UserError` where that is
        impossible.
        """
        if needed > self.limit:
            raise expected("cache_limit_gb", f"at least {needed / 1e9:.2g} for these activations", self.limit / 1e9)
        with self.lock("evict"):
            self.remove_partial()
            found = [e for e in self._entries.glob("*/entry.json") if e.parent.suffix != PARTIAL]
            entries = sorted(found, key=lambda e: e.stat().st_mtime)
            sizes = {e.parent: e.stat().st_size + (e.parent / ACTIVATIONS).stat().st_size for e in entries}
            for entry in sizes:
                full = sum(sizes[e] for e in sizes if e.exists()) + needed > self.limit
                if (full or self._free() < needed + beside) and not _leased(entry):
                    _log.info("evicting %s (%.2f GB) from the cache", entry.name[:12], sizes[entry] / 1e9)
                    leaving = entry.with_name(f"{entry.name}{PARTIAL}")
                    entry.replace(leaving)  # in one step, so that a kill during the removal leaves no incomplete entry
                    shutil.rmtree(leaving, ignore_errors=True)
            kept = sum(sizes[e] for e in sizes if e.exists())
        if kept + needed > self.limit:
            raise expected(
                "cache_limit_gb", f"at least {(kept + needed) / 1e9:.2g} (the rest is in use)", self.limit / 1e9
            )
        if self._free() < needed + beside:
            wanted = f"{(needed + beside) / 1e6:.1f} MB free in {self.root}"
            raise expected("cache_dir", wanted, f"{self._free() / 1e6:.1f} MB")

    def remove_partial(self) -> None:
        """Remove the incomplete entries of killed processes."""
        for partial in self.partial():
            with suppress(Taken), locked(self.locks / f"{partial.stem}.lock", Taken()):
                shutil.rmtree(partial, ignore_errors=True)

    def partial(self) -> list[Path]:
        """Find the incomplete entries: of killed processes, or in the making."""
        return list(self._entries.glob(f"*{PARTIAL}"))

    def size(self) -> int:
        """The size of all entries in bytes."""
        return sum(file.stat().st_size for file in self._entries.glob(f"*/{ACTIVATIONS}"))

    def _free(self) -> int:
        """The free bytes of the disk."""
        return shutil.disk_usage(self.root).free


def _lease_name() -> str:
    """The name of this process's lease files: start time and id together name a process of a host."""
    host, pid, born = this_process().rsplit(":", 2)
    return f"lease-{pid}-{born}-{host.rpartition('#')[2]}"


def _lease(entry: Path) -> None:
    """Write this process's lease file into an entry."""
    (entry / _lease_name()).touch()


def _leased(entry: Path) -> bool:
    """Whether a living process leases an entry; leases of dead ones are removed."""
    for lease in entry.glob("lease-*"):
        _, pid, born, *host = lease.name.split("-")
        if host and not is_here(f"#{host[0]}"):
            alive = time.time() - lease.stat().st_mtime < DEAD_SECONDS
        else:
            alive = process_alive(int(pid), int(born))
        if alive:
            return True
        lease.unlink(missing_ok=True)
    return False
