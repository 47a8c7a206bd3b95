"""Jobs on cards: one lasting process for each, and the fits of one program as one job of it."""

import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import psutil
import pytest
from support import ROOT, environment, wait_for
from support_jobs import PretendedFits

from mammo_mlflow.errors import UserError
from mammo_mlflow.jobs.contracts import EpochDone, StepsDone
from mammo_mlflow.jobs.devices import Card, Devices
from mammo_mlflow.jobs.executors import JobFailed, make_executors
from mammo_mlflow.jobs.executors.cards import CardExecutor, CardPool
from mammo_mlflow.jobs.executors.inline import InlineExecutor
from mammo_mlflow.jobs.executors.process import ProcessExecutor
from mammo_mlflow.testing.executors import ExecutorContract, answers, calls

pytestmark = pytest.mark.usefixtures("system")

CARD = Card(number=0, name="the processor", memory=2 * 10**9, free=10**9, bfloat16=False)
OTHER = replace(CARD, number=1, name="another")


@pytest.fixture
def pool():
    """One card."""
    with closing(CardPool((CARD,))) as made:
        yield made


@pytest.fixture
def executor(pool):
    with closing(CardExecutor(pool)) as made:
        yield made


class TestCardExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, pool):
        with closing(CardExecutor(pool)) as made:
            yield made


def of_support(function, *arguments):
    return calls(function, *arguments, module="support_jobs")


def test_all_jobs_of_a_command_run_in_one_process(executor, pool):
    pids = {answer for _, answer in answers(executor, of_support("process_id", 1, 2, 3))}
    pids |= {answer for _, answer in answers(executor, of_support("process_id", 4))}
    pids |= {answer for _, answer in answers(CardExecutor(pool), of_support("process_id", 5))}
    assert len(pids) == 1
    assert os.getpid() not in pids
    (pid,) = pids
    pool.close()
    assert not psutil.pid_exists(pid)


def test_two_cards_work_at_a_time(tmp_path):
    with closing(CardPool((CARD, OTHER))) as pool, closing(CardExecutor(pool)) as executor:
        found = answers(executor, of_support("meet", (str(tmp_path), "a"), (str(tmp_path), "b")))
        assert {answer for _, answer in found} == {"a", "b"}
        told = answers(executor, of_support("tell_cards", 0.3, 0.3))
    assert sorted(answer for _, answer in told) == [("0", "0.500"), ("1", "0.500")]


def test_the_environment_of_a_single_card_is_the_users(executor, monkeypatch):
    ((_, (visible, share)),) = answers(executor, of_support("tell_cards", 0))
    assert (visible, share) == (os.environ["CUDA_VISIBLE_DEVICES"], "0.500")


def test_single_jobs_beside_the_others_have_a_process_of_their_own(executor, pool, tmp_path):
    side, met = CardExecutor(pool), []

    def on_event(job, event):
        met.extend(answer for _, answer in answers(side, of_support("process_id", 1)))

    ((_, pid),) = answers(executor, of_support("tell_and_wait", 0.1), on_event)
    assert len({pid, *met}) == 2
    assert {answer for _, answer in answers(side, of_support("process_id", 2))} <= {pid, *met}  # an idle one


def test_an_executor_at_work_takes_no_jobs_beside(executor):
    """And answers none of them later."""
    told = []

    def interfere(job, event):
        if not told:
            with pytest.raises(RuntimeError, match="at work already") as raised:
                answers(executor, calls("double", 50))
            told.append(raised)

    assert [answer for _, answer in answers(executor, calls("double", 1, 2), interfere)] == [2, 4]
    assert len(told) == 1


def test_a_killed_process_fails_its_job_and_later_ones_get_another(executor):
    ((_, before),) = answers(executor, of_support("process_id", 1))
    with pytest.raises(JobFailed, match=r"job 0: its process ended without an answer \(killed by SIGKILL; out of mem"):
        answers(executor, of_support("die", 1))
    ((_, after),) = answers(executor, of_support("process_id", 1))
    assert after != before
    assert not psutil.pid_exists(before)


def test_an_idle_process_that_was_ended_is_replaced(executor, pool):
    ((_, before),) = answers(executor, of_support("process_id", 1))
    psutil.Process(before).kill()
    wait_for(lambda: not pool._idle[0].process.is_alive())
    ((_, after),) = answers(executor, of_support("process_id", 1))
    assert after != before


def test_a_process_that_is_killed_before_its_job_reaches_it_fails_the_job(executor, pool, monkeypatch):
    really = pool.take

    def take(card):
        worker = really(card)
        worker.process.kill()
        worker.process.join()
        return worker

    monkeypatch.setattr(pool, "take", take)
    with pytest.raises(JobFailed, match="killed by SIGKILL"):
        answers(executor, calls("double", 1))


def test_giving_up_ends_the_process_that_is_at_work(executor, tmp_path):
    (sleeper,) = of_support("note_and_sleep", str(tmp_path / "pid"))

    def interrupt():
        if (tmp_path / "pid").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(executor.run([sleeper, *calls("double", 1)], lambda *_: None, interrupt))
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert [answer for _, answer in answers(executor, calls("double", 2))] == [4]  # and no job of before


COORDINATOR = """
import sys
from mammo_mlflow.jobs.executors.cards import CardExecutor, CardPool
from mammo_mlflow.jobs.devices import Card
from mammo_mlflow.testing.executors import answers, calls
card = Card(number=0, name="card", memory=0, free=0, bfloat16=False)
executor = CardExecutor(CardPool((card,)))
answers(executor, calls("process_id", 1, module="support_jobs"))
answers(executor, calls("note_and_sleep", sys.argv[1], module="support_jobs"))
"""


def test_the_death_of_the_coordinator_ends_them(kill, tmp_path, cache):
    surroundings = environment(cache)
    surroundings["PYTHONPATH"] += f":{ROOT / 'tests'}"
    coordinator = subprocess.Popen([sys.executable, "-c", COORDINATOR, str(tmp_path / "pid")], env=surroundings)
    wait_for((tmp_path / "pid").exists)
    family = psutil.Process(coordinator.pid).children(recursive=True)
    assert int((tmp_path / "pid").read_text()) in {one.pid for one in family}
    kill(coordinator)
    coordinator.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []


@pytest.fixture
def fit_jobs(scripted, tmp_path, monkeypatch):
    """Makes the jobs of a plan's folds; what is sent together tells its process, and how many it was."""
    monkeypatch.setattr("mammo_mlflow.jobs.executors.together.FitsJob", PretendedFits)

    def make(prefix="", **values):
        made = []
        for fit in scripted.plan(**{"folds": 3, **values}).fits:
            output = tmp_path / f"{prefix}{fit.name}"
            output.mkdir()
            made.append(replace(fit.job, name=f"{prefix}{fit.name}", output=output))
        return made

    return make


def together(executor, jobs, on_event=lambda *_: None):
    """How many fits each job was trained with, by its name."""
    return {job.name: int(result.seconds) for job, result in executor.run(jobs, on_event, lambda: None)}


def test_fits_of_one_program_are_one_job(executor, fit_jobs):
    alike = [*fit_jobs("a "), *fit_jobs("b ", seed=1, learning_rate=0.01), *fit_jobs("c ", dense="8")]
    seen = []
    found = together(executor, alike, lambda job, event: seen.append((job.name, event)))
    assert found == {f"{name} fold {fold}": 6 if name in "ab" else 3 for name in "abc" for fold in (1, 2, 3)}
    of_one = [event for name, event in seen if name == "b fold 2"]
    assert [type(event) for event in of_one] == [StepsDone, EpochDone, EpochDone]


def test_cards_share_the_fits_of_one_program(fit_jobs):
    with closing(CardPool((CARD, OTHER))) as pool, closing(CardExecutor(pool)) as executor:
        found = list(executor.run([*fit_jobs("a "), *fit_jobs("b ", seed=1)], lambda *_: None, lambda: None))
    assert [int(result.seconds) for _, result in found] == [3] * 6
    assert len({result.peak_memory for _, result in found}) == 2


def test_no_more_than_allowed_are_trained_at_once(pool, fit_jobs):
    with closing(CardExecutor(pool, workers=2)) as executor:
        assert sorted(together(executor, fit_jobs()).values()) == [1, 2, 2]


def test_a_fit_that_fails_leaves_its_siblings_answered(executor, fit_jobs):
    first, second, third = fit_jobs()
    second = replace(second, name="fails")
    ended = {}
    waiting = [first, second, third]
    for job, answer in executor.stream(lambda: waiting.pop() if waiting else None, lambda *_: None, lambda: None):
        ended[job.name] = answer
    assert (ended["fails"].user, ended["fails"].line) == (True, "learning_rate: expected better")
    assert {int(ended[one.name].seconds) for one in (first, third)} == {3}
    with pytest.raises(UserError, match="learning_rate: expected better"):
        together(executor, [second])


def test_a_killed_process_fails_the_fits_that_it_had_not_answered(executor, fit_jobs):
    first, second, third = fit_jobs()
    waiting, ended = [replace(first, name="kills"), second, third], {}
    for job, answer in executor.stream(lambda: waiting.pop(0) if waiting else None, lambda *_: None, lambda: None):
        ended[job.name] = answer
    assert "(killed by SIGKILL" in ended.pop("kills").reason
    assert {name: int(answer.seconds) for name, answer in ended.items()} == {second.name: 3, third.name: 3}
    assert together(executor, [first]) == {first.name: 1}


def test_executors_by_what_computes():
    usual, of_cards = Devices(), Devices(backend="jax", cards=(CARD,))
    for name, devices, kind in (
        ("process", usual, ProcessExecutor),
        ("process", of_cards, CardExecutor),
        ("process", Devices(backend="tensorflow", kind="gpu", cards=(CARD,)), ProcessExecutor),
        ("inline", of_cards, InlineExecutor),
    ):
        made, side = make_executors(name, 0, devices)
        assert (type(made), type(side)) == (kind, kind)
        made.close()
        side.close()
    made, side = make_executors("process", 0, of_cards)
    with closing(made), closing(side):
        pids = {answer for one in (made, side) for _, answer in answers(one, of_support("process_id", 1))}
    assert len(pids) == 1
    with pytest.raises(UserError, match="did you mean 'process'"):
        make_executors("proces", 1, of_cards)
