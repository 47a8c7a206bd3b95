"""The tests that every executor passes: subclass `ExecutorContract` with a fixture `executor`."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mammo_mlflow.errors import UserError
from mammo_mlflow.jobs.contracts import Emit, Event, Job, StepsDone, Suggestion
from mammo_mlflow.jobs.executors import Executor, OnEvent


@dataclass(frozen=True, kw_only=True)
class Call(Job):
    """A job that calls a function, by default one of this module, with the job, which holds the `argument`."""

    function: str
    argument: int | str = 0
    module: str = __name__

    @property
    def target(self) -> str:  # type: ignore[override]
        """The name of the function, `module:function`, as `Job.target`."""
        return f"{self.module}:{self.function}"


def calls(function: str, *arguments: int | str, module: str = __name__) -> list[Call]:
    """Return a job for each argument, all calling the same function."""
    return [
        Call(name=f"job {number}", function=function, argument=argument, module=module)
        for number, argument in enumerate(arguments)
    ]


def answers(executor: Executor, jobs: list[Call], on_event: OnEvent = lambda *_: None) -> list[tuple[Call, object]]:
    """Run jobs and return each with its answer, in the order in which they end."""
    return list(executor.run(jobs, on_event, lambda: None))


class ExecutorContract:
    """Tests that an executor answers every job once, passes events on, and tells kinds of failure apart."""

    @pytest.fixture
    def executor(self) -> Executor:
        """Fixture: the executor under test, closed afterwards."""
        raise NotImplementedError

    def test_every_job_is_answered_once(self, executor: Executor) -> None:
        asked = calls("double", 1, 2, 3, 4, 5)
        found = answers(executor, asked)
        assert sorted(job.name for job, _ in found) == [job.name for job in asked]
        assert all(answer == 2 * job.argument for job, answer in found)

    def test_events_come_in_order_before_the_answer(self, executor: Executor) -> None:
        seen: list[tuple[str, int]] = []

        def note(job: Call, event: Event) -> None:
            assert isinstance(event, StepsDone)
            seen.append((job.name, event.done))

        for job, _ in executor.run(calls("double", 1, 2), note, lambda: None):
            assert [done for name, done in seen if name == job.name] == [1, 2, 3]

    def test_a_job_is_answered_what_it_asks(self, executor: Executor) -> None:
        found = answers(executor, calls("ask_twice", "a", "b"), in_capitals)
        assert {job.argument: answer for job, answer in found} == {"a": ["A0", "A1"], "b": ["B0", "B1"]}

    def test_streamed_jobs_are_asked_for_as_they_end_and_failures_are_answers(self, executor: Executor) -> None:
        waiting = [*calls("double", 1, 2, 3), *calls("crash", 1), *calls("mistake", 1)]
        seen = {}

        def next_job() -> Call | None:
            return waiting.pop() if waiting else None

        for job, answer in executor.stream(next_job, lambda *_: None, lambda: None):
            if isinstance(answer, int) and answer == 6:
                waiting.extend(calls("double", 50))
            seen[job.function, job.argument] = answer
        assert {seen["double", number] for number in (1, 2, 3, 50)} == {2, 4, 6, 100}
        assert (seen["mistake", 1].user, seen["mistake", 1].line) == (True, "folds: expected better")
        assert (seen["crash", 1].user, seen["crash", 1].line) == (False, "an unexpected runtime error: something broke")

    def test_no_jobs_no_answers(self, executor: Executor) -> None:
        assert answers(executor, []) == []

    def test_a_mistake_of_the_users_comes_through(self, executor: Executor) -> None:
        with pytest.raises(UserError, match=r"^folds: expected better$"):
            answers(executor, calls("mistake", 1))

    def test_it_can_be_used_again_after_a_failure(self, executor: Executor) -> None:
        with pytest.raises(UserError):
            answers(executor, calls("mistake", 1))
        assert [answer for _, answer in answers(executor, calls("double", 4))] == [8]


def in_capitals(job: Call, event: Event) -> str:
    """Reply to a question of `ask_twice` as the coordinator: the question in capitals."""
    return event.name.upper() if isinstance(event, Suggestion) else ""


def double(job: Call, emit: Emit) -> int | str:
    """Job function: report three steps, and return twice the argument."""
    for step in range(3):
        emit(StepsDone(step + 1, 3))
    return 2 * job.argument


def ask_twice(job: Call, emit: Emit) -> list[object]:
    """Job function: ask the coordinator two questions, and return the replies."""
    emit(StepsDone(0, 2))
    return [emit(Suggestion(f"{job.argument}{number}", {})) for number in range(2)]


def mistake(job: Call, emit: Emit) -> None:
    """Job function: raise a `UserError`."""
    raise UserError("folds: expected better")


def crash(job: Call, emit: Emit) -> None:
    """Job function: raise an error that no user can put right."""
    raise RuntimeError("something broke")
