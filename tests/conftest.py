"""What tests share: the tiers, a small phantom, the command as a user types it, and one whole run of it."""

import importlib
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import support
from filelock import FileLock
from mlflow.tracking import MlflowClient
from sqlalchemy import Engine, event
from support import SMALL, Finished, Outcome, Pretended, Store
from support_laboratory import Laboratory
from support_launcher import do_not_wait_for_the_disk
from support_servers import PostgreSQL, TrackingServer, need_postgresql
from support_store import Models

from mammo_mlflow.cli import main
from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
from mammo_mlflow.jobs.executors import EXECUTORS
from mammo_mlflow.search.storage import Storage
from mammo_mlflow.testing.scripted import Script, ScriptedExecutor

TESTS = Path(__file__).parent
TIERS = {"system": "system", "keras": "keras", "simulation": "claim", "kill": "kill", "jax_backend": "jax"}
"""The fixtures that move a test out of the quick tier, and the marker that each of them sets."""
JAX = "jax_backend"
"""The fixture whose tests have no marker beside its own, whatever else they take: another process runs them."""
MOTO = "MAMMO_TEST_MOTO"
"""The variable with the path of `moto_server` in an environment of its own."""
LONGEST = (
    "jobs/test_ray.py",
    "workflows/test_servers.py",
    "tracking/test_every_row.py",
    "workflows/test_survival.py",
    "test_tutorials.py",
    "training/test_families.py",
    "workflows/test_ensemble.py",
    "api/test_python.py",
    "workflows/test_families.py",
    "workflows/test_reliability.py",
    "workflows/test_pretrained.py",
    "workflows/test_search.py",
    "search/test_postgresql.py",
    "workflows/test_determinism.py",
    "workflows/test_compiled.py",
    "engine/compiled/test_families.py",
    "engine/compiled/test_heads.py",
    "engine/compiled/test_sharing.py",
)
"""The files that take minutes: they come first, lest one of them is all that is left, and other cores wait."""
QUICK = f"not ({' or '.join(dict.fromkeys(TIERS.values()))})"


class NoKeras:
    """Stands before Keras while the quick tier runs: files that import it are left out, tests that do fail."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name in ("jax", "keras", "keras_tuner", "tensorflow") else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        if "PYTEST_CURRENT_TEST" in os.environ:
            pytest.fail(f"a test of the quick tier imports {module.__name__}: let it take the fixture keras")
        pytest.skip(f"imports {module.__name__}: pytest --everything", allow_module_level=True)


def no_process(*arguments, **keywords):
    pytest.fail("a test of the quick tier starts a process: let it take the fixture system or kill")


def on_jax():
    """Whether Keras is on JAX in this process, as it then is for good."""
    return os.environ.get("KERAS_BACKEND") == "jax"


def pytest_addoption(parser):
    parser.addoption("--everything", action="store_true", help="run all tests that Keras's backend lets run")


def pytest_configure(config):
    for marker in dict.fromkeys(TIERS.values()):
        fixtures = " or ".join(name for name, set_by_it in TIERS.items() if set_by_it == marker)
        config.addinivalue_line("markers", f"{marker}: set by the fixture {fixtures}; see CONTRIBUTING.md")
    option = config.option
    named = option.everything or option.markexpr or config.args_source is config.ArgsSource.ARGS
    if not named:
        option.markexpr = QUICK
    if option.everything and not option.markexpr and not on_jax():
        option.markexpr = f"not {TIERS[JAX]}"
    if on_jax():  # and before JAX is imported; programs that tests have in common are compiled once
        os.environ["JAX_PLATFORMS"] = "cpu"
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            os.environ["JAX_COMPILATION_CACHE_DIR"] = programs = tempfile.mkdtemp(prefix="programs-")
            os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
            config.add_cleanup(partial(shutil.rmtree, programs, ignore_errors=True))
    if option.markexpr == QUICK:
        sys.meta_path.insert(0, NoKeras())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    for item in items:
        taken = TIERS.keys() & set(item.fixturenames)
        for fixture in {JAX} if JAX in taken else taken:
            item.add_marker(TIERS[fixture])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    random.seed(0)  # Keras draws the seeds of first weights from it: a test has the same network each time
    with pytest.MonkeyPatch.context() as patch:
        if not TIERS.keys() & set(item.fixturenames):
            for start in ("subprocess.Popen.__init__", "multiprocessing.util.spawnv_passfds", "os.fork"):
                patch.setattr(start, no_process)
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_user():
    """Nothing of the machine's own environment reaches a test, and nothing is downloaded."""
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "MAMMO_", "TF_CPP_"))]:
        if name != MOTO:  # says where to find what these tests start
            patch.delenv(name)
    patch.setenv("MAMMO_OFFLINE", "1")
    patch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # tests are of the processor, wherever they run
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def _databases_do_not_wait_for_the_disk():
    event.listen(Engine, "connect", do_not_wait_for_the_disk)
    yield
    event.remove(Engine, "connect", do_not_wait_for_the_disk)


@pytest.fixture(scope="session")
def empty_stores(tmp_path_factory):
    """The folder of an empty `mlflow.db` and `optuna.db`, to be copied: to make their tables takes seconds."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(shared / "empty.lock"):
        if not (shared / "empty").exists():
            (made := base / "making").mkdir()
            MlflowClient(f"sqlite:///{made}/mlflow.db").search_experiments()
            Storage(f"sqlite:///{made}/optuna.db")
            made.rename(shared / "empty")
    return shared / "empty"


@pytest.fixture
def models(empty_stores, tmp_path):
    """Writes finished models into a store of the test's own, made without training."""
    shutil.copy(empty_stores / "mlflow.db", tmp_path)
    return Models(tmp_path)


@pytest.fixture(scope="session")
def keras():
    """Keras, of as many threads as inline executors ask for: TensorFlow takes their number once in a process."""
    from mammo_mlflow.engine.backend import set_threads

    set_threads(1)
    return importlib.import_module("keras")


@pytest.fixture(scope="session")
def jax_backend():
    """Lets a test use Keras on JAX, and whatever else it needs: its process has no other backend."""
    if not on_jax():
        pytest.fail("this test needs Keras on JAX: KERAS_BACKEND=jax pytest -m jax", pytrace=False)


@pytest.fixture(scope="session")
def system():
    """Lets a test start processes: commands, servers, runs."""


@pytest.fixture(scope="session")
def run_command(system):
    """Runs a command as a process of its own: run_command(where, cache, "--task", …) -> Outcome."""
    return support.run_command


@pytest.fixture(scope="session")
def server(tmp_path_factory, system):
    """A tracking server as a process of its own, which a test may stop and start again."""
    made = TrackingServer(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def postgresql(system):
    """Makes an empty database on a server on a free port and gives its URL, as often as it is called."""
    need_postgresql()
    made = PostgreSQL()
    try:
        made.start()
        yield made.make
    finally:
        made.remove()


@pytest.fixture(scope="session")
def kill():
    """Ends a process without a warning."""
    return lambda process: process.send_signal(signal.SIGKILL)


@pytest.fixture(scope="session")
def simulation():
    """The seeds of so many repetitions."""
    return range


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache directory for all commands of the tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def phantom(cache):
    """The data directory of the small phantom."""
    return make_phantom(PhantomSettings(48, 24, 32), cache)


@pytest.fixture
def data(phantom, tmp_path):
    """A copy of the small phantom, to be spoilt."""
    return shutil.copytree(phantom, tmp_path / "data")


@pytest.fixture
def cli(tmp_path, cache, capsys, monkeypatch):
    """The command, called in this process from a directory of its own: cli("--task", "mass_calc", …) -> Outcome."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAMMO_CACHE_DIR", str(cache))
    handlers, on_term = logging.root.handlers[:], signal.getsignal(signal.SIGTERM)

    def call(*arguments, command="pretrained"):
        capsys.readouterr()
        try:
            code = main([command, *arguments] if command else list(arguments))
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    yield call
    logging.root.handlers[:] = handlers
    signal.signal(signal.SIGTERM, on_term)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, cache, phantom, run_command):
    """One whole run of the command on the small phantom, shared by every test that only looks."""
    where = tmp_path_factory.mktemp("finished")
    arguments = ("--task", "mass_calc", *SMALL, "--threshold", "youden")
    outcome = run_command(where, cache, *arguments)
    assert outcome.code == 0, outcome.err
    return Finished(where, cache, arguments, outcome, Store(where))


@pytest.fixture(scope="session")
def pretend(tmp_path_factory, phantom, empty_stores):
    """Runs commands in this process, their jobs answered by a script (`support.Pretended`)."""
    cache = tmp_path_factory.mktemp("pretended")
    shutil.copytree(phantom, cache / phantom.name)
    return Pretended(cache, empty_stores)


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory, phantom, cache, empty_stores, keras):
    """Plans and cross-validates on the phantom, in this process."""
    where = shutil.copytree(empty_stores, tmp_path_factory.mktemp("laboratory") / "where")
    return Laboratory(where, phantom, cache)


@pytest.fixture(scope="session")
def scripted(tmp_path_factory, phantom, empty_stores):
    """Where fits are scripted, by its `script`."""
    where = shutil.copytree(empty_stores, tmp_path_factory.mktemp("scripted") / "where")
    made = Laboratory(where, phantom, where / "cache", "scripted")
    made.script = Script()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXECUTORS, "scripted", partial(ScriptedExecutor, made.script))
        yield made


@pytest.fixture(scope="session")
def frozen(laboratory):
    """A finished cross-validation of frozen VGG16."""
    return laboratory.run()


@pytest.fixture(scope="session")
def tuned(laboratory):
    """The same with the last convolution unfrozen."""
    return laboratory.run(unfrozen_layers=1)
