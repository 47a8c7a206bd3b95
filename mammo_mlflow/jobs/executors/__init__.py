"""Where jobs run: every executor keeps the one contract of `base.Executor`."""

from __future__ import annotations

from mammo_mlflow.errors import unknown_name
from mammo_mlflow.jobs.executors.base import AnyJob, Executor, JobFailed, OnEvent
from mammo_mlflow.jobs.executors.inline import InlineExecutor
from mammo_mlflow.jobs.executors.process import ProcessExecutor

__all__ = ["AnyJob", "Executor", "JobFailed", "OnEvent", "make_executor"]


def make_executor(name: str, workers: int) -> Executor:
    """The executor of that name. Raises `UserError` for an unknown one."""
    if name == "inline":
        return InlineExecutor()
    if name == "process":
        return ProcessExecutor(workers)
    raise unknown_name("executor", name, ("inline", "process"))
