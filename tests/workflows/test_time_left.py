"""How long a study still takes, by what its steps took: a range where little is known, nothing where nothing is."""

import random

import pytest

from mammo_mlflow.commands.reproduce import ReproduceOptions
from mammo_mlflow.workflows import time_left
from mammo_mlflow.workflows.reproduce import steps
from mammo_mlflow.workflows.time_left import CARD, PROCESSOR, SMALL, Cost, TimeLeft, costs_of

MINUTE, HOUR = 60, 3600
SCALES = [("small", SMALL), ("full", CARD), ("full", PROCESSOR)]


@pytest.mark.parametrize(("scale", "table"), SCALES)
def test_every_step_has_a_cost_of_its_own(scale, table):
    kinds = [step.kind for step in steps(ReproduceOptions(scale=scale))]
    without = costs_of(kinds, {**table, "unheard of": (7.5, 7.5)})
    assert without == costs_of(kinds, table)  # none has what is usual
    for first, again in table.values():
        assert 0 < again <= first
    for words in kinds:
        assert "mass_calc" not in words and "benign_malignant" not in words  # both tasks are of one kind


def test_a_network_from_scratch_takes_much_longer_than_a_frozen_one_on_the_processor_alone():
    words = [["scratch"], ["pretrained"], ["pretrained", "1"], ["pretrained"]]
    scratch, frozen, unfrozen, second = (one.cost for one in costs_of(words, PROCESSOR))
    assert scratch > 3 * frozen and second < frozen / 3
    assert unfrozen > 10 * second
    scratch, frozen, unfrozen, second = (one.cost for one in costs_of(words, CARD))
    assert scratch < 3 * frozen and unfrozen < 3 * second


def alike(*kinds):
    return [Cost(kind, 1.0) for kind in kinds]


def test_nothing_is_said_before_anything_was_seen():
    assert TimeLeft(alike("a", "b")).words([1, 2]) == ""
    assert TimeLeft(alike("a"), {1: 100}).words([]) == ""


def test_a_command_alone_says_nothing_of_the_others():
    costs = alike("scratch m1", "scratch m2", "pretrained", "siamese", "report")
    left = TimeLeft(costs, now={1: 10 * MINUTE})
    assert left.words([2, 3, 4, 5]) == ""
    assert left.words([2]) == "about 5 to 20 min left"  # of its own other networks it does


def test_a_range_while_little_is_known_and_a_number_later():
    costs = alike("a", "b", "c", "d", "a", "b", "c", "d")
    left = TimeLeft(costs)
    for number in (1, 2):
        left.took(number, 5 * MINUTE)
    assert left.words(range(3, 9)) == "about 18 to 52 min left"
    for number in (3, 4):
        left.took(number, 5 * MINUTE)
    assert left.words(range(5, 9)) == "about 20 min left"


def test_commands_that_differ_more_than_the_table_says_widen_the_range():
    left = TimeLeft(alike("a", "b", "c", "d", "e", "a"), now={1: 9 * MINUTE, 2: MINUTE, 3: MINUTE, 4: MINUTE})
    low, high = left.bounds([5])
    assert low < MINUTE and high > 4 * MINUTE
    assert left.words([5]) == "less than 4.5 min left"
    assert TimeLeft(left.costs, now={n: 100 * seconds for n, seconds in left.now.items()}).words([5]) == ""
    assert left.words([6]) == "about 9 min left"


def test_where_activations_may_be_there_already_both_are_possible():
    costs = costs_of([["pretrained"], ["pretrained"]], PROCESSOR)
    low, high = TimeLeft(costs, now={1: 50 * MINUTE}).bounds([2])
    assert low < 5 * MINUTE and high > 50 * MINUTE


def test_what_was_seen_now_counts_more_than_what_was_seen_before():
    costs = alike("a", "b", "a", "b")
    left = TimeLeft(costs, before={1: HOUR, 2: HOUR})
    assert left.words([1, 2, 3, 4]) == "about 4 h left"
    left.took(1, MINUTE)  # sixty times faster: another machine, or a part was done
    assert left.words([2, 3, 4]) == "about 3 min left"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (20, "less than a minute left"),
        (5 * MINUTE, "about 5 min left"),
        (75 * MINUTE, "about 75 min left"),
        (2.5 * HOUR, "about 2.5 h left"),
        (30 * HOUR, "about 30 h left"),
        (60 * HOUR, "about 2.5 days left"),
    ],
)
def test_words_of_one_number(seconds, said):
    assert TimeLeft(alike("a", "a"), now={1: seconds}).words([2]) == said


@pytest.mark.parametrize(("scale", "table"), SCALES)
@pytest.mark.parametrize("seed", range(20))
def test_what_is_said_is_never_off_by_an_order(scale, table, seed):
    """Machines of any speed on which each kind takes up to thrice as long, or a third, of what the table says."""
    chance = random.Random(seed)
    costs = costs_of([step.kind for step in steps(ReproduceOptions(scale=scale))], table)
    speed = 10 ** chance.uniform(-1, 2)
    own = {one.kind: 3 ** chance.uniform(-1, 1) for one in costs}
    true = [speed * own[one.kind] * one.cost for one in costs]
    left, told = TimeLeft(costs), 0
    for number, seconds in enumerate(true, 1):
        rest = range(number, len(true) + 1)
        if left.words(rest):
            low, high = left.bounds(rest)
            assert low / 3 < sum(true[number - 1 :]) < 3 * high
            told += 1
        left.took(number, seconds)
    assert told > len(true) / 2


def test_the_last_steps_are_told_within_a_fifth():
    costs = costs_of([step.kind for step in steps(ReproduceOptions())], SMALL)
    left = TimeLeft(costs, now={number: 30 * one.cost for number, one in enumerate(costs[:-2], 1)})
    low, high = left.bounds([len(costs) - 1])
    assert low * time_left.KNOWN == pytest.approx(90) == high / time_left.KNOWN
