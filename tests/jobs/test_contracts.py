"""What travels between processes: every job class names a function of the engine that takes it."""

import importlib
import inspect
from dataclasses import replace

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


@pytest.mark.parametrize(
    ("values", "shared"),
    [
        ({"learning_rate": 0.02, "seed": 1, "folds": 3}, True),
        ({"class_weights": "balanced", "early_stop": 2}, True),
        ({"task": "benign_malignant"}, True),
        ({"threshold": "youden"}, True),
        ({"optimizer": "rmsprop", "epochs": 3}, True),
        ({"dropout": 0.1, "feature_dropout": 0.2}, True),
        ({"dense": "8"}, False),
        ({"batch_norm": True}, False),
        ({"batch_size": 4}, False),
        ({"views": 1}, False),
        ({"pooling": "max"}, False),
    ],
)
def test_fits_share_programs_where_they_differ_in_vectors_alone(scripted, values, shared):
    """A name for a program: of all folds of a plan, and of another plan's."""
    common = {"optimizer": "adam"}
    here, there = ({fit.job.program for fit in scripted.plan(**(common | own)).fits} for own in ({}, values))
    assert len(here) == len(there) == 1
    assert (here == there) is shared


@pytest.mark.parametrize("common", [{"unfrozen_layers": 1}, {"views": 0}, {"family": "scratch", "backbone": "m1"}])
@pytest.mark.parametrize(
    ("values", "shared"),
    [
        ({"learning_rate": 0.02, "seed": 1}, True),
        ({"optimizer": "rmsprop"}, False),
        ({"epochs": 3}, False),
        ({"dropout": 0.1}, False),
        ({"feature_dropout": 0.1}, False),
    ],
)
def test_only_heads_share_programs_across_optimizers_dropout_and_epochs(scripted, common, values, shared):
    """A program with convolutions is traced for its first fit."""
    one, other = (scripted.plan(**(common | own)).fits[0].job.program for own in ({}, values))
    assert (one == other) is shared


@pytest.mark.parametrize(
    ("dense", "shared"), [("64", True), ("200", True), ("257", False), ("64-64", False), ("none", False)]
)
def test_on_cards_heads_of_many_widths_share_programs(scripted, dense, shared):
    jobs = [scripted.plan(dense=width).fits[0].job for width in ("256", dense)]
    assert not any(job.on_card for job in jobs)
    one, other = (replace(job, on_card=True).program for job in jobs)
    assert (one == other) is shared


def test_fits_of_other_momentum_share_programs(scripted):
    one, other = (scripted.plan(optimizer="sgd", momentum=momentum).fits[0].job for momentum in (0.0, 0.9))
    assert one.program == other.program
