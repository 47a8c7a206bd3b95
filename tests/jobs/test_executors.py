"""Every executor keeps one contract."""

import os
import time

import psutil
import pytest

from mammo_mlflow.errors import UserError
from mammo_mlflow.jobs.executors import EXECUTORS, JobFailed, make_executor, process
from mammo_mlflow.testing.executors import Call, ExecutorContract, answers, calls, in_capitals
from mammo_mlflow.testing.scripted import Script, ScriptedExecutor

pytestmark = pytest.mark.usefixtures("system")


class TestEveryExecutor(ExecutorContract):
    @pytest.fixture(
        params=[*(name for name in EXECUTORS if name != "ray"), "scripted"]
    )  # that has its own: test_ray.py
    def executor(self, request):
        made = ScriptedExecutor(Script()) if request.param == "scripted" else make_executor(request.param, 2)
        yield made
        made.close()


@pytest.fixture
def processes():
    made = make_executor("process", 2)
    yield made
    made.close()


def test_an_executor_at_work_takes_no_jobs_beside(processes):
    def interfere():
        answers(processes, calls("double", 1))

    with pytest.raises(RuntimeError, match="at work already"):
        answers(processes, calls("double", 1), lambda *_: interfere())


def test_unknown_executor():
    with pytest.raises(UserError, match="did you mean 'process'"):
        make_executor("proces", 1)


def test_every_job_has_a_process_of_its_own(processes):
    pids = {answer for _, answer in answers(processes, calls("process_id", 1, 2, 3, module="support_jobs"))}
    assert len(pids) == 3
    assert os.getpid() not in pids


def test_so_many_work_at_once(processes, tmp_path):
    arguments = [(str(tmp_path), "a"), (str(tmp_path), "b")]
    assert {answer for _, answer in answers(processes, calls("meet", *arguments, module="support_jobs"))} == {"a", "b"}


def test_no_more_work_at_once_than_allowed(tmp_path):
    executor = make_executor("process", 1)
    started = time.monotonic()
    answers(executor, calls("process_id", 1, 2, 3, module="support_jobs"))
    assert time.monotonic() - started > 0.6


def test_a_crash_names_the_job_and_shows_where(processes):
    with pytest.raises(JobFailed, match=r"(?s)^job 0: Traceback.*executors.py.*something broke"):
        answers(processes, calls("crash", 1))


def test_a_killed_process_is_told_from_a_crash(processes):
    with pytest.raises(JobFailed, match=r"job 0: .*SIGKILL; out of memory"):
        answers(processes, calls("die", 1, module="support_jobs"))


def test_a_full_disk_is_one_line(processes):
    with pytest.raises(UserError, match=r"^job 0: expected room on the disk, found it full$"):
        answers(processes, calls("full", 1, module="support_jobs"))


def test_a_failure_ends_the_others(processes, tmp_path):
    sleeper = Call(name="sleeper", module="support_jobs", function="note_and_sleep", argument=str(tmp_path / "pid"))
    running = processes.run([sleeper, *calls("crash", 1)], lambda *_: None, lambda: None)
    with pytest.raises(JobFailed):
        list(running)
    if (tmp_path / "pid").exists():
        assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert processes._running == {}


def test_giving_up_in_the_middle_ends_the_children(processes, tmp_path):
    sleepers = [
        Call(name=n, module="support_jobs", function="note_and_sleep", argument=str(tmp_path / n)) for n in ("a", "b")
    ]

    def interrupt():
        if len(list(tmp_path.glob("[ab]"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(processes.run(sleepers, lambda *_: None, interrupt))
    assert [path for path in tmp_path.iterdir() if psutil.pid_exists(int(path.read_text()))] == []


def test_children_are_fresh_interpreters_where_forking_is_unsafe(monkeypatch):
    monkeypatch.setattr(process, "START", "spawn")
    executor = make_executor("process", 2)
    assert executor._context.get_start_method() == "spawn"
    assert [answer for _, answer in answers(executor, calls("ask_twice", "a"), in_capitals)] == [["A0", "A1"]]
    with pytest.raises(UserError, match="folds: expected better"):
        answers(executor, calls("mistake", 1))
    executor.close()
