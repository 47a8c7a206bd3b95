"""The error of false champions, spent over decisions; the simulations are those of `benchmarks/promotion_error.py`."""

import numpy as np
import pytest

from mammo_mlflow.evaluation.spending import ALPHA, Spent, error_of, error_share


@pytest.fixture
def simulated(simulation):
    import promotion_error

    return promotion_error


def test_the_shares_add_up_to_one():
    total = sum(error_share(number) for number in range(1, 100_001))
    assert 0.999 < total < 1.0
    assert error_share(1) == 0.8
    assert error_share(2) == pytest.approx(0.1216, abs=1e-4)


def test_each_new_question_has_the_next_share():
    earlier = []
    for number in range(1, 6):
        error = error_of(f"question {number}", earlier)
        assert error == pytest.approx(ALPHA * error_share(number))
        earlier.append(Spent(f"question {number}", error, 0.0))


def test_the_same_question_spends_nothing_anew():
    first = Spent("a", ALPHA * error_share(1), 0.0)
    assert error_of("a", [first]) == ALPHA * error_share(1)
    assert error_of("a", [first, Spent("b", ALPHA * error_share(2), 0.0)]) == ALPHA * error_share(1)


def test_a_promotion_hands_its_error_on_to_the_next_alone():
    first = Spent("a", 0.02, 0.02)
    assert error_of("b", [first]) == pytest.approx(0.02 + ALPHA * error_share(2))
    assert error_of("c", [first, Spent("b", 0.023, 0.0)]) == pytest.approx(ALPHA * error_share(3))


def test_a_decision_without_a_known_error_counts_as_one():
    assert error_of("b", [Spent("a", None, 0.0)]) == pytest.approx(ALPHA * error_share(2))


def test_the_best_of_ten_equal_settings_is_not_promoted(simulated):
    _, naive, passed = simulated.equal(300, 350, 10)
    assert naive > 0.08  # what the gate is for: the one that knows nothing of the ten errs this often
    assert passed <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 300)


def test_twenty_commands_with_equal_candidates_err_no_more_than_one(simulated):
    _, naive, passed = simulated.looks(80)
    assert naive > 0.06
    assert passed <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 80)


def test_a_better_one_of_ten_is_found_nearly_as_often_as_by_the_whole_error(simulated):
    _, plain, passed = simulated.found(200, 350, 0.05, 10)
    assert plain > 0.2
    assert passed >= 0.8 * plain
