"""The package from Python: its import, functions made of commands, errors, results, and what calls leave alone."""

import doctest
import inspect
import logging
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from functools import partial

import mlflow
import pytest
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient
from support import ROOT, environment

import mammo_mlflow as mm
from mammo_mlflow.api import models, objects, reader, shown, store
from mammo_mlflow.api.functions import FUNCTIONS, example, read_options
from mammo_mlflow.api.scores import SHOWN
from mammo_mlflow.cli import main
from mammo_mlflow.commands import COMMANDS
from mammo_mlflow.jobs.executors import EXECUTORS
from mammo_mlflow.testing.scripted import Script, ScriptedExecutor

FEW = {"phantom_train": 48, "phantom_test": 24, "phantom_size": 32, "epochs": 2, "views": 2, "executor": "scripted"}
LOGGERS = ("", "mammo_mlflow", "mlflow", "mlflow.store", "alembic")


def state():
    """What a call must leave as it was."""
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    loggers = [logging.getLogger(name) for name in LOGGERS]
    return dict(os.environ), handlers, [(one.level, one.handlers[:]) for one in loggers], mlflow.get_tracking_uri()


@pytest.fixture(scope="module")
def here(tmp_path_factory, pretend):
    """A folder with an empty store, where calls have their jobs answered by a script, as those of `pretend`."""
    where = shutil.copytree(pretend.empty, tmp_path_factory.mktemp("python") / "where")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        patch.setenv("MAMMO_CACHE_DIR", str(pretend.cache))
        patch.setitem(EXECUTORS, "scripted", partial(ScriptedExecutor, Script()))
        patch.setattr(Figure, "savefig", lambda figure, file, **settings: file.write(b"\x89PNG\r\n\x1a\n"))
        yield where


@pytest.fixture(scope="module")
def model(here):
    return mm.pretrained(task="mass_calc", backbone="vgg16", weights="random", **FEW)


@pytest.fixture(scope="module")
def several(here, model):
    return mm.controls(task="mass_calc", control="shuffled", weights="random", **FEW)


def test_the_functions_are_those_of_the_commands():
    assert set(mm._COMMANDS) == set(COMMANDS) == set(FUNCTIONS)
    assert {*mm._COMMANDS, "Store", "UserError"} <= set(dir(mm))
    for name in mm._COMMANDS:
        assert getattr(mm, name).command is COMMANDS[name]
    with pytest.raises(AttributeError, match="pretraind"):
        _ = mm.pretraind


def test_rooms_with_a_commands_name_are_found_through_its_function():
    import mammo_mlflow.report.page
    import mammo_mlflow.search.spaces as spaces

    assert mammo_mlflow.search.spaces is spaces is sys.modules["mammo_mlflow.search.spaces"]
    assert callable(mm.search)
    assert callable(mm.report)
    assert not hasattr(mm.promote, "spaces")


def test_the_stub_is_written_from_the_commands():
    written = runpy.run_path(str(ROOT / "scripts" / "python_stub.py"))
    there = (ROOT / "mammo_mlflow" / "__init__.pyi").read_text(encoding="utf-8")
    assert there == written["stub"](), "run scripts/python_stub.py"
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "__init__.pyi" in packaged["mammo_mlflow"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_function_has_the_options_of_its_command_as_parameters(name, monkeypatch):
    function, fields = getattr(mm, name), COMMANDS[name].options.model_fields
    parameters = inspect.signature(function).parameters
    assert set(fields) <= set(parameters)
    for option, field in fields.items():
        assert f"    {option}: " in function.__doc__
        wanted = inspect.Parameter.empty if field.is_required() else field.default
        assert parameters[option].default == wanted
    given = {}
    monkeypatch.setattr("mammo_mlflow.api.functions.call", lambda command, options: given.update(options))
    eval(f"mm.{example(COMMANDS[name])}", {"mm": mm})
    read_options(COMMANDS[name], given)
    assert f">>> mm.{example(COMMANDS[name])}" in function.__doc__


@pytest.mark.parametrize(
    ("name", "given", "lines"),
    [
        (
            "pretrained",
            {"tsk": "mass_calc"},
            ["unknown 'tsk', did you mean 'task'?", "expected task, found"],
        ),
        ("pretrained", {"task": "mass_calk"}, ["task: unknown 'mass_calk', did you mean 'mass_calc'?"]),
        ("pretrained", {"task": "mass_calc", "folds": 1}, ["folds: expected"]),
        ("scratch", {"task": "mass_calc", "epochs": "many"}, ["epochs: expected a whole number, found 'many'"]),
        ("settings", {"command": "pretrained", "tsk": 1}, ["parameter: unknown 'tsk'", "expected task, found"]),
        ("search", {"task": "mass_calc", "executor": "inline", "storage": "postgresql://me:secret@:x/db"}, ["storage"]),
    ],
)
def test_a_mistake_is_the_line_of_the_command_line(name, given, lines, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = state()
    with pytest.raises(mm.UserError) as refused:
        getattr(mm, name)(**given)
    problem = refused.value
    assert len(problem.lines) == len(lines)
    assert all(words in line for words, line in zip(lines, problem.lines, strict=True))
    assert "secret" not in str(problem)
    assert problem._render_traceback_() == [f"UserError: {line}" for line in problem.lines]
    assert state() == before
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_options_have_names():
    with pytest.raises(mm.UserError, match="every option by its name"):
        mm.pretrained("mass_calc")


def test_a_call_says_on_the_command_line_what_its_result_says(model, here, capsys):
    assert isinstance(model, mm.ModelResult)
    words = [f"--{name.replace('_', '-')}={one}" for name, one in FEW.items()]
    before, root = state(), logging.root.handlers[:]
    try:
        assert main(["pretrained", "--task", "mass_calc", "--backbone", "vgg16", "--weights", "random", *words]) == 0
    finally:
        logging.root.handlers[:] = root
        for one, handler in zip((signal.SIGINT, signal.SIGTERM), before[1], strict=True):
            signal.signal(one, handler)
    printed = capsys.readouterr().out.splitlines()
    said = repr(model).splitlines()
    assert said == printed
    table = next(iter(model.tables.values()))
    assert table["backbone"].tolist() == ["vgg16"]


def test_a_model_has_its_predictions_scores_and_figures(model):
    assert model.run.info.status == "FINISHED"
    assert len(model.oof) == 48
    assert len(model.test) == 24
    scores = model.scores.set_index(["predictions", "unit", "decided_at", "metric"])
    assert scores.loc[("test", "patch", "0.5", "roc_auc"), "value"] == model.run.data.metrics["test_roc_auc"]
    bounded = scores.dropna(subset=["value", "low"])
    assert len(bounded) > 10
    assert ((bounded["low"] <= bounded["value"]) & (bounded["value"] <= bounded["high"])).all()
    assert scores[scores["low"].isna() & scores["value"].notna()]["note"].astype(bool).all()
    picture = model.figures["roc_folds"]
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert picture.save("roc.png").read_bytes() == picture.png
    assert set(model.history["fit"]) >= {"fold 1", "refit"}
    assert model.registered == "models:/mammo-mass_calc-pretrained-vgg16/1"


def test_a_model_shows_itself_with_intervals_and_what_has_to_be_said(model):
    html = model._repr_html_()
    assert "phantom data: no medical result" in html
    assert "random weights" in html
    assert f'href="{model.link}"' in html
    assert all(metric in html for metric in SHOWN)
    test = model.scores.query("predictions == 'test' and unit == 'patch' and metric == 'accuracy'").iloc[0]
    assert f"{test['value']:.3f} [{test['low']:.3f}, {test['high']:.3f}]" in html


def test_several_results_are_found_by_name(several):
    assert several.names == ["vgg16", "vgg16 shuffled"]
    assert [one.name for one in several] == [several[0].name, several["vgg16 shuffled"].name]
    assert several.scores["model"].unique().tolist() == several.names
    assert several.oof.groupby("model").size().tolist() == [48, 48]
    assert "random weights" in several._repr_html_()
    with pytest.raises(mm.UserError, match="did you mean 'vgg16'"):
        several["vgg61"]
    with pytest.raises(mm.UserError, match="test: expected models that were trained to the end, found none"):
        _ = several.test


def test_of_several_seeds_the_models_that_were_tested_have_test_predictions(here):
    found = mm.pretrained(task="mass_calc", backbone="vgg16", weights="random", seeds=2, **FEW)
    assert len(found) == 2
    assert found.test.groupby("model").size().tolist() == [24]


def test_two_models_are_compared_as_an_ensemble_is(model, several):
    network, shuffled = several
    difference = network.compare(model)
    assert difference.table["predictions"].tolist() == ["out-of-fold"]  # the control has no final model
    assert difference.table["low"][0] <= difference.table["difference"][0] <= difference.table["high"][0]
    assert "is not distinguishable from" in difference.lines[0]
    assert "phantom data" in difference._repr_html_()
    with pytest.raises(mm.UserError, match="compare: expected models of the same patches and folds"):
        network.compare(shuffled)


def test_a_study_is_its_best_model_and_its_trials(here):
    options = {name: one for name, one in FEW.items() if name not in ("epochs", "views")}
    found = mm.search(task="mass_calc", backbone="vgg16", weights="random", trials=2, fresh_seeds=0, **options)
    assert isinstance(found, mm.SearchResult)
    assert found.trials["state"].tolist() == ["COMPLETE", "COMPLETE"]
    assert len(found.oof) == 48
    assert found.registered.endswith("-searched/1")
    assert "test" in found.scores["predictions"].unique()
    assert any(name.startswith("final/") for name in found.figures)
    studies = mm.Store(here).studies()
    name = studies["study"][0]
    assert studies["trials_complete"].tolist() == [2]
    assert mm.Store(here).trials(name)["state"].tolist() == ["COMPLETE", "COMPLETE"]
    with pytest.raises(mm.UserError, match=f"did you mean '{re.escape(name)}'"):
        mm.Store(here).trials(name[:-1])
    client = MlflowClient(f"sqlite:///{here}/mlflow.db")
    best = found.run.data.tags["mammo.best_trial"]
    client.delete_tag(found.run_id, "mammo.best_trial")  # as while it runs
    running = mm.Store(here).result(found.run_id)
    assert running.name in repr(running) and running.link in running._repr_html_()
    with pytest.raises(mm.UserError, match="study: expected one that has ended with a complete trial"):
        _ = running.oof
    client.set_tag(found.run_id, "mammo.best_trial", best)


def test_a_store_has_tables_and_finds_results_again(model, several, here):
    for one in (mm.Store(), mm.Store(here), mm.Store(here / "mlflow.db"), mm.Store(f"sqlite:///{here}/mlflow.db")):
        assert one.uri == f"sqlite:///{here}/mlflow.db"
    found = mm.Store(here)
    named = found.result(model.registered)
    assert named.scores.equals(model.scores)
    assert named.figures.keys() == model.figures.keys()
    assert isinstance(found.result(several.run_id), mm.SeveralResults)
    listed = found.models()
    assert set(listed["marks"]) == {"phantom data; random weights"}
    assert listed["test_roc_auc_low"].le(listed["test_roc_auc"]).all()
    assert set(found.runs(task="mass_calc")["status"]) == {"FINISHED"}
    assert len(found.runs(phantom=True)) == len(found.runs(phantom="true")) > 0
    assert found.champions()["version"].empty
    assert found.decisions()["decision"].empty
    assert "mammo-mass_calc-pretrained-vgg16 v1" in found._repr_html_()
    for which in ("0" * 32, "mammo-mass_calc@champion"):
        with pytest.raises(mm.UserError, match="model: unknown"):
            found.result(which)


def test_a_store_that_is_not_there_is_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for uri in (None, tmp_path, "sqlite:///other.db"):
        with pytest.raises(mm.UserError, match="store: expected one that a command has made"):
            mm.Store(uri).models()
    assert list(tmp_path.iterdir()) == []


def test_another_store_than_the_present_one_is_read_and_the_present_one_stays(model, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = state()
    assert len(mm.Store(here).result(model.run_id).oof) == 48
    assert state() == before


def test_settings_and_dry_runs_are_tables(here, capsys):
    told = mm.settings(command="pretrained", task="mass_calc", backbone="vgg16")
    assert "vgg16" in told.tables["experiments"].columns
    dry = mm.pretrained(task="mass_calc", backbone="vgg16", dry_run=True, **FEW)
    assert type(dry) is mm.Shown
    assert "dry run: nothing was trained" in repr(dry)
    assert "<table" in dry._repr_html_()
    assert capsys.readouterr().out == ""


def test_a_call_leaves_the_process_as_it_was(model, here):
    before = state()
    mm.pretrained(task="mass_calc", backbone="vgg16", weights="random", **FEW)
    assert state() == before


@pytest.fixture
def interruptible():
    """Ctrl-C reaches the process, as it does not where it was started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_call_as_it_ends_a_command(model, here, interruptible, monkeypatch):
    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("what a library makes of it")

    before = state()
    monkeypatch.setattr("mammo_mlflow.workflows.running.log_comparison", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mm.pretrained(task="mass_calc", backbone="vgg16", weights="random", seed=3, **FEW)
    assert state() == before
    runs = mm.Store(here).runs()
    assert runs[runs["parent"] == ""]["status"].iloc[0] == "KILLED"
    with pytest.raises(mm.UserError):  # the process has gone on
        mm.Store(here).result("nothing")


def test_the_process_gets_sigterm_once_the_call_has_ended(here, monkeypatch):
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        monkeypatch.setattr("mammo_mlflow.workflows.doctor.run", lambda options: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt):
            mm.doctor()
        assert got == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_may_call(model, here):
    made = []
    thread = threading.Thread(target=lambda: made.append(mm.Store(here).models()))
    thread.start()
    thread.join()
    assert len(made[0])


def test_an_exit_code_is_kept_and_a_failed_job_is_an_error_of_its_own(here, monkeypatch):
    from mammo_mlflow.jobs.executors import JobFailed

    def failed(options):
        raise JobFailed("fold 1: out of memory")

    monkeypatch.setattr("mammo_mlflow.workflows.doctor.run", lambda options: 1)
    assert mm.doctor().code == 1
    monkeypatch.setattr("mammo_mlflow.workflows.doctor.run", failed)
    with pytest.raises(mm.CommandFailed, match="fold 1: out of memory"):
        mm.doctor()


def test_the_docstrings_examples(model, several, here):
    globs = {"mm": mm, "model": model, "several": several, "store": mm.Store(here)}
    found = [one for module in (models, objects, reader, shown, store) for one in doctest.DocTestFinder().find(module)]
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    with_examples = [one for one in found if one.examples]
    assert len(with_examples) >= 5
    for one in with_examples:
        one.globs = dict(globs)
        assert runner.run(one).failed == 0, one.name


def test_the_import_brings_nothing(system):
    code = "import sys, mammo_mlflow; print([one for one in ('mlflow', 'numpy', 'pydantic') if one in sys.modules])"
    line = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(line, env=environment(ROOT), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]"
    (took,) = [line for line in done.stderr.splitlines() if line.endswith(" mammo_mlflow")]
    assert int(took.split("|")[1]) < 300_000


SCRIPT = """
import sys
import numpy as np
import mammo_mlflow as mm
model = mm.scratch(task="mass_calc", backbone="m2", holdout=0.3, final="fold_average", epochs=1, phantom_train=48,
                   phantom_test=24, phantom_size=32)
loaded = model.model.predict(np.load(sys.argv[1])[1::2, :, :, None])[:, 0]
assert abs(loaded - model.test["probability"]).max() < 1e-4
print("done", len(model.oof), *model.lines[-1:])
"""


def test_a_script_needs_no_main_guard(system, cache, phantom, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    line = [sys.executable, "script.py", str(phantom / "public_test_tensor.npy")]
    done = subprocess.run(line, cwd=tmp_path, env=environment(cache), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    last = done.stdout.strip().splitlines()[-1]  # below Keras's own bar
    assert last.startswith("done 1")  # the 30 % that were held out
    assert last.endswith("-m mammo_mlflow serve --model models:/mammo-mass_calc-scratch-m2-holdout/1")


def test_the_notebook_runs_on_the_phantom(system, cache, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name, value in environment(cache).items():
        monkeypatch.setenv(name, value)
    book = nbformat.read(ROOT / "examples" / "first_model.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells)
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown_by = {
        cell.source: output.data
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result"
    }
    first = next(data for source, data in shown_by.items() if source.endswith("\nvgg16"))
    assert "phantom data: no medical result" in first["text/html"]
    assert "image/png" in shown_by['vgg16.figures["roc_folds"]']
    assert "promoted" in shown_by["store.decisions()"]["text/html"]
    printed = [out.text for cell in book.cells if cell.cell_type == "code" for out in cell.outputs if "text" in out]
    assert any("did you mean 'mass_calc'?" in text for text in printed)
