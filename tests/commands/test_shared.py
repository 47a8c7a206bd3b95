import pytest

from mammo_mlflow.commands.shared import TrainingOptions
from mammo_mlflow.errors import UserError
from mammo_mlflow.processes import available_cores


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"executor": "inlin"}, "executor: unknown 'inlin', did you mean 'inline'"),
        ({"preset": "fast"}, "preset: unknown 'fast'"),
        ({"duplicates": "ignore"}, "duplicates: unknown 'ignore'"),
        ({"seeds": 0}, "seeds: expected a whole number from 1 to 1000, found 0"),
        ({"workers": -1}, "workers: expected a whole number from 0 to 1024, found -1"),
        ({"seeds": 10**9}, "seeds: expected a whole number from 1 to 1000, found 1000000000"),
        ({"cache_limit_gb": float("inf")}, "cache_limit_gb: expected a number above 0, .* found inf"),
        ({"cache_limit_gb": float("nan")}, "cache_limit_gb: expected a number above 0, .* found nan"),
    ],
)
def test_impossible_options(values, message):
    with pytest.raises(UserError, match=message):
        TrainingOptions(**values)


def test_all_at_once():
    with pytest.raises(UserError, match=r"executor: .*; seeds: .*; workers: "):
        TrainingOptions(executor="x", seeds=0, workers=-1)


def test_there_is_a_core_to_work_on():
    assert available_cores() >= 1
