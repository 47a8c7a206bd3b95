"""What travels between processes: every job class names a function of the engine that takes it."""

import importlib
import inspect

import pytest

from mammo_mlflow.jobs import contracts
from mammo_mlflow.jobs.contracts import Job


def job_classes(parent=Job):
    """All kinds of jobs that the package has, but what some have in common."""
    for kind in parent.__subclasses__():
        if kind.__module__ == contracts.__name__:
            if hasattr(kind, "target"):
                yield kind
            yield from job_classes(kind)


@pytest.mark.parametrize("kind", [*job_classes()], ids=lambda kind: kind.__name__)
def test_the_target_of_a_job_is_a_function_that_takes_it(keras, kind):
    module, _, name = kind.target.partition(":")
    function = getattr(importlib.import_module(module), name)
    first, second = inspect.signature(function).parameters.values()
    assert (first.annotation, second.name) == (kind.__name__, "emit")
