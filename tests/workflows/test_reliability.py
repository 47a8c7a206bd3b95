"""A seeded sample of `benchmarks/reliability.py`: commands disturbed, and everything there in the end."""

import math
import random

import pytest
from reliability import kills, no_room
from reliability_checks import FIGURES, Bench, undisturbed

NOTHING = dict.fromkeys(FIGURES, 0)


@pytest.fixture
def bench(cache, kill):
    """What disturbances share; it takes as long as they want."""
    return Bench(cache, math.inf)


def test_a_study_that_is_killed_at_random_moments_loses_nothing(bench, tmp_path):
    undisturbed(bench, tmp_path / "undisturbed")
    figures = kills(bench, tmp_path / "killed", random.Random(4), 2)
    assert figures["tried"] == 2
    assert {name: figures[name] for name in FIGURES} == NOTHING


def test_a_file_that_may_not_grow_is_one_line_and_the_next_command_ends_it(bench, tmp_path):
    """The archive of the model, as a worker process writes it."""
    figures = no_room(bench, tmp_path / "limited", "any file of the store", 12_000_000)
    assert {name: figures[name] for name in FIGURES} == NOTHING
