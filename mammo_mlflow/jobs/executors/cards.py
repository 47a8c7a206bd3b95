"""Run jobs on cards: one lasting process for each, which gets the fits that share their programs as one job.

A process that lives as long as the command starts the card once, compiles once, and keeps arrays on the card from one
job to the next. Under JAX without a card the processor stands for one.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

from mammo_mlflow.jobs.contracts import Event, Notice, Suggestion
from mammo_mlflow.jobs.devices import Card
from mammo_mlflow.jobs.executors.base import Answered, AnyJob, Executor, OnEvent, OnIdle
from mammo_mlflow.jobs.executors.process import end_of, serve_coordinator, start_process, start_server
from mammo_mlflow.jobs.executors.target import attempt
from mammo_mlflow.jobs.executors.together import Notices, Waiting, Work
from mammo_mlflow.jobs.executors.watch import Watch
from mammo_mlflow.jobs.failure import Failure

MEMORY_FRACTIONS = {"XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"}
"""The names, new and old, by which JAX is told the most of a card's memory; it takes one of them."""
SHARE = 0.9
"""The share of a card's free memory that a job may take; the rest is for what the driver itself needs."""


@dataclass(eq=False)
class _Worker:
    """A process that runs one job after another on a card, and the connection to it."""

    card: Card
    process: BaseProcess
    connection: Connection


class CardPool:
    """The processes of a command's cards, started when they are needed, and shared by its executors."""

    def __init__(self, cards: Sequence[Card]) -> None:
        self.cards = tuple(cards)
        self._context = start_server()
        self._idle: list[_Worker] = []

    def take(self, card: Card) -> _Worker:
        """A process on a card that is not at work; it is started where there is none."""
        for worker in self._idle:
            if worker.card == card and worker.process.is_alive():
                self._idle.remove(worker)
                return worker
        ours, theirs = self._context.Pipe()
        chosen = str(card.number) if len(self.cards) > 1 else None  # of a single one the user's choice may be a name
        process = self._context.Process(target=_serve, args=(theirs, card, chosen), name=card.name, daemon=True)
        start_process(process)
        theirs.close()
        return _Worker(card, process, ours)

    def give_back(self, worker: _Worker) -> None:
        """Take a process back that has ended its job."""
        self._idle.append(worker)

    def close(self) -> None:
        """End the processes that are not at work."""
        while self._idle:
            end(self._idle.pop())


class CardExecutor(Executor):
    """Runs jobs on the cards of a pool, one at a time on each; fits of one program are one job.

    At most `workers` fits are trained at once on a card; with 0 as many as its memory holds.
    """

    def __init__(self, pool: CardPool, workers: int = 0) -> None:
        self._pool = pool
        self._running: dict[_Worker, Work] = {}
        self._waiting = Waiting(workers)
        self._notices = Notices()
        self._watch = Watch()

    def attempts(
        self, next_job: Callable[[], AnyJob | None], on_event: OnEvent[AnyJob], on_idle: OnIdle
    ) -> Answered[AnyJob]:
        """Yield each job with its answer or `Failure` as it ends; see `Executor.attempts`."""
        self._check_free()
        more: object = False
        try:
            while True:
                self._start(next_job)
                if not self._running:
                    return
                workers = {worker.connection: worker for worker in self._running}
                ready = cast(list[Connection], wait(list(workers), timeout=0 if more else 0.5))
                for connection in ready:
                    yield from self._receive(workers[connection], on_event)
                yield from self._end_hanging()
                more = on_idle()
        finally:
            self._stop()

    def close(self) -> None:
        """End the processes that are at work, and those of the pool."""
        self._stop()
        self._pool.close()

    def _check_free(self) -> None:
        if self._running:
            raise RuntimeError("the executor is at work already: jobs beside these need another one")

    def _stop(self) -> None:
        """Forget the jobs that wait, and end the processes that are at work."""
        self._waiting.clear()
        for worker, work in self._running.items():
            end(worker)
            self._watch.ended(work.sent, well=False)
        self._running.clear()

    def _start(self, next_job: Callable[[], AnyJob | None]) -> None:
        """Give each card that is free work, as long as there is any."""
        free = [card for card in self._pool.cards if card not in {worker.card for worker in self._running}]
        if not free:
            return
        self._waiting.add(next_job)
        while free and self._waiting:
            card = free.pop(0)
            work = Work.on(self._waiting.take(1 + len(free)), int(SHARE * card.free))
            worker = self._pool.take(card)
            with suppress(OSError):  # of one that has just been killed, whose jobs fail when it is listened to
                worker.connection.send(work.sent)
            self._running[worker] = work
            self._watch.started(work.sent)

    def _receive(self, worker: _Worker, on_event: OnEvent[AnyJob]) -> Iterator[tuple[AnyJob, Any]]:
        """Take a message of a process; yield the jobs that are answered by it."""
        work = self._running[worker]
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError):  # OSError: the process was killed while it sent a message
            kind, content = "answer", end_of(worker.process, self._watch)
            worker.connection.close()
        if kind == "event":
            self._watch.heard(work.sent)
            yield from self._happened(worker, work, content, on_event)
            return
        if worker.process.is_alive():
            self._pool.give_back(worker)
        yield from self._ended(worker, content)

    def _ended(self, worker: _Worker, answer: Any) -> Iterator[tuple[Any, Any]]:
        """Yield what a process was at work on with an answer to all that is not answered yet."""
        work = self._running.pop(worker)
        self._watch.ended(work.sent, well=not isinstance(answer, Failure))
        for job in work.open.values():
            yield job, answer

    def _end_hanging(self) -> Iterator[tuple[Any, Failure]]:
        """Kill the processes that hang, and yield their jobs."""
        for worker, work in list(self._running.items()) if self._watch.due() else ():
            why = self._watch.hangs(work.sent, worker.process.pid)
            if why is not None:
                end(worker)
                yield from self._ended(worker, Failure(why, lost=True))

    def _happened(
        self, worker: _Worker, work: Work, event: Event, on_event: OnEvent[AnyJob]
    ) -> Iterator[tuple[AnyJob, Any]]:
        """Hand an event on; yield the fits that it answers."""
        if isinstance(event, Notice):
            self._notices.tell(worker.card.name, event)
            return
        yield from work.happened(event, on_event)
        if isinstance(event, Suggestion):
            with suppress(OSError):  # of one that was killed meanwhile, which the next message tells
                worker.connection.send(work.reply)


def end(worker: _Worker) -> None:
    """Kill a process."""
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _serve(connection: Connection, card: Card, chosen: str | None) -> None:
    """Run the jobs that come through `connection`, in this process of a card, until it is closed.

    `chosen` is the card's name for the driver where it is one of several. JAX reads the environment when it starts.
    """
    if card.memory and not os.environ.keys() & MEMORY_FRACTIONS:
        os.environ["XLA_CLIENT_MEM_FRACTION"] = f"{min(0.95, card.free / card.memory):.3f}"
    if chosen is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = chosen
    emit, send_answer = serve_coordinator(connection)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        answer = attempt(job, emit)
        send_answer(answer)
        del job, answer
        gc.collect()  # the networks of a job hold memory of the card, and refer to themselves
