"""Where a command works and what it writes to by default, called directly and by `mlflow run` from elsewhere."""

import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from support import PHANTOM, ROOT, Store, environment

from mammo_mlflow.errors import UserError
from mammo_mlflow.workflows import caller
from mammo_mlflow.workflows.places import report_folder, storage_url

ADDRESS = "https://study.invalid"


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A folder of a store, and another one that is the current one."""
    (tmp_path / "store").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "store"


def test_defaults_lie_in_the_current_folder_as_mlflows_own_does(beside, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    here = Path.cwd()
    assert report_folder("") == here / "report"
    assert storage_url("") == f"sqlite:///{here}/optuna.db"


def test_defaults_lie_beside_a_store_that_is_elsewhere(beside, monkeypatch):
    for spelled in (f"sqlite:///{beside}/mlflow.db", "sqlite:///../store/mlflow.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", spelled)
        assert report_folder("") == beside / "report"
        assert storage_url("") == f"sqlite:///{beside}/optuna.db"


def test_without_a_file_they_lie_in_the_current_folder(beside, monkeypatch):
    for uri in ("http://127.0.0.1:9", "postgresql://someone@127.0.0.1/mlflow", "sqlite:/odd"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert report_folder("") == Path.cwd() / "report"


def test_what_is_given_is_where_it_says(beside, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{beside}/mlflow.db")
    here = Path.cwd()
    assert report_folder("mine") == here / "mine"
    assert storage_url("sqlite:///mine.db") == f"sqlite:///{here}/mine.db"
    for url in ("sqlite:////there/mine.db", "sqlite://", "postgresql://me:secret@host/studies", "no address"):
        assert storage_url(url) == url


def from_a_project(project, work, how, **surroundings):
    """What a command in `project` sees once it has gone to its caller, started as MLflow starts it."""
    (project / "MLproject").write_text("name: project")
    seen = "import os; from mammo_mlflow.workflows import caller; caller.go_to_caller(); print(os.getcwd())"
    line = how.format(python=f'{sys.executable} -c "{seen}"')
    started = f"import subprocess, sys; sys.exit(subprocess.call(['bash', '-c', {line!r}], cwd={str(project)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", started],
        cwd=work,
        env={**environment(work), **surroundings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("how", ["{python}", "true && {python}", "true; {python}; true"])
def test_a_command_goes_where_mlflow_run_was_called(system, tmp_path, how):
    project, work = tmp_path / "project", tmp_path / "work"
    project.mkdir()
    work.mkdir()
    assert from_a_project(project, work, how, MLFLOW_RUN_ID="0" * 32) == str(work)
    assert from_a_project(project, project, how, MLFLOW_RUN_ID="0" * 32) == str(project)
    assert from_a_project(project, work, how) == str(project)
    assert from_a_project(project, work, how, MLFLOW_RUN_ID=" ") == str(project)


def test_a_temporary_clone_without_a_known_caller_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "MLproject").write_text("name: project")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setattr(caller, "_caller", lambda: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path.parent))
    with pytest.raises(UserError, match=r"current folder: expected a folder that stays .* a temporary clone"):
        caller.go_to_caller()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    caller.go_to_caller()
    assert Path.cwd() == tmp_path


@pytest.fixture
def repository(tmp_path, system):
    """The project as a git repository without the shipped weights."""
    where = tmp_path / "repository"
    shutil.copytree(
        ROOT / "mammo_mlflow", where / "mammo_mlflow", ignore=shutil.ignore_patterns("compact", "__pycache__")
    )
    shutil.copytree(ROOT / "search_spaces", where / "search_spaces")
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, where)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@invalid"]
    for line in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "the project"]):
        subprocess.run([*git, *line], cwd=where, check=True)
    return where


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_searching_twice_by_a_git_uri_goes_on_with_one_study(tmp_path, tmp_path_factory, cache, repository):
    work, clones = tmp_path / "work", tmp_path_factory.getbasetemp() / "t"  # a socket's path there has to be short
    work.mkdir()
    clones.mkdir()
    surroundings = environment(
        cache,
        TMPDIR=str(clones),
        GIT_CONFIG_COUNT="1",
        GIT_CONFIG_KEY_0=f"url.{repository.as_uri()}.insteadOf",
        GIT_CONFIG_VALUE_0=f"{ADDRESS}/project",
    )
    surroundings.pop("PYTHONPATH")

    def run(entry, **given):
        line = ["mlflow", "run", f"{ADDRESS}/project", "-e", entry, "--env-manager", "local"]
        line += [word for name, value in given.items() for word in ("-P", f"{name}={value}")]
        done = subprocess.run(line, cwd=work, env=surroundings, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    small = {name.strip("-").replace("-", "_"): value for name, value in zip(PHANTOM[::2], PHANTOM[1::2], strict=True)}
    small |= {"weights": "random", "epochs": 1, "views": 1, "folds": 2, "final": "none", "fresh_seeds": 0}
    for _ in range(2):
        said = run("search", task="mass_calc", backbone="vgg16", trials=1, **small)
        assert f"optuna-dashboard 'sqlite:///{work}/optuna.db'" in said
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{work}/optuna.db")
    assert study.n_trials == 1
    assert f"report: {work}/report/index.html" in run("report")
    assert f": {work}/asked.json" in run("request", input="phantom", output="asked.json")
    assert {path.name for path in work.iterdir()} == {"mlflow.db", "mlruns", "optuna.db", "report", "asked.json"}
    assert len(Store(work, "Default").tops()) == 4
    shipped = {path.name for path in repository.iterdir()}
    assert {path.name for path in clones.glob("tmp*/*") if path.parent.joinpath("MLproject").exists()} == shipped
