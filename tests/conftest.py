"""What tests share: a small phantom, the command as a user types it, and one whole run of it."""

import logging
import os
import shutil
import signal

import pytest
from support import SMALL, Finished, Outcome, Pretended, Store, run_command

from mammo_mlflow.cli import main
from mammo_mlflow.data.phantom import PhantomSettings, make_phantom


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_user():
    """Nothing of the machine's own environment reaches a test, and nothing is downloaded."""
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "MAMMO_", "TF_CPP_"))]:
        patch.delenv(name)
    patch.setenv("MAMMO_OFFLINE", "1")
    yield
    patch.undo()


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
def finished(tmp_path_factory, cache, phantom):
    """One whole run of the command on the small phantom, shared by every test that only looks."""
    where = tmp_path_factory.mktemp("finished")
    arguments = ("--task", "mass_calc", *SMALL, "--threshold", "youden")
    outcome = run_command(where, cache, *arguments)
    assert outcome.code == 0, outcome.err
    return Finished(where, cache, arguments, outcome, Store(where))


@pytest.fixture(scope="session")
def pretend(tmp_path_factory, cache, phantom):
    """Runs commands in this process, their jobs answered by a script (`support.Pretended`)."""
    own = tmp_path_factory.mktemp("pretended")
    shutil.copytree(phantom, own / phantom.name)
    return Pretended(own)
