import pytest

from mammo_mlflow.errors import UserError
from mammo_mlflow.training.backend import set_threads


def test_threads_cannot_change_once_they_are_in_use(laboratory, frozen):
    set_threads(1)
    with pytest.raises(UserError, match=r"threads: expected 1, .* found 2 .*executor=process"):
        set_threads(2)
