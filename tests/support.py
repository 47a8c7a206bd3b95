"""The command as a user types it, and the store it leaves."""

import ast
import contextlib
import importlib.util
import io
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from matplotlib.figure import Figure
from support_launcher import Launcher

from mammo_mlflow.backbones import BACKBONES
from mammo_mlflow.cli import main
from mammo_mlflow.jobs.executors import EXECUTORS
from mammo_mlflow.testing.scripted import Script, ScriptedExecutor

ROOT = Path(__file__).parents[1]
PHANTOM = ["--phantom-train", "48", "--phantom-test", "24", "--phantom-size", "32"]
SMALL = ["--backbone", "vgg16", "--weights", "random", "--epochs", "2", "--views", "2", *PHANTOM]
SIAMESE = ("--backbone", "scratch", "--blocks", "8/2-8,8", "--dense", "8")
"""Of a small Siamese network."""
SOURCES = {"features": "mammo-benign_malignant-siamese-scratch", "condition": "mammo-mass_calc-siamese-scratch"}
"""What small conditioned models are made of: such networks of both tasks."""
needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("keras_hub") is None, reason="keras-hub is not installed (extra [hub])"
)
LOG_LINE = re.compile(r"\d\d:\d\d:\d\d (INFO|WARNING|ERROR) ")


@cache
def syntax_tree(path):
    """What Python reads in a source file: read once for all tests, which leave it as it is."""
    return ast.parse(path.read_text(encoding="utf-8"))


def hide_hub(patch):
    """Let keras-hub look as if it were not installed; give the pattern of how a line says that it is."""
    there = importlib.util.find_spec
    patch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "keras_hub" else there(name, *rest))
    return r"\(pip install -e '.*\[hub\]'\), found none"


def narrow_dinov2(patch):
    """Make the network of `dinov2_small` two narrow blocks, in this process; give its row."""
    row = BACKBONES["dinov2_small"]
    hub = {"num_layers": 2, "hidden_dim": 32, "num_heads": 2, "intermediate_dim": 64}
    patch.setitem(BACKBONES, "dinov2_small", replace(row, hub=hub, convolutions=2, parameters=123_872))
    return BACKBONES["dinov2_small"]


def load_script(name):
    """A script of the folder `scripts`, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def complaints(self):
        """The lines on standard error that no logger wrote."""
        return [line for line in self.err.splitlines() if not LOG_LINE.match(line)]

    @property
    def warnings(self):
        return [line for line in self.err.splitlines() if " WARNING " in line]


def environment(cache, **more):
    """The environment of a command run as a process of its own."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTEST_", "TF_CPP_"))},
        "MAMMO_CACHE_DIR": str(cache),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONWARNINGS": "ignore",
        **more,
    }


def command(*arguments, name="pretrained"):
    """The command line of `pretrained`, or of another command."""
    return [sys.executable, "-m", "mammo_mlflow", name, *arguments]


def run_command(where, cache, *arguments, name="pretrained", **more):
    """Run a command as a process of its own in the directory `where`; `more` goes into its environment."""
    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start(where, environment(cache, **more), [name, *arguments], out, err)
        try:
            return Outcome(process.wait(300), out.read_text(), err.read_text())
        finally:
            process.kill()


_launchers = []


def start(where, surroundings, arguments, out, err):
    """Start `python -m mammo_mlflow` in a session of its own; its output goes to the files `out` and `err`."""
    out.touch()
    err.touch()
    launcher = next((one for one in _launchers if one.suits(surroundings)), None)
    if launcher is None:
        launcher = Launcher(surroundings, Path(tempfile.mkdtemp(prefix="launched-")))
        _launchers.append(launcher)
    return launcher.launch(arguments, where, surroundings, out, err)


class Pretended:
    """Commands in this process whose jobs are answered by a script: run(where, "--task", …, name="search") -> Outcome.

    Their cache is their own, since what lies in it is made up. Where there is no store yet they find an empty one;
    figures are made but not drawn, which would take half of the time.
    """

    def __init__(self, cache, empty):
        self.cache, self.empty = cache, empty

    def __call__(self, where, *arguments, name="pretrained", script=None, executor=True, code=None):
        if not (where / "mlflow.db").exists():
            shutil.copytree(self.empty, where, dirs_exist_ok=True)
        scripted = ("--executor", "scripted") if executor else ()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(where)
            patch.setenv("MAMMO_CACHE_DIR", str(self.cache))
            patch.setitem(EXECUTORS, "scripted", partial(ScriptedExecutor, script or Script()))
            patch.setattr(Figure, "savefig", lambda figure, file, **settings: file.write(b"\x89PNG\r\n\x1a\n"))
            return call_command(name, *arguments, *scripted, code=code)

    def at(self, where):
        """Commands in one store: run("siamese", "--task", …) -> Outcome, of exit code `code`."""
        return lambda name, *arguments, code=0: self(where, *arguments, name=name, code=code)


def call_command(name, *arguments, code=0):
    """A command in this process, where `code` is not None of that exit code -> Outcome."""
    handlers, on_term = logging.root.handlers[:], signal.getsignal(signal.SIGTERM)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            found = main([name, *arguments])
    finally:
        logging.root.handlers[:] = handlers
        signal.signal(signal.SIGTERM, on_term)
    assert code in (found, None), err.getvalue()
    return Outcome(found, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def inline_commands(where, cache):
    """Context: commands in one store and in this process, which has TensorFlow already, and so have their jobs.

    It gives run("ensemble", "--task", …) -> Outcome, of exit code `code`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{where}/mlflow.db")
        patch.chdir(where)
        yield partial(_inline, cache)


def _inline(cache, name, *arguments, code=0):
    return call_command(name, *arguments, "--executor", "inline", "--cache-dir", str(cache), code=code)


def wait_for(condition, seconds=120):
    """Look again and again until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def unused_pid():
    """A number that no process has."""
    return next(pid for pid in range(2**22 - 1, 1, -1) if not psutil.pid_exists(pid))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """A model server as a process of its own: until the block ends it answers at `address`."""

    def __init__(self, line, where, surroundings):
        self.line, self.where, self.surroundings = line, where, surroundings
        self.port = int(line[-1])
        self.address = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(
            self.line, cwd=self.where, env=self.surroundings, start_new_session=True, **quiet
        )
        wait_for(self.alive)
        self.family = [psutil.Process(self.process.pid)]
        self.family += self.family[0].children(recursive=True)
        return self

    def __exit__(self, *problem):
        self.process.terminate()
        self.process.wait(30)
        for one in self.family:
            if one.is_running():
                one.kill()

    def alive(self):
        try:
            with urllib.request.urlopen(f"{self.address}/ping", timeout=5):
                return True
        except OSError:
            return False

    def post(self, body, content_type="application/json"):
        """The status and the text of the answer to a request, `body` JSON or bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/invocations", data, {"Content-Type": content_type})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()


class Running:
    """The command as a process whose standard error is followed."""

    def __init__(self, where, cache, *arguments, name="pretrained", **more):
        self.log, self.out = where / f"log-{time.monotonic_ns()}", where / f"out-{time.monotonic_ns()}"
        self.process = start(where, environment(cache, **more), [name, *arguments], self.out, self.log)

    def said(self, text):
        assert self.process.poll() is None, self.log.read_text()
        return text in self.log.read_text()

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)


class Store:
    """The tracking store that a command left in its directory."""

    def __init__(self, where, name="mammo"):
        from mlflow.tracking import MlflowClient

        self.where = where
        self.uri = f"sqlite:///{where}/mlflow.db"
        self.client = MlflowClient(self.uri)
        self.experiment_id = self.client.get_experiment_by_name(name).experiment_id

    def runs(self, status=None, **tags):
        """The runs with these tags (`fit="final"` is `mammo.fit`), newest last."""
        found = self.client.search_runs([self.experiment_id], order_by=["attributes.start_time ASC"])
        for name, value in tags.items():
            found = [run for run in found if run.data.tags.get(f"mammo.{name}") == value]
        return [run for run in found if status in (None, run.info.status)]

    def tops(self):
        """The runs that are nested in none, newest last."""
        return [run for run in self.runs() if "mlflow.parentRunId" not in run.data.tags]

    def children(self, run):
        return [one for one in self.runs() if one.data.tags.get("mlflow.parentRunId") == run.info.run_id]

    def artifacts(self, run, folder=None):
        """The paths of all artifacts of a run."""
        paths = []
        for item in self.client.list_artifacts(run.info.run_id, folder):
            paths += self.artifacts(run, item.path) if item.is_dir else [item.path]
        return paths

    def fetch(self, run, path):
        return Path(self.client.download_artifacts(run.info.run_id, path))

    def frame(self, run, path):
        import pandas as pd

        return pd.read_parquet(self.fetch(run, path))

    def json(self, run, path):
        return json.loads(self.fetch(run, path).read_text())


def keep_types(source, target, train, test=None):
    """A copy of a data directory with the abnormalities of these types alone, in its test set those of `test`."""
    target.mkdir(parents=True)
    for file in source.glob("*.json"):
        shutil.copy(file, target)
    for stem, kinds in (("train", train), ("public_test", test or train)):
        labels = np.load(source / f"{stem}_labels.npy")
        kept = np.isin(labels[1::2], kinds)
        for name in ("labels", "tensor"):
            np.save(target / f"{stem}_{name}.npy", np.load(source / f"{stem}_{name}.npy")[np.repeat(kept, 2)])
        header, *lines = (source / f"{stem}_groups.csv").read_text().splitlines()
        text = "\n".join([header, *(line for line, keep in zip(lines, kept, strict=True) if keep)])
        (target / f"{stem}_groups.csv").write_text(text + "\n")
    return target


@dataclass(frozen=True)
class Finished:
    """A command that ended well, and the store it wrote."""

    where: Path
    cache: Path
    arguments: tuple[str, ...]
    outcome: Outcome
    store: Store
