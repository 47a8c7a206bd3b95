"""Whole commands under JAX: trained on one lasting process, many heads at once, logged, found again, killed."""

import re
import shutil

import numpy as np
import optuna
import psutil
import pytest
from mlflow.tracking import MlflowClient
from support import PHANTOM, Running, Store, call_command, wait_for

from mammo_mlflow.jobs.contracts import FitsJob
from mammo_mlflow.jobs.executors import together

pytestmark = pytest.mark.usefixtures("jax_backend")

TASK = ("--task", "mass_calc")
FROZEN = ("--backbone", "vgg16", "--weights", "random", "--dense", "16", "--views", "2", "--folds", "2", *PHANTOM)
FEW = (*FROZEN, "--epochs", "3", "--precision", "float32")
BARE = ("--final", "none")
SPACE = "family: pretrained\nparameters:\n  learning_rate: {low: 1e-4, high: 1e-2, log: true}\n"


@pytest.fixture(scope="module")
def run(cache, empty_stores, system):
    """A command in this process, whose jobs have processes of their own: run(where, "search", …) -> Outcome."""

    def call(where, name, *arguments, code=0):
        if not (where / "mlflow.db").exists():
            shutil.copytree(empty_stores, where, dirs_exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(where)
            patch.setenv("MAMMO_CACHE_DIR", str(cache))
            return call_command(name, *arguments, code=code)

    return call


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


def heads_at_once(outcome):
    """What was said of heads that go together, in order."""
    return re.findall(r" INFO the processor: (\d+ heads .*)", outcome.err)


def assert_epochs(store, top, epochs, folds=2):
    """Each fold of a command has each of its epochs once, whole."""
    fits = [run for run in store.children(top) if run.data.tags["mammo.fit"].startswith("fold ")]
    fits = [run for run in fits if run.info.status == "FINISHED"]
    assert len(fits) == folds
    for fit in fits:
        for metric in ("loss", "accuracy", "val_loss", "val_accuracy"):
            logged = store.client.get_metric_history(fit.info.run_id, metric)
            assert [one.step for one in logged] == list(range(1, epochs + 1)), metric
            assert np.isfinite([one.value for one in logged]).all()


@pytest.fixture(scope="module")
def finished(run, where):
    """The whole command, and the same again."""
    return [run(where, "pretrained", *TASK, *FEW) for _ in range(2)]


def test_all_fits_of_a_command_are_trained_at_once_and_logged(finished, where):
    first, store = finished[0], Store(where)
    assert heads_at_once(first) == ["3 heads are trained at once"]  # the refit among them
    assert "\ncomputed on the processor with JAX\n" in first.out
    assert first.complaints == first.warnings == []
    top = store.tops()[0]
    assert_epochs(store, top, 3)
    for one in (top, *store.children(top)):
        tags = one.data.tags
        assert (one.info.status, tags["mammo.keras_backend"], tags["mammo.device"]) == ("FINISHED", "jax", "cpu")
    assert len(store.frame(top, "oof.parquet")) == 48
    assert store.client.get_model_version_by_alias("mammo-mass_calc-pretrained-vgg16", "candidate")


def test_the_same_command_again_trains_nothing(finished, where):
    again, store = finished[1], Store(where)
    assert "3 of 3 fits were finished before and are reused" in again.err
    assert heads_at_once(again) == []
    first, last = store.tops()
    assert all("mammo.reused_from" in one.data.tags for one in store.children(last))
    assert first.data.tags["mammo.key"] == last.data.tags["mammo.key"]
    assert_epochs(store, last, 3)


def test_seeds_are_handed_out_together(run, finished, where):
    outcome = run(where, "pretrained", *TASK, *FEW, *BARE, "--seeds", "2", "--seed", "5")
    assert heads_at_once(outcome) == ["4 heads are trained at once"]
    done = re.findall(r" INFO vgg16 (.*): done in", outcome.err)
    assert sorted(done) == [f"seed {seed} fold {fold}" for seed in (5, 6) for fold in (1, 2)]
    store = Store(where)
    for seed in (5, 6):
        fits = [
            one for one in store.runs() if one.data.params.get("seed") == str(seed) and "mammo.fit" in one.data.tags
        ]
        assert len({one.data.tags["mlflow.parentRunId"] for one in fits}) == 1
        assert_epochs(store, store.client.get_run(fits[0].data.tags["mlflow.parentRunId"]), 3)


def test_with_little_memory_heads_take_turns_and_give_the_same(run, finished, where, tmp_path):
    outcome = run(tmp_path, "pretrained", *TASK, *FEW, *BARE, "--card-memory-gb", "0.0015")
    assert heads_at_once(outcome) == ["2 heads take turns, 1 at once: each needs 0.59 MB"]
    (top,), others = Store(tmp_path).tops(), Store(where).tops()
    assert_epochs(Store(tmp_path), top, 3)
    found, wanted = Store(tmp_path).frame(top, "oof.parquet"), Store(where).frame(others[0], "oof.parquet")
    np.testing.assert_allclose(found["probability"], wanted["probability"], atol=1e-5)


def test_a_study_begins_trials_together(run, tmp_path):
    """Without a pruner fits of several trials go to the card as one job."""
    (tmp_path / "space.yaml").write_text(SPACE)
    options = ("--trials", "4", "--pruner", "none", "--fresh-seeds", "0", "--space", str(tmp_path / "space.yaml"))
    outcome = run(tmp_path, "search", *TASK, *FROZEN, "--epochs", "2", "--precision", "float32", *BARE, *options)
    assert outcome.complaints == []
    assert sum(int(said.split()[0]) for said in heads_at_once(outcome) if "at once" in said) >= 6
    store = Store(tmp_path)
    (study,) = store.tops()
    trials = [one for one in store.children(study) if "mammo.trial" in one.data.tags]
    assert len(trials) == 4
    for trial in trials:
        assert trial.info.status == "FINISHED"
        assert_epochs(store, trial, 2)


SCRATCH = ("--backbone", "m1", "--blocks", "4/2-4,8", "--dense", "8", "--folds", "3", *BARE, *PHANTOM)
LONG = (*TASK, *SCRATCH, "--epochs", "25")


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    where = tmp_path_factory.mktemp("undisturbed")
    return run(where, "scratch", *LONG), Store(where)


def test_networks_are_trained_one_after_another(undisturbed):
    outcome, store = undisturbed
    assert " INFO the processor: 3 fits take turns where convolutions are trained\n" in outcome.err
    (top,) = store.tops()
    assert_epochs(store, top, 25, folds=3)
    assert top.data.tags["mammo.keras_backend"] == "jax"


def test_killed_in_the_middle_it_goes_on_where_it_was(undisturbed, run, cache, kill, empty_stores, tmp_path):
    where = shutil.copytree(empty_stores, tmp_path / "killed")
    client = MlflowClient(f"sqlite:///{where}/mlflow.db")
    client.create_experiment("mammo", artifact_location=(where / "artifacts").as_uri())
    store = Store(where)
    running = Running(where, cache, *LONG, name="scratch")
    try:
        wait_for(lambda: store.runs("FINISHED", fit="fold 1"))
        family = running.family()
    finally:
        kill(running.process)
        running.process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    killed = store.tops()[-1]
    done = {one.data.tags["mammo.fit"] for one in store.children(killed) if one.info.status == "FINISHED"}
    assert 1 <= len(done) < 3
    outcome = run(where, "scratch", *LONG)
    assert f"{len(done)} of 3 fits were finished before and are reused" in outcome.err
    top = store.tops()[-1]
    reused = {one.data.tags["mammo.fit"] for one in store.children(top) if "mammo.reused_from" in one.data.tags}
    assert reused == done
    assert store.client.get_run(killed.info.run_id).data.tags["mammo.continued_by"] == top.info.run_id
    assert_epochs(store, top, 25, folds=3)
    frames = [one.frame(one.tops()[-1], "oof.parquet") for one in (store, undisturbed[1])]
    np.testing.assert_allclose(*(frame["probability"] for frame in frames), atol=1e-5)


HEADS = "family: pretrained\nparameters:\n  learning_rate: {low: 1e-4, high: 1e-2, log: true}\n"
HEADS += "  optimizer: {choices: [adam, rmsprop, sgd]}\n  dropout: {low: 0, high: 0.5}\n  epochs: {choices: [2, 4]}\n"


def drawn(where):
    """Each trial's state, parameters and value."""
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{where}/optuna.db")
    return [(trial.state.name, trial.params, trial.values) for trial in study.trials]


def test_a_study_by_generations_is_the_same_after_kills(run, cache, kill, empty_stores, tmp_path, monkeypatch):
    """Heads that differ in optimizer, dropout and epochs are one program."""
    (tmp_path / "space.yaml").write_text(HEADS)
    options = ("--trials", "12", "--generation", "4", "--fresh-seeds", "2", "--space", str(tmp_path / "space.yaml"))
    line = (*TASK, *FROZEN, "--precision", "float32", *BARE, *options)
    whole = run(tmp_path / "whole", "search", *line)
    assert whole.complaints == []
    said = re.findall(r"(generation \d+) of 3, trials (\d+) to (\d+): 8 fits in (\d) program", whole.err)
    assert [found[:3] for found in said] == [
        ("generation 1", "0", "3"),
        ("generation 2", "4", "7"),
        ("generation 3", "8", "11"),
    ]
    assert {found[3] for found in said[1:]} == {"1"}
    assert "8 heads are trained at once" in heads_at_once(whole)
    where = shutil.copytree(empty_stores, tmp_path / "killed")
    client = MlflowClient(f"sqlite:///{where}/mlflow.db")
    client.create_experiment("mammo", artifact_location=(where / "artifacts").as_uri())
    store = Store(where)

    def fits_done():
        return sum("mammo.fit" in one.data.tags for one in store.runs("FINISHED"))

    for done in (1, 9):
        running = Running(where, cache, *line, name="search")
        try:
            wait_for(lambda done=done: fits_done() > done)
        finally:
            kill(running.process)
            running.process.wait()
    sent = []
    monkeypatch.setattr(together, "FitsJob", lambda **given: (sent.append(given), FitsJob(**given))[1])
    after = run(where, "search", *line)
    assert after.complaints == []
    assert {given["size"] for given in sent if len(given["fits"]) < 8 and "trial" in given["name"]} <= {2, 6, 8}
    assert all(given["size"] >= len(given["fits"]) for given in sent)
    assert drawn(where) == drawn(tmp_path / "whole")
    assert after.out.split("registered")[0] == whole.out.split("registered")[0]
    (study,) = store.tops()
    trials = [one for one in store.children(study) if one.data.tags.get("mammo.level") == "trial"]
    assert sorted(int(one.data.tags["mammo.trial"]) for one in trials) == list(range(12))
    for trial in trials:
        assert trial.info.status == "FINISHED"
        assert_epochs(store, trial, int(trial.data.params["epochs"]))
