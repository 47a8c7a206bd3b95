"""Executors, which run jobs: all of them subclasses of `base.Executor`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from mammo_mlflow.errors import expected, how_to_install, unknown_name
from mammo_mlflow.jobs.devices import Devices
from mammo_mlflow.jobs.executors.base import RETRIES, Answered, AnyJob, Executor, JobFailed, OnEvent
from mammo_mlflow.jobs.executors.cards import SHARE, CardExecutor, CardPool
from mammo_mlflow.jobs.executors.inline import InlineExecutor
from mammo_mlflow.jobs.executors.process import ProcessExecutor
from mammo_mlflow.processes import available_cores

__all__ = [
    "EXECUTORS",
    "Answered",
    "AnyJob",
    "Executor",
    "JobFailed",
    "OnEvent",
    "check_executor",
    "machines",
    "make_executor",
    "make_executors",
]


def _make_ray(workers: int, devices: Devices | None = None) -> Executor:
    from mammo_mlflow.jobs.executors.ray import RayExecutor  # an extra

    if devices is None:
        return RayExecutor(workers)
    on_cards, memory = devices.kind == "gpu", min((int(SHARE * card.free) for card in devices.cards), default=0)
    if not on_cards:  # a node's memory, which its jobs share
        memory //= workers
    return RayExecutor(workers, on_cards, devices.engine == "compiled", memory)


EXECUTORS: dict[str, Callable[[int], Executor]] = {
    "process": ProcessExecutor,
    "inline": lambda workers: InlineExecutor(),
    "ray": _make_ray,
}
"""Each executor by name: a function of the number of workers that makes it."""


def check_executor(name: str) -> None:
    """Check the name of an executor. Raises `UserError` for an unknown one, and where its package is missing."""
    if name not in EXECUTORS:
        raise unknown_name("executor", name, EXECUTORS)
    if name == "ray" and importlib.util.find_spec("ray") is None:
        raise expected("executor", f"the package ray for 'ray' ({how_to_install('mammo-mlflow[ray]')})", "none")


def machines(name: str) -> list[int]:
    """The processor cores of each machine on which the executor of a name runs jobs. Raises `UserError`."""
    if name != "ray":
        return [available_cores()]
    from mammo_mlflow.jobs.executors.ray_cluster import nodes

    return [int(node["CPU"]) for node in nodes()]


def make_executor(name: str, workers: int) -> Executor:
    """Make the executor of a name. Raises `UserError` for one that there is not, or that cannot run."""
    check_executor(name)
    return EXECUTORS[name](workers or 1)


def make_executors(name: str, workers: int, devices: Devices, retries: int = RETRIES) -> tuple[Executor, Executor]:
    """Make the executor of a command's jobs, and one for single jobs beside them; on cards they share its processes.

    Raises as `make_executor`.
    """
    if name == "process" and devices.cards and devices.engine == "compiled":
        pool = CardPool(devices.cards)
        made: tuple[Executor, Executor] = CardExecutor(pool, workers), CardExecutor(pool)
    elif name == "ray":
        check_executor(name)
        made = _make_ray(workers or 1, devices), _make_ray(1, devices)
    else:
        made = make_executor(name, workers), make_executor(name, workers)
    for executor in made:
        executor.retries = retries
    return made
