"""Every executor keeps one contract."""

import os
import time

import psutil
import pytest
from support_jobs import Call

from mammo_mlflow.errors import UserError
from mammo_mlflow.jobs.executors import JobFailed, make_executor, process

pytestmark = pytest.mark.usefixtures("system")

NAMES = ("inline", "process")


@pytest.fixture(params=NAMES)
def executor(request):
    made = make_executor(request.param, 2)
    yield made
    made.close()


@pytest.fixture
def processes():
    made = make_executor("process", 2)
    yield made
    made.close()


def run(executor, jobs, on_event=lambda *_: None):
    return list(executor.run(jobs, on_event, lambda: None))


def jobs(function, *arguments):
    return [Call(name=f"job {i}", function=function, argument=argument) for i, argument in enumerate(arguments)]


def test_every_job_is_answered_once(executor):
    asked = jobs("double", 1, 2, 3, 4, 5)
    answers = run(executor, asked)
    assert sorted(job.name for job, _ in answers) == [job.name for job in asked]
    assert all(answer == 2 * job.argument for job, answer in answers)


def test_events_come_in_order_before_the_answer(executor):
    seen = []
    for job, _ in executor.run(jobs("double", 1, 2), lambda job, event: seen.append((job.name, event.done)), int):
        assert [done for name, done in seen if name == job.name] == [1, 2, 3]


def test_a_job_is_answered_what_it_asks(executor):
    answers = run(executor, jobs("ask_twice", "a", "b"), lambda job, event: getattr(event, "name", "").upper())
    assert {job.argument: answer for job, answer in answers} == {"a": ["A0", "A1"], "b": ["B0", "B1"]}


def test_streamed_jobs_are_asked_for_as_they_end_and_failures_are_answers(executor):
    waiting = [*jobs("double", 1, 2, 3), *jobs("crash", 1), *jobs("mistake", 1)]
    seen = {}

    def next_job():
        return waiting.pop() if waiting else None

    for job, answer in executor.stream(next_job, lambda *_: None, lambda: None):
        if isinstance(answer, int) and answer == 6:
            waiting.extend(jobs("double", 50))
        seen[job.function, job.argument] = answer
    assert {seen["double", number] for number in (1, 2, 3, 50)} == {2, 4, 6, 100}
    assert (seen["mistake", 1].user, seen["mistake", 1].line) == (True, "folds: expected better")
    assert (seen["crash", 1].user, seen["crash", 1].line) == (False, "an unexpected runtime error: something broke")


def test_an_executor_at_work_takes_no_jobs_beside(processes):
    def interfere():
        run(processes, jobs("double", 1))

    with pytest.raises(RuntimeError, match="at work already"):
        run(processes, jobs("double", 1), lambda *_: interfere())


def test_no_jobs_no_answers(executor):
    assert run(executor, []) == []


def test_a_mistake_of_the_users_comes_through(executor):
    with pytest.raises(UserError, match=r"^folds: expected better$"):
        run(executor, jobs("mistake", 1))


def test_it_can_be_used_again_after_a_failure(executor):
    with pytest.raises(UserError):
        run(executor, jobs("mistake", 1))
    assert [answer for _, answer in run(executor, jobs("double", 4))] == [8]


def test_unknown_executor():
    with pytest.raises(UserError, match="did you mean 'process'"):
        make_executor("proces", 1)


def test_every_job_has_a_process_of_its_own(processes):
    pids = {answer for _, answer in run(processes, jobs("process_id", 1, 2, 3))}
    assert len(pids) == 3
    assert os.getpid() not in pids


def test_so_many_work_at_once(processes, tmp_path):
    arguments = [(str(tmp_path), "a"), (str(tmp_path), "b")]
    assert {answer for _, answer in run(processes, jobs("meet", *arguments))} == {"a", "b"}


def test_no_more_work_at_once_than_allowed(tmp_path):
    executor = make_executor("process", 1)
    started = time.monotonic()
    run(executor, jobs("process_id", 1, 2, 3))
    assert time.monotonic() - started > 0.6


def test_a_crash_names_the_job_and_shows_where(processes):
    with pytest.raises(JobFailed, match=r"(?s)^job 0: Traceback.*support_jobs.py.*something broke"):
        run(processes, jobs("crash", 1))


def test_a_killed_process_is_told_from_a_crash(processes):
    with pytest.raises(JobFailed, match=r"job 0: .*SIGKILL; out of memory"):
        run(processes, jobs("die", 1))


def test_a_full_disk_is_one_line(processes):
    with pytest.raises(UserError, match=r"^job 0: expected room on the disk, found it full$"):
        run(processes, jobs("full", 1))


def test_a_failure_ends_the_others(processes, tmp_path):
    sleeper = Call(name="sleeper", function="note_and_sleep", argument=str(tmp_path / "pid"))
    running = processes.run([sleeper, *jobs("crash", 1)], lambda *_: None, lambda: None)
    with pytest.raises(JobFailed):
        list(running)
    if (tmp_path / "pid").exists():
        assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert processes._children == {}


def test_giving_up_in_the_middle_ends_the_children(processes, tmp_path):
    sleepers = [Call(name=n, function="note_and_sleep", argument=str(tmp_path / n)) for n in ("a", "b")]

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
    asked = lambda job, event: getattr(event, "name", "").upper()  # noqa: E731
    assert [answer for _, answer in run(executor, jobs("ask_twice", "a"), asked)] == [["A0", "A1"]]
    with pytest.raises(UserError, match="folds: expected better"):
        run(executor, jobs("mistake", 1))
    executor.close()
