"""Run jobs on a Ray cluster: each is a Ray task, which runs it in a process of its own on the node that Ray chooses.

A task keeps to what process.py does: its Ray worker has a fork server that has imported TensorFlow, and every job is
forked from it. Fits that share compiled programs are one task. Events and answers are the items of the task's
generator; replies to questions go through an actor beside the coordinator. Ray itself retries nothing: base.py does.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import sys
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from mammo_mlflow.errors import expected
from mammo_mlflow.jobs.contracts import FitJob, FitResult, FitsProgress, Job, Notice, Reply, Suggestion
from mammo_mlflow.jobs.executors.base import Answered, AnyJob, Executor, OnEvent, OnIdle
from mammo_mlflow.jobs.executors.process import end_of, run_job, start_server
from mammo_mlflow.jobs.executors.ray_cluster import nodes, on_every_node, on_this_node, ray
from mammo_mlflow.jobs.executors.shipping import Manifest, Sight, append, copied, files_of, moved, over_paths, pieces
from mammo_mlflow.jobs.executors.together import Notices, Waiting, Work
from mammo_mlflow.jobs.executors.watch import LOOK_SECONDS, Watch
from mammo_mlflow.jobs.failure import Failure

PROCESS_BYTES, PARAMETER_BYTES = 700 * 2**20, 16
"""The memory that a job asks for, and a fit for each parameter that it may train: weights, gradients, moments."""
ENDING_SECONDS = 5
"""How long tasks may take to end that are no longer wanted."""
INHERITED = ("KERAS_", "TF_", "XLA_", "JAX_", "CUDA_", "HIP_", "MAMMO_", "OMP_", "OPENBLAS_", "MKL_")
"""How the names of those variables begin that jobs get from the coordinator's environment."""


class RayExecutor(Executor):
    """Runs up to `workers` jobs at once on the nodes of a cluster; with `on_cards` each of them asks for a card.

    `compiled`: whether fits share compiled programs, and go together as one job. With `memory` they may take so many
    bytes of their card; 0: what the card says.
    """

    def __init__(self, workers: int, on_cards: bool = False, compiled: bool = False, memory: int = 0) -> None:
        found = nodes()
        self._cores, self._memory = (max(node.get(name, 1) for node in found) for name in ("CPU", "memory"))
        self._workers, self._cards, self._card_memory = workers, int(on_cards), memory
        if on_cards and not any(node.get("GPU") for node in found):
            raise expected("devices", "cards on the nodes of the Ray cluster", "none")
        self._environment = {"env_vars": _inherited(on_cards)}
        beside = {"num_cpus": 0, "scheduling_strategy": on_this_node(), "runtime_env": self._environment}
        self._replies: Any = ray.remote(_Replies).options(**beside).remote()
        self._parcels = _parcels(ray.get_runtime_context().get_job_id())
        self._waiting = Waiting() if compiled else None
        self._running: dict[Any, tuple[Work, int]] = {}
        self._started = 0
        self._notices = Notices()
        for node in on_every_node():  # each imports TensorFlow while the command reads its data
            _warm_up.options(scheduling_strategy=node, runtime_env=self._environment).remote()

    def attempts(
        self, next_job: Callable[[], AnyJob | None], on_event: OnEvent[AnyJob], on_idle: OnIdle
    ) -> Answered[AnyJob]:
        """Yield each job with its answer or `Failure` as it ends; see `Executor.attempts`."""
        if self._running:
            raise RuntimeError("the executor is at work already: jobs beside these need another one")
        more: object = False
        try:
            while True:
                while len(self._running) < self._workers and (jobs := self._next(next_job)):
                    self._start(Work.on(jobs, self._card_memory))
                if not self._running:
                    return
                for task in ray.wait(list(self._running), timeout=0 if more else 0.5)[0]:
                    yield from self._receive(task, on_event)
                more = on_idle()
        finally:
            self._stop()

    def _next(self, next_job: Callable[[], AnyJob | None]) -> list[Any]:
        """The next job, with those that go together with it; none where there is none."""
        if self._waiting is None:
            return [] if (job := next_job()) is None else [job]
        self._waiting.add(next_job)
        return self._waiting.take(self._workers - len(self._running)) if self._waiting else []

    def _receive(self, task: Any, on_event: OnEvent[AnyJob]) -> Iterator[tuple[AnyJob, Any]]:
        """Take the next message of a task; yield the jobs that are answered by it."""
        work, number = self._running.pop(task)
        kind, content = _message(task)
        if kind == "answer":
            yield from ((job, content) for job in work.open.values())
            return
        self._running[task] = work, number  # the last in turn, lest it holds the others up
        if kind == "unseen":
            self._replies.give.remote(number, {sight: self._parcels.put(sight) for sight in content})
        elif kind == "file":
            place, name, piece, first = content
            append(work.open[place].output, name, piece, first)
        elif isinstance(content, Notice):
            self._notices.tell("Ray", content)
        else:
            yield from work.happened(content, on_event)
            if isinstance(content, Suggestion):
                self._replies.give.remote(number, work.reply)

    def close(self) -> None:
        """End the tasks that still run, and remove the copies of files that were made for them."""
        self._stop()
        if ray.is_initialized():
            self._parcels.remove(self._environment)

    def _stop(self) -> None:
        """Forget the jobs that wait, and end the tasks that still run."""
        if self._waiting is not None:
            self._waiting.clear()
        ended = []
        for task in self._running:
            with suppress(ray.exceptions.RayError):
                ray.cancel(task, force=True)
                ended.append(task.completed())
        self._running.clear()
        if ended:
            ray.wait(ended, num_returns=len(ended), timeout=ENDING_SECONDS)

    def _start(self, work: Work) -> None:
        """Give work to the cluster, which starts it where there is room."""
        jobs = list(work.open.values())
        threads = (
            job.experiment.training.threads if isinstance(job, FitJob) else getattr(job, "threads", 1) for job in jobs
        )
        parameters = sum(job.description.parameters for job in jobs if isinstance(job, FitJob))
        task = _run.options(
            name=work.sent.name,
            num_cpus=min(max(threads), self._cores),  # more than any node has would be waited for in vain
            num_gpus=self._cards,
            memory=min(PROCESS_BYTES + PARAMETER_BYTES * parameters, self._memory),
            runtime_env=self._environment,
        ).remote(work.sent, Manifest.of(work.sent), self._parcels.store, self._started, self._replies)
        self._running[task] = work, self._started
        self._started += 1


def _message(task: Any) -> tuple[str, Any]:
    """The next message of a task, as of a worker process; a `Failure` where its worker or node is gone."""
    try:
        return ray.get(next(task))
    except ray.exceptions.RayTaskError as problem:
        return "answer", Failure(str(problem))
    except ray.exceptions.RayError as problem:
        what = " ".join(str(problem).split()).split(". ")[0] or type(problem).__name__
        return "answer", Failure(f"its Ray worker or node was lost ({what})", lost=True)


def _inherited(on_cards: bool) -> dict[str, str]:
    """The environment of jobs: what the coordinator's says about computing, and where Python finds modules.

    Which cards a job sees, Ray says.
    """
    kept = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
    if on_cards:
        kept.pop("CUDA_VISIBLE_DEVICES", None)
    return kept | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TF_CPP_MIN_LOG_LEVEL": "3"}


class _Replies:
    """Hands the coordinator's replies to the tasks that asked."""

    def __init__(self) -> None:
        self._given: dict[int, asyncio.Queue[Reply]] = defaultdict(asyncio.Queue)

    async def give(self, number: int, reply: Reply) -> None:
        """Hand in a reply to the task of a number."""
        self._given[number].put_nowait(reply)

    async def take(self, number: int) -> Reply:
        """Wait for the reply to it."""
        return await self._given[number].get()


class _Parcels:
    """The files that machines asked for which do not see the coordinator's folders, in Ray's object store."""

    def __init__(self) -> None:
        self.store = f"mammo_ray_{uuid.uuid4().hex}"
        self._sent: dict[Sight, dict[str, list[Any]]] = {}

    def put(self, sight: Sight) -> dict[str, list[Any]]:
        """The pieces of the files at a path, by the files' names in it; put there at the first call."""
        if sight not in self._sent:
            files = files_of(sight.path)
            self._sent[sight] = {name: [ray.put(piece) for piece in pieces(file)] for name, file in files.items()}
        return self._sent[sight]

    def remove(self, environment: Mapping[str, Any]) -> None:
        """Remove the copies on all nodes, if there are any."""
        if not self._sent:
            return
        self._sent.clear()
        removed = [
            _remove.options(scheduling_strategy=node, runtime_env=environment).remote(self.store)
            for node in on_every_node()
        ]
        ray.wait(removed, num_returns=len(removed), timeout=ENDING_SECONDS)


@functools.cache
def _parcels(connection: str) -> _Parcels:
    """The parcels that all executors of a connection share."""
    return _Parcels()


@ray.remote(num_cpus=0, max_retries=0)
def _remove(store: str) -> None:
    shutil.rmtree(Path(tempfile.gettempdir()) / store, ignore_errors=True)


@ray.remote(num_cpus=0, max_retries=0)
def _warm_up() -> None:
    """Start the fork server of a Ray worker, which later jobs of its node find at hand."""
    _server()


@ray.remote(max_retries=0, num_returns="streaming")
def _run(job: Job[object], manifest: Manifest, store: str, number: int, replies: Any) -> Iterator[tuple[str, Any]]:
    """Run a job on this node; yield its events, the output that does not appear at the coordinator, its answer.

    What the node does not see of its input is asked for first.
    """
    with ExitStack() as stack:
        places: dict[Path, Path] = {}
        if unseen := manifest.unseen:
            yield "unseen", unseen
            for sight, content in ray.get(replies.take.remote(number)).items():
                places[sight.path] = copied(sight, content, ray.get, Path(tempfile.gettempdir()) / store)
        made: dict[int, Path] = {}
        for place, output in manifest.outputs.items():
            if not output.shared:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mammo_ray_"))
                made[place] = places[output.path] = output.elsewhere(Path(folder))
        for kind, content in _messages(over_paths(job, lambda path: places.get(path, path)), number, replies):
            for place in _answered(kind, content) & made.keys():
                for name, file in files_of(made[place]).items():
                    for count, piece in enumerate(pieces(file)):
                        yield "file", (place, name, piece, not count)
                content = over_paths(content, partial(moved, made[place], manifest.outputs[place].path))
            yield kind, content


def _answered(kind: str, content: Any) -> set[int]:
    """The places of those jobs of a task that a message answers with a result."""
    if isinstance(content, FitsProgress):
        return {place for place, what in content.happened if isinstance(what, FitResult)}
    return {0} if kind == "answer" and content is not None and not isinstance(content, Failure) else set()


def _messages(job: Job[object], number: int, replies: Any) -> Iterator[tuple[str, Any]]:
    """Run a job in a process of its own; yield its messages, the answer last."""
    context = _server()
    ours, theirs = context.Pipe()
    process = context.Process(target=run_job, args=(job, theirs), name=job.name, daemon=True)
    process.start()
    theirs.close()
    watch = _watch()
    watch.started(job)
    try:
        while True:
            if not ours.poll(LOOK_SECONDS):
                if (why := watch.hangs(job, process.pid)) is None:
                    continue
                process.kill()
                kind, content = "answer", Failure(why, lost=True)
            else:
                try:
                    kind, content = ours.recv()
                except (EOFError, OSError):  # OSError: the process was killed while it sent a message
                    kind, content = "answer", end_of(process, watch)
            watch.heard(job)
            if kind == "answer":
                watch.ended(job, not isinstance(content, Failure))
                process.join()
                yield kind, content
                return
            yield kind, content
            if isinstance(content, Suggestion):
                ours.send(ray.get(replies.take.remote(number)))
    finally:
        process.kill()
        process.join()


@functools.cache
def _watch() -> Watch:
    """Watches the jobs of this Ray worker, one after another."""
    return Watch()


@functools.cache
def _server() -> Any:
    """The fork server of this Ray worker."""
    if "OMP_NUM_THREADS" not in ray.get_runtime_context().runtime_env.env_vars():
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it, and results shall be those of other executors
    return start_server()
