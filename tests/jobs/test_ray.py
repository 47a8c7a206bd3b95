"""Jobs on the nodes of a Ray cluster on this machine."""

import importlib.util

import pytest

from mammo_mlflow.jobs.executors import make_executor
from mammo_mlflow.testing.executors import ExecutorContract

pytestmark = [
    pytest.mark.usefixtures("system"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'mammo-mlflow[ray]'"),
]


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes of one core each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    made = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    made.add_node(**node)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
        ray.shutdown()
    made.shutdown()


@pytest.fixture
def executor(cluster):
    made = make_executor("ray", 2)
    yield made
    made.close()


class TestRay(ExecutorContract):
    @pytest.fixture
    def executor(self, executor):
        return executor
