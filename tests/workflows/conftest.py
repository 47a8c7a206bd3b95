import pytest

from mammo_mlflow.engine.backend import set_threads


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """TensorFlow takes its number of threads once in a process: the one that inline executors ask for."""
    set_threads(1)
