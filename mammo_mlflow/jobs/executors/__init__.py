"""Executors, which run jobs: all of them subclasses of `base.Executor`."""

from __future__ import annotations

from collections.abc import Callable

from mammo_mlflow.errors import unknown_name
from mammo_mlflow.jobs.devices import Devices
from mammo_mlflow.jobs.executors.base import RETRIES, Answered, AnyJob, Executor, JobFailed, OnEvent
from mammo_mlflow.jobs.executors.cards import CardExecutor, CardPool
from mammo_mlflow.jobs.executors.inline import InlineExecutor
from mammo_mlflow.jobs.executors.process import ProcessExecutor

__all__ = ["EXECUTORS", "Answered", "AnyJob", "Executor", "JobFailed", "OnEvent", "make_executor", "make_executors"]

EXECUTORS: dict[str, Callable[[int], Executor]] = {
    "process": ProcessExecutor,
    "inline": lambda workers: InlineExecutor(),
}
"""Each executor by name: a function of the number of workers that makes it."""


def make_executor(name: str, workers: int) -> Executor:
    """Make the executor of a name, `process` or `inline`. Raises `UserError` for an unknown one."""
    if name not in EXECUTORS:
        raise unknown_name("executor", name, EXECUTORS)
    return EXECUTORS[name](workers or 1)


def make_executors(name: str, workers: int, devices: Devices, retries: int = RETRIES) -> tuple[Executor, Executor]:
    """Make the executor of a command's jobs, and one for single jobs beside them; on cards they share its processes.

    Raises as `make_executor`.
    """
    if name == "process" and devices.cards and devices.engine == "compiled":
        pool = CardPool(devices.cards)
        made: tuple[Executor, Executor] = CardExecutor(pool, workers), CardExecutor(pool)
    else:
        made = make_executor(name, workers), make_executor(name, workers)
    for executor in made:
        executor.retries = retries
    return made
