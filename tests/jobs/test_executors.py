"""Every executor keeps one contract."""

import os
import time

import psutil
import pytest

from mammo_mlflow.errors import UserError
from mammo_mlflow.jobs.executors import EXECUTORS, JobFailed, make_executor, process, watch
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


def test_a_process_that_is_killed_is_told_from_a_crash_and_started_again(processes, caplog):
    with pytest.raises(JobFailed, match=r"job 0: .*SIGKILL; out of memory"):
        answers(processes, calls("die", 1, module="support_jobs"))
    assert [line.message for line in caplog.records if "is started again" in line.message] == [
        "job 0: its process ended without an answer (killed by SIGKILL; out of memory? fewer workers need less);"
        " it is started again"
    ]


def test_what_was_killed_once_is_done_in_the_end_and_nobody_else_is_harmed(processes, tmp_path):
    (tmp_path / "seen").mkdir()
    once = Call(name="once", module="support_jobs", function="die_once", argument=str(tmp_path / "mark"))
    events = []
    found = answers(processes, [once, *calls("double", 1, 2, 3)], lambda job, event: events.append((job.name, event)))
    assert {job.name: answer for job, answer in found} == {"once": "done", "job 0": 2, "job 1": 4, "job 2": 6}
    assert sum(name == "once" for name, _ in events) == 2  # those of the second start come, too


def test_as_many_starts_as_wanted(processes, tmp_path):
    processes.retries = 0
    once = Call(name="once", module="support_jobs", function="die_once", argument=str(tmp_path / "mark"))
    with pytest.raises(JobFailed, match="SIGKILL"):
        answers(processes, [once])


def test_a_process_that_is_stopped_is_not_waited_for(processes, monkeypatch):
    monkeypatch.setattr(watch, "STOPPED_SECONDS", 3.0)
    processes.retries = 0
    began = time.monotonic()
    found = []
    with pytest.raises(JobFailed, match=r"^job 0: its process was stopped for 3 s \(SIGSTOP\)$"):
        found.extend(answers(processes, [*calls("stop", 1, module="support_jobs"), *calls("double", 1, 2)]))
    assert time.monotonic() - began < 15
    assert processes._running == {}


def test_a_process_that_hangs_is_told_by_how_long_others_took(processes, monkeypatch, tmp_path):
    monkeypatch.setattr(watch, "SHORTEST_SILENCE", 2.0)
    done = []
    jobs = [Call(name=f"job {n}", module="support_jobs", function="hang", argument=n) for n in (0, 0, 0, 60)]
    processes.retries = 0
    with pytest.raises(JobFailed, match=r"^job 60: no sign of life for \d+ s, where others took at most [01] s"):
        for job, _ in processes.run(jobs, lambda *_: None, lambda: None):
            done.append(job.name)
    assert done == ["job 0"] * 3


def test_a_full_disk_is_one_line(processes):
    with pytest.raises(UserError, match=r"^job 0: expected room on the disk, found it full$"):
        answers(processes, calls("full", 1, module="support_jobs"))


def test_a_failure_does_not_end_the_others_and_is_told_at_once(processes):
    told, done = [], []
    jobs = [*calls("crash", 1), *calls("process_id", 1, 2, 3, module="support_jobs")]
    with pytest.raises(JobFailed, match="something broke"):
        for job, _ in processes.run(jobs, lambda *_: None, lambda: None, lambda *failed: told.append(failed)):
            done.append(job.name)
    assert sorted(done) == ["job 0", "job 1", "job 2"]
    assert [(job.function, failure.line) for job, failure in told] == [
        ("crash", "an unexpected runtime error: something broke")
    ]


def test_a_full_disk_ends_the_others(processes, tmp_path):
    sleeper = Call(name="sleeper", module="support_jobs", function="note_and_sleep", argument=str(tmp_path / "pid"))
    with pytest.raises(UserError, match="found it full"):
        answers(processes, [sleeper, *calls("full", 1, module="support_jobs")])
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
