"""Jobs on the nodes of a Ray cluster on this machine."""

import importlib.util

import psutil
import pytest
from support import wait_for

from mammo_mlflow.jobs.executors import JobFailed, make_executor
from mammo_mlflow.jobs.failure import Failure
from mammo_mlflow.testing.executors import Call, ExecutorContract, answers, calls

pytestmark = [
    pytest.mark.usefixtures("system"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'mammo-mlflow[ray]'"),
]

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes of one core each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    ray.shutdown()
    made = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    made.add_node(**NODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
        ray.shutdown()
    made.shutdown()


@pytest.fixture
def on_ray(cluster):
    made = make_executor("ray", 2)
    yield made
    made.close()


class TestRay(ExecutorContract):
    @pytest.fixture
    def executor(self, on_ray):
        return on_ray


def test_every_job_has_a_process_of_its_own_and_so_many_work_at_once(on_ray, tmp_path):
    pids = {answer for _, answer in answers(on_ray, calls("process_id", 1, 2, 3, module="support_jobs"))}
    assert len(pids) == 3
    arguments = [(str(tmp_path), "a"), (str(tmp_path), "b")]
    assert {answer for _, answer in answers(on_ray, calls("meet", *arguments, module="support_jobs"))} == {"a", "b"}


def test_a_killed_process_is_told_from_a_crash(on_ray):
    with pytest.raises(JobFailed, match=r"job 0: .*SIGKILL; out of memory"):
        answers(on_ray, calls("die", 1, module="support_jobs"))


def test_what_lost_its_worker_is_run_again_and_others_go_on(on_ray, tmp_path):
    asked = [*calls("take_worker_along", str(tmp_path / "once"), module="support_jobs"), *calls("double", 1, 2, 3)]
    assert {job.function: answer for job, answer in answers(on_ray, asked)} == {
        "take_worker_along": "answered",
        "double": 6,
    }


def test_what_always_loses_its_worker_fails(on_ray):
    waiting = [*calls("take_worker_along", "", module="support_jobs"), *calls("double", 4)]
    found = {
        job.function: answer
        for job, answer in on_ray.stream(lambda: waiting.pop() if waiting else None, lambda *_: None, lambda: None)
    }
    lost = found["take_worker_along"]
    assert isinstance(lost, Failure)
    assert lost.lost
    assert "lost" in lost.line
    assert found["double"] == 8


def test_giving_up_in_the_middle_ends_the_children(on_ray, tmp_path):
    sleepers = [
        Call(name=n, module="support_jobs", function="note_and_sleep", argument=str(tmp_path / n)) for n in ("a", "b")
    ]

    def interrupt():
        if len(list(tmp_path.glob("[ab]"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(on_ray.run(sleepers, lambda *_: None, interrupt))
    wait_for(lambda: not [one for one in tmp_path.iterdir() if psutil.pid_exists(int(one.read_text()))], 5)


def test_jobs_of_a_node_that_goes_are_answered_by_others(cluster, tmp_path):
    leaves = cluster.add_node(**NODE)
    executor, gone = make_executor("ray", 3), []

    def remove():
        if not gone and len(list(tmp_path.iterdir())) == 3:
            cluster.remove_node(leaves, allow_graceful=False)
            gone.append(leaves)

    asked = calls("ray_node", *[str(tmp_path / f"{number}") for number in range(5)], module="support_jobs")
    found = list(executor.run(asked, lambda *_: None, remove))
    executor.close()
    assert gone
    assert len({answer for _, answer in found}) == 2
    assert sorted(job.name for job, _ in found) == [job.name for job in asked]
    assert len(list(tmp_path.iterdir())) > 5  # one was started twice
