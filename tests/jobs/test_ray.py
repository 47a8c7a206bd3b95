"""Jobs on the nodes of a Ray cluster on this machine."""

import importlib.util
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from support import PHANTOM, ROOT, wait_for
from support_jobs import CopyJob, PretendedFits

from mammo_mlflow.errors import UserError
from mammo_mlflow.jobs.contracts import EpochDone, StepsDone
from mammo_mlflow.jobs.executors import JobFailed, make_executor
from mammo_mlflow.jobs.executors.shipping import PIECE_BYTES
from mammo_mlflow.jobs.failure import Failure
from mammo_mlflow.testing.executors import Call, ExecutorContract, answers, calls

pytestmark = [
    pytest.mark.usefixtures("system"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'mammo-mlflow[ray]'"),
]

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


def make_cluster(cores):
    """Ray, and a cluster whose head has so many cores."""
    ray = importlib.import_module("mammo_mlflow.jobs.executors.ray_cluster").ray  # set up, which has to come first
    ray.shutdown()
    head = NODE | {"num_cpus": cores, "include_dashboard": False}
    return ray, importlib.import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=head)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes of one core each."""
    ray, made = make_cluster(1)
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
    once = str(tmp_path / "once")
    asked = [*calls("take_worker_along", once, module="support_jobs"), *calls("double", 1, 2, 3)]
    found = {job.argument: answer for job, answer in answers(on_ray, asked)}
    assert found == {once: "answered", 1: 2, 2: 4, 3: 6}


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


def test_jobs_of_a_node_that_goes_are_answered_by_others(cluster, tmp_path, capfd):
    leaves = cluster.add_node(**NODE)
    executor = make_executor("ray", 3)
    (started := tmp_path / "started").mkdir()

    removed = []

    def remove():
        pids = [int(path.name) for path in started.iterdir()]
        if not removed and len(pids) == 3:
            removed.append(cluster.remove_node(leaves, allow_graceful=False))
        if removed and not all(psutil.pid_exists(pid) for pid in pids):  # lest its job answers in its last moment
            (tmp_path / "gone").touch()

    asked = calls("ray_node", *[str(started)] * 5, module="support_jobs")
    found = list(executor.run(asked, lambda *_: None, remove))
    executor.close()
    assert sorted(job.name for job, _ in found) == [job.name for job in asked]
    assert len({answer for _, answer in found}) == 2
    assert len(list(started.iterdir())) == 6  # one was started twice
    assert capfd.readouterr().out == ""  # Ray would print the log of the node


@pytest.mark.parametrize("where", ["its own cluster", "another cluster"])
def test_a_killed_coordinator_leaves_no_job_at_work(cluster, tmp_path, monkeypatch, kill, where):
    if where == "its own cluster":
        monkeypatch.delenv("RAY_ADDRESS")
    script = (
        "from mammo_mlflow.jobs.executors import make_executor\n"
        "from mammo_mlflow.testing.executors import answers, calls\n"
        f"answers(make_executor('ray', 1), calls('note_and_sleep', {str(tmp_path / 'pid')!r}, module='support_jobs'))\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    coordinator = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    wait_for(lambda: (tmp_path / "pid").exists(), 300)  # Ray, a worker and TensorFlow start
    job = psutil.Process(int((tmp_path / "pid").read_text()))
    started = psutil.Process(coordinator.pid).children(recursive=True)
    workers = [job, *job.parents()[:2], *(one for one in started if "raylet" in one.name())]
    assert len(workers) == 3 + (where == "its own cluster")
    kill(coordinator)
    coordinator.wait()
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert alive == []


def test_results_are_those_of_other_executors_bit_for_bit(cluster, laboratory):
    plan = laboratory.plan(family="scratch", backbone="m2", seed=5, folds=2, epochs=1)
    inline, process, on_ray = (
        laboratory.cross_validate(plan, laboratory.session(name, 2)).oof["probability"].to_numpy()
        for name in ("inline", "process", "ray")
    )
    assert inline.std() > 0
    np.testing.assert_array_equal(inline, process)
    np.testing.assert_array_equal(inline, on_ray)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:9", "RAY_ADDRESS: expected a Ray cluster that answers, found 127.0.0.1:9: "),
        ("ray://127.0.0.1:10001", "RAY_ADDRESS: expected HOST:PORT of the head of a Ray cluster"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path, cache, run_command, address, told):
    outcome = run_command(tmp_path, cache, "--task", "mass_calc", "--executor", "ray", *PHANTOM, RAY_ADDRESS=address)
    assert outcome.code == 2
    assert outcome.complaints[-1].startswith(f"mammo_mlflow: {told}")


def test_ray_is_an_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^executor: expected the package ray .*pip install .*\[ray\]'"):
        make_executor("ray", 1)


@pytest.fixture
def apart(tmp_path):
    """A cluster whose only cores are on a node that does not see the test's folder, and that folder."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here: unshare -m")
    ray, made = make_cluster(0)
    start = f"{sys.executable} -m ray.scripts.scripts start --block --num-cpus 1 --address {made.address}"
    hidden = f"mount -t tmpfs none {tmp_path} && exec {start} --object-store-memory {NODE['object_store_memory']}"
    line, quiet = ["unshare", "-m", "sh", "-c", hidden], {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with pytest.MonkeyPatch.context() as patch, subprocess.Popen(line, **quiet) as node:
        patch.setenv("RAY_ADDRESS", made.address)
        ray.init(address=made.address, log_to_driver=False)
        wait_for(lambda: ray.cluster_resources().get("CPU"))
        yield tmp_path
        ray.shutdown()
        node.terminate()
    made.shutdown()


def test_files_go_to_a_node_that_does_not_see_them_and_come_back(apart):
    (apart / "folder").mkdir()
    (apart / "output").mkdir()
    large = np.random.default_rng(0).bytes(PIECE_BYTES + 5)
    for name, content in {"large": large, "empty": b"", "folder/one": b"one"}.items():
        (apart / name).write_bytes(content)
    sources = (apart / "large", apart / "empty")
    jobs = [
        CopyJob(name=name, sources=sources, folder={"all": apart / "folder"}, output=apart / "output")
        for name in ("first", "second")
    ]
    executor = make_executor("ray", 1)
    (_, first), (_, second) = executor.run(jobs, lambda *_: None, lambda: None)
    assert first["joined"] == apart / "output" / "joined"
    assert first["joined"].read_bytes() == large + b"one"
    assert first["read"] == second["read"]  # copied once
    assert not any(name.startswith(str(apart)) for name in first["read"])
    assert Path(first["read"][0]).exists()
    executor.close()
    assert not Path(first["read"][0]).exists()


def test_fits_of_one_program_go_together_and_each_gets_its_files_back(apart, scripted, monkeypatch):
    monkeypatch.setattr("mammo_mlflow.jobs.executors.together.FitsJob", PretendedFits)
    jobs = []
    for number, fit in enumerate(scripted.plan(folds=3).fits):
        (output := apart / str(number) / "same name").mkdir(parents=True)
        jobs.append(replace(fit.job, name=f"fit {number}", output=output))
    jobs[1] = replace(jobs[1], name="fails")
    compiled = importlib.import_module("mammo_mlflow.jobs.executors.ray").RayExecutor(1, compiled=True)
    waiting, events = list(jobs), []
    asked = (lambda: waiting.pop() if waiting else None, lambda job, event: events.append((job.name, event)))
    with closing(compiled) as executor:
        ended = {job.name: answer for job, answer in executor.stream(*asked, lambda: None)}
    assert ended.pop("fails").line == "learning_rate: expected better"
    assert {name: int(answer.seconds) for name, answer in ended.items()} == {"fit 0": 3, "fit 2": 3}
    assert len({answer.peak_memory for answer in ended.values()}) == 1
    for name, answer in ended.items():
        assert answer.tail == apart / name[-1] / "same name" / "tail.keras"
        assert answer.tail.read_bytes() == b"nobody reads it"
        assert [type(event) for at, event in events if at == name] == [StepsDone, EpochDone, EpochDone]
