"""Run jobs on a Ray cluster: each is a Ray task, which runs it in a process of its own on the node that Ray chooses.

The cluster is the one that `RAY_ADDRESS` names, else one on this machine that ends with this process. A task keeps to
what process.py does: its Ray worker has a fork server that has imported TensorFlow, and every job is forked from it.
Events and answers are the items of the task's generator; replies to questions go through an actor beside the
coordinator. Ray itself retries nothing: base.py does. No other module imports Ray.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from mammo_mlflow.errors import expected
from mammo_mlflow.jobs.contracts import FitJob, Job, Reply, Suggestion
from mammo_mlflow.jobs.executors.base import Answered, AnyJob, Executor, OnEvent, OnIdle
from mammo_mlflow.jobs.executors.process import end_of, run_job, start_server
from mammo_mlflow.jobs.executors.shipping import Manifest, Sight, append, copied, files_of, moved, over_paths, pieces
from mammo_mlflow.jobs.executors.watch import LOOK_SECONDS, Watch
from mammo_mlflow.jobs.failure import Failure
from mammo_mlflow.processes import available_cores

ADDRESS = "RAY_ADDRESS"

# Ray reads these as it is imported
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
_IMPATIENT = {"RAY_py_gcs_connect_timeout_s": "10", "RAY_NUM_REDIS_GET_RETRIES": "1"}  # else it tries for minutes
for _name, _value in (_QUIET | _IMPATIENT).items():
    os.environ.setdefault(_name, _value)
if os.environ.get(ADDRESS, "") in ("", "local") and "RAY_AUTH_MODE" not in os.environ:
    # nobody else uses the cluster of this process; Ray would write a token into the user's home, for all clusters
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

import ray  # noqa: E402
import ray.exceptions  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

STORE_BYTES = 200 * 2**20
"""The size of the object store of a cluster that is started here: events, arrays of jobs, and answers pass through."""
PROCESS_BYTES, PARAMETER_BYTES = 700 * 2**20, 16
"""The memory that a job asks for, and a fit for each parameter that it may train: weights, gradients, moments."""
PATIENCE_SECONDS = 5
"""How long a cluster may take to answer, and tasks to end that are no longer wanted."""
INHERITED = ("KERAS_", "TF_", "XLA_", "JAX_", "CUDA_", "HIP_", "MAMMO_", "OMP_", "OPENBLAS_", "MKL_")
"""How the names of those variables begin that jobs get from the coordinator's environment."""


def connect() -> None:
    """Connect this process to the cluster of `RAY_ADDRESS`, or start one on this machine. Raises `UserError`."""
    if ray.is_initialized():
        return
    address = os.environ.get(ADDRESS, "").strip()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    with _own_signals():
        if not address or address == "local":
            _start_local(quiet)
            return
        _check_answers(address)
        try:
            ray.init(address=address, **quiet)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as problem:
            why = " ".join(str(problem).split())
            raise expected(ADDRESS, "the head of a Ray cluster", f"{address}: {why}") from None


def nodes() -> list[Mapping[str, float]]:
    """The resources of each living node of the cluster that computes, by Ray's names of them. Raises `UserError`."""
    connect()
    found = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    if not found:
        raise expected(ADDRESS, "a cluster of which a node has a processor", "none")
    return found


def _start_local(quiet: Mapping[str, Any]) -> None:
    """Start a cluster on this machine, which nobody else reaches, and which ends with this process."""
    folder = tempfile.mkdtemp(prefix="ray-")
    atexit.register(_end_local, folder)
    try:
        ray.init(
            address="local",
            num_cpus=available_cores(),
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
            **quiet,
        )
    except (OSError, ValueError) as problem:
        if "AF_UNIX" not in str(problem):  # the path of a socket, which lies in that folder
            raise
        raise expected("TMPDIR", "a folder with a path below 30 characters", tempfile.gettempdir()) from None


def _end_local(folder: str) -> None:
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def _check_answers(address: str) -> None:
    """Check that somebody listens at an address: Ray itself tries for minutes. Raises `UserError`."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if "//" in address or not host or not port.isdigit():
        raise expected(ADDRESS, "HOST:PORT of the head of a Ray cluster, auto or local", f"'{address}'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_SECONDS).close()
    except (OSError, OverflowError) as problem:
        raise expected(ADDRESS, "a Ray cluster that answers", f"{address}: {problem}") from None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Context: keep this process's handler of SIGTERM, which Ray would replace by one with an exit code of its own."""
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, kept)


class RayExecutor(Executor):
    """Runs up to `workers` jobs at once on the nodes of a cluster; with `on_cards` each of them asks for a card."""

    def __init__(self, workers: int, on_cards: bool = False) -> None:
        found = nodes()
        self._cores, self._memory = (max(node.get(name, 1) for node in found) for name in ("CPU", "memory"))
        self._workers, self._cards = workers, int(on_cards)
        if on_cards and not any(node.get("GPU") for node in found):
            raise expected("devices", "cards on the nodes of the Ray cluster", "none")
        self._environment = {"env_vars": _inherited(on_cards)}
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        beside = {"num_cpus": 0, "scheduling_strategy": here, "runtime_env": self._environment}
        self._replies: Any = ray.remote(_Replies).options(**beside).remote()
        self._parcels = _parcels(ray.get_runtime_context().get_job_id())
        self._running: dict[Any, tuple[Any, int]] = {}
        self._started = 0
        for node in ray.nodes():  # each imports TensorFlow while the command reads its data
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
                _warm_up.options(scheduling_strategy=there, runtime_env=self._environment).remote()

    def attempts(
        self, next_job: Callable[[], AnyJob | None], on_event: OnEvent[AnyJob], on_idle: OnIdle
    ) -> Answered[AnyJob]:
        """Yield each job with its answer or `Failure` as it ends; see `Executor.attempts`."""
        if self._running:
            raise RuntimeError("the executor is at work already: jobs beside these need another one")
        more: object = False
        try:
            while True:
                while len(self._running) < self._workers and (job := next_job()) is not None:
                    self._start(job)
                if not self._running:
                    return
                for task in ray.wait(list(self._running), timeout=0 if more else 0.5)[0]:
                    job, number = self._running.pop(task)
                    kind, content = _receive(task)
                    if kind == "answer":
                        yield job, content
                        continue
                    self._running[task] = job, number  # the last in turn, lest it holds the others up
                    if kind == "unseen":
                        self._replies.give.remote(number, {sight: self._parcels.put(sight) for sight in content})
                    elif kind == "file":
                        append(job.output, *content)
                    else:
                        reply = on_event(job, content)
                        if isinstance(content, Suggestion):
                            self._replies.give.remote(number, reply)
                more = on_idle()
        finally:
            self._stop()

    def close(self) -> None:
        """End the tasks that still run, and remove the copies of files that were made for them."""
        self._stop()
        if ray.is_initialized():
            self._parcels.remove(self._environment)

    def _stop(self) -> None:
        """End the tasks that still run."""
        ended = []
        for task in self._running:
            with suppress(ray.exceptions.RayError):
                ray.cancel(task, force=True)
                ended.append(task.completed())
        self._running.clear()
        if ended:
            ray.wait(ended, num_returns=len(ended), timeout=PATIENCE_SECONDS)

    def _start(self, job: Job[object]) -> None:
        """Give a job to the cluster, which starts it where there is room."""
        threads = job.experiment.training.threads if isinstance(job, FitJob) else getattr(job, "threads", 1)
        memory = PROCESS_BYTES
        if isinstance(job, FitJob):
            memory += PARAMETER_BYTES * job.description.parameters
        task = _run.options(
            name=job.name,
            num_cpus=min(threads, self._cores),  # more than any node has would be waited for in vain
            num_gpus=self._cards,
            memory=min(memory, self._memory),
            runtime_env=self._environment,
        ).remote(job, Manifest.of(job), self._parcels.store, self._started, self._replies)
        self._running[task] = job, self._started
        self._started += 1


def _receive(task: Any) -> tuple[str, Any]:
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
        places = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        there = (NodeAffinitySchedulingStrategy(node, soft=True) for node in places)
        removed = [
            _remove.options(scheduling_strategy=one, runtime_env=environment).remote(self.store) for one in there
        ]
        ray.wait(removed, num_returns=len(removed), timeout=PATIENCE_SECONDS)


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
        wanted, made = manifest.output, None
        if wanted is not None and not manifest.shared_output:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mammo_ray_"))
            made = places[wanted] = Path(folder) / wanted.name
            if manifest.into is not None and manifest.into.path == wanted:
                made.mkdir()
        for kind, content in _messages(over_paths(job, lambda path: places.get(path, path)), number, replies):
            if kind == "answer" and made is not None and wanted is not None:
                for name, file in files_of(made).items():
                    for count, piece in enumerate(pieces(file)):
                        yield "file", (name, piece, not count)
                content = over_paths(content, partial(moved, made, wanted))
            yield kind, content


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
