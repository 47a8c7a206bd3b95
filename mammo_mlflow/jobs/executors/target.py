"""Call the function of a job, in the process that runs it."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable

from mammo_mlflow.errors import FULL_DISK, UserError
from mammo_mlflow.jobs.contracts import Answer, Emit, Job
from mammo_mlflow.jobs.failure import Failure


def call_target(job: Job[Answer], emit: Emit) -> Answer:
    """Import and call the function that a job names, and return its answer."""
    module, _, function = job.target.partition(":")
    return getattr(importlib.import_module(module), function)(job, emit)


def attempt(
    job: Job[Answer], emit: Emit, function: Callable[[Job[Answer], Emit], Answer] = call_target
) -> Answer | Failure:
    """Call `function` with a job; return its answer, or a `Failure` for any exception."""
    try:
        return function(job, emit)
    except UserError as problem:
        return Failure(str(problem), user=True, error=problem)
    except Exception as problem:
        if isinstance(problem, OSError) and problem.errno in FULL_DISK:
            reason = f"{job.name}: expected room on the disk, found it full"
            return Failure(reason, user=True, error=problem, fatal=True)
        text, kind = str(problem), type(problem).__name__
        if isinstance(problem, MemoryError) or kind == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in text:
            return Failure(f"out of memory: {' '.join(text.split())[:200]}", error=problem)
        return Failure(traceback.format_exc(), error=problem)
