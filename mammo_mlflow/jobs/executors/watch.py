"""Tell which worker processes hang: those that are silent for far longer than others of their kind, or stopped."""

from __future__ import annotations

import time
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mammo_mlflow.jobs.contracts import FitJob, FitsJob, Job

LOOK_SECONDS = 1.0
SHORTEST_SILENCE, TIMES = 60.0, 10.0
"""A job hangs when it is silent for so many seconds, and so many times the longest silence of others of its kind."""
STOPPED_SECONDS = 10.0
"""For how long a process may be stopped (SIGSTOP); one whose coordinator is stopped with it goes on with it."""
OOM_COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
"""Files in which Linux counts the processes that it ended for want of memory, of the system and of a container."""


@dataclass
class _Watched:
    """A job at work in a process."""

    kind: Hashable
    heard: float
    patience: float = 1.0
    silence: float = 0.0
    stopped: list[float] = field(default_factory=list)


class Watch:
    """Watches the jobs of an executor; `patience` of a job is how many times the usual silence it is allowed."""

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._longest: dict[Hashable, float] = {}
        self._looked = 0.0
        self._out_of_memory = oom_count()

    def started(self, job: Job[object], patience: float = 1.0) -> None:
        """Note that a job has started."""
        self._watched[id(job)] = _Watched(_kind(job), time.monotonic(), patience)

    def heard(self, job: Job[object]) -> None:
        """Note that a job has sent a message."""
        one, now = self._watched[id(job)], time.monotonic()
        one.silence, one.heard = max(one.silence, now - one.heard), now

    def ended(self, job: Job[object], well: bool) -> None:
        """Note that a job has ended, well or not."""
        self.heard(job)
        one = self._watched.pop(id(job))
        if well:
            self._longest[one.kind] = max(self._longest.get(one.kind, 0.0), one.silence)

    def due(self) -> bool:
        """Whether it is time to look at the processes again."""
        now = time.monotonic()
        due = now - self._looked > LOOK_SECONDS
        self._looked = now if due else self._looked
        return due

    def hangs(self, job: Job[object], pid: int | None) -> str | None:
        """Why the process of a job is taken to hang, to be asked where `due`; None if it is not."""
        one, now = self._watched[id(job)], time.monotonic()
        usual = self._longest.get(one.kind)
        silent = now - one.heard
        if usual is not None and silent > one.patience * max(SHORTEST_SILENCE, TIMES * usual):
            return f"no sign of life for {silent:.0f} s, where others took at most {usual:.0f} s between two"
        status = None
        with suppress(psutil.Error):
            status = None if pid is None else psutil.Process(pid).status()
        if status not in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            one.stopped.clear()
            return None
        # looks are counted, not seconds alone: while the coordinator is stopped, too, time goes on
        one.stopped.append(now)
        long = now - one.stopped[0] > STOPPED_SECONDS and len(one.stopped) > STOPPED_SECONDS / LOOK_SECONDS / 2
        return f"its process was stopped for {STOPPED_SECONDS:.0f} s (SIGSTOP)" if long else None

    def memory_ran_out(self) -> bool:
        """Whether Linux has ended a process for want of memory since this was last asked."""
        before, self._out_of_memory = self._out_of_memory, oom_count()
        return self._out_of_memory > before


def oom_count() -> int:
    """How many processes Linux has ended for want of memory; 0 where it does not tell."""
    found = 0
    for file in OOM_COUNTERS:
        with suppress(OSError, ValueError):
            found += sum(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith("oom_kill "))
    return found


def _kind(job: Job[object]) -> Hashable:
    """What jobs have in common that should be silent for about as long."""
    if isinstance(job, FitJob):
        return type(job), job.program
    return type(job), tuple(fit.program for fit in job.fits[:1]) if isinstance(job, FitsJob) else type(job).__name__
