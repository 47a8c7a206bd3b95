"""A seeded sample of `benchmarks/reliability.py`: commands disturbed, and everything there in the end."""

import math
import random
import time

import pytest
from reliability import folds, kills, no_room
from reliability_checks import FIGURES, Bench, undisturbed

NOTHING = dict.fromkeys(FIGURES, 0)


def faults(figures):
    return {name: figures[name] for name in FIGURES}


@pytest.fixture(scope="module")
def small_study(cache, kill, tmp_path_factory):
    """How the small study ends undisturbed."""
    made = Bench(cache, 0, time.monotonic() + math.inf)
    undisturbed(made, tmp_path_factory.mktemp("undisturbed"))
    return made


def test_killed_at_random_moments_a_study_loses_nothing(small_study, tmp_path):
    figures = kills(small_study, tmp_path / "store", random.Random(4), 2)
    assert figures["tried"] == 2
    assert faults(figures) == NOTHING


def test_folds_that_are_killed_harm_no_others(small_study, tmp_path):
    figures = folds(small_study, tmp_path / "store", random.Random(1), 5)
    assert figures["tried"] == 5
    assert figures["started again"] >= 1
    assert faults(figures) == NOTHING


@pytest.mark.parametrize("size", [300_000, 12_000_000])
def test_a_file_that_may_not_grow_is_one_line_and_the_next_command_ends_it(cache, kill, tmp_path, size):
    """The store's, and that of the model as a child assembles it."""
    figures = no_room(Bench(cache, 0, math.inf), tmp_path / "here", "any file of the store", size)
    assert faults(figures) == NOTHING
